//! Attention by landmarks: linear in the number of tokens.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::attention;
use crate::kernel::{self, Real, Rows, Shared, Stencil, View};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::probe::Heads;
use crate::pseudo_inverse::PseudoInverse;
use crate::{Mode, Padding, Pass, init, reference};

/// Softmax attention through M landmarks, by the Nystrom method, and a convolution of the values.
///
/// With Q, K, V the (N, D) queries, keys and values of a head, s = 1/sqrt(D), and Q~, K~ the means of M equal
/// segments of Q and K:
///
/// ```text
/// F = softmax(s Q K~^T)   (N, M)      A = softmax(s Q~ K~^T)   (M, M)      B = softmax(s Q~ K^T)   (M, N)
/// Y = F Z (B V) + conv(V),   Z the iterative pseudo-inverse of A
/// ```
///
/// Segment j holds the tokens from floor(j N / M) on. A sequence of at most M tokens has exact softmax attention,
/// which F Z B is where every token is a landmark. Padding takes part in nothing: N counts real tokens, so that a
/// sequence has the same bits alone and in a padded batch; with [`InverseScale::Batch`] its batch scales Z.
///
/// The input is (B, N, 3C), packed as for [`crate::Attention`]; the result is (B, N, C). Time and memory are
/// linear in N.
///
/// Source: Xiong et al., "Nystromformer: A Nystrom-based Algorithm for Approximating Self-Attention", AAAI 2021;
/// `NystromformerSelfAttention` of Hugging Face.
#[derive(Debug, Clone)]
pub struct NystromAttention {
    heads: usize,
    landmarks: usize,
    scale: InverseScale,
    convolution: Option<Tensor>,
}

/// What the pseudo-inverse of A begins with: Z_0 = A^T / c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InverseScale {
    /// c is the largest column sum of A: one for each head of each sequence.
    #[default]
    Head,
    /// c is the largest column sum in the batch: what is done to a sequence depends on the others. The published
    /// runs have it.
    Batch,
}

impl NystromAttention {
    /// A layer of `heads` heads and M = `landmarks`, without convolution.
    pub fn new(heads: usize, landmarks: usize) -> Self {
        Self { heads, landmarks, scale: InverseScale::default(), convolution: None }
    }

    /// The same with another start of the pseudo-inverse.
    pub fn scale(self, scale: InverseScale) -> Self {
        Self { scale, ..self }
    }

    /// The same with a convolution of the values along the tokens, by `taps` weights a head: `weight`
    /// (H, 1, taps, 1), with PyTorch's default initialisation, uniform in +-1/sqrt(taps).
    ///
    /// # Errors
    /// When the weight cannot be created or has another shape.
    pub fn convolution(self, vb: VarBuilder, taps: usize) -> Result<Self> {
        let default = init::torch_default(taps);
        let weight = vb.get_with_hints((self.heads, 1, taps, 1), "weight", default)?;
        Ok(self.convolution_from(weight))
    }

    /// The same with a given `weight` (H, 1, taps, 1), taps odd, as in PyTorch's `Conv2d(H, H, (taps, 1),
    /// padding=(taps // 2, 0), bias=False, groups=H)` over values (B, H, N, D).
    pub fn convolution_from(self, weight: Tensor) -> Self {
        Self { convolution: Some(weight), ..self }
    }
}

/// Queries per block of F, so that a block stays in the cache of a core.
const BLOCK: usize = 128;

