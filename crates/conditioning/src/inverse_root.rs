//! G^(-1/2) of a well-conditioned Gram matrix without its eigenvectors.
//!
//! ```text
//! G = Q T Q^T,   T tridiagonal, eigenvalues in [m, M]
//! lambda^(-1/2) = sum_j w_j / (lambda + s_j)       (Zolotarev; 3e-14 relative on [m, M])
//! G^(-1/2) = Q F Q^T,   F = sum_j w_j (T + s_j)^(-1)
//! ```
//!
//! The inverse of a tridiagonal matrix costs O(k^2): below the diagonal each row is a multiple of the
//! one above it. So F replaces the divide and conquer of T, and no product of eigenvectors follows.
//! With k = sqrt(m / M), K' the complete elliptic integral of the complementary modulus, and
//! u_j = (j - 1/2) K' / n (Hale, Higham and Trefethen, 2008, method 3),
//!
//! ```text
//! s_j = m sn^2(u_j) / cn^2(u_j),   w_j = 2 sqrt(m) K' / (pi n) dn(u_j) / cn^2(u_j),
//! n = 33 K' / pi^2,   K' about ln(4 sqrt(M / m))
//! ```

use std::f64::consts::{FRAC_PI_2, PI};

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::tridiag::{tridiag_in_place, tridiag_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::reborrow::ReborrowMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// Below this size the eigenproblem is as fast.
const SMALLEST: usize = 16;

/// What is done with eigenvalues below the interval.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Weaker {
    /// There is no result.
    Refused,
    /// They get what the sum gives them: less than lambda^(-1/2), and at lambda = 0 about 10.5 / sqrt(m).
    Faded,
}

