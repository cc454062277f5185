//! [`DetectionAugment`]: what images go through together with their objects.

use image::RgbImage;
use image::imageops::{crop_imm, flip_horizontal_in_place};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::sampling::Sampling;
use super::{Example, Instance};
use crate::image::resize::{Interpolation, resize};
use crate::transform::rect::Rect;
use crate::{Error, Result};

/// No side of an image may become longer.
pub(super) const LONGEST: usize = 1 << 14;

/// Changes of an image and of the objects in it; the default is a flip alone, for small images.
///
/// In this order: flip, crop, resizing. Boxes follow by numbers and are cut off at the border; masks take
/// the nearest pixel, colours are interpolated bilinearly, with antialiasing. Objects go when their box has no area
/// left, or a crop takes the last pixel of their mask. Each image is drawn for by (seed, epoch, index).
///
/// ```
/// use conditioned_data::DetectionAugment;
///
/// let coco = DetectionAugment::coco();
/// assert_eq!(coco.resize.map(|resize| resize.longest), Some(1333));
/// ```
///
/// Source: the transforms of MMDetection 3, `RandomFlip`, `RandomChoiceResize` and `RandomCrop`; there images are not
/// antialiased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectionAugment {
    /// Mirrors left and right with probability 1/2.
    pub flip: bool,
    /// Resizes and cuts out a part, with probability 1/2, before the resizing of all; null is off.
    ///
    /// N. Carion et al., *End-to-End Object Detection with Transformers*, arXiv 2005.12872, appendix A.4.
    pub crop: Option<DetectionCrop>,
    /// Resizes every image; null is off.
    pub resize: Option<DetectionResize>,
}

/// To what an image is resized: with `s = min(shorter / min(H, W), longest / max(H, W))` to
/// `floor(s H + 1/2)` x `floor(s W + 1/2)` pixels, at least 1 of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionResize {
    /// Lengths of the shorter side in pixels, one of which is drawn.
    pub shorter: Vec<usize>,
    /// The most that the longer side may have.
    pub longest: usize,
}

/// How a part of an image is cut out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionCrop {
    /// To what the image is resized before.
    pub resize: DetectionResize,
    /// The least and the largest length of each side, where the image has so many pixels; the place is uniform.
    pub sides: [usize; 2],
}

impl Default for DetectionAugment {
    fn default() -> Self {
        Self { flip: true, crop: None, resize: None }
    }
}

impl DetectionAugment {
    /// Nothing: for the evaluation of small images.
    pub fn none() -> Self {
        Self { flip: false, ..Self::default() }
    }

    /// What DETR and its descendants train COCO with: flips, crops of 384 to 600 pixels, a shorter side of 480 to 800 in
    /// steps of 32, at most 1333 along the longer one.
    pub fn coco() -> Self {
        let resize = |shorter: Vec<usize>, longest| DetectionResize { shorter, longest };
        let crop = DetectionCrop { resize: resize(vec![400, 500, 600], 4200), sides: [384, 600] };
        let all = resize((480..=800).step_by(32).collect(), 1333);
        Self { flip: true, crop: Some(crop), resize: Some(all) }
    }

    /// What COCO is evaluated with: a shorter side of 800, at most 1333 along the longer one.
    pub fn coco_evaluation() -> Self {
        let resize = DetectionResize { shorter: vec![800], longest: 1333 };
        Self { resize: Some(resize), ..Self::none() }
    }

    /// Checks the settings.
    pub(crate) fn check(&self) -> Result<()> {
        let lengths = |field, resize: &DetectionResize| {
            let each = resize.shorter.iter().chain([&resize.longest]);
            if resize.shorter.is_empty() || !each.into_iter().all(|x| (1..=LONGEST).contains(x)) {
                let expected =
                    format!("expected lengths of 1 to {LONGEST}, at least one of shorter");
                return Err(Error::config(field, format!("{resize:?}"), expected));
            }
            Ok(())
        };
        if let Some(resize) = &self.resize {
            lengths("resize", resize)?;
        }
        if let Some(DetectionCrop { resize, sides: [least, most] }) = &self.crop {
            lengths("crop", resize)?;
            if !(1..=*most).contains(least) {
                let expected = "expected two lengths, above 0, rising";
                return Err(Error::config("sides", format!("[{least}, {most}]"), expected));
            }
        }
        Ok(())
    }

    /// Draws and makes the changes of an image with objects of `categories` kinds.
    pub(crate) fn apply(
        &self,
        example: Example,
        categories: usize,
        rng: &mut impl Rng,
    ) -> Result<Changed> {
        let id = example.id;
        let (image, instances) = example.parts(categories)?;
        let mut view = View::new(image, instances);
        if self.flip && rng.random() {
            view.flip();
        }
        let resized = || -> std::result::Result<Changed, String> {
            if let Some(crop) = &self.crop
                && rng.random()
            {
                view.resize(crop.resize.draw(view.size(), rng))?;
                view.crop(crop.sides, rng);
            }
            if let Some(resize) = &self.resize {
                view.resize(resize.draw(view.size(), rng))?;
            }
            Ok(view.end())
        };
        resized().map_err(|problem| Error::Images { name: format!("image {id}"), problem })
    }
}

