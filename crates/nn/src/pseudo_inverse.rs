//! The iterative pseudo-inverse of a Nystromformer, forward and backward.

use crate::kernel::{self, Onto, Real, View};

/// Iterations, as published.
pub(crate) const ITERATIONS: usize = 6;

/// Z_6 of Z <- Z/4 (13 I - T (15 I - T (7 I - T))), T = A Z, from Z_0 = A^T / c: the pseudo-inverse of A (M, M), to
/// third order.
///
/// c is the largest column sum of A, or given. A is a softmax: its entries are positive and its rows sum to one, so
/// that |A|_1 |A|_inf = c, and the iteration converges.
///
/// Source: Razavi et al., "A New Iterative Method for Finding Approximate Inverses of Complex Matrices", Abstract and
/// Applied Analysis 2014, as in Xiong et al., AAAI 2021, equation 11.
pub(crate) struct PseudoInverse<'a, T> {
    a: &'a [T],
    m: usize,
    scale: T,
    /// Whether the scale comes from elsewhere.
    given: bool,
    /// Z_0 to Z_6.
    z: Vec<Vec<T>>,
}

/// T, P1 = 7 I - T, P2 = 15 I - T P1 and P3 = 13 I - T P2 of one iteration.
struct Step<T>([Vec<T>; 4]);

impl<'a, T: Real> PseudoInverse<'a, T> {
    /// Of `a`; `scale` is c, where it is not that of `a` itself.
    pub(crate) fn of(a: &'a [T], m: usize, scale: Option<T>) -> Self {
        let given = scale.is_some();
        let scale = scale.unwrap_or_else(|| Self::largest_column(a, m).1);
        let mut first = vec![T::ZERO; m * m];
        for (i, row) in a.chunks_exact(m).enumerate() {
            for (j, &v) in row.iter().enumerate() {
                first[j * m + i] = v / scale;
            }
        }
        let mut this = Self { a, m, scale, given, z: vec![first] };
        for k in 0..ITERATIONS {
            let Step([.., p3]) = this.step(k);
            let next = this.product((&this.z[k], false), (&p3, false), T::from_f64(0.25));
            this.z.push(next);
        }
        this
    }

    /// Column and value of the largest column sum of `a`.
    pub(crate) fn largest_column(a: &[T], m: usize) -> (usize, T) {
        let mut sums = vec![T::ZERO; m];
        for row in a.chunks_exact(m) {
            kernel::add(&mut sums, row);
        }
        let all = sums.into_iter().enumerate();
        all.reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap_or((0, T::ONE))
    }

    /// Z_6, (M, M).
    pub(crate) fn result(&self) -> &[T] {
        &self.z[ITERATIONS]
    }

    /// The gradients of A, and of c where it is given, for that of Z_6.
    ///
    /// With G the gradient of Z_k+1: dP3 = Z^T G / 4, dP2 = -T^T dP3, dP1 = -T^T dP2,
    /// dT = -dP3 P2^T - dP2 P1^T - dP1, dA += dT Z^T, dZ_k = G P3^T / 4 + A^T dT. A c that is not given is the
    /// sum of a column of A.
    pub(crate) fn backward(&self, dz: &[T]) -> (Vec<T>, T) {
        let m = self.m;
        let (minus, quarter) = (T::from_f64(-1.0), T::from_f64(0.25));
        let mut g = dz.to_vec();
        let mut da = vec![T::ZERO; m * m];
        for k in (0..ITERATIONS).rev() {
            let Step([t, p1, p2, p3]) = self.step(k);
            let z = &self.z[k];
            let dp3 = self.product((z, true), (&g, false), quarter);
            let dp2 = self.product((&t, true), (&dp3, false), minus);
            let dp1 = self.product((&t, true), (&dp2, false), minus);
            let mut dt = self.product((&dp3, false), (&p2, true), minus);
            self.add_product(&mut dt, (&dp2, false), (&p1, true), minus);
            for (dt, &dp1) in dt.iter_mut().zip(&dp1) {
                *dt += minus * dp1;
            }
            self.add_product(&mut da, (&dt, false), (z, true), T::ONE);
            g = self.product((&g, false), (&p3, true), quarter);
            self.add_product(&mut g, (self.a, true), (&dt, false), T::ONE);
        }
        // Z_0 = A^T / c.
        let mut along = T::ZERO;
        for i in 0..m {
            for j in 0..m {
                da[i * m + j] += g[j * m + i] / self.scale;
                along += g[j * m + i] * self.a[i * m + j];
            }
        }
        let d_scale = minus * along / (self.scale * self.scale);
        if self.given {
            return (da, d_scale);
        }
        let (column, _) = Self::largest_column(self.a, m);
        da.iter_mut().skip(column).step_by(m).for_each(|v| *v += d_scale);
        (da, T::ZERO)
    }

    fn step(&self, k: usize) -> Step<T> {
        let minus = T::from_f64(-1.0);
        let plus = |mut x: Vec<T>, diagonal: f64| {
            x.iter_mut().step_by(self.m + 1).for_each(|v| *v += T::from_f64(diagonal));
            x
        };
        let t = self.product((self.a, false), (&self.z[k], false), T::ONE);
        let p1 = plus(t.iter().map(|&v| minus * v).collect(), 7.0);
        let p2 = plus(self.product((&t, false), (&p1, false), minus), 15.0);
        let p3 = plus(self.product((&t, false), (&p2, false), minus), 13.0);
        Step([t, p1, p2, p3])
    }

    /// alpha x y, each transposed where it says so.
    fn product(&self, x: (&[T], bool), y: (&[T], bool), alpha: T) -> Vec<T> {
        let mut out = vec![T::ZERO; self.m * self.m];
        self.add_product(&mut out, x, y, alpha);
        out
    }

    fn add_product(&self, to: &mut [T], x: (&[T], bool), y: (&[T], bool), alpha: T) {
        let square = View::rows(self.m, self.m, 0, self.m);
        let view = |transposed| if transposed { square.t() } else { square };
        kernel::matmul((to, square), (x.0, view(x.1)), (y.0, view(y.1)), alpha, Onto::Itself);
    }
}