/// One head of one sequence, its queries, keys and values side by side: (N, 3D).
struct Head<'a, T> {
    n: usize,
    d: usize,
    /// Landmarks M, less than N.
    m: usize,
    qkv: &'a [T],
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
        kernel::matmul((&mut p, view), x, (y.0, y.1.t()), self.s(), false, false);
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

    /// The blocks of queries.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let n = self.n;
        (0..n).step_by(BLOCK).map(move |from| (from, (from + BLOCK).min(n)))
    }

    /// F Z (B V), (N, D).
    fn forward(&self, scale: Option<T>) -> Vec<T> {
        let landmarks = self.landmarks();
        let inverse = PseudoInverse::of(&landmarks.a, self.m, scale);
        let (_, w) = self.values(&self.b(&landmarks), inverse.result());
        let mut y = vec![T::ZERO; self.n * self.d];
        for (from, to) in self.blocks() {
            let f = self.softmax((self.qkv, self.part(0, from, to)), (&landmarks.k, self.wide()));
            let rows = View::rows(to - from, self.d, from * self.d, self.d);
            let f = (&*f, View::rows(to - from, self.m, 0, self.m));
            kernel::matmul((&mut y, rows), f, (&w, self.wide()), T::ONE, false, false);
        }
        y
    }

    /// The gradients of queries, keys and values, (N, 3D), for the gradient `g` (N, D) of F Z (B V), and that of
    /// the scale of the pseudo-inverse where it is given.
    ///
    /// With W = Z R and R = B V: dW = F^T g, dF = g W^T, dZ = dW R^T, dR = Z^T dW, dB = dR V^T, dV = B^T dR;
    /// through each softmax to its two factors, and from the means to the tokens of their segments.
    fn backward(&self, g: &[T], scale: Option<T>) -> (Vec<T>, T) {
        let (m, n, d, s) = (self.m, self.n, self.d, self.s());
        let landmarks = self.landmarks();
        let inverse = PseudoInverse::of(&landmarks.a, m, scale);
        let mut b = self.b(&landmarks);
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
            kernel::matmul((&mut dw, self.wide()), (&f, block.t()), g, T::ONE, true, false);
            let mut ds = multiply(g, (&w, self.wide().t()), T::ONE);
            softmax_backward(&f, &mut ds, m);
            kernel::matmul((&mut dqkv, q.1), (&ds, block), k_means, s, false, false);
            let dk = (&mut *dk_means, self.wide());
            kernel::matmul(dk, (&ds, block.t()), q, s, true, false);
        }

        let (z, dz) = (
            (inverse.result(), self.square()),
            multiply((&dw, self.wide()), (&r, self.wide().t()), T::ONE),
        );
        let dr = multiply((z.0, z.1.t()), (&dw, self.wide()), T::ONE);
        let (dr, rows) = ((&*dr, self.wide()), View::rows(m, n, 0, n));
        let [k, v] = [1, 2].map(|which| self.all(which));
        kernel::matmul((&mut dqkv, v.1), (&b, rows.t()), dr, T::ONE, false, false);
        let mut ds = multiply(dr, (v.0, v.1.t()), T::ONE);
        softmax_backward(&b, &mut ds, n);
        b.clear();
        kernel::matmul((&mut dq_means, self.wide()), (&ds, rows), k, s, false, false);
        let q_means = (&*landmarks.q, self.wide());
        kernel::matmul((&mut dqkv, k.1), (&ds, rows.t()), q_means, s, false, false);

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
        kernel::matmul((dq, self.wide()), (da, square), k, self.s(), true, false);
        kernel::matmul((dk, self.wide()), (da, square.t()), q, self.s(), true, false);
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
    fn backward_scale(&self, d_scale: T) -> Vec<T> {
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

/// alpha x y on one thread, row-major.
fn multiply<T: Real>(x: (&[T], View), y: (&[T], View), alpha: T) -> Vec<T> {
    let view = View::rows(x.1.rows, y.1.cols, 0, y.1.cols);
    let mut out = vec![T::ZERO; view.rows * view.cols];
    kernel::matmul((&mut out, view), x, y, alpha, false, false);
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

/// A head of a batch: where it lies, and the tokens of its sequence.
#[derive(Clone, Copy)]
struct Place {
    sequence: usize,
    head: usize,
    /// Real tokens.
    n: usize,
    d: usize,
}

impl Place {
    /// Its columns from `x` (B, N, P C), P parts of C channels: (n, P D).
    fn gather<T: Real>(self, x: &[T], rows: Rows, parts: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(self.n * parts * self.d);
        for i in 0..self.n {
            for part in 0..parts {
                let start = self.start(rows, parts, i, part);
                out.extend_from_slice(&x[start..start + self.d]);
            }
        }
        out
    }

    /// Writes (n, P D) to its columns of `to` (B, N, P C), and zeros where the sequence is padding.
    ///
    /// # Safety
    /// Nobody else touches these columns.
    #[allow(unsafe_code)]
    unsafe fn scatter<T: Real>(self, to: Shared<T>, values: &[T], rows: Rows, parts: usize) {
        let mut values = values.chunks_exact(self.d);
        let zeros = vec![T::ZERO; self.d];
        for i in 0..rows.tokens {
            for part in 0..parts {
                let row = values.next().unwrap_or(&zeros);
                // SAFETY: columns of this head, as the caller promises.
                unsafe { to.write(self.start(rows, parts, i, part), row) }
            }
        }
    }

    /// Where row `i` of a part begins in (B, N, P C).
    fn start(self, rows: Rows, parts: usize, i: usize, part: usize) -> usize {
        let c = rows.width / 3;
        ((self.sequence * rows.tokens + i) * parts + part) * c + self.head * self.d
    }
}

/// What the gradients of one head leave beside those of its columns.
struct Left<T> {
    /// The largest column sum of A, where the head has landmarks.
    largest: Option<T>,
    d_scale: T,
    /// Gradients of the taps.
    taps: Vec<T>,
}

impl NystromAttention {
    /// Every head of every sequence.
    fn places(&self, rows: Rows, padding: Option<&Padding>) -> Vec<Place> {
        let d = rows.width / (3 * self.heads);
        let place = |i| {
            let (sequence, head) = (i / self.heads, i % self.heads);
            let n = padding.map_or(rows.tokens, |padding| padding.lengths()[sequence]);
            Place { sequence, head, n, d }
        };
        (0..rows.batch * self.heads).map(place).collect()
    }

    /// A head with landmarks; none where its sequence is so short that attention is exact.
    fn head<'a, T: Real>(&self, place: Place, qkv: &'a [T]) -> Option<Head<'a, T>> {
        let Place { n, d, .. } = place;
        (n > self.landmarks).then_some(Head { n, d, m: self.landmarks, qkv })
    }

    /// The largest column sum of A in the batch, where it scales every pseudo-inverse.
    fn batch_scale<T: Real>(&self, input: Input<'_, T>, places: &[Place]) -> Option<T> {
        if self.scale == InverseScale::Head {
            return None;
        }
        let rows = input.at.rows();
        let sum = |place: &Place| {
            let qkv = place.gather(input.x, rows, 3);
            let head = self.head(*place, &qkv)?;
            Some(PseudoInverse::largest_column(&head.landmarks().a, head.m).1)
        };
        let sums: Vec<Option<T>> = places.par_iter().map(sum).collect();
        sums.into_iter().flatten().reduce(T::larger)
    }

    /// The convolution of one head along `n` tokens of `d` channels.
    fn stencil(&self, n: usize, d: usize, taps: usize) -> Stencil {
        Stencil { images: 1, height: 1, width: n, channels: d, taps: (1, taps) }
    }

    /// The taps of a head, each for all `d` channels: (taps, D).
    fn taps<T: Real>(&self, input: &Input<'_, T>, place: Place) -> Option<Vec<T>> {
        let weight = input.parameters.first()?;
        let taps = weight.len() / self.heads;
        let of_head = &weight[place.head * taps..(place.head + 1) * taps];
        Some(of_head.iter().flat_map(|&tap| std::iter::repeat_n(tap, place.d)).collect())
    }

    /// The output of a head, (n, D).
    fn forward_head<T: Real>(&self, input: Input<'_, T>, place: Place, scale: Option<T>) -> Vec<T> {
        let Place { n, d, .. } = place;
        let qkv = place.gather(input.x, input.at.rows(), 3);
        let mut y = match self.head(place, &qkv) {
            Some(head) => head.forward(scale),
            None => attention::alone(&qkv, n, d),
        };
        if let Some(taps) = self.taps(&input, place) {
            let v = values(&qkv, d);
            kernel::add(&mut y, &self.stencil(n, d, taps.len() / d).forward(&v, &taps, None));
        }
        y
    }

    /// The gradients of queries, keys and values of a head, (n, 3D), and what else it leaves.
    fn backward_head<T: Real>(
        &self,
        input: Input<'_, T>,
        g: &[T],
        place: Place,
        scale: Option<T>,
    ) -> (Vec<T>, Left<T>) {
        let (Place { n, d, .. }, rows) = (place, input.at.rows());
        let (qkv, g) = (place.gather(input.x, rows, 3), place.gather(g, rows, 1));
        let mut left = Left { largest: None, d_scale: T::ZERO, taps: Vec::new() };
        let mut dqkv = match self.head(place, &qkv) {
            Some(head) => {
                let (dqkv, d_scale) = head.backward(&g, scale);
                left.d_scale = d_scale;
                if scale.is_some() {
                    let a = head.landmarks().a;
                    left.largest = Some(PseudoInverse::largest_column(&a, head.m).1);
                }
                dqkv
            }
            None => attention::alone_backward(&qkv, &g, n, d),
        };
        if let Some(taps) = self.taps(&input, place) {
            let stencil = self.stencil(n, d, taps.len() / d);
            let dv = stencil.backward_input(&g, &taps);
            for (to, dv) in dqkv.chunks_exact_mut(3 * d).zip(dv.chunks_exact(d)) {
                kernel::add(&mut to[2 * d..], dv);
            }
            let dw = stencil.backward_taps(&values(&qkv, d), &g);
            left.taps = dw.chunks_exact(d).map(|dw| kernel::sum_map(dw, |v| v)).collect();
        }
        (dqkv, left)
    }
}