impl DetectionResize {
    /// The size that an image of this size gets.
    fn draw(&self, [height, width]: [usize; 2], rng: &mut impl Rng) -> [usize; 2] {
        let shorter = self.shorter[rng.random_range(0..self.shorter.len() as u32) as usize];
        let [least, most] = [height.min(width), height.max(width)].map(|side| side as f64);
        let scale = (shorter as f64 / least).min(self.longest as f64 / most);
        [height, width].map(|side| ((side as f64 * scale + 0.5) as usize).max(1))
    }
}

/// A changed image.
pub(crate) struct Changed {
    pub(crate) image: RgbImage,
    /// Objects that are left, with boxes and masks in its pixels and areas of its masks.
    pub(crate) instances: Vec<Instance>,
    /// What heights and widths were multiplied by.
    pub(crate) scale: [f64; 2],
}

/// An image that is being changed.
struct View {
    image: RgbImage,
    /// With boxes of now and masks of the beginning.
    instances: Vec<Instance>,
    sampling: Sampling,
    scale: [f64; 2],
    cropped: bool,
}

impl View {
    fn new(image: RgbImage, instances: Vec<Instance>) -> Self {
        let size = [image.height() as usize, image.width() as usize];
        let sampling = Sampling::new(size);
        Self { image, instances, sampling, scale: [1.0; 2], cropped: false }
    }

    fn size(&self) -> [usize; 2] {
        [self.image.height() as usize, self.image.width() as usize]
    }

    fn flip(&mut self) {
        flip_horizontal_in_place(&mut self.image);
        self.sampling.flip();
        let width = f64::from(self.image.width());
        self.move_boxes(|[left, top, wide, high]| [width - left - wide, top, wide, high]);
    }

    fn resize(&mut self, size: [usize; 2]) -> std::result::Result<(), String> {
        let old @ [height, width] = self.size();
        let whole = Rect { top: 0, left: 0, height, width };
        if size != old {
            let target = size.map(|side| side as u32);
            self.image = resize(&self.image, whole, target, Interpolation::Bilinear)?;
            self.sampling.resize(size);
        }
        let [down, across] = [0, 1].map(|axis| size[axis] as f64 / old[axis] as f64);
        self.scale = [self.scale[0] * down, self.scale[1] * across];
        self.move_boxes(|[left, top, wide, high]| {
            [left * across, top * down, wide * across, high * down]
        });
        Ok(())
    }

    fn crop(&mut self, [least, most]: [usize; 2], rng: &mut impl Rng) {
        let old = self.size();
        let mut between =
            |low: usize, high: usize| rng.random_range(low as u64..=high as u64) as usize;
        let size = old.map(|side| between(least.min(side), most.min(side)));
        let corner @ [top, left] = [0, 1].map(|axis| between(0, old[axis] - size[axis]));
        let [height, width] = size.map(|side| side as u32);
        self.image = crop_imm(&self.image, left as u32, top as u32, width, height).to_image();
        self.sampling.crop(corner, size);
        self.cropped = true;
        let [top, left] = [top, left].map(|side| side as f64);
        self.move_boxes(|[x, y, wide, high]| [x - left, y - top, wide, high]);
    }

    /// Moves every box and cuts it off at the border; those without area go.
    fn move_boxes(&mut self, to: impl Fn([f64; 4]) -> [f64; 4]) {
        let [height, width] = self.size().map(|side| side as f64);
        self.instances.retain_mut(|instance| {
            let [left, top, wide, high] = to(instance.bbox);
            let [right, bottom] = [(left + wide).min(width), (top + high).min(height)];
            // As it is, where nothing is cut off: sums would round.
            let side = |from: f64, to: f64, whole: f64, most: f64| {
                if from < 0.0 || from + whole > most { to - from.max(0.0) } else { whole }
            };
            let (wide, high) = (side(left, right, wide, width), side(top, bottom, high, height));
            instance.bbox = [left.max(0.0), top.max(0.0), wide, high];
            wide > 0.0 && high > 0.0
        });
    }

