//! Each op in candle's own differentiable operations: its definition, and the oracle that the CPU
//! kernels and the fused forms of [`crate::device`] are tested against.
//!
//! Only operations whose gradients passed a numerical check are used here.

mod nystrom;
mod pyramid;
mod roi_align;

pub use nystrom::nystrom_attention;
pub(crate) use nystrom::nystrom_heads;
pub use pyramid::{conv_transpose2d, max_pool2d, relu, upsample_nearest};
pub use roi_align::roi_align;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::log_softmax;

use crate::Padding;
use crate::channel_attention::SMALLEST_NORM;
use crate::device::{self, wide};
use crate::probe::{Among, Heads};
use crate::upload;
use crate::window_attention::{HIDDEN, part, relative_places};

/// y = (x - mean) / sqrt(var + eps) * weight + bias, over the last dimension.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normal.broadcast_mul(weight)?.broadcast_add(bias)
}

/// y = x W^T + b.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.contiguous()?.broadcast_matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// y = x/2 (1 + erf(x / sqrt 2)).
///
/// # Errors
/// When the dtype is not a float.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
///
/// # Errors
/// When the dtype is not a float.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}

/// y = a b/2 (1 + erf(b / sqrt 2)) for the halves (a, b) of the last dimension; see
/// [`crate::GatedGelu`].
///
/// # Errors
/// When the last dimension is odd or the dtype is not a float.
pub fn gated_gelu(x: &Tensor) -> Result<Tensor> {
    let [a, b] = &x.chunk(2, D::Minus1)?[..] else {
        candle_core::bail!("gated-gelu: {:?} has no two halves", x.dims());
    };
    a * gelu(b)?
}

/// y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// y = x / (|x| + eps) for every row of every head, |x| without gradient; see [`crate::HeadNorm`].
///
/// # Errors
/// When `heads` does not divide the last dimension.
pub fn head_norm(x: &Tensor, heads: usize) -> Result<Tensor> {
    let dtype = x.dtype();
    // In half precision eps would vanish.
    let wide = match dtype {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    let width = x.dim(D::Minus1)?;
    let rows = wide.reshape(((), heads, width / heads))?;
    let norm = rows.detach().sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let scale = (norm.ne(0.0)?.to_dtype(norm.dtype())? / (norm + crate::head_norm::EPSILON)?)?;
    rows.broadcast_mul(&scale)?.reshape(x.shape())?.to_dtype(dtype)
}

/// Multi-head self-attention of a packed (B, N, 3C) tensor; see [`crate::Attention`].
///
/// # Errors
/// When shapes do not fit.
pub fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    attention_with(qkv, heads, 0, |q, k| candle_nn::ops::softmax(&scores(q, k, causal)?, D::Minus1))
}

/// Attention of the tokens from `first` on; `probabilities` has those of queries (B, H, N - first, D) among keys
/// (B, H, N, D).
pub(crate) fn attention_with(
    qkv: &Tensor,
    heads: usize,
    first: usize,
    probabilities: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (b, n, c3) = qkv.dims3()?;
    let c = c3 / 3;
    if qkv.elem_count() == 0 {
        // candle takes no maximum of nothing.
        return qkv.narrow(2, 0, c);
    }
    let d = c / heads;
    let qkv = qkv.reshape((b, n, 3, heads, d))?.permute((2, 0, 3, 1, 4))?; // (3, B, H, N, D)
    let queries = n - first;
    let q = qkv.get(0)?.narrow(2, first, queries)?.contiguous()?;
    let k = qkv.get(1)?.contiguous()?;
    let v = qkv.get(2)?.contiguous()?;
    let y = probabilities(&q, &k)?.matmul(&v)?; // (B, H, queries, D)
    y.transpose(1, 2)?.contiguous()?.reshape((b, queries, c))
}

