//! Self-attention inside windows of an image of tokens (Liu et al. 2021, "Swin Transformer", section 3.2).

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_threads as threads;

use crate::kernel::{self, Onto, Real, Shared, View};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::probe::Heads;
use crate::{Mode, Pass, device, init, reference};

/// softmax(Q K^T / sqrt(D) + R + M) V for each head inside each window of w x w tokens.
///
/// The input is (B, H, W, 3C), for every token its queries, keys and values side by side, each split into
/// heads of width D, as in [`crate::Attention`]; the result is (B, H, W, C). Windows tile the image after it
/// is rolled up and left by `shift` tokens, and the result is rolled back. M is -100 between tokens of one window
/// that are no neighbours in the image itself, and 0 elsewhere.
///
/// R_ij is the entry of a learned `relative_position_bias_table` ((2w - 1)^2, heads) for the way from
/// token j to token i, row (y_i - y_j + w - 1) (2w - 1) + x_i - x_j + w - 1; DaViT has none.
#[derive(Debug, Clone)]
pub struct WindowAttention {
    heads: usize,
    window: usize,
    shift: usize,
    bias: Option<Tensor>,
}

/// What is added to the scores of tokens that are no neighbours, as in timm.
pub(crate) const HIDDEN: f64 = -100.0;

/// Deviation of the bias table at initialisation, as in timm.
const BIAS_STD: f64 = 0.02;

/// Pieces that a batch of windows is divided into at most: as many sums of bias gradients are kept.
const PIECES: usize = 64;

impl WindowAttention {
    /// Windows of `window` x `window` tokens without relative position bias, as in DaViT.
    pub fn new(heads: usize, window: usize) -> Self {
        Self { heads, window, shift: 0, bias: None }
    }

    /// Windows shifted by `shift`, with the bias table of `vb`: truncated normal of deviation 0.02.
    ///
    /// # Errors
    /// When the table cannot be created or has another shape.
    pub fn shifted(vb: &VarBuilder, heads: usize, window: usize, shift: usize) -> Result<Self> {
        let rows = (2 * window).saturating_sub(1).pow(2);
        let name = "relative_position_bias_table";
        let bias = vb.get_with_hints((rows, heads), name, init::normal(BIAS_STD))?;
        Ok(Self::from_tensor(bias, heads, window, shift))
    }

    /// The same over a given table ((2w - 1)^2, heads).
    pub fn from_tensor(bias: Tensor, heads: usize, window: usize, shift: usize) -> Self {
        Self { heads, window, shift, bias: Some(bias) }
    }

    /// What happens inside the windows of an input.
    fn windows<'a, T: Real>(&'a self, input: &Input<'a, T>) -> Windows<'a, T> {
        let &[images, height, width, packed] = input.at.dims else {
            unreachable!("the shape was checked");
        };
        let (c, w) = (packed / 3, self.window);
        let tokens = w * w;
        let table = input.parameters.first();
        let bias = table.map(|table| {
            let places = relative_places(w);
            let head = |h| places.iter().map(move |&row| table[row * self.heads + h]);
            (0..self.heads).flat_map(head).collect()
        });
        let count = images * (height / w) * (width / w);
        Windows { layer: self, x: input.x, height, width, c, tokens, count, bias }
    }
}

/// The rows of the bias table, w^2 x w^2, row-major.
pub(crate) fn relative_places(w: usize) -> Vec<usize> {
    let way = move |i: usize, j: usize| {
        let (dy, dx) = (i / w + w - 1 - j / w, i % w + w - 1 - j % w);
        dy * (2 * w - 1) + dx
    };
    (0..w * w).flat_map(|i| (0..w * w).map(move |j| way(i, j))).collect()
}

/// Which part of an axis of `size` tokens a place of the rolled image comes from: places of one window with
/// different parts are no neighbours.
pub(crate) fn part(at: usize, size: usize, window: usize, shift: usize) -> usize {
    usize::from(at >= size - window) + usize::from(at >= size - shift)
}

/// The windows of a batch.
struct Windows<'a, T> {
    layer: &'a WindowAttention,
    x: &'a [T],
    height: usize,
    width: usize,
    c: usize,
    /// Tokens of a window.
    tokens: usize,
    /// Windows of the batch.
    count: usize,
    /// R, (heads, tokens, tokens).
    bias: Option<Vec<T>>,
}

/// The buffers of one thread, for one window.
struct Buffers<T> {
    qkv: Vec<T>,
    /// P of one head.
    scores: Vec<T>,
    /// The outputs, or in backward their gradient.
    outputs: Vec<T>,
    /// In backward alone.
    d_scores: Vec<T>,
    /// In backward alone.
    dqkv: Vec<T>,
}