/// The values of a head, (n, D), from (n, 3D).
fn values<T: Real>(qkv: &[T], d: usize) -> Vec<T> {
    qkv.chunks_exact(3 * d).flat_map(|row| &row[2 * d..]).copied().collect()
}

impl Kernel for NystromAttention {
    const NAME: &'static str = "nystrom-attention";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        self.convolution.iter().collect()
    }

    fn output(&self, At { dims, pass }: At<'_>) -> Result<Vec<usize>> {
        let heads = self.heads;
        if let Some(padding) = pass.padding {
            padding.check(dims)?;
        }
        if self.landmarks == 0 {
            candle_core::bail!("nystrom-attention: at least one landmark is needed");
        }
        if let Some(weight) = &self.convolution
            && !matches!(*weight.dims(), [h, 1, taps, 1] if h == heads && taps % 2 == 1)
        {
            candle_core::bail!(
                "nystrom-attention: a convolution {:?}; it must be ({heads}, 1, taps, 1), taps odd",
                weight.dims()
            );
        }
        match dims {
            [b, n, width] if heads > 0 && width % (3 * heads) == 0 => Ok(vec![*b, *n, width / 3]),
            _ => candle_core::bail!(
                "nystrom-attention: {dims:?} is not (batch, tokens, three times {heads} equal heads)"
            ),
        }
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let Self { heads, landmarks, scale, convolution } = self;
        let convolution = convolution.as_ref();
        reference::nystrom_attention(x, *heads, *landmarks, *scale, convolution, pass.padding)
    }

    fn heads(&self, x: &Tensor, pass: Pass<'_>) -> Result<Option<Heads>> {
        let Self { heads, landmarks, scale, .. } = *self;
        reference::nystrom_heads(x, heads, landmarks, scale, pass.padding).map(Some)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let rows = input.at.rows();
        let places = self.places(rows, input.at.pass.padding);
        let scale = self.batch_scale(input, &places);
        let write = |y: Shared<T>| {
            places.par_iter().for_each(|&place| {
                let of_head = self.forward_head(input, place, scale);
                // SAFETY: a head writes to columns of its own.
                #[allow(unsafe_code)]
                unsafe {
                    place.scatter(y, &of_head, rows, 1);
                }
            });
        };
        // SAFETY: the heads write all columns of all sequences, zeros for padding.
        #[allow(unsafe_code)]
        Ok(unsafe { kernel::filled_by_products(input.x.len() / 3, write) })
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let rows = input.at.rows();
        let places = self.places(rows, input.at.pass.padding);
        let scale = self.batch_scale(input, &places);
        let mut left: Vec<Left<T>> = Vec::new();
        let write = |dqkv: Shared<T>| {
            let each = |&place: &Place| {
                let (of_head, left) = self.backward_head(input, &g, place, scale);
                // SAFETY: a head writes to columns of its own.
                #[allow(unsafe_code)]
                unsafe {
                    place.scatter(dqkv, &of_head, rows, 3);
                }
                left
            };
            left = places.par_iter().map(each).collect();
        };
        // SAFETY: the heads write all columns of all sequences, zeros for padding.
        #[allow(unsafe_code)]
        let mut dqkv = unsafe { kernel::filled_by_products(input.x.len(), write) };
        if let Some(scale) = scale {
            let d_scale = left.iter().fold(T::ZERO, |sum, left| sum + left.d_scale);
            let of = left.iter().position(|left| left.largest == Some(scale));
            self.add_scale_gradient(input, of.map(|of| places[of]), d_scale, &mut dqkv);
        }
        let mut gradients = Gradients::from(dqkv);
        if self.convolution.is_some() {
            let taps = left.into_iter().flat_map(|left| left.taps).collect::<Vec<_>>();
            let width = taps.len() / rows.batch.max(1);
            gradients.parameters.push(kernel::column_sums(&taps, width));
        }
        gradients
    }
}

impl NystromAttention {
    /// Adds what the gradient of the common scale gives to the head `of` whose column sum it is.
    fn add_scale_gradient<T: Real>(
        &self,
        input: Input<'_, T>,
        of: Option<Place>,
        d_scale: T,
        dqkv: &mut [T],
    ) {
        let Some(place) = of else { return };
        let rows = input.at.rows();
        let qkv = place.gather(input.x, rows, 3);
        let Some(head) = self.head(place, &qkv) else { return };
        let added = head.backward_scale(d_scale);
        for (i, added) in added.chunks_exact(3 * place.d).enumerate() {
            for (part, added) in added.chunks_exact(place.d).enumerate() {
                let start = place.start(rows, 3, i, part);
                kernel::add(&mut dqkv[start..start + place.d], added);
            }
        }
    }
}
