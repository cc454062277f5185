//! A tensor (..., d) as one long list of tokens, in a dtype wide enough to compute in.

use candle_core::{DType, Tensor};

use crate::blocks::{check_channels, check_mask};
use crate::{Error, Result};

/// x: (..., d) -> (R, d), f64 on the CPU, at least f32 elsewhere (Metal has no f64).
pub(crate) fn flatten(x: &Tensor, channels: usize) -> Result<Tensor> {
    let dtype = match (x.device().is_cpu(), x.dtype()) {
        (_, DType::F64) | (true, DType::F32 | DType::F16 | DType::BF16) => DType::F64,
        (false, DType::F32 | DType::F16 | DType::BF16) => DType::F32,
        (_, found) => {
            let expected = "f16, bf16, f32 or f64";
            return Err(Error::Dtype { tensor: "x", found, expected });
        }
    };
    check_channels(x, channels)?;
    let rows = x.elem_count() / channels.max(1);
    Ok(x.reshape((rows, channels))?.to_dtype(dtype)?)
}

/// y: (R, d) with the shape and dtype of x, and its rows of padding those of x; mask: (...,) u8.
pub(crate) fn restore(y: &Tensor, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let y = y.reshape(x.shape())?.to_dtype(x.dtype())?;
    match mask {
        Some(mask) => Ok(spread(mask, x)?.where_cond(&y, x)?),
        None => Ok(y),
    }
}

/// The mask of tokens (...,) as a mask of entries (..., d).
pub(crate) fn spread(mask: &Tensor, x: &Tensor) -> Result<Tensor> {
    check_mask(mask, x)?;
    let mask = mask.to_device(x.device())?.unsqueeze(mask.rank())?;
    Ok(mask.broadcast_as(x.shape())?.contiguous()?)
}
