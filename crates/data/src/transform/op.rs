//! [`Op`]: the operations of [`RandAugment`](super::rand_augment::RandAugment).
//!
//! Code reference: `timm/data/auto_augment.py` of huggingface/pytorch-image-models.

use image::RgbImage;
use rand::Rng;

use super::affine::{self, Filter};
use super::colour;

/// The level at which an operation does the most.
pub(super) const HIGHEST: f64 = 10.0;

/// The operations of timm's `_RAND_INCREASING_TRANSFORMS`, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Colour,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

/// An operation with all that was drawn for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) argument: f64,
    pub(super) filter: Filter,
}

impl Op {
    pub(super) const ALL: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Colour,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];

    /// The operation at `level`, with a random sign and filter.
    pub(super) fn draw(self, level: f64, rng: &mut impl Rng) -> Step {
        let sign = if rng.random() { 1.0 } else { -1.0 };
        let filter = if rng.random() { Filter::Bilinear } else { Filter::Bicubic };
        Step { op: self, argument: self.argument(level, sign), filter }
    }

    /// What the operation is called with at `level`, 0 to 10, for a `sign` of 1 or -1.
    fn argument(self, level: f64, sign: f64) -> f64 {
        let share = level / HIGHEST;
        match self {
            Self::AutoContrast | Self::Equalize | Self::Invert => 0.0,
            Self::Rotate => sign * (share * 30.0),
            Self::Posterize => 4.0 - (share * 4.0).floor(),
            Self::Solarize => 256.0 - (share * 256.0).floor(),
            Self::SolarizeAdd => (share * 110.0).floor(),
            Self::Colour | Self::Contrast | Self::Brightness | Self::Sharpness => {
                (1.0 + sign * (share * 0.9)).max(0.1)
            }
            Self::ShearX | Self::ShearY => sign * (share * 0.3),
            Self::TranslateX | Self::TranslateY => sign * (share * 0.45),
        }
    }
}

impl Step {
    pub(super) fn run(self, image: &mut RgbImage) {
        let Self { op, argument, filter } = self;
        match op {
            Op::AutoContrast => colour::autocontrast(image),
            Op::Equalize => colour::equalize(image),
            Op::Invert => colour::invert(image),
            Op::Rotate => affine::rotate(image, argument, filter),
            Op::Posterize => colour::posterize(image, argument as u8),
            Op::Solarize => colour::solarize(image, argument as u16),
            Op::SolarizeAdd => colour::solarize_add(image, argument as u8),
            Op::Colour => colour::saturation(image, argument as f32),
            Op::Contrast => colour::contrast(image, argument as f32),
            Op::Brightness => colour::brightness(image, argument as f32),
            Op::Sharpness => colour::sharpness(image, argument as f32),
            Op::ShearX => affine::shear_x(image, argument, filter),
            Op::ShearY => affine::shear_y(image, argument, filter),
            Op::TranslateX => affine::translate_x(image, argument, filter),
            Op::TranslateY => affine::translate_y(image, argument, filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert_eq, proptest};

    use super::*;
    use crate::stream::{Purpose, stream};
    use crate::transform::fixture::{arguments, cases};

    /// timm's names, in the order of [`Op::ALL`].
    const NAMES: [&str; 15] = [
        "AutoContrast",
        "Equalize",
        "Invert",
        "Rotate",
        "PosterizeIncreasing",
        "SolarizeIncreasing",
        "SolarizeAdd",
        "ColorIncreasing",
        "ContrastIncreasing",
        "BrightnessIncreasing",
        "SharpnessIncreasing",
        "ShearX",
        "ShearY",
        "TranslateXRel",
        "TranslateYRel",
    ];

    #[test]
    fn operations_do_what_timms_do_at_level_9() {
        let cases = cases("rand_augment");
        assert_eq!(cases.len(), NAMES.len());
        for case in cases {
            let op = Op::ALL[NAMES.iter().position(|&name| name == case.transform()).unwrap()];
            let mut image = case.input.clone();
            Step { op, argument: op.argument(9.0, 1.0), filter: Filter::Bicubic }.run(&mut image);
            assert_eq!(image, case.output, "{}", case.name);
        }
    }

    #[test]
    fn arguments_are_timms_to_the_bit() {
        for (op, name) in Op::ALL.into_iter().zip(NAMES) {
            for (level, wanted) in arguments(name) {
                let found = [op.argument(level, 1.0), op.argument(level, -1.0)];
                assert_eq!(found[..], wanted, "{name} at {level}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_size_keeps_its_shape_and_a_seed_gives_its_bytes(
            width in 1_u32..12,
            height in 1_u32..12,
            level in 0.0..=10.0,
            seed: u64,
        ) {
            let mut rng = stream(seed, 0, 0, Purpose::Image);
            let image = RgbImage::from_fn(width, height, |_, _| image::Rgb(rng.random()));
            for op in Op::ALL {
                let run = || {
                    let mut image = image.clone();
                    op.draw(level, &mut stream(seed, 1, 0, Purpose::Image)).run(&mut image);
                    image
                };
                let once = run();
                prop_assert_eq!(once.dimensions(), (width, height));
                prop_assert_eq!(once, run());
            }
        }
    }
}
