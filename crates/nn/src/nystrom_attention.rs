//! Attention by landmarks: linear in the number of tokens.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_threads as threads;
use serde::{Deserialize, Serialize};

use crate::attention;
use crate::kernel::{self, Real, Rows, Shared, Stencil};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::nystrom_head::Head;
use crate::probe::Heads;
use crate::{Mode, Padding, Pass, device, init, reference};

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

/// The gradients of one head that are not those of its columns.
struct Others<T> {
    /// That of the scale of the batch.
    scale: T,
    /// Those of its taps.
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

    /// The largest column sum of A in the batch, where it scales every pseudo-inverse, and the first head that has it.
    fn batch_scale<T: Real>(&self, input: Input<'_, T>, places: &[Place]) -> Option<(T, Place)> {
        if self.scale == InverseScale::Head {
            return None;
        }
        let rows = input.at.rows();
        let sum = |place: &Place| {
            let qkv = place.gather(input.x, rows, 3);
            Some((self.head(*place, &qkv)?.largest_column(), *place))
        };
        let sums = threads::map(places, sum);
        let larger = |best: (T, Place), next: (T, Place)| if next.0 > best.0 { next } else { best };
        sums.into_iter().flatten().reduce(larger)
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
    ) -> (Vec<T>, Others<T>) {
        let (Place { n, d, .. }, rows) = (place, input.at.rows());
        let (qkv, g) = (place.gather(input.x, rows, 3), place.gather(g, rows, 1));
        let (mut dqkv, d_scale) = match self.head(place, &qkv) {
            Some(head) => head.backward(&g, scale),
            None => (attention::alone_backward(&qkv, &g, n, d), T::ZERO),
        };
        let mut others = Others { scale: d_scale, taps: Vec::new() };
        if let Some(taps) = self.taps(&input, place) {
            let stencil = self.stencil(n, d, taps.len() / d);
            let dv = stencil.backward_input(&g, &taps);
            for (to, dv) in dqkv.chunks_exact_mut(3 * d).zip(dv.chunks_exact(d)) {
                kernel::add(&mut to[2 * d..], dv);
            }
            let dw = stencil.backward_taps(&values(&qkv, d), &g);
            others.taps = dw.chunks_exact(d).map(|dw| kernel::sum_map(dw, |v| v)).collect();
        }
        (dqkv, others)
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
        device::widened(x, |x| {
            let weight = convolution.as_ref().map(|weight| weight.to_dtype(x.dtype()));
            let weight = weight.transpose()?;
            let weight = weight.as_ref();
            reference::nystrom_attention(x, *heads, *landmarks, *scale, weight, pass.padding)
        })
    }

    fn heads(&self, x: &Tensor, pass: Pass<'_>) -> Result<Option<Heads>> {
        let Self { heads, landmarks, scale, .. } = *self;
        reference::nystrom_heads(x, heads, landmarks, scale, pass.padding).map(Some)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let rows = input.at.rows();
        let places = self.places(rows, input.at.pass.padding);
        let scale = self.batch_scale(input, &places).map(|(scale, _)| scale);
        let write = |y: Shared<T>| {
            threads::for_each(&places, |_, &place| {
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
        let batch = self.batch_scale(input, &places);
        let mut others: Vec<Others<T>> = Vec::new();
        let write = |dqkv: Shared<T>| {
            let each = |&place: &Place| {
                let scale = batch.map(|(scale, _)| scale);
                let (of_head, others) = self.backward_head(input, &g, place, scale);
                // SAFETY: a head writes to columns of its own.
                #[allow(unsafe_code)]
                unsafe {
                    place.scatter(dqkv, &of_head, rows, 3);
                }
                others
            };
            others = threads::map(&places, each);
        };
        // SAFETY: the heads write all columns of all sequences, zeros for padding.
        #[allow(unsafe_code)]
        let mut dqkv = unsafe { kernel::filled_by_products(input.x.len(), write) };
        if let Some((_, place)) = batch {
            let d_scale = others.iter().fold(T::ZERO, |sum, others| sum + others.scale);
            self.add_scale_gradient(input, place, d_scale, &mut dqkv);
        }
        let mut gradients = Gradients::from(dqkv);
        if self.convolution.is_some() {
            let taps = others.into_iter().flat_map(|others| others.taps).collect::<Vec<_>>();
            let width = taps.len() / rows.batch.max(1);
            gradients.parameters.push(kernel::column_sums(&taps, width));
        }
        gradients
    }
}

impl NystromAttention {
    /// Adds what the gradient of the scale of the batch gives to the head at `place` whose column sum it is.
    fn add_scale_gradient<T: Real>(
        &self,
        input: Input<'_, T>,
        place: Place,
        d_scale: T,
        dqkv: &mut [T],
    ) {
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
