//! [`MaskRcnn`]: the detector as a whole.

use std::cell::OnceCell;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Mode, Pass, Roi};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::DetectorConfig;
use super::backbone::{Backbone, STRIDES};
use super::box_head::{self, BoxHead};
use super::boxes::Corners;
use super::fpn::Fpn;
use super::losses::Losses;
use super::mask_head::{MASK_SIDE, MaskHead};
use super::masks::{self, Mask};
use super::rpn::Rpn;
use crate::Architecture;
use crate::conditioning::Tokens;
use crate::stem::{Stem, Way, flat};
use crate::xcit::XcitConfig;

/// What there is in an image of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Height and width in pixels of what is real; padding follows on the right and below.
    pub size: [usize; 2],
    /// The boxes of its objects, each with an area.
    pub boxes: Vec<Corners>,
    /// Their classes, from 0.
    pub classes: Vec<usize>,
    /// Their pixels, in that size.
    pub masks: Vec<Mask>,
}

/// An object that was found in an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its box.
    pub corners: Corners,
    /// Its class.
    pub class: usize,
    /// The probability of the class.
    pub score: f64,
    /// Probabilities of its pixels in a grid over the box, row by row: see [`Found::mask`].
    pub grid: Vec<f32>,
}

impl Found {
    /// Its pixels in an image of `size` (height, width), which is `scale` (vertical, horizontal) times the one in which it
    /// was found.
    pub fn mask(&self, size: [usize; 2], scale: [f64; 2]) -> Mask {
        Mask::pasted(&self.grid, MASK_SIDE, self.scaled(scale), size)
    }

    /// Its box there.
    pub fn scaled(&self, [y, x]: [f64; 2]) -> Corners {
        let [x1, y1, x2, y2] = self.corners;
        [x1 * x, y1 * y, x2 * x, y2 * y]
    }
}

/// A Mask R-CNN on an XCiT.
#[derive(Debug)]
pub struct MaskRcnn {
    backbone: Backbone,
    fpn: Fpn,
    rpn: Rpn,
    boxes: BoxHead,
    masks: MaskHead,
    config: DetectorConfig,
}

/// What a draw is for.
#[derive(Clone, Copy)]
enum Draw {
    Anchors,
    Regions,
}

impl MaskRcnn {
    /// A detector over `vb`: `backbone` at the names of timm's `Xcit`, and `neck`, `rpn_head` and `roi_head` at those
    /// of mmdetection. Image size, classes and class attention of the backbone's configuration do not matter.
    ///
    /// # Errors
    /// When a configuration contradicts itself or a tensor has another shape.
    pub fn new(backbone: &XcitConfig, config: &DetectorConfig, vb: VarBuilder) -> Result<Self> {
        backbone.validate()?;
        config.validate(backbone)?;
        Ok(Self {
            backbone: Backbone::new(backbone, config.out_blocks, &vb.pp("backbone"))?,
            fpn: Fpn::new(&vb.pp("neck"), STRIDES.len(), backbone.width, config.channels)?,
            rpn: Rpn::new(&vb.pp("rpn_head"), config)?,
            boxes: BoxHead::new(&vb.pp("roi_head.bbox_head"), config)?,
            masks: MaskHead::new(&vb.pp("roi_head.mask_head"), config)?,
            config: config.clone(),
        })
    }

    /// The losses of a batch of images (B, channels, H, W), sides multiples of 32. What is trained on is drawn by seed
    /// and step of the mode.
    ///
    /// # Errors
    /// When images and targets do not fit each other or the model.
    pub fn losses(&self, images: &Tensor, targets: &[Target], mode: Mode) -> Result<Losses> {
        let sizes: Vec<[usize; 2]> = targets.iter().map(|target| target.size).collect();
        self.check_targets(targets)?;
        let pyramid = self.pyramid(images, &sizes, mode.into())?;
        let scored = self.rpn.forward(&pyramid, mode)?;
        let DetectorConfig { level_proposals: [of_level, _], proposals, .. } = self.config;
        let proposals = scored.proposals(&sizes, of_level, proposals)?;

        let boxes: Vec<&[Corners]> = targets.iter().map(|target| &*target.boxes).collect();
        let [anchor_class, anchor_box] =
            scored.losses(&boxes, &sizes, self.config.anchor_samples, |image| {
                stream(mode, image, Draw::Anchors)
            })?;

        let mut trained = Vec::new();
        for (image, (boxes, proposals)) in boxes.iter().zip(&proposals).enumerate() {
            let mut rng = stream(mode, image, Draw::Regions);
            let count = self.config.region_samples;
            trained.extend(box_head::trained(image, boxes, proposals, count, &mut rng));
        }
        let objects: Vec<_> = targets.iter().map(|t| (&*t.boxes, &*t.classes)).collect();
        let [class, corners] = self.boxes.losses(&pyramid, &trained, &objects, mode)?;

        let (mut regions, mut grids) = (Vec::new(), Vec::new());
        for trained in trained.chunk_by(|a, b| a.roi.image == b.roi.image) {
            let Target { classes, masks, .. } = &targets[trained[0].roi.image];
            let objects = trained.iter().filter_map(|region| Some((region.object?, region.roi)));
            let boxes: Vec<_> =
                objects.clone().map(|(object, roi)| (object, roi.corners)).collect();
            regions.extend(objects.map(|(object, roi)| (roi, classes[object])));
            grids.extend(masks::cropped(masks, &boxes, MASK_SIDE)?);
        }
        let somewhere = Roi { image: 0, corners: proposals[0][0] };
        let mask = self.masks.loss(&pyramid, &regions, &grids, somewhere, mode)?;
        Ok(Losses { anchor_class, anchor_box, class, corners, mask })
    }