/// Q K^T / sqrt(D) of `q` (B, H, queries, D), the last of the tokens of `k` (B, H, N, D); what a causal
/// query does not see is -10^4.
pub(crate) fn scores(q: &Tensor, k: &Tensor, causal: bool) -> Result<Tensor> {
    let ((_, _, queries, d), n) = (q.dims4()?, k.dim(2)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?; // (B, H, queries, N)
    if !causal {
        return Ok(scores);
    }
    // Finite, so that no row can become NaN; its exponential is zero in every precision.
    let seen = Tensor::tril2(n, DType::U8, q.device())?.narrow(0, n - queries, queries)?;
    let seen = seen.broadcast_as(scores.shape())?;
    let hidden = Tensor::new(-1e4f32, q.device())?.to_dtype(q.dtype())?;
    seen.where_cond(&scores, &hidden.broadcast_as(scores.shape())?)
}

/// P = softmax(Q K^T / sqrt(D)) of `q` and `k`, both (B, H, N, D), among the tokens where `mask` (B, N) is 1;
/// the rows of the others are zero.
///
/// # Errors
/// When shapes do not fit.
pub fn attention_probabilities(
    q: &Tensor,
    k: &Tensor,
    causal: bool,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let scores = scores(q, k, causal)?;
    let Some(mask) = mask else {
        return candle_nn::ops::softmax(&scores, D::Minus1);
    };
    let keys = mask.unsqueeze(1)?.unsqueeze(1)?; // (B, 1, 1, N)
    let queries = mask.unsqueeze(1)?.unsqueeze(3)?.to_dtype(q.dtype())?; // (B, 1, N, 1)
    softmax(&scores, 1.0, Some(&keys))?.broadcast_mul(&queries)
}

/// The windows of an image of tokens (B, H, W, C) that is rolled up and left by `shift`:
/// (B H/w W/w, w^2, C).
///
/// # Errors
/// When `window` does not divide both sides.
fn windows(x: &Tensor, window: usize, shift: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = roll(&roll(x, 1, shift)?, 2, shift)?;
    let x = x.reshape(&[b, h / window, window, w / window, window, c][..])?;
    x.permute(&[0, 1, 3, 2, 4, 5][..])?.contiguous()?.reshape(((), window * window, c))
}

/// The first `by` entries of a dimension behind the others.
fn roll(x: &Tensor, dim: usize, by: usize) -> Result<Tensor> {
    if by == 0 {
        return Ok(x.clone());
    }
    let rest = x.dim(dim)? - by;
    Tensor::cat(&[x.narrow(dim, by, rest)?, x.narrow(dim, 0, by)?], dim)
}

/// Queries, keys, values and attention of every window; see [`crate::WindowAttention`].
///
/// # Errors
/// When shapes do not fit.
pub(crate) fn window_heads(
    qkv: &Tensor,
    heads: usize,
    window: usize,
    shift: usize,
    table: Option<&Tensor>,
) -> Result<Heads> {
    let (_, height, width, _) = qkv.dims4()?;
    let parts = Heads::split(&windows(qkv, window, shift)?, heads)?;
    let mut scores = scores(&parts[0], &parts[1], false)?; // (B W, H, N, N)
    let n = window * window;
    if let Some(table) = table {
        let places = relative_places(window).into_iter().map(|row| row as u32).collect();
        let bias = device::rows(table, places)?;
        scores = scores.broadcast_add(&bias.t()?.reshape((1, heads, n, n))?)?;
    }
    if shift > 0 {
        let part_of = |i: usize| {
            let (y, x) = (i / width, i % width);
            (3 * part(y, height, window, shift) + part(x, width, window, shift)) as f64
        };
        let parts = (0..height * width).map(part_of).collect::<Vec<_>>();
        let parts = Tensor::from_vec(parts, (1, height, width, 1), &Device::Cpu)?;
        let parts = windows(&parts, window, 0)?; // (W, N, 1)
        let hidden = parts.broadcast_ne(&parts.t()?)?.to_dtype(DType::F64)?;
        let hidden = (hidden * HIDDEN)?.to_dtype(qkv.dtype())?; // (W, N, N)
        let hidden = upload(&hidden, qkv.device())?;
        let count = hidden.dim(0)?;
        let split = scores.reshape(((), count, heads, n, n))?;
        let split = split.broadcast_add(&hidden.reshape((1, count, 1, n, n))?)?;
        scores = split.reshape(((), heads, n, n))?;
    }
    Ok(Heads::new(parts, candle_nn::ops::softmax(&scores, D::Minus1)?, Among::Windows))
}

/// Attention inside windows, (B, H, W, 3C) -> (B, H, W, C), with the bias `table` ((2w - 1)^2, heads) where
/// there is one; see [`crate::WindowAttention`].
///
/// # Errors
/// When shapes do not fit.
pub fn window_attention(
    qkv: &Tensor,
    heads: usize,
    window: usize,
    shift: usize,
    table: Option<&Tensor>,
) -> Result<Tensor> {
    let (b, h, w, width) = qkv.dims4()?;
    let Heads { attention, values, .. } = window_heads(qkv, heads, window, shift, table)?;
    let y = attention.matmul(&values)?.transpose(1, 2)?.contiguous()?; // (B W, N, H, D)
    let y = y.reshape(&[b, h / window, w / window, window, window, width / 3][..])?;
    let y = y.permute(&[0, 1, 3, 2, 4, 5][..])?.contiguous()?.reshape((b, h, w, width / 3))?;
    let back = |size: usize| (size - shift) % size;
    roll(&roll(&y, 1, back(h))?, 2, back(w))
}

/// The parts of a packed (B, .., 3C), each (B, H, N, D).
fn channels(qkv: &Tensor, heads: usize) -> Result<[Tensor; 3]> {
    let (b, width) = (qkv.dim(0)?, qkv.dim(D::Minus1)?);
    Heads::split(&qkv.reshape((b, (), width))?, heads)
}

/// (columns) P^T, heads side by side, in the shape of the input.
fn sum_channels(columns: &Tensor, attention: &Tensor, qkv: &Tensor) -> Result<Tensor> {
    let y = columns.matmul(&attention.t()?)?.transpose(1, 2)?.contiguous()?; // (B, N, H, D)
    let mut dims = qkv.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last /= 3;
    }
    y.reshape(dims)
}

