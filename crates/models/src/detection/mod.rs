//! Mask R-CNN on an XCiT: boxes, classes and masks of the objects in images of any size.
//!
//! ```text
//! features of four blocks of the XCiT, brought to strides 4, 8, 16, 32        backbone
//! feature pyramid of five levels, strides 4 to 64                            fpn
//! anchors -> scores and offsets -> proposals                                 anchors, rpn
//! RoIAlign 7 x 7 of the proposals -> classes and offsets -> boxes            box_head
//! RoIAlign 14 x 14 of the boxes -> a mask of 28 x 28                         mask_head
//! ```
//!
//! Source: He et al., "Mask R-CNN", ICCV 2017; Ren et al., "Faster R-CNN", NeurIPS 2015; Lin et al., "Feature Pyramid
//! Networks", CVPR 2017. Numbers, losses and names follow mmdetection's `mask_rcnn`, with which XCiT's own code trains;
//! those of the backbone follow timm, so that a checkpoint of an XCiT for ImageNet starts it.

mod anchors;
mod backbone;
mod box_head;
mod boxes;
mod cost;
mod fpn;
mod losses;
mod mask_head;
mod mask_rcnn;
mod masks;
mod matching;
mod nms;
mod regions;
mod rpn;
#[cfg(test)]
mod torchvision;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::{Conv2d, Linear};
use serde::{Deserialize, Serialize};

pub use boxes::Corners;
pub use losses::Losses;
pub use mask_rcnn::{Found, MaskRcnn, Target};
pub use masks::Mask;

use crate::checks;
use crate::xcit::XcitConfig;

/// What stands on the backbone of a [`MaskRcnn`], and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorConfig {
    /// Classes K of objects.
    pub classes: usize,
    /// The blocks of the backbone, from 0, whose results become the levels of strides 4, 8, 16 and 32.
    pub out_blocks: [usize; 4],
    /// Channels of the feature pyramid and of the heads' convolutions.
    pub channels: usize,
    /// Hidden width of the box head.
    pub hidden: usize,
    /// Convolutions of the mask head in front of its up-sampling.
    pub mask_convolutions: usize,
    /// Side of an anchor over the stride of its level.
    pub anchor_scale: f64,
    /// Anchors of an image that a step trains on.
    pub anchor_samples: usize,
    /// Proposals of an image that a step trains on.
    pub region_samples: usize,
    /// Proposals of a level before suppression: in training, in evaluation.
    pub level_proposals: [usize; 2],
    /// Proposals of an image.
    pub proposals: usize,
    /// The score from which on a box is found.
    pub least_score: f64,
    /// Boxes found in an image, at most.
    pub most_found: usize,
}

impl DetectorConfig {
    /// mmdetection's numbers with the blocks that XCiT's code takes from a backbone of `depth` blocks, 12 or 24:
    /// every sixth part from the third on, 3, 5, 7, 11 and 7, 11, 15, 23.
    pub fn published(depth: usize, classes: usize) -> Self {
        let blocks = [3, 5, 7, 11].map(|block| (block + 1) * depth / 12);
        Self {
            classes,
            out_blocks: blocks.map(|count| count.saturating_sub(1)),
            channels: 256,
            hidden: 1024,
            mask_convolutions: 4,
            anchor_scale: 8.0,
            anchor_samples: 256,
            region_samples: 512,
            level_proposals: [2000, 1000],
            proposals: 1000,
            least_score: 0.05,
            most_found: 100,
        }
    }

    /// A small one for small objects, on a shallow backbone of `depth` blocks: all levels are of the last block, as in
    /// ViTDet (Li et al., ECCV 2022), and anchors have 8 to 128 pixels a side.
    pub fn small(depth: usize, classes: usize) -> Self {
        Self {
            out_blocks: [depth.saturating_sub(1); 4],
            channels: 32,
            hidden: 128,
            mask_convolutions: 1,
            anchor_scale: 2.0,
            anchor_samples: 64,
            region_samples: 32,
            level_proposals: [200, 200],
            proposals: 100,
            ..Self::published(depth, classes)
        }
    }

    /// Checks the numbers, and that they fit a backbone.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn validate(&self, backbone: &XcitConfig) -> Result<()> {
        checks::at_least_one(
            "mask-rcnn",
            [
                ("classes", self.classes),
                ("channels", self.channels),
                ("hidden", self.hidden),
                ("anchor_samples", self.anchor_samples),
                ("region_samples", self.region_samples),
                ("level_proposals", self.level_proposals[0].min(self.level_proposals[1])),
                ("proposals", self.proposals),
                ("most_found", self.most_found),
            ],
        )?;
        if let Some(block) = self.out_blocks.iter().find(|&&block| block >= backbone.depth) {
            candle_core::bail!(
                "mask-rcnn: out_blocks has block {block}, and the backbone has blocks 0 to {}",
                backbone.depth.saturating_sub(1)
            );
        }
        if !(self.anchor_scale > 0.0 && self.anchor_scale.is_finite()) {
            candle_core::bail!(
                "mask-rcnn: anchor_scale {} must be finite and > 0",
                self.anchor_scale
            );
        }
        checks::probability("mask-rcnn", "least_score", self.least_score)
    }
}

/// Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010).
fn xavier(fan_in: usize, fan_out: usize) -> Init {
    let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// Normal with deviation sqrt(2 / fan_out) (He et al. 2015).
fn kaiming(fan_out: usize) -> Init {
    Init::Randn { mean: 0.0, stdev: (2.0 / fan_out as f64).sqrt() }
}

/// A convolution of 3 x 3 taps that keeps the size, with a bias of zero.
fn convolution(vb: &VarBuilder, inputs: usize, outputs: usize, init: Init) -> Result<Conv2d> {
    let weight = vb.get_with_hints((outputs, inputs, 3, 3), "weight", init)?;
    let bias = vb.get_with_hints(outputs, "bias", candle_nn::init::ZERO)?;
    Ok(Conv2d::from_tensors(weight, Some(bias)).padding(1))
}

/// A convolution of 1 x 1 taps with a bias of zero: a linear map of each pixel.
fn pointwise(vb: &VarBuilder, inputs: usize, outputs: usize, init: Init) -> Result<Linear> {
    let weight = vb.get_with_hints((outputs, inputs, 1, 1), "weight", init)?;
    let bias = vb.get_with_hints(outputs, "bias", candle_nn::init::ZERO)?;
    Ok(Linear::new(weight.reshape((outputs, inputs))?, Some(bias)))
}

/// A linear layer with a bias of zero.
fn linear(vb: &VarBuilder, inputs: usize, outputs: usize, init: Init) -> Result<Linear> {
    let weight = vb.get_with_hints((outputs, inputs), "weight", init)?;
    let bias = vb.get_with_hints(outputs, "bias", candle_nn::init::ZERO)?;
    Ok(Linear::new(weight, Some(bias)))
}

/// Elements as f64, in order, wherever they are.
fn host(x: &Tensor) -> Result<Vec<f64>> {
    // Metal has no f64.
    x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}