    /// What is found in images (B, channels, H, W), of which the first `sizes` (height, width) pixels are real; best
    /// first.
    ///
    /// # Errors
    /// When the images do not fit the model.
    pub fn detect(&self, images: &Tensor, sizes: &[[usize; 2]]) -> Result<Vec<Vec<Found>>> {
        let pyramid = self.pyramid(images, sizes, Mode::Eval.into())?;
        let DetectorConfig { level_proposals: [_, of_level], proposals, .. } = self.config;
        let scored = self.rpn.forward(&pyramid, Mode::Eval)?;
        let proposals = scored.proposals(sizes, of_level, proposals)?;
        let of_image = |(image, (proposals, &size)): (usize, (&Vec<Corners>, &[usize; 2]))| {
            let boxes = self.boxes.found(&pyramid, image, proposals, size, &self.config)?;
            let rois =
                boxes.iter().map(|found| (Roi { image, corners: found.corners }, found.group));
            let grids = self.masks.masks(&pyramid, &rois.collect::<Vec<_>>())?;
            let found = boxes.into_iter().zip(grids).map(|(found, grid)| Found {
                corners: found.corners,
                class: found.group,
                score: found.score,
                grid,
            });
            Ok(found.collect())
        };
        proposals.iter().zip(sizes).enumerate().map(of_image).collect()
    }

    /// The tokens that enter the first block in evaluation mode, of images without padding: (B, N, C).
    ///
    /// # Errors
    /// When the images do not fit the model.
    pub fn tokens(&self, images: &Tensor) -> Result<Tokens> {
        let trunk = &self.backbone.trunk;
        Ok(Tokens {
            plain: flat(&trunk.embed(images, None, Way::Plain)?)?,
            conditioned: flat(&trunk.embed(images, None, Way::Conditioned(Mode::Eval.into()))?)?,
        })
    }

    /// The X that the conditioning acts on, of the real tokens alone, (1, R, C) where there is padding.
    ///
    /// # Errors
    /// When the images do not fit the model.
    pub fn conditioned_tokens(&self, images: &Tensor, sizes: &[[usize; 2]]) -> Result<Tensor> {
        self.backbone.check(images, sizes)?;
        let cell = OnceCell::new();
        self.backbone.trunk.embed(images, Some(sizes), Way::Keep(&cell))?;
        match cell.into_inner() {
            Some(x) => Ok(x),
            None => candle_core::bail!("mask-rcnn: no tokens are conditioned"),
        }
    }

    /// Replaces running averages of the conditioning by those over `batches` of [`MaskRcnn::conditioned_tokens`]; takes
    /// none for methods without.
    ///
    /// # Errors
    /// The first error among the batches, or when the state is read-only.
    pub fn recalibrate(&self, batches: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<()> {
        self.stem().recalibrate(batches)
    }

    /// What is done to the tokens in front of the first block.
    pub fn stem(&self) -> &Stem {
        &self.backbone.trunk.stem
    }

    fn pyramid(
        &self,
        images: &Tensor,
        sizes: &[[usize; 2]],
        pass: Pass<'_>,
    ) -> Result<Vec<Tensor>> {
        self.backbone.check(images, sizes)?;
        self.fpn.forward(&self.backbone.forward(images, sizes, pass)?)
    }

    fn check_targets(&self, targets: &[Target]) -> Result<()> {
        for (i, Target { size, boxes, classes, masks }) in targets.iter().enumerate() {
            let n = boxes.len();
            if classes.len() != n || masks.len() != n {
                candle_core::bail!(
                    "mask-rcnn: image {i} of the batch has {n} boxes, {} classes and {} masks; it takes one of each \
                     for an object",
                    classes.len(),
                    masks.len()
                );
            }
            if let Some(class) = classes.iter().find(|&&class| class >= self.config.classes) {
                candle_core::bail!(
                    "mask-rcnn: image {i} of the batch has an object of class {class}; the model knows {} classes, \
                     from 0",
                    self.config.classes
                );
            }
            let has_area = |[x1, y1, x2, y2]: &Corners| x2 > x1 && y2 > y1;
            if let Some(corners) = boxes.iter().find(|corners| !has_area(corners)) {
                candle_core::bail!(
                    "mask-rcnn: image {i} of the batch has a box {corners:?} without area; leave it out"
                );
            }
            let fits = |Mask { height, width, pixels }: &Mask| {
                [*height, *width] == *size && pixels.len() == height * width
            };
            if let Some(Mask { height, width, .. }) = masks.iter().find(|mask| !fits(mask)) {
                candle_core::bail!(
                    "mask-rcnn: image {i} of the batch is {size:?} and has a mask of {height} x {width}"
                );
            }
        }
        Ok(())
    }
}

/// The random numbers of an image in a step.
fn stream(mode: Mode, image: usize, draw: Draw) -> ChaCha8Rng {
    let (seed, step) = match mode {
        Mode::Eval => (0, 0),
        Mode::Train { seed, step, .. } => (seed, step),
    };
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, step, image as u64, draw as u64]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