/// G^(-1/2) and the square root of the largest eigenvalue; reads the lower triangle of G.
///
/// The interval ends at `weakest` sigma_1 (a root of an eigenvalue), or above it where the smallest
/// eigenvalue allows that. `None` for small G and zero, and where a direction is weaker and refused.
pub(crate) fn inverse_root(
    G: MatRef<'_, f64>,
    weakest: f64,
    weaker: Weaker,
) -> Option<(Mat<f64>, f64)> {
    let k = G.nrows();
    if k < SMALLEST {
        return None;
    }
    let mut A = Mat::zeros(k, k);
    A.copy_from_triangular_lower(G);
    let mut factors = Mat::zeros(recommended_block_size::<f64>(k, k), k - 1);
    let scratch = tridiag_in_place_scratch::<f64>(k, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let memory = MemStack::new(&mut memory);
    tridiag_in_place(A.as_mut(), factors.as_mut(), Par::Seq, memory, Default::default());

    let (T, unit) = Tridiagonal::scaled(A.as_ref())?;
    let (smallest, largest) = T.interval(weakest * weakest, weaker)?;
    let mut poles = poles(smallest, largest);
    poles.iter_mut().for_each(|(_, weight)| *weight /= unit.sqrt());
    let mut F = pulp::Arch::new().dispatch(|| T.sum_of_inverses(&poles));
    mirror(&mut F);
    rotate(&mut F, A.as_ref().submatrix(1, 0, k - 1, k - 1), factors.as_ref());
    mirror(&mut F);
    Some((F, (unit * largest).sqrt()))
}

/// A symmetric tridiagonal matrix with 1 as its largest diagonal entry.
struct Tridiagonal {
    diagonal: Vec<f64>,
    /// Entry i stands in row i + 1.
    below: Vec<f64>,
}

impl Tridiagonal {
    /// The tridiagonal part of A over its largest diagonal entry, and that entry.
    fn scaled(A: MatRef<'_, f64>) -> Option<(Self, f64)> {
        let k = A.nrows();
        let unit = (0..k).map(|i| A[(i, i)]).fold(0.0, f64::max);
        if !unit.is_normal() {
            return None;
        }
        let diagonal = (0..k).map(|i| A[(i, i)] / unit).collect();
        let below = (1..k).map(|i| A[(i, i - 1)] / unit).collect();
        Some((Self { diagonal, below }, unit))
    }

    /// Whether `sign` T + `shift` is positive definite: all its pivots are positive.
    fn is_definite(&self, sign: f64, shift: f64) -> bool {
        let mut pivot = sign * self.diagonal[0] + shift;
        for (a, b) in self.diagonal[1..].iter().zip(&self.below) {
            if pivot <= 0.0 {
                return false;
            }
            pivot = sign * a + shift - b * b / pivot;
        }
        pivot > 0.0
    }

    /// A bound below all eigenvalues, at most a quarter too small, and the largest eigenvalue to the
    /// last bits. If the smallest is not above `weakest` times the largest, that product is the bound, or
    /// there is none.
    fn interval(&self, weakest: f64, weaker: Weaker) -> Option<(f64, f64)> {
        // |b_i| <= 1, because a semidefinite T has b_i^2 <= a_i a_(i+1).
        let (mut low, mut high) = (1.0, 3.0 + 1e-9);
        if !self.is_definite(-1.0, high) {
            return None;
        }
        for _ in 0..54 {
            let middle = 0.5 * (low + high);
            *(if self.is_definite(-1.0, middle) { &mut high } else { &mut low }) = middle;
        }
        let mut smallest = weakest * high;
        if !self.is_definite(1.0, -smallest) {
            return (weaker == Weaker::Faded).then_some((smallest, high));
        }
        let mut above = high;
        while above > 1.25 * smallest {
            let middle = (above * smallest).sqrt();
            *(if self.is_definite(1.0, -middle) { &mut smallest } else { &mut above }) = middle;
        }
        Some((smallest, high))
    }

    /// The upper triangle of F = sum of w (T + s)^(-1) over the poles (s, w).
    ///
    /// With d_i the pivots of T + s from the top and e_i those from the bottom, entry (i, i) of the
    /// inverse is 1 / (d_i + e_i - a_i - s) and row i is -b_(i-1) / e_i times row i - 1 left of it.
    #[inline(always)]
    fn sum_of_inverses(&self, poles: &[(f64, f64)]) -> Mat<f64> {
        let (k, n) = (self.diagonal.len(), poles.len());
        // The poles lie side by side: one vector operation for several of them.
        let mut bottom = vec![0.0; k * n];
        let mut pivots = vec![f64::INFINITY; n];
        for i in (0..k).rev() {
            let (a, b) = (self.diagonal[i], self.below.get(i).copied().unwrap_or(0.0));
            for (pivot, (s, _)) in pivots.iter_mut().zip(poles) {
                *pivot = a + s - b * b / *pivot;
            }
            bottom[i * n..][..n].copy_from_slice(&pivots);
        }
        let mut F = Mat::zeros(k, k);
        let mut rows = vec![0.0; k * n];
        let mut top = vec![f64::INFINITY; n];
        for i in 0..k {
            let (a, b) = (self.diagonal[i], if i == 0 { 0.0 } else { self.below[i - 1] });
            let sum = &mut F.col_as_slice_mut(i)[..=i];
            let (sums, corner) = sum.split_at_mut(i);
            for (p, &(s, w)) in poles.iter().enumerate() {
                let (row, e) = (&mut rows[p * k..][..=i], bottom[i * n + p]);
                top[p] = a + s - b * b / top[p];
                let factor = -b / e;
                for (entry, sum) in row.iter_mut().zip(&mut *sums) {
                    *entry *= factor;
                    *sum += *entry;
                }
                row[i] = w / (top[p] + e - (a + s));
                corner[0] += row[i];
            }
        }
        F
    }
}

/// (s_j, w_j) for eigenvalues in [m, M].
fn poles(m: f64, M: f64) -> Vec<(f64, f64)> {
    // The arithmetic-geometric mean of 1 and k gives K' and, backwards, the elliptic functions.
    let k = (m / M).sqrt();
    let (mut mean, mut geometric) = (1.0, k);
    let mut steps = vec![];
    while mean - geometric > 1e-15 * mean {
        let half = 0.5 * (mean - geometric);
        (mean, geometric) = (0.5 * (mean + geometric), (mean * geometric).sqrt());
        steps.push(half / mean);
    }
    let K = FRAC_PI_2 / mean;
    let n = (33.0 * K / (PI * PI)).ceil();
    let pole = |j: f64| {
        let mut phi = 2f64.powi(steps.len() as i32) * FRAC_PI_2 * (j + 0.5) / n;
        for ratio in steps.iter().rev() {
            phi = 0.5 * (phi + (ratio * phi.sin()).asin());
        }
        let (sn, cn) = phi.sin_cos();
        let dn = (cn * cn + k * k * sn * sn).sqrt();
        (m * (sn / cn).powi(2), 2.0 * m.sqrt() * K / (PI * n) * dn / (cn * cn))
    };
    (0..n as usize).map(|j| pole(j as f64)).collect()
}

/// F <- Q F Q^T for Q = H_0 H_1 .. on the rows from 1 on, in blocks I - V T^(-1) V^T.
///
/// ```text
/// U = F V T^(-T),   P = U - V (T^(-1) V^T U) / 2,   F <- F - V P^T - P V^T
/// ```
fn rotate(F: &mut Mat<f64>, vectors: MatRef<'_, f64>, factors: MatRef<'_, f64>) {
    let (k, size) = (F.nrows(), factors.nrows());
    for first in (0..vectors.ncols()).step_by(size).rev() {
        let width = size.min(vectors.ncols() - first);
        let (start, rows) = (first + 1, k - first - 1);
        let V = Mat::from_fn(rows, width, |i, j| match i.cmp(&j) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Greater => vectors[(first + i, first + j)],
        });
        let T = factors.submatrix(0, first, width, width);
        let mut P = Mat::zeros(k, width);
        let right = F.subcols(start, rows);
        // The rows of F V, as columns.
        by_columns(P.transpose_mut(), 0, &|at, P| {
            let F = right.subrows(at, P.ncols());
            matmul(P, Accum::Replace, V.transpose(), F.transpose(), 1.0, Par::Seq);
        });
        solve_upper_triangular_in_place(T, P.transpose_mut(), Par::Seq);
        let mut K: Mat<f64> = V.transpose() * P.subrows(start, rows);
        solve_upper_triangular_in_place(T, K.as_mut(), Par::Seq);
        matmul(P.subrows_mut(start, rows), Accum::Add, &V, &K, -0.5, Par::Seq);
        by_columns(F.as_mut(), 0, &|at, mut F| {
            let columns = F.ncols();
            let lower = F.rb_mut().subrows_mut(start, rows);
            matmul(lower, Accum::Add, &V, P.subrows(at, columns).transpose(), -1.0, Par::Seq);
            // V has no rows for the columns left of `start`.
            let left = start.saturating_sub(at).min(columns);
            let V = V.subrows((at + left).saturating_sub(start), columns - left);
            let right = F.subcols_mut(left, columns - left);
            matmul(right, Accum::Add, &P, V.transpose(), -1.0, Par::Seq);
        });
    }
}

/// Columns worth a thread of their own.
const COLUMNS: usize = 96;

/// `work` on pieces of the columns of F, each with the index of its first: cut by the shape alone.
fn by_columns(F: MatMut<'_, f64>, first: usize, work: &(impl Fn(usize, MatMut<'_, f64>) + Sync)) {
    let half = F.ncols() / 2;
    if half < COLUMNS {
        return work(first, F);
    }
    let (left, right) = F.split_at_col_mut(half);
    rayon::join(|| by_columns(left, first, work), || by_columns(right, first + half, work));
}

/// Copies the upper triangle to the lower one.
pub(crate) fn mirror(F: &mut Mat<f64>) {
    for j in 1..F.ncols() {
        for i in 0..j {
            F[(j, i)] = F[(i, j)];
        }
    }
}