impl<T: Real> Windows<'_, T> {
    fn buffers(&self, backward: bool) -> Buffers<T> {
        let (n, c) = (self.tokens, self.c);
        let zeros = |wanted: bool, len: usize| vec![T::ZERO; if wanted { len } else { 0 }];
        Buffers {
            qkv: zeros(true, 3 * n * c),
            scores: zeros(true, n * n),
            outputs: zeros(true, n * c),
            d_scores: zeros(backward, n * n),
            dqkv: zeros(backward, 3 * n * c),
        }
    }

    /// The rows of the batch that make a window, in its order, and their parts of the image.
    fn rows(&self, window: usize) -> Vec<(usize, usize)> {
        let WindowAttention { window: w, shift, .. } = *self.layer;
        let across = self.width / w;
        let of_image = across * (self.height / w);
        let (image, window) = (window / of_image, window % of_image);
        let (top, left) = (window / across * w, window % across * w);
        let row = |i: usize| {
            let (y, x) = (top + i / w, left + i % w);
            let from = ((y + shift) % self.height, (x + shift) % self.width);
            let parts = 3 * part(y, self.height, w, shift) + part(x, self.width, w, shift);
            ((image * self.height + from.0) * self.width + from.1, parts)
        };
        (0..self.tokens).map(row).collect()
    }

    /// Width of a head.
    fn d(&self) -> usize {
        self.c / self.layer.heads
    }

    fn scale(&self) -> T {
        T::from_f64(1.0 / (self.d() as f64).sqrt())
    }

    /// The queries (0), keys (1) or values (2) of a head in the rows of a window.
    fn packed(&self, which: usize, head: usize) -> View {
        View::rows(self.tokens, self.d(), which * self.c + head * self.d(), 3 * self.c)
    }

    /// The head in outputs of a window.
    fn output(&self, head: usize) -> View {
        View::rows(self.tokens, self.d(), head * self.d(), self.c)
    }

    fn square(&self) -> View {
        View::rows(self.tokens, self.tokens, 0, self.tokens)
    }

    /// P of a head into `p`.
    fn probabilities(&self, p: &mut [T], qkv: &[T], rows: &[(usize, usize)], head: usize) {
        let (q, k) = (self.packed(0, head), self.packed(1, head));
        kernel::matmul((p, self.square()), (qkv, q), (qkv, k.t()), self.scale(), Onto::Nothing);
        let n = self.tokens;
        let divided = rows.iter().any(|(_, part)| *part != rows[0].1);
        kernel::vectorised(
            #[inline(always)]
            || {
                for (i, p) in p.chunks_exact_mut(n).enumerate() {
                    if let Some(bias) = &self.bias {
                        kernel::add(p, &bias[(head * n + i) * n..(head * n + i + 1) * n]);
                    }
                    if divided {
                        for (p, (_, part)) in p.iter_mut().zip(rows) {
                            if *part != rows[i].1 {
                                *p += T::from_f64(HIDDEN);
                            }
                        }
                    }
                    kernel::softmax_in_place(p);
                }
            },
        );
    }

    /// The rows of a window from `from`, `width` elements each.
    fn gather(into: &mut [T], from: &[T], rows: &[(usize, usize)], width: usize) {
        for (into, (row, _)) in into.chunks_exact_mut(width).zip(rows) {
            into.copy_from_slice(&from[row * width..(row + 1) * width]);
        }
    }

    /// The outputs of a window into its rows of `y`.
    ///
    /// # Safety
    /// Nobody else touches these rows.
    #[allow(unsafe_code)]
    unsafe fn forward(&self, y: Shared<T>, window: usize, buffers: &mut Buffers<T>) {
        let rows = self.rows(window);
        Self::gather(&mut buffers.qkv, self.x, &rows, 3 * self.c);
        for head in 0..self.layer.heads {
            self.probabilities(&mut buffers.scores, &buffers.qkv, &rows, head);
            let v = (&*buffers.qkv, self.packed(2, head));
            let p = (&*buffers.scores, self.square());
            kernel::matmul((&mut buffers.outputs, self.output(head)), p, v, T::ONE, Onto::Nothing);
        }
        for (values, (row, _)) in buffers.outputs.chunks_exact(self.c).zip(&rows) {
            // SAFETY: a row of this window, as the caller promises.
            unsafe { y.write(row * self.c, values) }
        }
    }

    /// The gradients of a window into its rows of `dqkv`, added to `d_bias` (heads, tokens, tokens) where
    /// there is one: as [`crate::Attention`] with dR = dS.
    ///
    /// # Safety
    /// Nobody else touches these rows.
    #[allow(unsafe_code)]
    unsafe fn backward(
        &self,
        dqkv: Shared<T>,
        g: &[T],
        d_bias: &mut [T],
        window: usize,
        buffers: &mut Buffers<T>,
    ) {
        let rows = self.rows(window);
        let (n, square) = (self.tokens, self.square());
        Self::gather(&mut buffers.qkv, self.x, &rows, 3 * self.c);
        Self::gather(&mut buffers.outputs, g, &rows, self.c);
        let Buffers { qkv, scores: p, outputs: g, d_scores: ds, dqkv: dx } = buffers;
        for head in 0..self.layer.heads {
            self.probabilities(p, qkv, &rows, head);
            let [q, k, v] = [0, 1, 2].map(|which| self.packed(which, head));
            let g = (&**g, self.output(head));
            kernel::matmul((ds, square), g, (qkv, v.t()), T::ONE, Onto::Nothing);
            kernel::vectorised(
                #[inline(always)]
                || {
                    for (p, ds) in p.chunks_exact(n).zip(ds.chunks_exact_mut(n)) {
                        kernel::softmax_backward(p, ds);
                    }
                    if self.bias.is_some() {
                        kernel::add(&mut d_bias[head * n * n..(head + 1) * n * n], ds);
                    }
                },
            );
            kernel::matmul((dx, v), (p, square.t()), g, T::ONE, Onto::Nothing);
            kernel::matmul((dx, q), (ds, square), (qkv, k), self.scale(), Onto::Nothing);
            kernel::matmul((dx, k), (ds, square.t()), (qkv, q), self.scale(), Onto::Nothing);
        }
        for (values, (row, _)) in buffers.dqkv.chunks_exact(3 * self.c).zip(&rows) {
            // SAFETY: a row of this window, as the caller promises.
            unsafe { dqkv.write(row * 3 * self.c, values) }
        }
    }
}

