//! Attention in several heads: among tokens, inside windows, among channels.

use candle_core::{D, DType, Device, Result, Tensor};

use super::softmax;
use crate::channel_attention::SMALLEST_NORM;
use crate::device;
use crate::probe::{Among, Heads};
use crate::upload;
use crate::window_attention::{HIDDEN, part, relative_places};

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
