//! [`Rect`]: a box of random area and shape, which is cropped or erased.

use rand::Rng;

/// A box of whole pixels inside an image, each side at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Rect {
    /// The first of ten boxes, of share `s` of the area and width `r` times the height, whose sides are at
    /// most `most`; at a uniform place.
    ///
    /// `s ~ U(share)` and `ln r ~ U(ln ratio)`. `None` when no box fits.
    pub(super) fn draw(
        [height, width]: [usize; 2],
        most: [usize; 2],
        share: [f64; 2],
        ratio: [f64; 2],
        rng: &mut impl Rng,
    ) -> Option<Self> {
        let ratio = ratio.map(f64::ln);
        let mut size = || {
            let area = uniform(share, rng) * (height * width) as f64;
            let ratio = uniform(ratio, rng).exp();
            [area / ratio, area * ratio].map(|square| whole(square.sqrt()))
        };
        let fits = |size: &[usize; 2]| size[0] <= most[0] && size[1] <= most[1];
        let [own_height, own_width] = (0..10).map(|_| size()).find(fits)?;
        let top = rng.random_range(0..=height - own_height);
        let left = rng.random_range(0..=width - own_width);
        Some(Self { top, left, height: own_height, width: own_width })
    }
}

/// Python's `round`, but at least 1: a side of 0 pixels, which timm may draw, stops Pillow.
pub(super) fn whole(side: f64) -> usize {
    (side.round_ties_even() as usize).max(1)
}

fn uniform([low, high]: [f64; 2], rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}
