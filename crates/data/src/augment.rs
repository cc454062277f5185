//! [`Augment`]: what training images and targets go through, and the moves of single images.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, ImageSet, RandAugment, Result};

/// Augmentation of training batches; the default is none.
///
/// In this order: random resized crop, RandAugment, colour jitter, padded crop, shift, flip, normalisation
/// (always), erasing, then mixup or cutmix of the batch. Each move is drawn for the image's index in the
/// set by (seed, epoch, index), each mix by (seed, epoch, batch). Unknown fields are errors when read by
/// serde. The document `docs/transforms.md` shows each of them.
///
/// ```
/// use conditioned_data::Augment;
///
/// let augment = Augment { crop_padding: 1, flip: true, mixup: 0.8, ..Augment::default() };
/// assert_eq!(augment.label_smoothing, 0.0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Cuts out a part of random area, place and shape (3/4 to 4/3) and resizes it to what the network takes: the
    /// least and the largest share of the area; null is off. Instead of the resizing of
    /// [`Preprocessing`](crate::Preprocessing), with its interpolation.
    ///
    /// C. Szegedy et al., *Going Deeper with Convolutions*, arXiv 1409.4842, section 6; timm's
    /// `RandomResizedCropAndInterpolation`.
    pub crop_scale: Option<[f64; 2]>,
    /// A few random operations on colour and shape; null is off.
    pub rand_augment: Option<RandAugment>,
    /// Changes brightness, contrast and saturation by factors from 1 - x to 1 + x, in random order; 0 is off.
    pub colour_jitter: f64,
    /// Fills a random box with noise, with this probability; 0 is off.
    ///
    /// Z. Zhong et al., *Random Erasing Data Augmentation*, arXiv 1708.04896; timm's mode `pixel`.
    pub erase: f64,
    /// How often an image comes, each time augmented anew, in an epoch of as many images as there are: with 3 it
    /// has a third of them.
    ///
    /// E. Hoffer et al., *Augment your batch*, arXiv 1901.09335; DeiT's `RASampler`.
    pub repeats: usize,
    /// Pads each side by so many black pixels and crops the old size at a random place; 0 is off.
    pub crop_padding: usize,
    /// Moves by up to so many pixels along each axis and repeats the edge into the gap; 0 is off.
    ///
    /// I. Kostrikov, D. Yarats, R. Fergus, *Image Augmentation Is All You Need*, arXiv 2004.13649,
    /// section 3.1. A shift that fills with black is `crop_padding`.
    pub shift: usize,
    /// Mirrors left and right with probability 1/2.
    pub flip: bool,
    /// Alpha of mixup's Beta(alpha, alpha); 0 is off.
    ///
    /// H. Zhang et al., *mixup: Beyond Empirical Risk Minimization*, arXiv 1710.09412. Image i is
    /// mixed with image B - 1 - i, all with one lambda. With both alphas above 0 each batch takes
    /// one of the two methods with probability 1/2, as in timm's `Mixup` in its batch mode.
    pub mixup: f64,
    /// Alpha of cutmix's Beta(alpha, alpha); 0 is off.
    ///
    /// S. Yun et al., *CutMix*, arXiv 1905.04899. The targets take the area of the box that was
    /// really exchanged, which the border may have clipped.
    pub cutmix: f64,
    /// eps: targets are eps / K for the other classes and 1 - eps + eps / K for the right one.
    pub label_smoothing: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            crop_scale: None,
            rand_augment: None,
            colour_jitter: 0.0,
            erase: 0.0,
            repeats: 1,
            crop_padding: 0,
            shift: 0,
            flip: false,
            mixup: 0.0,
            cutmix: 0.0,
            label_smoothing: 0.0,
        }
    }
}

impl Augment {
    /// What DeiT trains ImageNet with: crops, flips, RandAugment, erasing, three repeats, mixup, cutmix,
    /// smoothing. One difference: RandAugment turns and shears by bilinear or bicubic interpolation at random, there by
    /// bicubic alone.
    ///
    /// H. Touvron et al., *Training data-efficient image transformers*, arXiv 2012.12877, table 9; `main.py` of
    /// facebookresearch/deit.
    pub fn deit() -> Self {
        Self {
            crop_scale: Some([0.08, 1.0]),
            rand_augment: Some(RandAugment::DEIT),
            erase: 0.25,
            repeats: 3,
            flip: true,
            mixup: 0.8,
            cutmix: 1.0,
            label_smoothing: 0.1,
            ..Self::default()
        }
    }

