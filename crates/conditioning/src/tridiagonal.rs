//! Symmetric tridiagonal matrices: their extreme eigenvalues, their eigenvectors, and their inverse root as a sum
//! of inverses.
//!
//! ```text
//! lambda^(-1/2) = sum_j w_j / (lambda + s_j)       (Zolotarev; 3e-14 relative on [m, M])
//! T^(-1/2) = F = sum_j w_j (T + s_j)^(-1)
//! ```
//!
//! The inverse of a tridiagonal matrix costs O(k^2): below the diagonal each row is a multiple of the
//! one above it.
//! With k = sqrt(m / M), K' the complete elliptic integral of the complementary modulus, and
//! u_j = (j - 1/2) K' / n (Hale, Higham and Trefethen, 2008, method 3),
//!
//! ```text
//! s_j = m sn^2(u_j) / cn^2(u_j),   w_j = 2 sqrt(m) K' / (pi n) dn(u_j) / cn^2(u_j),
//! n = 33 K' / pi^2,   K' about ln(4 sqrt(M / m))
//! ```
//!
//! At lambda = 0 the sum is finite, too, and grows as m falls: with m about 70 times a floor it is the inverse root of the
//! floor, which is what a floored inverse root has there.

use std::f64::consts::{FRAC_PI_2, PI};

use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{
    ComputeEigenvectors, SelfAdjointEvdParams, self_adjoint_evd_scratch,
    tridiagonal_self_adjoint_evd,
};
use faer::{Auto, Mat, MatMut, Par};

use crate::{Error, Result};

/// What is done with eigenvalues below the interval.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Weaker {
    /// There is no result.
    Refused,
    /// They get what the sum gives them: less than lambda^(-1/2), and at lambda = 0 about 10.5 / sqrt(m).
    Faded,
    /// Those below this fraction of the largest count as zero and get what the end of the interval would, where the
    /// others are so far above it that a sum gives both. Else there is no result.
    Floored(f64),
}

/// From this size on the tridiagonal eigenproblem is divided and conquered; faer's own 128 is slower
/// by 3 to 12 % at sizes 128 to 256.
const DIVIDE: usize = 64;

/// How near the sum at 0 comes to what is asked for, squared and relative.
const FLOOR_TOLERANCE: f64 = 1e-10;

/// Points of an interval that are tried at once: two vectors of eight.
const POINTS: usize = 16;

/// Entries side by side in one vector, and vectors in one group.
const LANES: usize = 8;
const GROUP: usize = 4;

/// A symmetric tridiagonal matrix with 1 as its largest diagonal entry.
pub(crate) struct Tridiagonal {
    diagonal: Vec<f64>,
    /// Entry i stands in row i + 1.
    below: Vec<f64>,
}

impl Tridiagonal {
    /// The matrix of these entries over its largest diagonal one, which is above zero, and that entry.
    pub(crate) fn scaled(mut diagonal: Vec<f64>, mut below: Vec<f64>) -> (Self, f64) {
        let unit = diagonal.iter().copied().fold(0.0, f64::max);
        diagonal.iter_mut().chain(&mut below).for_each(|entry| *entry /= unit);
        (Self { diagonal, below }, unit)
    }

    /// Its rows.
    pub(crate) fn size(&self) -> usize {
        self.diagonal.len()
    }

    /// How many of the ascending `shifts` come before the first for which `sign` T + shift is positive
    /// definite: all its pivots are positive.
    #[inline(always)]
    fn indefinite(&self, sign: f64, shifts: &[f64; POINTS]) -> usize {
        let mut pivots = shifts.map(|shift| sign * self.diagonal[0] + shift);
        let mut least = pivots;
        for (a, b) in self.diagonal[1..].iter().zip(&self.below) {
            for p in 0..POINTS {
                pivots[p] = sign * a + shifts[p] - b * b / pivots[p];
                least[p] = if pivots[p] > least[p] { least[p] } else { pivots[p] };
            }
        }
        least.iter().take_while(|&&least| least.is_nan() || least <= 0.0).count()
    }

    /// The poles and weights of T^(-1/2), and the largest eigenvalue to the last bits.
    ///
    /// The interval begins at a bound below all eigenvalues, at most a quarter too small, or, if the smallest is not
    /// above `weakest` times the largest, at that product.
    #[inline(always)]
    pub(crate) fn root(&self, weakest: f64, weaker: Weaker) -> Option<(Vec<(f64, f64)>, f64)> {
        let largest = self.largest()?;
        let floor = weakest * largest;
        if self.indefinite(1.0, &[-floor; POINTS]) == 0 {
            return Some((poles(self.smallest(floor, largest), largest, None), largest));
        }
        match weaker {
            Weaker::Refused => None,
            Weaker::Faded => Some((poles(floor, largest, None), largest)),
            Weaker::Floored(negligible) => {
                let (above, poles) = floored_poles(floor, largest)?;
                let is_gap = self.count_below(negligible * largest) == self.count_below(above);
                is_gap.then_some((poles, largest))
            }
        }
    }

