//! Each op in candle's own differentiable operations: its definition, and the oracle that the CPU
//! kernels and the fused forms of [`crate::device`] are tested against.
//!
//! Only operations whose gradients passed a numerical check are used here.

mod multi_head;
mod nystrom;
mod pyramid;
mod roi_align;

pub use multi_head::{
    attention, attention_probabilities, channel_attention, cross_covariance_attention,
    window_attention,
};
pub(crate) use multi_head::{
    attention_with, channel_heads, cross_covariance_heads, scores, window_heads,
};
pub use nystrom::nystrom_attention;
pub(crate) use nystrom::nystrom_heads;
pub use pyramid::{conv_transpose2d, max_pool2d, relu, upsample_nearest};
pub use roi_align::roi_align;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::log_softmax;

use crate::Padding;
use crate::device::{self, wide};
use crate::upload;

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
    let (x, labels) = labelled(x, labels, weight.dim(0)?)?;
    let logits = wide(&x.matmul(&weight.t()?)?)?;
    log_softmax(&logits, D::Minus1)?.gather(&labels.unsqueeze(1)?, 1)?.mean_all()?.neg()
}

/// The rows of `x` that have a label, and their labels, which are below `classes`.
pub(crate) fn labelled(x: &Tensor, labels: &[u32], classes: usize) -> Result<(Tensor, Tensor)> {
    let total = labels.len();
    if x.dim(0)? != total {
        candle_core::bail!("linear-cross-entropy: {total} labels for {} rows", x.dim(0)?);
    }
    let (rows, labels): (Vec<u32>, Vec<u32>) = (0..)
        .zip(labels.iter().copied())
        .filter(|(_, label)| *label != crate::loss::IGNORED)
        .unzip();
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        candle_core::bail!("linear-cross-entropy: label {label} with {classes} classes");
    }
    let labelled = match rows.len() == total {
        true => x.clone(),
        false => device::rows(x, rows)?,
    };
    let n = labels.len();
    Ok((labelled, upload(&Tensor::from_vec(labels, n, &Device::Cpu)?, x.device())?))
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
