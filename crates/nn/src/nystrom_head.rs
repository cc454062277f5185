//! One head of attention by landmarks, forward and backward.

use crate::kernel::{self, Onto, Real, View};
use crate::pseudo_inverse::PseudoInverse;

/// Queries per block of F, so that a block stays in the cache of a core.
const BLOCK: usize = 128;

/// One head of one sequence, its queries, keys and values side by side: (N, 3D).
pub(crate) struct Head<'a, T> {
    pub(crate) n: usize,
    pub(crate) d: usize,
    /// Landmarks M, less than N.
    pub(crate) m: usize,
    pub(crate) qkv: &'a [T],
}

/// The matrices among landmarks.
struct Landmarks<T> {
    /// Q~ and K~, (M, D).
    q: Vec<T>,
    k: Vec<T>,
    /// A, (M, M).
    a: Vec<T>,
}

impl<T: Real> Head<'_, T> {
    /// 1/sqrt(D).
    fn s(&self) -> T {
        T::from_f64(1.0 / (self.d as f64).sqrt())
    }

    /// Rows `from..to` of the queries (0), keys (1) or values (2).
    fn part(&self, which: usize, from: usize, to: usize) -> View {
        let stride = 3 * self.d;
        View::rows(to - from, self.d, from * stride + which * self.d, stride)
    }

    /// All queries, keys or values.
    fn all(&self, which: usize) -> (&[T], View) {
        (self.qkv, self.part(which, 0, self.n))
    }

    /// The tokens of segment `j`.
    fn segment(&self, j: usize) -> std::ops::Range<usize> {
        j * self.n / self.m..(j + 1) * self.n / self.m
    }

    /// The means of the segments of queries (0) or keys (1), (M, D).
    fn means(&self, which: usize) -> Vec<T> {
        let mut means = vec![T::ZERO; self.m * self.d];
        kernel::vectorised(
            #[inline(always)]
            || {
                for (j, mean) in means.chunks_exact_mut(self.d).enumerate() {
                    let tokens = self.segment(j);
                    let scale = T::from_f64(1.0 / tokens.len() as f64);
                    for i in tokens {
                        let start = 3 * self.d * i + which * self.d;
                        kernel::add(mean, &self.qkv[start..start + self.d]);
                    }
                    for v in mean {
                        *v *= scale;
                    }
                }
            },
        );
        means
    }

    fn landmarks(&self) -> Landmarks<T> {
        let (q, k) = (self.means(0), self.means(1));
        let a = self.softmax((&q, self.wide()), (&k, self.wide()));
        Landmarks { q, k, a }
    }

    /// (M, D).
    fn wide(&self) -> View {
        View::rows(self.m, self.d, 0, self.d)
    }

    /// (M, M).
    fn square(&self) -> View {
        View::rows(self.m, self.m, 0, self.m)
    }

    /// softmax(s x y^T), row-major.
    fn softmax(&self, x: (&[T], View), y: (&[T], View)) -> Vec<T> {
        let columns = y.1.rows;
        let view = View::rows(x.1.rows, columns, 0, columns);
        let mut p = vec![T::ZERO; view.rows * columns];
        kernel::matmul((&mut p, view), x, (y.0, y.1.t()), self.s(), Onto::Nothing);
        kernel::vectorised(
            #[inline(always)]
            || {
                // A loop: `for_each` is a call that misses the vector instructions.
                for row in p.chunks_exact_mut(columns) {
                    kernel::softmax_in_place(row);
                }
            },
        );
        p
    }

    /// B = softmax(s Q~ K^T), (M, N).
    fn b(&self, landmarks: &Landmarks<T>) -> Vec<T> {
        self.softmax((&landmarks.q, self.wide()), self.all(1))
    }

    /// R = B V and W = Z R, both (M, D).
    fn values(&self, b: &[T], z: &[T]) -> (Vec<T>, Vec<T>) {
        let b = (b, View::rows(self.m, self.n, 0, self.n));
        let r = multiply(b, self.all(2), T::ONE);
        let w = multiply((z, self.square()), (&r, self.wide()), T::ONE);
        (r, w)
    }

    /// The largest column sum of A.
    pub(crate) fn largest_column(&self) -> T {
        PseudoInverse::largest_column(&self.landmarks().a, self.m).1
    }

    /// The blocks of queries.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let n = self.n;
        (0..n).step_by(BLOCK).map(move |from| (from, (from + BLOCK).min(n)))
    }

    /// F Z (B V), (N, D).
    pub(crate) fn forward(&self, scale: Option<T>) -> Vec<T> {
        let landmarks = self.landmarks();
        let inverse = PseudoInverse::of(&landmarks.a, self.m, scale);
        let (_, w) = self.values(&self.b(&landmarks), inverse.result());
        let mut y = vec![T::ZERO; self.n * self.d];
        for (from, to) in self.blocks() {
            let f = self.softmax((self.qkv, self.part(0, from, to)), (&landmarks.k, self.wide()));
            let rows = View::rows(to - from, self.d, from * self.d, self.d);
            let f = (&*f, View::rows(to - from, self.m, 0, self.m));
            kernel::matmul((&mut y, rows), f, (&w, self.wide()), T::ONE, Onto::Nothing);
        }
        y
    }

    /// The gradients of queries, keys and values, (N, 3D), for the gradient `g` (N, D) of F Z (B V), and that of
    /// the scale of the pseudo-inverse where it is given.
    ///
    /// With W = Z R and R = B V: dW = F^T g, dF = g W^T, dZ = dW R^T, dR = Z^T dW, dB = dR V^T, dV = B^T dR;
    /// through each softmax to its two factors, and from the means to the tokens of their segments.
    pub(crate) fn backward(&self, g: &[T], scale: Option<T>) -> (Vec<T>, T) {
        let (m, n, d, s) = (self.m, self.n, self.d, self.s());
        let landmarks = self.landmarks();
        let inverse = PseudoInverse::of(&landmarks.a, m, scale);
        let b = self.b(&landmarks);
        let (r, w) = self.values(&b, inverse.result());
        let k_means = (&*landmarks.k, self.wide());
        let mut dqkv = vec![T::ZERO; n * 3 * d];
        let (mut dq_means, mut dk_means) = (vec![T::ZERO; m * d], vec![T::ZERO; m * d]);

        let mut dw = vec![T::ZERO; m * d];
        for (from, to) in self.blocks() {
            let q = (self.qkv, self.part(0, from, to));
            let f = self.softmax(q, k_means);
            let block = View::rows(to - from, m, 0, m);
            let g = (g, View::rows(to - from, d, from * d, d));
            kernel::matmul((&mut dw, self.wide()), (&f, block.t()), g, T::ONE, Onto::Itself);
            let mut ds = multiply(g, (&w, self.wide().t()), T::ONE);
            softmax_backward(&f, &mut ds, m);
            kernel::matmul((&mut dqkv, q.1), (&ds, block), k_means, s, Onto::Nothing);
            let dk = (&mut *dk_means, self.wide());
            kernel::matmul(dk, (&ds, block.t()), q, s, Onto::Itself);
        }

        let (z, dz) = (
            (inverse.result(), self.square()),
            multiply((&dw, self.wide()), (&r, self.wide().t()), T::ONE),
        );
        let dr = multiply((z.0, z.1.t()), (&dw, self.wide()), T::ONE);
        let (dr, rows) = ((&*dr, self.wide()), View::rows(m, n, 0, n));
        let [k, v] = [1, 2].map(|which| self.all(which));
        kernel::matmul((&mut dqkv, v.1), (&b, rows.t()), dr, T::ONE, Onto::Nothing);
        let mut ds = multiply(dr, (v.0, v.1.t()), T::ONE);
        softmax_backward(&b, &mut ds, n);
        kernel::matmul((&mut dq_means, self.wide()), (&ds, rows), k, s, Onto::Nothing);
        let q_means = (&*landmarks.q, self.wide());
        kernel::matmul((&mut dqkv, k.1), (&ds, rows.t()), q_means, s, Onto::Nothing);

        let (da, d_scale) = inverse.backward(&dz);
        self.through_landmarks(&landmarks, da, [&mut dq_means, &mut dk_means]);
        self.add_to_segments(&mut dqkv, [&dq_means, &dk_means]);
        (dqkv, d_scale)
    }

    /// Adds what the gradient `da` of A gives to those of Q~ and K~.
    fn through_landmarks(&self, landmarks: &Landmarks<T>, mut da: Vec<T>, [dq, dk]: [&mut [T]; 2]) {
        softmax_backward(&landmarks.a, &mut da, self.m);
        let (q, k) = ((&*landmarks.q, self.wide()), (&*landmarks.k, self.wide()));
        let (da, square) = (&*da, self.square());
        kernel::matmul((dq, self.wide()), (da, square), k, self.s(), Onto::Itself);
        kernel::matmul((dk, self.wide()), (da, square.t()), q, self.s(), Onto::Itself);
    }

    /// Adds gradients of Q~ and K~ to those of the tokens that they are means of.
    fn add_to_segments(&self, dqkv: &mut [T], means: [&[T]; 2]) {
        for (which, means) in means.into_iter().enumerate() {
            for (j, mean) in means.chunks_exact(self.d).enumerate() {
                let scale = T::from_f64(1.0 / self.segment(j).len() as f64);
                for i in self.segment(j) {
                    let start = 3 * self.d * i + which * self.d;
                    for (to, &v) in dqkv[start..start + self.d].iter_mut().zip(mean) {
                        *to += scale * v;
                    }
                }
            }
        }
    }

    /// What a gradient `d_scale` of the largest column sum of A gives to queries, keys and values, (N, 3D).
    pub(crate) fn backward_scale(&self, d_scale: T) -> Vec<T> {
        let landmarks = self.landmarks();
        let column = PseudoInverse::largest_column(&landmarks.a, self.m).0;
        let mut da = vec![T::ZERO; self.m * self.m];
        da.iter_mut().skip(column).step_by(self.m).for_each(|v| *v = d_scale);
        let [mut dq, mut dk] = [(); 2].map(|()| vec![T::ZERO; self.m * self.d]);
        self.through_landmarks(&landmarks, da, [&mut dq, &mut dk]);
        let mut dqkv = vec![T::ZERO; self.n * 3 * self.d];
        self.add_to_segments(&mut dqkv, [&dq, &dk]);
        dqkv
    }
}

/// alpha x y, row-major.
fn multiply<T: Real>(x: (&[T], View), y: (&[T], View), alpha: T) -> Vec<T> {
    let view = View::rows(x.1.rows, y.1.cols, 0, y.1.cols);
    let mut out = vec![T::ZERO; view.rows * view.cols];
    kernel::matmul((&mut out, view), x, y, alpha, Onto::Nothing);
    out
}

/// ds <- the gradient of the scores for that of their softmax `p`, rows of `width`.
fn softmax_backward<T: Real>(p: &[T], ds: &mut [T], width: usize) {
    kernel::vectorised(
        #[inline(always)]
        || {
            for (p, ds) in p.chunks_exact(width).zip(ds.chunks_exact_mut(width)) {
                kernel::softmax_backward(p, ds);
            }
        },
    );
}
