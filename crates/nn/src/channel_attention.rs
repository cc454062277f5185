//! Attention among channels instead of tokens: linear in the number of tokens.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_threads as threads;

use crate::kernel::{self, Onto, Real, Shared, View};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::probe::Heads;
use crate::{Mode, Pass, device, reference};

/// Cross-covariance attention: softmax between the channels of a head.
///
/// With Q, K, V the (N, D) queries, keys and values of a head and q^, k^ their columns divided by their
/// norms over the tokens (at least 1e-12): P_ij = softmax_j(tau q^_i . k^_j), Y = V P^T. The `temperature` tau,
/// (H, 1, 1), begins with 1. (B, .., 3C) -> (B, .., C), packed as for [`crate::Attention`].
///
/// Source: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, section 3.2; timm's `XCA`.
#[derive(Debug, Clone)]
pub struct CrossCovarianceAttention {
    heads: usize,
    temperature: Tensor,
}

impl CrossCovarianceAttention {
    /// A layer of `heads`, whose `temperature` (H, 1, 1) begins with 1.
    ///
    /// # Errors
    /// When the temperature cannot be created or has another shape.
    pub fn new(vb: &VarBuilder, heads: usize) -> Result<Self> {
        let one = candle_nn::init::ONE;
        Ok(Self { heads, temperature: vb.get_with_hints((heads, 1, 1), "temperature", one)? })
    }

    /// The same over a given temperature (H, 1, 1).
    ///
    /// # Errors
    /// When it has not three dimensions.
    pub fn from_tensor(temperature: Tensor) -> Result<Self> {
        Ok(Self { heads: temperature.dims3()?.0, temperature })
    }
}

/// Attention of channels: P_ij = softmax_j(k_i . v_j / sqrt(D)) between the columns of a head, Y = Q P^T.
///
/// (B, .., 3C) -> (B, .., C), packed as for [`crate::Attention`].
///
/// Source: Ding et al., "DaViT: Dual Attention Vision Transformers", ECCV 2022, section 3.2; timm's
/// `ChannelAttention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelAttention {
    /// Heads H.
    pub heads: usize,
}

/// The smallest norm that a column is divided by.
pub(crate) const SMALLEST_NORM: f64 = 1e-12;

/// One head of one image: P = softmax(scores of columns a and b), Y = (columns c) P^T, by the places of a, b and c in
/// the packed rows.
#[derive(Clone, Copy)]
struct Head {
    n: usize,
    width: usize,
    d: usize,
    head: usize,
    order: [usize; 3],
    normalised: bool,
}

/// What the scores are made of.
struct Scores<T> {
    /// P, (D, D).
    p: Vec<T>,
    /// S, the scores before the softmax.
    s: Vec<T>,
    /// tau / (|a_i| |b_j|): the factor of a_i . b_j in S_ij.
    factors: Vec<T>,
    /// 1 / |a_i|^2 and 1 / |b_j|^2; zero where the norm is not the divisor, and without norms.
    inverse_squares: [Vec<T>; 2],
}

impl Head {
    /// The columns a (0), b (1) or c (2) in the packed rows (N, 3C).
    fn columns(self, which: usize) -> View {
        let start = self.order[which] * (self.width / 3) + self.head * self.d;
        View::rows(self.n, self.d, start, self.width)
    }

    /// The head in an output (N, C).
    fn output(self) -> View {
        View::rows(self.n, self.d, self.head * self.d, self.width / 3)
    }

    fn square(self) -> View {
        View::rows(self.d, self.d, 0, self.d)
    }

    /// 1 / max(|x|, 1e-12) of columns, and the square of it where |x| is the larger.
    fn inverse_norms<T: Real>(self, x: &[T], which: usize) -> (Vec<T>, Vec<T>) {
        let view = self.columns(which);
        let mut squares = vec![T::ZERO; self.d];
        kernel::vectorised(
            #[inline(always)]
            || {
                for row in x[view.start..].chunks(self.width).take(self.n) {
                    for (sum, &x) in squares.iter_mut().zip(row) {
                        *sum += x * x;
                    }
                }
            },
        );
        let smallest = T::from_f64(SMALLEST_NORM);
        let both = squares.into_iter().map(|square| {
            let norm = square.sqrt();
            match norm > smallest {
                true => (T::ONE / norm, T::ONE / square),
                false => (T::ONE / smallest, T::ZERO),
            }
        });
        both.unzip()
    }

