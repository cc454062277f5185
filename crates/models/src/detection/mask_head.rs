//! The mask head (He et al. 2017): which pixels of a box are of the object.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{ConvTranspose2d, Layer, Linear, Mode, Relu, Roi, Sequence, embedding};

use super::losses::{binary_cross_entropy, rows_or_none, times};
use super::masks::Mask;
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
    classes: usize,
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
            classes: k,
        })
    }

    /// Logits (R, 28 28, K) of the masks of regions.
    fn forward(&self, pyramid: &[Tensor], rois: &[Roi], mode: Mode) -> Result<Tensor> {
        let x = regions::features(pyramid, rois, SIDE)?;
        self.layers.forward(&x, mode)?.apply(&self.logits)?.flatten(1, 2)
    }

    /// The loss over regions, each with its class and mask; `somewhere` is a region for a batch without any.
    pub(super) fn loss(
        &self,
        pyramid: &[Tensor],
        regions: &[(Roi, usize, &Mask)],
        somewhere: Roi,
        mode: Mode,
    ) -> Result<Tensor> {
        let rois: Vec<Roi> = match regions {
            [] => vec![somewhere],
            regions => regions.iter().map(|(roi, ..)| *roi).collect(),
        };
        let logits = self.forward(pyramid, &rois, mode)?; // (R, 28 28, K)
        let (r, cells, k) = logits.dims3()?;
        let logits = logits.transpose(1, 2)?.reshape((r * k, cells))?;
        let places: Vec<usize> =
            regions.iter().enumerate().map(|(i, (_, class, _))| i * k + class).collect();
        let (logits, weight) = rows_or_none(&logits, &places)?;
        let masks = regions.iter().flat_map(|(roi, _, mask)| mask.cropped(roi.corners, MASK_SIDE));
        let targets: Vec<f64> = masks.map(|inside| f64::from(u8::from(inside))).collect();
        times(&binary_cross_entropy(&logits, &targets, (r * cells) as f64)?, weight)
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
        let rois: Vec<Roi> = boxes.iter().map(|(roi, _)| *roi).collect();
        let logits = self.forward(pyramid, &rois, Mode::Eval)?;
        let (r, cells, k) = logits.dims3()?;
        debug_assert_eq!(k, self.classes);
        let logits = logits.transpose(1, 2)?.reshape((r * k, cells))?;
        let ids: Vec<u32> =
            boxes.iter().enumerate().map(|(i, (_, class))| (i * k + class) as u32).collect();
        let ids = Tensor::new(ids, logits.device())?;
        let logits = host(&embedding(&ids, &logits)?)?;
        let probability = |x: &f64| (1.0 / (1.0 + (-x).exp())) as f32;
        Ok(logits.chunks(cells).map(|mask| mask.iter().map(probability).collect()).collect())
    }
}
