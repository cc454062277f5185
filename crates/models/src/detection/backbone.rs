//! An XCiT as a backbone: the results of four blocks, brought to four strides.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{BatchNorm2d, ConvTranspose2d, Gelu, Layer, MaxPool2d, Pass, Sequence};

use crate::stem::Way;
use crate::xcit::{Trunk, XcitConfig};

/// Pixels between two places of each level.
pub(super) const STRIDES: [usize; 4] = [4, 8, 16, 32];

/// A trunk, and for each level what brings a block's result from patches of p pixels to its stride: transposed
/// convolutions that double the sides, with batch norm and GELU between them, nothing, or max pooling.
#[derive(Debug)]
pub(super) struct Backbone {
    pub(super) trunk: Trunk,
    channels: usize,
    out_blocks: [usize; 4],
    levels: Vec<Sequence>,
}

impl Backbone {
    pub(super) fn new(
        config: &XcitConfig,
        out_blocks: [usize; 4],
        vb: &VarBuilder,
    ) -> Result<Self> {
        let level =
            |(i, &stride): (usize, &usize)| level(config, stride, &vb.pp(format!("fpn{}", i + 1)));
        Ok(Self {
            trunk: Trunk::new(config, vb)?,
            channels: config.channels,
            out_blocks,
            levels: STRIDES.iter().enumerate().map(level).collect::<Result<_>>()?,
        })
    }

    /// Refuses images of other channels, and sides that the levels do not divide.
    pub(super) fn check(&self, images: &Tensor, sizes: &[[usize; 2]]) -> Result<()> {
        let ([.., coarsest], dims) = (STRIDES, images.dims());
        match *dims {
            [b, c, h, w] if c == self.channels && b == sizes.len() => {
                let whole = |side: usize| side > 0 && side.is_multiple_of(coarsest);
                let inside = |[height, width]: &[usize; 2]| {
                    (1..=h).contains(height) && (1..=w).contains(width)
                };
                if whole(h) && whole(w) && sizes.iter().all(inside) {
                    return Ok(());
                }
                candle_core::bail!(
                    "mask-rcnn: images {dims:?} of sizes {sizes:?}; pad them to multiples of {coarsest} pixels that \
                     hold the sizes"
                )
            }
            _ => candle_core::bail!(
                "mask-rcnn: images {dims:?} and {} sizes; it takes (B, {}, H, W), and a size for each",
                sizes.len(),
                self.channels
            ),
        }
    }

    /// Images (B, channels, H, W), of which the first `sizes` pixels are real, to four levels (B, H/s, W/s, C).
    pub(super) fn forward(
        &self,
        images: &Tensor,
        sizes: &[[usize; 2]],
        pass: Pass<'_>,
    ) -> Result<Vec<Tensor>> {
        let mut x = self.trunk.embed(images, Some(sizes), Way::Conditioned(pass))?;
        let mut results = Vec::with_capacity(self.trunk.blocks.len());
        for block in &self.trunk.blocks {
            x = block.sequence(pass.mode)?.forward(&x, pass)?;
            results.push(x.clone());
        }
        let levels = self.levels.iter().zip(self.out_blocks);
        levels.map(|(level, block)| level.forward(&results[block], pass)).collect()
    }
}

fn level(config: &XcitConfig, stride: usize, vb: &VarBuilder) -> Result<Sequence> {
    let (c, patch) = (config.width, config.patch_size);
    let mut layers: Vec<Box<dyn Layer>> = Vec::new();
    if stride > patch {
        let size = stride / patch;
        layers.push(MaxPool2d { size, stride: size }.into());
    }
    for i in 0..(patch / stride).checked_ilog2().unwrap_or(0) {
        if i > 0 {
            layers.push(BatchNorm2d::new(vb.pp(3 * i - 2), c)?.into());
            layers.push(Gelu::Erf.into());
        }
        layers.push(ConvTranspose2d::new(vb.pp(3 * i), c, c, 2)?.into());
    }
    Ok(Sequence::new(layers))
}

#[cfg(test)]
mod tests {
    use candle_conditioning::Conditioner;
    use candle_core::{DType, Device};
    use conditioned_nn::{Mode, Store};

    use super::*;
    use crate::Architecture;
    use crate::conditioning::{ConditioningConfig, Method};

    /// Of each image its own real tokens are conditioned, to the last bit; padding stays as it is.
    #[test]
    fn padding_takes_no_part_in_the_conditioning() -> Result<()> {
        let conditioning = ConditioningConfig::from(Method::per_sequence(1.0)?);
        let config = XcitConfig { conditioning, ..XcitConfig::preset("xcit-64-tiny").unwrap() };
        let store = Store::new(1, DType::F32, &Device::Cpu);
        let trunk = Trunk::new(&config, &store.builder())?;
        let values = (0..2 * 3 * 64 * 96).map(|i| (0.37 * i as f32).sin()).collect();
        let images = Tensor::from_vec::<_, f32>(values, (2, 3, 64, 96), &Device::Cpu)?;
        let sizes = [[33, 90], [64, 41]];
        let x = trunk.embed(&images, Some(&sizes), Way::Plain)?;
        let y = trunk.embed(&images, Some(&sizes), Way::Conditioned(Mode::Eval.into()))?;
        let bits = |x: &Tensor| -> Result<Vec<u32>> {
            Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
        };
        let [all_rows, all_columns] = [64, 96].map(|side| side / config.patch_size);
        for (image, [height, width]) in sizes.into_iter().enumerate() {
            let [rows, columns] =
                [height, width].map(|side: usize| side.div_ceil(config.patch_size));
            let real = |x: &Tensor| x.get(image)?.narrow(0, 0, rows)?.narrow(1, 0, columns);
            let tokens = real(&x)?.contiguous()?.reshape((1, rows * columns, ()))?;
            let alone = tokens.apply(&Conditioner::default())?;
            assert_eq!(bits(&real(&y)?)?, bits(&alone)?, "image {image}");
            let right = |x: &Tensor| x.get(image)?.narrow(1, columns, all_columns - columns);
            let below = |x: &Tensor| x.get(image)?.narrow(0, rows, all_rows - rows);
            if columns < all_columns {
                assert_eq!(bits(&right(&x)?)?, bits(&right(&y)?)?);
            }
            if rows < all_rows {
                assert_eq!(bits(&below(&x)?)?, bits(&below(&y)?)?);
            }
        }
        Ok(())
    }
}
