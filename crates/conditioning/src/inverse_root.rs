//! G^(-1/2) of a Gram matrix by its tridiagonal form.
//!
//! ```text
//! G = Q T Q^T,   T tridiagonal
//! G^(-1/2) = Q F Q^T,   F = T^(-1/2)
//! ```
//!
//! Where G is well-conditioned, F is a sum of inverses ([`crate::tridiagonal`]): it replaces the divide and conquer
//! of T, and no product of eigenvectors follows.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::tridiag::{tridiag_in_place, tridiag_in_place_scratch};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::reborrow::ReborrowMut;
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::blocks::vectorised;
use crate::tridiagonal::{Tridiagonal, Weaker, poles};

/// Below this size the eigenproblem is as fast.
const SMALLEST: usize = 16;

/// A Gram matrix as G = unit Q T Q^T.
pub(crate) struct Reduced {
    T: Tridiagonal,
    unit: f64,
    /// The reflectors of Q, below the first subdiagonal.
    vectors: Mat<f64>,
    factors: Mat<f64>,
}

impl Reduced {
    /// Reads the lower triangle of G; `None` for small G and zero.
    pub(crate) fn of(G: MatRef<'_, f64>) -> Option<Self> {
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
        Some(Self { T, unit, vectors: A, factors })
    }

    /// G^(-1/2) and the square root of the largest eigenvalue.
    ///
    /// The interval ends at `weakest` sigma_1 (a root of an eigenvalue), or above it where the smallest
    /// eigenvalue allows that. `None` where a direction is weaker and refused.
    pub(crate) fn inverse_root(&self, weakest: f64, weaker: Weaker) -> Option<(Mat<f64>, f64)> {
        let interval = vectorised(
            #[inline(always)]
            || self.T.interval(weakest * weakest, weaker),
        );
        let (smallest, largest) = interval?;
        let mut poles = poles(smallest, largest);
        poles.iter_mut().for_each(|(_, weight)| *weight /= self.unit.sqrt());
        let F = vectorised(
            #[inline(always)]
            || self.T.sum_of_inverses(&poles),
        );
        Some((self.rotated(F), (self.unit * largest).sqrt()))
    }

    /// E diag(1 / max(sigma_i, floor sigma_1)) E^T by the eigenvectors, and sigma_1.
    pub(crate) fn floored_inverse_root(&self, floor: f64) -> Result<(Mat<f64>, f64)> {
        let (mut E, lambda) = self.T.eigen()?;
        // Rounding may leave an eigenvalue of a singular Gram matrix below zero.
        let sigma = |lambda: f64| (self.unit * lambda.max(0.0)).sqrt();
        let top = lambda.last().map_or(0.0, |&lambda| sigma(lambda));
        let k = E.nrows();
        by_columns(E.as_mut(), 0, &|at, mut E| {
            let weights = lambda[at..].iter().map(|&lambda| sigma(lambda).max(floor * top).sqrt());
            for (column, weight) in E.rb_mut().col_iter_mut().zip(weights) {
                column.iter_mut().for_each(|e| *e /= weight);
            }
            let rows = E.subrows_mut(1, k - 1);
            let vectors = self.vectors.submatrix(1, 0, k - 1, k - 1);
            let scratch = apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(
                k - 1,
                self.factors.nrows(),
                rows.ncols(),
            );
            let mut memory = MemBuffer::new(scratch);
            apply_block_householder_sequence_on_the_left_in_place_with_conj(
                vectors,
                self.factors.as_ref(),
                Conj::No,
                rows,
                Par::Seq,
                MemStack::new(&mut memory),
            );
        });
        let mut F = Mat::zeros(k, k);
        by_columns(F.as_mut(), 0, &|at, F| {
            // The upper triangle.
            let (E, columns) = (E.subrows(0, at + F.ncols()), E.subrows(at, F.ncols()).transpose());
            matmul(
                F.subrows_mut(0, at + columns.ncols()),
                Accum::Replace,
                E,
                columns,
                1.0,
                Par::Seq,
            );
        });
        mirror(&mut F);
        Ok((F, top))
    }

    /// Q F Q^T, symmetric to the bit; reads the upper triangle of F.
    fn rotated(&self, mut F: Mat<f64>) -> Mat<f64> {
        mirror(&mut F);
        let k = F.nrows();
        let vectors = self.vectors.submatrix(1, 0, k - 1, k - 1);
        rotate(&mut F, vectors, self.factors.as_ref());
        mirror(&mut F);
        F
    }
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
