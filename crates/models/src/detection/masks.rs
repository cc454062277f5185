//! Masks of objects: in images, and in the grids of boxes.

use candle_core::{Device, Result, Tensor};
use conditioned_nn::{Roi, roi_align};

use super::boxes::Corners;
use super::host;

/// The pixels of an object in an image, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Whether the pixel (y, x), at y width + x, is of the object.
    pub pixels: Vec<bool>,
}

impl Mask {
    /// Probabilities in a grid of `side` x `side` over a box, pasted into an image: pixels of at least 1/2 by bilinear
    /// interpolation, with nothing outside the box (mmdetection's `_do_paste_mask`).
    pub fn pasted(
        probabilities: &[f32],
        side: usize,
        [x1, y1, x2, y2]: Corners,
        [height, width]: [usize; 2],
    ) -> Self {
        let place = |pixel: usize, low: f64, high: f64| {
            (pixel as f64 + 0.5 - low) / (high - low) * side as f64 - 0.5
        };
        let cell = |row: f64, column: f64| {
            let inside = |at: f64| (0.0..side as f64).contains(&at);
            match inside(row) && inside(column) {
                true => f64::from(probabilities[row as usize * side + column as usize]),
                false => 0.0,
            }
        };
        let value = |y: f64, x: f64| {
            let ((top, left), (b, a)) = ((y.floor(), x.floor()), (y - y.floor(), x - x.floor()));
            (1.0 - b) * ((1.0 - a) * cell(top, left) + a * cell(top, left + 1.0))
                + b * ((1.0 - a) * cell(top + 1.0, left) + a * cell(top + 1.0, left + 1.0))
        };
        let mut pixels = vec![false; height * width];
        // What lies outside the box by more than a cell is zero.
        let range = |low: f64, high: f64, most: usize| {
            let margin = (high - low) / side as f64;
            let bound = |v: f64| v.clamp(0.0, most as f64) as usize;
            bound((low - margin).floor())..bound((high + margin).ceil())
        };
        if x2 > x1 && y2 > y1 {
            for y in range(y1, y2, height) {
                for x in range(x1, x2, width) {
                    pixels[y * width + x] = value(place(y, y1, y2), place(x, x1, x2)) >= 0.5;
                }
            }
        }
        Self { height, width, pixels }
    }
}

/// Masks of one image inside boxes, each a mask by its place and a box, as grids of `side` x `side`: 1 where at least half
/// of a cell is of the object, else 0. By RoIAlign, as mmdetection makes its targets.
pub(super) fn cropped(masks: &[Mask], boxes: &[(usize, Corners)], side: usize) -> Result<Vec<f64>> {
    let Some(Mask { height, width, .. }) = masks.first().filter(|_| !boxes.is_empty()) else {
        return Ok(Vec::new());
    };
    let pixels = masks.iter().flat_map(|mask| &mask.pixels);
    let pixels: Vec<f64> = pixels.map(|&pixel| f64::from(u8::from(pixel))).collect();
    let masks = Tensor::from_vec(pixels, (masks.len(), *height, *width, 1), &Device::Cpu)?;
    let rois = boxes.iter().map(|&(image, corners)| Roi { image, corners });
    let shares = host(&roi_align(&masks, &rois.collect::<Vec<_>>(), side, 1.0, 0)?)?;
    Ok(shares.into_iter().map(|share| f64::from(u8::from(share >= 0.5))).collect())
}
