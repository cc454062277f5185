//! The mask head (He et al. 2017): which pixels of a box are of the object.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{ConvTranspose2d, Layer, Linear, Mode, Relu, Roi, Sequence, embedding};

use super::losses::{binary_cross_entropy, times};
use super::{DetectorConfig, convolution, host, kaiming, pointwise, regions};

/// Places along a side of a region's features.
const SIDE: usize = 14;

/// Places along a side of a mask.
pub(super) const MASK_SIDE: usize = 2 * SIDE;

/// Features (R, 14, 14, C), convolutions, a transposed one to 28 x 28, then logits of a mask for each class.
#[derive(Debug)]
pub(super) struct MaskHead {
    layers: Sequence,
    logits: Linear,
}

impl MaskHead {
    /// At the names of mmdetection's `FCNMaskHead`.
    pub(super) fn new(vb: &VarBuilder, config: &DetectorConfig) -> Result<Self> {
        let c = config.channels;
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        for i in 0..config.mask_convolutions {
            let vb = vb.pp("convs").pp(i).pp("conv");
            layers.extend([convolution(&vb, c, c, kaiming(9 * c))?.into(), Relu.into()]);
        }
        let vb_larger = vb.pp("upsample");
        let weight = vb_larger.get_with_hints((c, c, 2, 2), "weight", kaiming(4 * c))?;
        let bias = vb_larger.get_with_hints(c, "bias", candle_nn::init::ZERO)?;
        layers.extend([ConvTranspose2d::from_tensors(weight, bias).into(), Relu.into()]);
        let k = config.classes;
        Ok(Self {
            layers: Sequence::new(layers),
            logits: pointwise(&vb.pp("conv_logits"), c, k, kaiming(k))?,
        })
    }

    /// Logits (R, 28 28) of the masks of regions, each of its class.
    fn forward(&self, pyramid: &[Tensor], regions: &[(Roi, usize)], mode: Mode) -> Result<Tensor> {
        let rois: Vec<Roi> = regions.iter().map(|(roi, _)| *roi).collect();
        let x = regions::features(pyramid, &rois, SIDE)?;
        let logits = self.layers.forward(&x, mode)?.apply(&self.logits)?.flatten(1, 2)?;
        let (r, cells, k) = logits.dims3()?;
        let own = regions.iter().enumerate().map(|(i, (_, class))| (i * k + class) as u32);
        let own = Tensor::from_iter(own, &Device::Cpu)?;
        embedding(&own, &logits.transpose(1, 2)?.reshape((r * k, cells))?)
    }

    /// The loss over regions, each with its class, whose masks are `targets`, 28 x 28 for each; `somewhere` is a region
    /// for a batch without any.
    pub(super) fn loss(
        &self,
        pyramid: &[Tensor],
        regions: &[(Roi, usize)],
        targets: &[f64],
        somewhere: Roi,
        mode: Mode,
    ) -> Result<Tensor> {
        let (regions, weight) = match regions {
            [] => (&[(somewhere, 0)][..], 0.0),
            regions => (regions, 1.0),
        };
        let logits = self.forward(pyramid, regions, mode)?;
        times(&binary_cross_entropy(&logits, targets, logits.elem_count() as f64)?, weight)
    }

    /// Probabilities (28 x 28, row by row) of the masks of boxes of an image, each of its class.
    pub(super) fn masks(
        &self,
        pyramid: &[Tensor],
        boxes: &[(Roi, usize)],
    ) -> Result<Vec<Vec<f32>>> {
        if boxes.is_empty() {
            return Ok(Vec::new());
        }
        let logits = host(&self.forward(pyramid, boxes, Mode::Eval)?)?;
        let probability = |x: &f64| (1.0 / (1.0 + (-x).exp())) as f32;
        let masks = logits.chunks(MASK_SIDE * MASK_SIDE);
        Ok(masks.map(|mask| mask.iter().map(probability).collect()).collect())
    }
}
