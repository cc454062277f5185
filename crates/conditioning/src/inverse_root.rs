//! G^(-1/2) of a Gram matrix by its tridiagonal form.
//!
//! ```text
//! G = Q T Q^T,   T tridiagonal
//! G^(-1/2) = Q F Q^T,   F = T^(-1/2)
//! ```
//!
//! Where G is well-conditioned, F is a sum of inverses ([`crate::tridiagonal`]): it replaces the divide and conquer
//! of T, and no product of eigenvectors follows.

use conditioned_threads as threads;
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::reborrow::ReborrowMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::blocks::vectorised;
use crate::exact::lower_product;
use crate::householder::reduce;
use crate::tridiagonal::{Tridiagonal, Weaker};

/// Below this size the eigenproblem is as fast.
const SMALLEST: usize = 16;

/// A Gram matrix (k, k) as G = unit Q T Q^T, where T (r, r) is followed by zeros.
pub(crate) struct Reduced {
    T: Tridiagonal,
    unit: f64,
    /// The vectors of the reflections whose product Q is: (k, k - 1), or (k, r).
    V: Mat<f64>,
}

impl Reduced {
    /// Reads the lower triangle of G; `None` for zero and for what is as good as zero: no entry above 2e-308.
    ///
    /// What is left of G when it is reduced to T counts as zero below `negligible` times the largest entry.
    pub(crate) fn of(G: MatRef<'_, f64>, negligible: f64) -> Option<Self> {
        let largest = G.diagonal().column_vector().iter().copied().fold(0.0, f64::max);
        if !largest.is_normal() {
            return None;
        }
        // A power of two: nothing is rounded.
        let unit = 2f64.powi(largest.log2().floor() as i32);
        let reduction = vectorised(
            #[inline(always)]
            || reduce(G, unit.recip(), negligible),
        );
        let (T, top) = Tridiagonal::scaled(reduction.diagonal, reduction.below);
        Some(Self { T, unit: unit * top, V: reduction.V })
    }

    /// G^(-1/2) and the square root of the largest eigenvalue.
    ///
    /// Directions below `weakest` sigma_1 (a root of an eigenvalue) are as `weaker` says; those that count as zero
    /// here get 1 / (`weakest` sigma_1). `None` for small G, too.
    pub(crate) fn inverse_root(&self, weakest: f64, weaker: Weaker) -> Option<(Mat<f64>, f64)> {
        let (k, r) = (self.V.nrows(), self.T.size());
        if k < SMALLEST {
            return None;
        }
        let root = vectorised(
            #[inline(always)]
            || self.T.root(weakest * weakest, weaker),
        );
        let (mut poles, largest) = root?;
        poles.iter_mut().for_each(|(_, weight)| *weight /= self.unit.sqrt());
        let mut F = vectorised(
            #[inline(always)]
            || self.T.sum_of_inverses(&poles),
        );
        if r < k {
            let zeros = 1.0 / (weakest * (self.unit * largest).sqrt());
            F.resize_with(k, k, |i, j| if i == j { zeros } else { 0.0 });
        }
        mirror(&mut F);
        for block in self.blocks().iter().rev() {
            block.rotate(&mut F);
        }
        mirror(&mut F);
        Some((F, (self.unit * largest).sqrt()))
    }

    /// E and sigma of G = E diag(sigma_i^2) E^T, ascending.
    pub(crate) fn basis(&self) -> Result<(Mat<f64>, Vec<f64>)> {
        let (k, r) = (self.V.nrows(), self.T.size());
        let zeros = k - r;
        let mut E = Mat::zeros(k, k);
        let lambda = self.T.eigen(E.submatrix_mut(0, zeros, r, r))?;
        E.submatrix_mut(r, 0, zeros, zeros).diagonal_mut().fill(1.0);
        let blocks = self.blocks();
        by_columns(E.as_mut(), 0, &|_, mut E| {
            for block in blocks.iter().rev() {
                block.apply(E.rb_mut());
            }
        });
        // Rounding may leave an eigenvalue of a singular Gram matrix below zero.
        let sigma = lambda.iter().map(|lambda| (self.unit * lambda.max(0.0)).sqrt());
        Ok((E, std::iter::repeat_n(0.0, zeros).chain(sigma).collect()))
    }

