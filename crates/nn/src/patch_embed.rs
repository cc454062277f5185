//! Images to tokens: patches, flattened and projected (Dosovitskiy et al. 2021).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::Linear;
use crate::init;

/// Non-overlapping p x p patches, each projected to C channels.
///
/// `proj.weight` is (C, channels, p, p) and `proj.bias` (C,), the convolution of timm's
/// `patch_embed.proj`; computed as one matrix product over reshaped patches.
#[derive(Debug, Clone)]
pub struct PatchEmbed {
    projection: Linear,
    channels: usize,
    patch: usize,
}

impl PatchEmbed {
    /// A projection of `channels` x `patch` x `patch` pixels to `width` channels, with timm's
    /// initialisation: the default of a PyTorch convolution, uniform in +-1/sqrt(fan in).
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn new(vb: VarBuilder, channels: usize, patch: usize, width: usize) -> Result<Self> {
        let vb = vb.pp("proj");
        let inputs = channels * patch * patch;
        let default = init::torch_default(inputs);
        let weight = vb.get_with_hints((width, channels, patch, patch), "weight", default)?;
        let bias = vb.get_with_hints(width, "bias", default)?;
        let projection = Linear::new(weight.reshape((width, inputs))?, Some(bias));
        Ok(Self { projection, channels, patch })
    }

    /// (B, channels, H, W) -> (B, N, C), patches in row-major order, N = (H / p) (W / p).
    ///
    /// # Errors
    /// When the image has other channels or its sides are not multiples of the patch.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.image(images)?.flatten(1, 2)
    }

    /// (B, channels, H, W) -> (B, H / p, W / p, C).
    ///
    /// # Errors
    /// As [`PatchEmbed::forward`].
    pub fn image(&self, images: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = images.dims4()?;
        let p = self.patch;
        if c != self.channels || h % p != 0 || w % p != 0 {
            candle_core::bail!(
                "patch embedding: images are ({c}, {h}, {w}); wanted {} channels and sides that \
                 are multiples of {p}",
                self.channels
            );
        }
        let patches = images
            .reshape(&[b, c, h / p, p, w / p, p][..])?
            .permute([0, 2, 4, 1, 3, 5].as_slice())? // (B, H/p, W/p, channels, p, p)
            .reshape((b, h / p, w / p, c * p * p))?;
        patches.apply(&self.projection)
    }
}

/// Images (B, channels, H, W), as data loaders give them, to (B, H, W, channels), as layers take them.
///
/// # Errors
/// When there are not four dimensions.
pub fn channels_last(images: &Tensor) -> Result<Tensor> {
    images.permute((0, 2, 3, 1))?.contiguous()
}