/// Queries, keys, values and attention among channels; see [`crate::CrossCovarianceAttention`].
///
/// # Errors
/// When shapes do not fit.
pub(crate) fn cross_covariance_heads(qkv: &Tensor, temperature: &Tensor) -> Result<Heads> {
    let parts = channels(qkv, temperature.dim(0)?)?;
    let unit = |x: &Tensor| {
        // The root of zero would have an infinite slope.
        let norm = x.sqr()?.sum_keepdim(2)?.maximum(SMALLEST_NORM * SMALLEST_NORM)?.sqrt()?; // (B, H, 1, D)
        x.broadcast_div(&norm)
    };
    let scores = unit(&parts[0])?.t()?.contiguous()?.matmul(&unit(&parts[1])?)?;
    let scores = scores.broadcast_mul(&temperature.unsqueeze(0)?)?;
    Ok(Heads::new(parts, candle_nn::ops::softmax(&scores, D::Minus1)?, Among::Channels))
}

/// Cross-covariance attention, (B, .., 3C) -> (B, .., C), with `temperature` (H, 1, 1); see
/// [`crate::CrossCovarianceAttention`].
///
/// # Errors
/// When shapes do not fit.
pub fn cross_covariance_attention(qkv: &Tensor, temperature: &Tensor) -> Result<Tensor> {
    let heads = cross_covariance_heads(qkv, temperature)?;
    sum_channels(&heads.values, &heads.attention, qkv)
}

/// Queries, keys, values and attention among channels; see [`crate::ChannelAttention`].
///
/// # Errors
/// When shapes do not fit.
pub(crate) fn channel_heads(qkv: &Tensor, heads: usize) -> Result<Heads> {
    let parts = channels(qkv, heads)?;
    let scale = 1.0 / (parts[0].dim(3)? as f64).sqrt();
    let scores = (parts[1].t()?.contiguous()?.matmul(&parts[2])? * scale)?;
    Ok(Heads::new(parts, candle_nn::ops::softmax(&scores, D::Minus1)?, Among::Channels))
}

/// Attention of channels, (B, .., 3C) -> (B, .., C); see [`crate::ChannelAttention`].
///
/// # Errors
/// When shapes do not fit.
pub fn channel_attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let heads = channel_heads(qkv, heads)?;
    sum_channels(&heads.queries, &heads.attention, qkv)
}