    /// Q as products of some reflections each.
    fn blocks(&self) -> Vec<Block<'_>> {
        let (rows, columns) = self.V.shape();
        let most = (rows / 4).clamp(16, 32);
        let block = |first: usize| {
            let (start, width) = (first, most.min(columns - first));
            let V = self.V.submatrix(start, first, rows - start, width);
            Block { start, V, K: Block::factor(V) }
        };
        (0..columns).step_by(most).map(block).collect()
    }
}

/// Q' = I - V K^(-1) V^T on the rows from `start` on: reflections H_a H_(a+1) ..
///
/// K is the upper triangle of V^T V with half its diagonal (Puglisi, 1992).
struct Block<'a> {
    start: usize,
    V: MatRef<'a, f64>,
    K: Mat<f64>,
}

impl Block<'_> {
    fn factor(V: MatRef<'_, f64>) -> Mat<f64> {
        let mut K = Mat::zeros(V.ncols(), V.ncols());
        lower_product(K.as_mut().transpose_mut(), V.transpose(), V, 1.0);
        K.diagonal_mut().column_vector_mut().iter_mut().for_each(|entry| *entry *= 0.5);
        K
    }

    /// E <- Q' E.
    fn apply(&self, E: MatMut<'_, f64>) {
        let E = E.subrows_mut(self.start, self.V.nrows());
        let mut W = Mat::zeros(self.V.ncols(), E.ncols());
        matmul(W.as_mut(), Accum::Replace, self.V.transpose(), E.as_ref(), 1.0, Par::Seq);
        solve_upper_triangular_in_place(self.K.as_ref(), W.as_mut(), Par::Seq);
        matmul(E, Accum::Add, self.V, W.as_ref(), -1.0, Par::Seq);
    }

    /// F <- Q' F Q'^T for a symmetric F.
    ///
    /// ```text
    /// U = F V K^(-T),   P = U - V (K^(-1) V^T U) / 2,   F <- F - V P^T - P V^T
    /// ```
    fn rotate(&self, F: &mut Mat<f64>) {
        let (Self { start, V, K }, k) = (self, F.nrows());
        let (start, rows) = (*start, V.nrows());
        let mut P = Mat::zeros(k, V.ncols());
        let right = F.subcols(start, rows);
        // The rows of F V, as columns.
        by_columns(P.transpose_mut(), 0, &|at, P| {
            let F = right.subrows(at, P.ncols());
            matmul(P, Accum::Replace, V.transpose(), F.transpose(), 1.0, Par::Seq);
        });
        solve_upper_triangular_in_place(K.as_ref(), P.transpose_mut(), Par::Seq);
        let mut W = Mat::zeros(V.ncols(), V.ncols());
        matmul(W.as_mut(), Accum::Replace, V.transpose(), P.subrows(start, rows), 1.0, Par::Seq);
        solve_upper_triangular_in_place(K.as_ref(), W.as_mut(), Par::Seq);
        matmul(P.subrows_mut(start, rows), Accum::Add, V, W.as_ref(), -0.5, Par::Seq);
        by_columns(F.as_mut(), 0, &|at, mut F| {
            let columns = F.ncols();
            let lower = F.rb_mut().subrows_mut(start, rows);
            matmul(lower, Accum::Add, V, P.subrows(at, columns).transpose(), -1.0, Par::Seq);
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
pub(crate) fn by_columns(
    F: MatMut<'_, f64>,
    first: usize,
    work: &(impl Fn(usize, MatMut<'_, f64>) + Sync),
) {
    let mut pieces = vec![(first, F)];
    while pieces[0].1.ncols() / 2 >= COLUMNS {
        let halves = pieces.into_iter().flat_map(|(first, F)| {
            let half = F.ncols() / 2;
            let (left, right) = F.split_at_col_mut(half);
            [(first, left), (first + half, right)]
        });
        pieces = halves.collect();
    }
    threads::for_each(pieces, |_, (first, F)| work(first, F));
}

/// Copies the upper triangle to the lower one.
pub(crate) fn mirror(F: &mut Mat<f64>) {
    for j in 1..F.ncols() {
        for i in 0..j {
            F[(j, i)] = F[(i, j)];
        }
    }
}