impl Kernel for WindowAttention {
    const NAME: &'static str = "window-attention";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        self.bias.iter().collect()
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        let Self { heads, window: w, shift, .. } = *self;
        let &[b, height, width, packed] = dims else {
            candle_core::bail!(
                "window-attention: {dims:?} is not (batch, height, width, channels)"
            );
        };
        if heads == 0 || packed % (3 * heads) != 0 {
            candle_core::bail!("window-attention: {packed} is not three times {heads} equal heads");
        }
        if w == 0 || height % w != 0 || width % w != 0 || shift >= w {
            candle_core::bail!(
                "window-attention: windows of {w} x {w}, shifted by {shift}, do not tile {height} x {width} \
                 tokens; choose image size, patch size and window so that they do"
            );
        }
        let table = [(2 * w - 1).pow(2), heads];
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.dims() != table) {
            candle_core::bail!(
                "window-attention: a bias table {:?}, windows of {w} x {w} and {heads} heads take {table:?}",
                bias.dims()
            );
        }
        Ok(vec![b, height, width, packed / 3])
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        let Self { heads, window, shift, ref bias } = *self;
        device::widened(x, |x| {
            let bias = bias.as_ref().map(|bias| bias.to_dtype(x.dtype())).transpose()?;
            reference::window_attention(x, heads, window, shift, bias.as_ref())
        })
    }

    fn heads(&self, x: &Tensor, _: Pass<'_>) -> Result<Option<Heads>> {
        let Self { heads, window, shift, ref bias } = *self;
        reference::window_heads(x, heads, window, shift, bias.as_ref()).map(Some)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let windows = self.windows(&input);
        let fill = |y: Shared<T>| {
            let group = windows.count.div_ceil(PIECES).max(1);
            threads::for_each((0..windows.count).step_by(group), |_, first| {
                let mut buffers = windows.buffers(false);
                for window in first..(first + group).min(windows.count) {
                    // SAFETY: windows do not share rows.
                    #[allow(unsafe_code)]
                    unsafe {
                        windows.forward(y, window, &mut buffers);
                    }
                }
            });
        };
        // SAFETY: windows tile the image, so every row is written.
        #[allow(unsafe_code)]
        Ok(unsafe { kernel::filled_by_products(input.x.len() / 3, fill) })
    }

    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let windows = self.windows(&input);
        let group = windows.count.div_ceil(PIECES);
        // Without a bias there is nothing to add up; a piece has one unused element then.
        let sums = windows.bias.as_ref().map_or(1, Vec::len);
        let mut d_bias = Vec::new();
        let fill = |dqkv: Shared<T>| {
            let partial =
                kernel::build(windows.count.div_ceil(group) * sums, sums, |piece, d_bias| {
                    let mut buffers = windows.buffers(true);
                    let end = ((piece + 1) * group).min(windows.count);
                    for window in piece * group..end {
                        // SAFETY: windows do not share rows.
                        #[allow(unsafe_code)]
                        unsafe {
                            windows.backward(dqkv, &g, d_bias, window, &mut buffers);
                        }
                    }
                });
            d_bias = kernel::column_sums(&partial, sums);
        };
        // SAFETY: windows tile the image, so every row is written.
        #[allow(unsafe_code)]
        let dqkv = unsafe { kernel::filled_by_products(input.x.len(), fill) };
        let mut gradients = Gradients::from(dqkv);
        if let Some(table) = input.parameters.first() {
            let mut d_table = vec![T::ZERO; table.len()];
            let places = relative_places(self.window);
            for (h, d_bias) in d_bias.chunks_exact(places.len()).enumerate() {
                for (&row, &d) in places.iter().zip(d_bias) {
                    d_table[row * self.heads + h] += d;
                }
            }
            gradients.parameters.push(d_table);
        }
        gradients
    }
}