    /// Checks the settings for a set of images.
    pub(crate) fn check(&self, images: &ImageSet) -> Result<()> {
        let [channels, height, width] = images.shape();
        if self.changes_pictures() && (channels, images.white()) != (3, u8::MAX) {
            let expected = "crop_scale, rand_augment and colour_jitter are for images of three channels of 8 bits";
            return Err(Error::config("channels", channels, expected));
        }
        if let Some([least, most]) = self.crop_scale
            && !(least > 0.0 && least <= most && most <= 1.0)
        {
            let expected = "expected two shares of the area, above 0, rising, at most 1";
            return Err(Error::config("crop_scale", format!("[{least}, {most}]"), expected));
        }
        for (field, value) in [("colour_jitter", self.colour_jitter), ("erase", self.erase)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::config(field, value, "expected a number from 0 to 1"));
            }
        }
        if self.repeats == 0 {
            return Err(Error::config("repeats", 0, "expected at least 1"));
        }
        let side = height.min(width);
        for (field, value) in [("crop_padding", self.crop_padding), ("shift", self.shift)] {
            if value >= side {
                return Err(Error::config(
                    field,
                    value,
                    format!("expected less than the side, {side}"),
                ));
            }
        }
        for (field, value) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(field, value, "expected a finite alpha, or 0 for off"));
            }
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let expected = "expected at least 0 and less than 1";
            return Err(Error::config("label_smoothing", self.label_smoothing, expected));
        }
        Ok(())
    }

    /// Whether any setting needs the image itself, before it has the size of the network.
    pub(crate) fn changes_pictures(&self) -> bool {
        self.crop_scale.is_some() || self.rand_augment.is_some() || self.colour_jitter > 0.0
    }

    /// Whether any setting moves the pixels of single images.
    pub(crate) fn moves(&self) -> bool {
        self.crop_padding > 0 || self.shift > 0 || self.flip
    }
}

/// Where each row and column of the new image comes from; `None` is outside and black.
///
/// Crop, shift and flip act on each axis alone, so two lists hold them all.
pub(crate) struct Geometry {
    rows: Vec<Option<usize>>,
    columns: Vec<Option<usize>>,
}

impl Geometry {
    pub(crate) fn draw(augment: &Augment, height: usize, width: usize, rng: &mut impl Rng) -> Self {
        let mut offset = |most: usize| rng.random_range(-(most as i64)..=most as i64);
        let (crop, shift) = (augment.crop_padding, augment.shift);
        let (crop_y, crop_x, shift_y, shift_x) =
            (offset(crop), offset(crop), offset(shift), offset(shift));
        let mirror = augment.flip && rng.random::<bool>();
        Self {
            rows: axis(height, crop_y, shift_y, false),
            columns: axis(width, crop_x, shift_x, mirror),
        }
    }

    /// Appends the moved `plane` of H * W bytes to `out`, through the table of normalised values.
    pub(crate) fn render(&self, plane: &[u8], table: &[f32; 256], out: &mut Vec<f32>) {
        let width = self.columns.len();
        for row in &self.rows {
            let row = row.map(|y| &plane[y * width..(y + 1) * width]);
            let value = |x: &Option<usize>| row.zip(*x).map_or(0, |(row, x)| row[x]);
            out.extend(self.columns.iter().map(|x| table[usize::from(value(x))]));
        }
    }
}

/// Source of each position of one axis, undoing flip, then shift, then crop.
fn axis(length: usize, crop: i64, shift: i64, mirror: bool) -> Vec<Option<usize>> {
    let end = length as i64;
    let source = |i: i64| {
        let i = if mirror { end - 1 - i } else { i };
        let i = (i + shift).clamp(0, end - 1) + crop;
        (0..end).contains(&i).then_some(i as usize)
    };
    (0..end).map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crop_fills_with_black_and_shift_with_the_edge() {
        assert_eq!(axis(4, 1, 0, false), [Some(1), Some(2), Some(3), None]);
        assert_eq!(axis(4, -1, 0, false), [None, Some(0), Some(1), Some(2)]);
        assert_eq!(axis(4, 0, 1, false), [Some(1), Some(2), Some(3), Some(3)]);
        assert_eq!(axis(4, 0, -1, false), [Some(0), Some(0), Some(1), Some(2)]);
        assert_eq!(axis(4, 0, 0, true), [Some(3), Some(2), Some(1), Some(0)]);
        // The shift repeats the black column that the crop brought in.
        assert_eq!(axis(4, 1, 1, true), [None, None, Some(3), Some(2)]);
    }
}
