//! What a detector makes a pyramid of images with.

use candle_core::{D, Result, Tensor};

/// max(x, 0): x where it is not below or at zero. (candle's own has gradient 1 at 0.)
///
/// # Errors
/// When the dtype is not a float.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.le(0.0)?.where_cond(&x.zeros_like()?, x)
}

/// [`ConvTranspose2d`](crate::ConvTranspose2d): x (B, H, W, I), weight (I, O, k, k) and bias (O,) to (B, kH, kW, O).
///
/// # Errors
/// When shapes do not fit.
pub fn conv_transpose2d(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((b, h, w, inputs), (_, outputs, k, _)) = (x.dims4()?, weight.dims4()?);
    let weight = weight.permute((0, 2, 3, 1))?.reshape((inputs, k * k * outputs))?;
    x.reshape((b * h * w, inputs))?
        .matmul(&weight)?
        .reshape(&[b, h, w, k, k, outputs][..])?
        .permute([0, 1, 3, 2, 4, 5].as_slice())? // (B, H, k, W, k, O)
        .reshape((b, h * k, w * k, outputs))?
        .broadcast_add(bias)
}

/// [`MaxPool2d`](crate::MaxPool2d) of images (B, H, W, C): windows of `size` x `size`, `stride` apart.
///
/// The gradient goes to one of equal pixels, on the CPU to the first. (That of candle's `max` goes to each.)
///
/// # Errors
/// When shapes do not fit.
pub fn max_pool2d(x: &Tensor, size: usize, stride: usize) -> Result<Tensor> {
    let (b, height, width, c) = x.dims4()?;
    let (h, w) = ((height - size) / stride + 1, (width - size) / stride + 1);
    // The pixels under every window, along one side.
    let under = |windows: usize| -> Result<Tensor> {
        let pixels = (0..windows).flat_map(|i| (0..size).map(move |j| (i * stride + j) as u32));
        Tensor::from_iter(pixels, x.device())
    };
    let windows = x
        .index_select(&under(h)?, 1)?
        .index_select(&under(w)?, 2)?
        .reshape(&[b, h, size, w, size, c][..])?
        .permute([0, 1, 3, 5, 2, 4].as_slice())? // (B, H', W', C, k, k)
        .reshape((b, h, w, c, size * size))?;
    let largest = windows.detach().argmax_keepdim(D::Minus1)?;
    windows.gather(&largest, D::Minus1)?.squeeze(D::Minus1)
}

/// [`upsample_nearest`](crate::upsample_nearest()) of images (B, H, W, C).
///
/// # Errors
/// When shapes do not fit.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let nearest = |from: usize, to: usize| {
        Tensor::from_iter((0..to).map(|i| (i * from / to) as u32), x.device())
    };
    x.index_select(&nearest(h, height)?, 1)?.index_select(&nearest(w, width)?, 2)
}