    fn scores<T: Real>(self, x: &[T], tau: T) -> Scores<T> {
        let d = self.d;
        let (a, b) = (self.columns(0), self.columns(1));
        let mut s = vec![T::ZERO; d * d];
        kernel::matmul((&mut s, self.square()), (x, a.t()), (x, b), T::ONE, Onto::Nothing);
        let (mut factors, mut inverse_squares) =
            (vec![tau; d * d], [vec![T::ZERO; d], vec![T::ZERO; d]]);
        if self.normalised {
            let ((a, a_squared), (b, b_squared)) =
                (self.inverse_norms(x, 0), self.inverse_norms(x, 1));
            for (factors, &a) in factors.chunks_exact_mut(d).zip(&a) {
                for (factor, &b) in factors.iter_mut().zip(&b) {
                    *factor *= a * b;
                }
            }
            inverse_squares = [a_squared, b_squared];
        }
        for (s, &factor) in s.iter_mut().zip(&factors) {
            *s *= factor;
        }
        let mut p = s.clone();
        kernel::vectorised(
            #[inline(always)]
            || {
                // A loop: `for_each` is a call that misses the vector instructions.
                for p in p.chunks_exact_mut(d) {
                    kernel::softmax_in_place(p);
                }
            },
        );
        Scores { p, s, factors, inverse_squares }
    }

    /// The output of the head into its columns of `y`.
    ///
    /// # Safety
    /// Nobody else touches these columns.
    #[allow(unsafe_code)]
    unsafe fn forward<T: Real>(self, y: Shared<T>, x: &[T], tau: T) {
        let p = self.scores(x, tau).p;
        let (c, p) = ((x, self.columns(2)), (&*p, self.square().t()));
        // SAFETY: the columns of this head are ours, as the caller promises.
        unsafe { kernel::matmul_shared((y, self.output()), c, p, T::ONE, Onto::Nothing) }
    }

    /// The gradients of the head into its columns of `dx`, and that of tau.
    ///
    /// With dP = g^T c and dS = P (dP - rowsum(dP P)): dc = g P, da = b (f dS)^T - a diag(r / |a|^2),
    /// db = a (f dS) - b diag(q / |b|^2), where f are the factors of a_i . b_j in S, and r and q the sums of
    /// dS S over rows and columns; d tau = sum(dS S) / tau.
    ///
    /// # Safety
    /// Nobody else touches these columns.
    #[allow(unsafe_code)]
    unsafe fn backward<T: Real>(self, dx: Shared<T>, x: &[T], g: &[T], tau: T) -> T {
        let (d, square) = (self.d, self.square());
        let [a, b, c] = [0, 1, 2].map(|which| self.columns(which));
        let Scores { p, s, factors, inverse_squares } = self.scores(x, tau);
        let g = (g, self.output());
        let mut ds = vec![T::ZERO; d * d];
        kernel::matmul((&mut ds, square), (g.0, g.1.t()), (x, c), T::ONE, Onto::Nothing);
        let (mut rows, mut columns) = (vec![T::ZERO; d], vec![T::ZERO; d]);
        let mut d_tau = T::ZERO;
        kernel::vectorised(
            #[inline(always)]
            || {
                let scores = p.chunks_exact(d).zip(s.chunks_exact(d)).zip(factors.chunks_exact(d));
                for ((ds, row), ((p, s), factors)) in
                    ds.chunks_exact_mut(d).zip(&mut rows).zip(scores)
                {
                    kernel::softmax_backward(p, ds);
                    *row = kernel::sum_map2(ds, s, |d, s| d * s);
                    d_tau += *row;
                    for ((column, ds), (&s, &factor)) in
                        columns.iter_mut().zip(ds).zip(s.iter().zip(factors))
                    {
                        *column += *ds * s;
                        *ds *= factor;
                    }
                }
            },
        );
        // SAFETY: the columns of this head are ours, as the caller promises.
        unsafe {
            kernel::matmul_shared((dx, c), g, (&p, square), T::ONE, Onto::Nothing);
            kernel::matmul_shared((dx, a), (x, b), (&ds, square.t()), T::ONE, Onto::Nothing);
            kernel::matmul_shared((dx, b), (x, a), (&ds, square), T::ONE, Onto::Nothing);
            if self.normalised {
                for ((view, sums), squares) in
                    [(a, rows), (b, columns)].into_iter().zip(inverse_squares)
                {
                    let mut diagonal = vec![T::ZERO; d * d];
                    for (i, (sum, square)) in sums.into_iter().zip(squares).enumerate() {
                        diagonal[i * (d + 1)] = sum * square;
                    }
                    let minus = T::from_f64(-1.0);
                    kernel::matmul_shared(
                        (dx, view),
                        (x, view),
                        (&diagonal, square),
                        minus,
                        Onto::Itself,
                    );
                }
            }
        }
        d_tau / tau
    }
}