/// y = softmax(scale x) over the last dimension among the entries where `mask` is 1; see
/// [`crate::softmax`](fn@crate::softmax).
///
/// # Errors
/// When shapes do not fit.
pub fn softmax(x: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let scores = (x * scale)?;
    let Some(mask) = mask else {
        return candle_nn::ops::softmax(&scores, D::Minus1);
    };
    let seen = mask.broadcast_as(x.shape())?.contiguous()?;
    // Hidden scores become the lowest of their row, so that the largest is a seen one.
    let lowest = scores.detach().min_keepdim(D::Minus1)?.broadcast_as(x.shape())?;
    let scores = seen.where_cond(&scores, &lowest.contiguous()?)?;
    let largest = scores.detach().max_keepdim(D::Minus1)?;
    let seen = seen.to_dtype(x.dtype())?;
    let e = (scores.broadcast_sub(&largest)?.exp()? * &seen)?;
    // A row in which nothing is seen is 0 / 1.
    let nothing = seen.max_keepdim(D::Minus1)?.affine(-1.0, 1.0)?;
    e.broadcast_div(&(e.sum_keepdim(D::Minus1)? + nothing)?)
}

/// Mean over rows of -sum_k target_k log softmax(logits)_k.
///
/// # Errors
/// When shapes do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let rows = logits.dim(0)? as f64;
    (log_softmax(logits, D::Minus1)? * targets)?.sum_all()? * (-1.0 / rows)
}

/// Mean over labelled rows of -log softmax(x W^T)_label of `x` (M, C), `weight` (V, C) and M
/// `labels`; rows labelled [`crate::loss::IGNORED`] do not count. The loss is in f32 at least.
///
/// # Errors
/// When shapes do not fit or no row is labelled.
pub fn linear_cross_entropy(x: &Tensor, weight: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (logits, labels) = labelled_logits(x, weight, labels)?;
    label_loss(&logits, &labels)
}

/// The mean of -log softmax(logits)_label of every row.
pub(crate) fn label_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    log_softmax(&wide(logits)?, D::Minus1)?.gather(&labels.unsqueeze(1)?, 1)?.mean_all()?.neg()
}

/// The logits of the rows that have a label, (rows, V), and their labels.
pub(crate) fn labelled_logits(
    x: &Tensor,
    weight: &Tensor,
    labels: &[u32],
) -> Result<(Tensor, Tensor)> {
    let total = labels.len();
    if x.dim(0)? != total {
        candle_core::bail!("linear-cross-entropy: {total} labels for {} rows", x.dim(0)?);
    }
    let (rows, labels): (Vec<u32>, Vec<u32>) = (0..)
        .zip(labels.iter().copied())
        .filter(|(_, label)| *label != crate::loss::IGNORED)
        .unzip();
    let classes = weight.dim(0)?;
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        candle_core::bail!("linear-cross-entropy: label {label} with {classes} classes");
    }
    let labelled = match rows.len() == total {
        true => x.clone(),
        false => device::rows(x, rows)?,
    };
    let (logits, n) = (labelled.matmul(&weight.t()?)?, labels.len());
    Ok((logits, upload(&Tensor::from_vec(labels, n, &Device::Cpu)?, x.device())?))
}

/// Rows of `table` (V, C) by `ids`, (...) -> (..., C).
///
/// # Errors
/// When an id is not below V.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let rows = table.index_select(&ids.flatten_all()?, 0)?;
    rows.reshape([ids.dims(), &table.dims()[1..]].concat())
}

/// The depthwise convolution of [`crate::DepthwiseConv2d`]: images (B, H, W, C), channels last.
///
/// # Errors
/// When shapes do not fit.
pub fn depthwise2d(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((_, height, width, c), k) = (x.dims4()?, weight.dim(2)?);
    let padded = x.pad_with_zeros(1, k / 2, k / 2)?.pad_with_zeros(2, k / 2, k / 2)?;
    let mut y = bias.broadcast_as(x.shape())?;
    for i in 0..k {
        for j in 0..k {
            let shifted = padded.narrow(1, i, height)?.narrow(2, j, width)?;
            let tap = weight.narrow(2, i, 1)?.narrow(3, j, 1)?.reshape(c)?;
            y = (y + shifted.broadcast_mul(&tap)?)?;
        }
    }
    Ok(y)
}

