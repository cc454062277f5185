//! The box of a random resized crop.
//!
//! C. Szegedy et al., *Going Deeper with Convolutions*, arXiv 1409.4842, section 6. Code reference:
//! `RandomResizedCropAndInterpolation.get_params` in `timm/data/transforms.py`.

use rand::Rng;

use super::rect::{Rect, whole};

/// Width over height of a crop.
const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];

/// A box of a share of the area in `scale` and of a ratio of width to height in 3/4..4/3.
///
/// When ten attempts do not fit into the image: the largest central box of such a ratio. `height` and `width`
/// are at least 1, and `scale` is a range within 0..=1.
pub(crate) fn draw(height: usize, width: usize, scale: [f64; 2], rng: &mut impl Rng) -> Rect {
    let whole_image = [height, width];
    Rect::draw(whole_image, whole_image, scale, RATIO, rng)
        .unwrap_or_else(|| central(height, width))
}

fn central(height: usize, width: usize) -> Rect {
    let [narrow, wide] = RATIO;
    let ratio = width as f64 / height as f64;
    let [own_height, own_width] = if ratio < narrow {
        [whole(width as f64 / narrow), width]
    } else if ratio > wide {
        [height, whole(height as f64 * wide)]
    } else {
        [height, width]
    };
    let (top, left) = ((height - own_height) / 2, (width - own_width) / 2);
    Rect { top, left, height: own_height, width: own_width }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;
    use crate::stream::{Purpose, stream};
    use crate::transform::fixture::{Mean, assert_mean};

    /// Means of timm 1.0.31 with their standard errors, by `fixture/print_distributions.py`: area,
    /// ln(width / height), top and left, of 400,000 boxes.
    const TIMM: [([usize; 2], [Mean; 4]); 2] = [
        (
            [375, 500],
            [(0.43298, 0.00034), (0.03073, 0.00026), (0.13971, 0.00021), (0.21803, 0.00025)],
        ),
        // Most of these do not fit.
        (
            [16, 64],
            [(0.19460, 0.00012), (0.06252, 0.00027), (0.08213, 0.00016), (0.38635, 0.00035)],
        ),
    ];

    #[test]
    fn boxes_are_distributed_as_timms() {
        let mut rng = stream(0, 0, 0, Purpose::Image);
        for ([height, width], means) in TIMM {
            let boxes: Vec<Rect> =
                (0..100_000).map(|_| draw(height, width, [0.08, 1.0], &mut rng)).collect();
            let check = |what: &str, value: &dyn Fn(&Rect) -> f64, mean: Mean| {
                let values: Vec<f64> = boxes.iter().map(value).collect();
                assert_mean(what, &values, mean);
            };
            let [area, ratio, top, left] = means;
            let pixels = (height * width) as f64;
            check("area", &|b| (b.height * b.width) as f64 / pixels, area);
            check("ratio", &|b| (b.width as f64 / b.height as f64).ln(), ratio);
            check("top", &|b| b.top as f64 / height as f64, top);
            check("left", &|b| b.left as f64 / width as f64, left);
        }
    }

    #[test]
    fn boxes_that_never_fit_are_central() {
        assert_eq!(central(2, 9), Rect { top: 0, left: 3, height: 2, width: 3 });
        assert_eq!(central(9, 3), Rect { top: 2, left: 0, height: 4, width: 3 });
        assert_eq!(central(5, 6), Rect { top: 0, left: 0, height: 5, width: 6 });
    }

    proptest! {
        #[test]
        fn boxes_are_inside(height in 1_usize..40, width in 1_usize..40, seed: u64) {
            let mut rng = stream(seed, 0, 0, Purpose::Image);
            let Rect { top, left, height: rows, width: columns } =
                draw(height, width, [0.08, 1.0], &mut rng);
            prop_assert!(rows > 0 && columns > 0);
            prop_assert!(top + rows <= height && left + columns <= width);
        }
    }
}