/// What both kinds share: the heads of a batch.
#[derive(Clone, Copy)]
struct Channels<'a, T> {
    heads: usize,
    order: [usize; 3],
    /// tau of each head, where columns are normalised.
    temperature: Option<&'a [T]>,
}

impl<T: Real> Channels<'_, T> {
    /// Head and temperature number `i` of the batch.
    fn head(&self, at: At<'_>, i: usize) -> (Head, T) {
        let (rows, head) = (at.rows(), i % self.heads);
        let d = rows.width / (3 * self.heads);
        let normalised = self.temperature.is_some();
        let tau = match self.temperature {
            Some(temperature) => temperature[head],
            None => T::from_f64(1.0 / (d as f64).sqrt()),
        };
        (Head { n: rows.tokens, width: rows.width, d, head, order: self.order, normalised }, tau)
    }

    fn forward(&self, input: Input<'_, T>) -> Vec<T> {
        let rows = input.at.rows();
        let len = rows.tokens * rows.width;
        let fill = |y: Shared<T>| {
            threads::for_each(0..rows.batch * self.heads, |_, i| {
                let ((head, tau), image) = (self.head(input.at, i), i / self.heads);
                let x = &input.x[image * len..(image + 1) * len];
                // SAFETY: a head writes to columns of its own, in the part of its image.
                #[allow(unsafe_code)]
                unsafe {
                    head.forward(y.part(image * len / 3, len / 3), x, tau);
                }
            });
        };
        // SAFETY: the heads write all columns of all images.
        #[allow(unsafe_code)]
        unsafe {
            kernel::filled_by_products(input.x.len() / 3, fill)
        }
    }

    fn backward(&self, input: Input<'_, T>, g: &[T]) -> Gradients<T> {
        let rows = input.at.rows();
        let len = rows.tokens * rows.width;
        let mut d_taus = Vec::new();
        let fill = |dx: Shared<T>| {
            let each = |i: usize| {
                let ((head, tau), image) = (self.head(input.at, i), i / self.heads);
                let x = &input.x[image * len..(image + 1) * len];
                let g = &g[image * len / 3..(image + 1) * len / 3];
                // SAFETY: a head writes to columns of its own, in the part of its image.
                #[allow(unsafe_code)]
                unsafe {
                    head.backward(dx.part(image * len, len), x, g, tau)
                }
            };
            d_taus = threads::map(0..rows.batch * self.heads, each);
        };
        // SAFETY: the heads write all columns of all images.
        #[allow(unsafe_code)]
        let dx = unsafe { kernel::filled_by_products(input.x.len(), fill) };
        let mut gradients = Gradients::from(dx);
        if self.temperature.is_some() {
            gradients.parameters.push(kernel::column_sums(&d_taus, self.heads));
        }
        gradients
    }
}

/// The dimensions of the result of both kinds.
fn output(name: &str, dims: &[usize], heads: usize) -> Result<Vec<usize>> {
    match dims {
        [leading @ .., width] if leading.len() > 1 && heads > 0 && width % (3 * heads) == 0 => {
            Ok([leading, &[width / 3]].concat())
        }
        _ => candle_core::bail!(
            "{name}: {dims:?} is not (batch, tokens, three times {heads} equal heads)"
        ),
    }
}

impl CrossCovarianceAttention {
    fn channels<'a, T: Real>(&self, input: &Input<'a, T>) -> Channels<'a, T> {
        let temperature = Some(input.parameters[0]);
        Channels { heads: self.heads, order: [0, 1, 2], temperature }
    }
}

impl Kernel for CrossCovarianceAttention {
    const NAME: &'static str = "cross-covariance-attention";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        vec![&self.temperature]
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        output(Self::NAME, dims, self.heads)
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        device::widened(x, |x| {
            reference::cross_covariance_attention(x, &self.temperature.to_dtype(x.dtype())?)
        })
    }

    fn heads(&self, x: &Tensor, _: Pass<'_>) -> Result<Option<Heads>> {
        reference::cross_covariance_heads(x, &self.temperature).map(Some)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        Ok(self.channels(&input).forward(input))
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        self.channels(&input).backward(input, &g)
    }
}

impl ChannelAttention {
    fn channels<T>(self) -> Channels<'static, T> {
        Channels { heads: self.heads, order: [1, 2, 0], temperature: None }
    }
}

impl Kernel for ChannelAttention {
    const NAME: &'static str = "channel-attention";

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        output(Self::NAME, dims, self.heads)
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        device::widened(x, |x| reference::channel_attention(x, self.heads))
    }

    fn heads(&self, x: &Tensor, _: Pass<'_>) -> Result<Option<Heads>> {
        reference::channel_heads(x, self.heads).map(Some)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        Ok(self.channels().forward(input))
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        self.channels().backward(input, &g)
    }
}