/// The convolution of [`crate::Conv2d`]: images (B, H, W, I), channels last, `weight` (O, I, k, k).
///
/// # Errors
/// When shapes do not fit.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let ((b, height, width, inputs), (outputs, _, k, _)) = (x.dims4()?, weight.dims4()?);
    let x = x.pad_with_zeros(1, padding, padding)?.pad_with_zeros(2, padding, padding)?;
    // The pixels of the padded image under every window, along one side of `size` windows.
    let under = |size: usize| -> Result<Tensor> {
        let pixels = (0..size).flat_map(|i| (0..k).map(move |j| (i * stride + j) as u32));
        Tensor::from_iter(pixels, x.device())
    };
    let (h, w) = ((height + 2 * padding - k) / stride + 1, (width + 2 * padding - k) / stride + 1);
    let windows = x.index_select(&under(h)?, 1)?.index_select(&under(w)?, 2)?;
    let columns = windows
        .reshape(&[b, h, k, w, k, inputs][..])?
        .permute([0, 1, 3, 2, 4, 5].as_slice())? // (B, H', W', k, k, I)
        .reshape((b, h, w, k * k * inputs))?;
    let weight = weight.permute((0, 2, 3, 1))?.reshape((outputs, k * k * inputs))?;
    linear(&columns, &weight, bias)
}

/// y = (x - mean) / sqrt(var + eps) * weight + bias with the mean and the biased variance of every
/// channel (the last dimension), which are returned too: (y, mean, var).
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let rows = x.reshape(((), x.dim(D::Minus1)?))?;
    let mean = rows.mean(0)?;
    let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
    Ok((batch_norm_by(x, &mean, &variance, weight, bias, eps)?, mean, variance))
}

/// y = (x - mean) / sqrt(var + eps) * weight + bias with a given mean and variance, both (C,).
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn batch_norm_by(
    x: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let normal = x.broadcast_sub(mean)?.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normal.broadcast_mul(weight)?.broadcast_add(bias)
}

/// y = gamma * x over the last dimension.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn layer_scale(x: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(gamma)
}

/// (B, H, W, C) -> (B, H/2, W/2, 4C) in the order of [`crate::MergePatches`].
///
/// # Errors
/// When a side is odd.
pub fn merge_patches(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    x.reshape(&[b, h / 2, 2, w / 2, 2, c][..])?
        .permute([0, 1, 3, 4, 2, 5].as_slice())? // (B, H/2, W/2, column, row, C)
        .reshape((b, h / 2, w / 2, 4 * c))
}

/// The mean over all dimensions but the first and the last.
///
/// # Errors
/// When `x` has less than three dimensions.
pub fn average_pool(x: &Tensor) -> Result<Tensor> {
    let between: usize = x.dims()[1..x.rank() - 1].iter().product();
    x.reshape((x.dim(0)?, between, x.dim(D::Minus1)?))?.mean(1)
}

/// The mean over the real tokens of padded sequences (B, N, C).
///
/// # Errors
/// When the padding is of another batch.
pub fn padded_average_pool(x: &Tensor, padding: &Padding) -> Result<Tensor> {
    let mask = padding.mask(x.device())?.to_dtype(x.dtype())?.unsqueeze(2)?;
    x.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)
}

/// A depthwise convolution along the tokens of each head, the same taps for all of its channels, zeros beyond both
/// ends: x (B, heads, N, D), `weight` (heads, 1, k, 1), k odd.
///
/// # Errors
/// When shapes do not fit.
pub fn depthwise1d(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((_, heads, n, _), k) = (x.dims4()?, weight.dim(2)?);
    let padded = x.pad_with_zeros(2, k / 2, k / 2)?;
    let mut y = x.zeros_like()?;
    for i in 0..k {
        let tap = weight.narrow(2, i, 1)?.reshape((heads, 1, 1))?;
        y = (y + padded.narrow(2, i, n)?.broadcast_mul(&tap)?)?;
    }
    Ok(y)
}