    fn end(mut self) -> Changed {
        for instance in &mut self.instances {
            instance.mask = self.sampling.mask(&instance.mask);
            instance.area = instance.mask.area() as f64;
        }
        if self.cropped {
            self.instances.retain(|instance| instance.mask.area() > 0);
        }
        Changed { image: self.image, instances: self.instances, scale: self.scale }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::{Purpose, stream};
    use crate::{Examples, Shapes};

    const KINDS: usize = 4;

    fn example(seed: u64) -> Example {
        Shapes::default().images(seed, 0..1).unwrap().example(0).unwrap()
    }

    fn view(seed: u64) -> View {
        let (image, instances) = example(seed).parts(KINDS).unwrap();
        View::new(image, instances)
    }

    /// Checks that each mask lies in its box and, but for what is cut off, reaches its sides.
    fn assert_fits(changed: &Changed, slack: f64, tight: bool) {
        let width = changed.image.width() as usize;
        for instance in &changed.instances {
            let mask = instance.mask.to_mask();
            let set: Vec<usize> = (0..mask.len()).filter(|&at| mask[at]).collect();
            assert_eq!(instance.area, set.len() as f64);
            let [left, top, wide, high] = instance.bbox;
            for (low, size, at) in [
                (left, wide, &(|at: usize| at % width) as &dyn Fn(usize) -> usize),
                (top, high, &|at| at / width),
            ] {
                let least = set.iter().map(|&pixel| at(pixel)).min();
                let most = set.iter().map(|&pixel| at(pixel) + 1).max();
                let (Some(least), Some(most)) = (least, most) else { continue };
                let (least, most) = (least as f64 - low, low + size - most as f64);
                assert!(least > -slack && most > -slack, "{least} {most} of {:?}", instance.bbox);
                assert!(!tight || least < slack && most < slack, "{least} {most}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn two_flips_change_nothing(seed: u64) {
            let mut view = view(seed);
            view.flip();
            view.flip();
            let changed = view.end();
            let Example { pixels, instances, .. } = example(seed);
            prop_assert_eq!(changed.image.into_raw(), pixels);
            prop_assert_eq!(changed.instances, instances);
        }

        #[test]
        fn a_flip_takes_masks_with_their_boxes(seed: u64) {
            let mut view = view(seed);
            view.flip();
            // Whole pixels: exactly.
            assert_fits(&view.end(), 1e-9, true);
        }

        #[test]
        fn masks_follow_when_images_are_resized(seed: u64, height in 1usize..300, width in 1usize..300) {
            let mut view = view(seed);
            view.resize([height, width]).unwrap();
            let changed = view.end();
            let size = [changed.image.height() as usize, changed.image.width() as usize];
            prop_assert_eq!(size, [height, width]);
            prop_assert_eq!(changed.scale, [height as f64 / 64.0, width as f64 / 64.0]);
            // Nearest pixels are whole. A mask of an object that is made smaller may miss thin parts.
            assert_fits(&changed, 1.0, height >= 64 && width >= 64);
        }

        #[test]
        fn masks_follow_when_images_are_cropped(seed: u64, least in 1usize..80, more in 0usize..40) {
            let mut view = view(seed);
            let before = view.instances.len();
            view.crop([least, least + more], &mut stream(seed, 0, 0, Purpose::Image));
            let changed = view.end();
            let size = [changed.image.height(), changed.image.width()];
            prop_assert!(size.iter().all(|&side| (least.min(64)..=least + more).contains(&(side as usize))));
            prop_assert!(changed.instances.len() <= before);
            prop_assert!(changed.instances.iter().all(|instance| instance.area > 0.0));
            assert_fits(&changed, 1e-9, false);
        }

        #[test]
        fn all_changes_together_are_drawn_from_the_stream(seed: u64) {
            let resize = |shorter: &[usize], longest| DetectionResize { shorter: shorter.to_vec(), longest };
            let crop = DetectionCrop { resize: resize(&[40, 150], 200), sides: [20, 90] };
            let augment = DetectionAugment { flip: true, crop: Some(crop), resize: Some(resize(&[48, 100], 120)) };
            let run = || augment.apply(example(seed), KINDS, &mut stream(seed, 1, 2, Purpose::Image)).unwrap();
            let (a, b) = (run(), run());
            prop_assert_eq!(a.image.as_raw(), b.image.as_raw());
            prop_assert_eq!(&a.instances, &b.instances);
            // Up to two roundings, the first by a factor of at most 100 / 20.
            assert_fits(&a, 6.0, false);
        }
    }

    #[test]
    fn sizes_are_drawn_alike_and_half_of_the_images_cropped() {
        let augment = DetectionAugment::coco();
        let example =
            Example { height: 20, width: 30, pixels: vec![9; 1800], instances: vec![], id: 0 };
        let n = 600;
        let mut counts = std::collections::BTreeMap::new();
        let mut whole = 0;
        for index in 0..n {
            let mut rng = stream(0, 0, index, Purpose::Image);
            let changed = augment.apply(example.clone(), KINDS, &mut rng).unwrap();
            let [height, width] = [changed.image.height(), changed.image.width()];
            *counts.entry(height.min(width)).or_insert(0) += 1;
            whole += usize::from(width.abs_diff(height * 3 / 2) <= 1);
            assert!(height.max(width) <= 1333);
        }
        // Some crops have the old ratio; half of 600 are 300 with a deviation of 12.
        assert!((255..345).contains(&whole), "{whole} of {n} whole");
        // 600 / 11 are 54.5 with a deviation of 7; four of them. A crop of 600 x 384 stays below 1333.
        let common: Vec<_> = (480..=800).step_by(32).map(|side| counts.get(&side)).collect();
        assert!(
            common.iter().all(|count| count.is_some_and(|count| (26..84).contains(count))),
            "{counts:?}"
        );
    }
}