    /// The largest eigenvalue; `None` for entries that are no numbers.
    #[inline(always)]
    fn largest(&self) -> Option<f64> {
        // |b_i| <= 1, because a semidefinite T has b_i^2 <= a_i a_(i+1).
        let (mut low, mut high) = (1.0, 3.0 + 1e-9);
        if self.indefinite(-1.0, &[high; POINTS]) > 0 {
            return None;
        }
        // 17^13 is 2^53.
        for _ in 0..13 {
            let width = (high - low) / (POINTS + 1) as f64;
            let points = std::array::from_fn(|i| low + width * (i + 1) as f64);
            let below = self.indefinite(-1.0, &points);
            high = points.get(below).copied().unwrap_or(high);
            low = below.checked_sub(1).map_or(low, |last| points[last]);
        }
        Some(high)
    }

    /// A bound below the smallest eigenvalue, at most a quarter too small; that lies between the given ones.
    #[inline(always)]
    fn smallest(&self, mut smallest: f64, mut above: f64) -> f64 {
        while above > 1.25 * smallest {
            let ratio = (above / smallest).powf(1.0 / (POINTS + 1) as f64);
            // Descending eigenvalues are ascending shifts.
            let points: [f64; POINTS] =
                std::array::from_fn(|i| smallest * ratio.powi((POINTS - i) as i32));
            let above_all = self.indefinite(1.0, &points.map(|point| -point));
            above = above_all.checked_sub(1).map_or(above, |last| points[last]);
            smallest = points.get(above_all).copied().unwrap_or(smallest);
        }
        smallest
    }

    /// How many eigenvalues are below a bound: as many as T - bound has negative pivots.
    fn count_below(&self, bound: f64) -> usize {
        let (mut pivot, mut count) = (1.0, 0);
        for (i, a) in self.diagonal.iter().enumerate() {
            let b = if i == 0 { 0.0 } else { self.below[i - 1] };
            pivot = a - bound - b * b / pivot;
            if pivot == 0.0 {
                pivot = f64::MIN_POSITIVE;
            }
            count += usize::from(pivot < 0.0);
        }
        count
    }

    /// The eigenvalues, ascending; W (k, k), which is zero, gets their vectors, one a column.
    pub(crate) fn eigen(&self, W: MatMut<'_, f64>) -> Result<Vec<f64>> {
        let k = self.size();
        let mut lambda = vec![0.0; k];
        let mut parameters = <SelfAdjointEvdParams as Auto<f64>>::auto();
        parameters.recursion_threshold = DIVIDE;
        let (parameters, vectors) = (parameters.into(), ComputeEigenvectors::Yes);
        let scratch = self_adjoint_evd_scratch::<f64>(k, vectors, Par::Seq, parameters);
        tridiagonal_self_adjoint_evd(
            DiagRef::from_slice(&self.diagonal),
            DiagRef::from_slice(&self.below),
            DiagMut::from_slice_mut(&mut lambda),
            Some(W),
            Par::Seq,
            MemStack::new(&mut MemBuffer::new(scratch)),
            parameters,
        )
        .map_err(|_| Error::NoConvergence {
            decomposition: "eigen decomposition",
            rows: k,
            columns: k,
        })?;
        Ok(lambda)
    }

    /// The upper triangle of F = sum of w (T + s)^(-1) over the poles (s, w).
    ///
    /// With d_i the pivots of T + s from the top and e_i those from the bottom, entry (i, i) of the
    /// inverse is 1 / (d_i + e_i - a_i - s) and row i is -b_(i-1) / e_i times row i - 1 left of it.
    #[inline(always)]
    pub(crate) fn sum_of_inverses(&self, poles: &[(f64, f64)]) -> Mat<f64> {
        let (k, groups) = (self.diagonal.len(), poles.len().div_ceil(GROUP));
        let n = groups * GROUP;
        // The poles lie side by side; some without weight fill the last group.
        let pole = |p: usize| poles.get(p).copied().unwrap_or((1.0, 0.0));
        let (s, w): (Vec<f64>, Vec<f64>) = (0..n).map(pole).unzip();
        let mut bottom = vec![0.0; k * n];
        let mut pivots = vec![f64::INFINITY; n];
        for i in (0..k).rev() {
            let (a, b) = (self.diagonal[i], self.below.get(i).copied().unwrap_or(0.0));
            for (pivot, s) in pivots.iter_mut().zip(&s) {
                *pivot = a + s - b * b / *pivot;
            }
            bottom[i * n..][..n].copy_from_slice(&pivots);
        }
        let mut F = Mat::zeros(k, k);
        // Row i of every inverse, in vectors of some entries; those right of the diagonal are zero.
        let mut rows = vec![[[0.0; LANES]; GROUP]; k.div_ceil(LANES) * groups];
        let mut top = vec![f64::INFINITY; n];
        let (mut factors, mut corners) = (vec![0.0; n], vec![0.0; n]);
        for i in 0..k {
            let (a, b) = (self.diagonal[i], if i == 0 { 0.0 } else { self.below[i - 1] });
            let e = &bottom[i * n..][..n];
            for p in 0..n {
                top[p] = a + s[p] - b * b / top[p];
                factors[p] = -b / e[p];
                corners[p] = w[p] / (top[p] + e[p] - (a + s[p]));
            }
            let column = F.col_as_slice_mut(i);
            let vectors = rows.chunks_exact_mut(groups).zip(column[..i].chunks_mut(LANES));
            for (vectors, column) in vectors {
                let mut sums = [0.0; LANES];
                for (vectors, factors) in vectors.iter_mut().zip(factors.as_chunks().0) {
                    scale_and_add(vectors, factors, &mut sums);
                }
                column.copy_from_slice(&sums[..column.len()]);
            }
            for (p, corner) in corners.iter().enumerate() {
                rows[i / LANES * groups + p / GROUP][p % GROUP][i % LANES] = *corner;
            }
            column[i] = corners.iter().sum();
        }
        F
    }
}

