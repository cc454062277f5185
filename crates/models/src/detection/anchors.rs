//! Anchors: the boxes that proposals are offsets of.

use super::boxes::Corners;

/// Height over width of the anchors at a place.
const RATIOS: [f64; 3] = [0.5, 1.0, 2.0];

/// Anchors at a place.
pub(crate) const ANCHORS: usize = RATIOS.len();

/// The anchors of a level of `height` x `width` places, `stride` pixels apart, in the order (y, x, ratio).
///
/// At the place (y, x) they are centred at (x, y) stride, of area (scale stride)^2 and of height over width
/// 1/2, 1 and 2: mmdetection's `AnchorGenerator` (Lin et al. 2017, "Feature Pyramid Networks", section 4.1).
pub(crate) fn level([height, width]: [usize; 2], stride: usize, scale: f64) -> Vec<Corners> {
    let side = scale * stride as f64;
    let place = |y: usize, x: usize| {
        let (x, y) = ((x * stride) as f64, (y * stride) as f64);
        RATIOS.map(|ratio| {
            let (w, h) = (side / ratio.sqrt() / 2.0, side * ratio.sqrt() / 2.0);
            [x - w, y - h, x + w, y + h]
        })
    };
    (0..height).flat_map(|y| (0..width).flat_map(move |x| place(y, x))).collect()
}