/// Multiplies every vector by its factor and adds them all to `sums`.
#[inline(always)]
fn scale_and_add(
    [a, b, c, d]: &mut [[f64; LANES]; GROUP],
    factors: &[f64; GROUP],
    sums: &mut [f64; LANES],
) {
    for lane in 0..LANES {
        a[lane] *= factors[0];
        b[lane] *= factors[1];
        c[lane] *= factors[2];
        d[lane] *= factors[3];
        sums[lane] += (a[lane] + b[lane]) + (c[lane] + d[lane]);
    }
}

/// Poles for eigenvalues in [m, M], and this m, for which the sum at 0 is 1 / sqrt(floor): m is 60 to 80 floor.
/// `None` where M is below that.
///
/// The sum is good to 1e-10: the fewer poles, the smaller is m.
fn floored_poles(floor: f64, M: f64) -> Option<(f64, Vec<(f64, f64)>)> {
    let mut m = 60.0 * floor;
    // Their number stays, or the sum at 0 would jump.
    let n = (24.0 * (4.0 * (M / m).sqrt()).ln() / (PI * PI)).ceil();
    // Each step leaves a tenth of the error.
    for _ in 0..32 {
        if m > M {
            return None;
        }
        let found = poles(m, M, Some(n));
        let at_zero: f64 = found.iter().map(|(s, w)| w / s).sum();
        let factor = floor * at_zero * at_zero;
        if (factor - 1.0).abs() < FLOOR_TOLERANCE {
            return Some((m, found));
        }
        m *= factor;
    }
    None
}

/// (s_j, w_j) for eigenvalues in [m, M]: n of them, or as many as give 3e-14.
fn poles(m: f64, M: f64, n: Option<f64>) -> Vec<(f64, f64)> {
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
    let n = n.unwrap_or_else(|| (33.0 * K / (PI * PI)).ceil());
    let unit = 2.0 * m.sqrt() * K / (PI * n);
    let mut poles = vec![(0.0, 0.0); n as usize];
    for j in 0..poles.len().div_ceil(2) {
        let mut phi = 2f64.powi(steps.len() as i32) * FRAC_PI_2 * (j as f64 + 0.5) / n;
        for ratio in steps.iter().rev() {
            phi = 0.5 * (phi + (ratio * phi.sin()).asin());
        }
        let (sn, cn) = phi.sin_cos();
        let dn = (cn * cn + k * k * sn * sn).sqrt();
        // At K' - u they are cn / dn, k sn / dn and k / dn.
        let mirrored = poles.len() - 1 - j;
        poles[mirrored] = (M * (cn / sn).powi(2), unit * dn / (k * sn * sn));
        poles[j] = (m * (sn / cn).powi(2), unit * dn / (cn * cn));
    }
    poles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floored_sum_is_the_inverse_root_and_at_zero_that_of_the_floor() {
        for floor in [6e-8, 1e-6, 1e-5, 1e-3] {
            let (m, poles) = floored_poles(floor, 1.5).unwrap();
            let sum = |lambda: f64| poles.iter().map(|(s, w)| w / (lambda + s)).sum::<f64>();
            assert!((sum(0.0) * floor.sqrt() - 1.0).abs() < FLOOR_TOLERANCE, "{floor:e}");
            assert!(m < 80.0 * floor, "{floor:e}: {m:e}");
            for step in 0..=1000 {
                let lambda = m * (1.5 / m).powf(f64::from(step) / 1000.0);
                let error = (sum(lambda) * lambda.sqrt() - 1.0).abs();
                assert!(error < 2e-10, "{floor:e}, {lambda:e}: {error:e}");
            }
        }
        assert!(floored_poles(0.1, 1.5).is_none());
    }
}
