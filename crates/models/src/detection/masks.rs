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
    /// Its pixels as an image of one channel, (1, H, W, 1).
    fn image(&self) -> Result<Tensor> {
        let pixels: Vec<f64> = self.pixels.iter().map(|&pixel| f64::from(pixel)).collect();
        Tensor::from_vec(pixels, (1, self.height, self.width, 1), &Device::Cpu)
    }

    /// Probabilities in a grid of `side` x `side` over a box, pasted into an image: pixels of at least 1/2 by bilinear
    /// interpolation, with nothing outside the box, nor where the grid is too short (mmdetection's `_do_paste_mask`).
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
            if !(inside(row) && inside(column)) {
                return 0.0;
            }
            let place = row as usize * side + column as usize;
            probabilities.get(place).map_or(0.0, |&probability| f64::from(probability))
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
    let cells = side * side;
    let mut grids = vec![0.0; boxes.len() * cells];
    for (i, mask) in masks.iter().enumerate() {
        let mine: Vec<usize> = (0..boxes.len()).filter(|&place| boxes[place].0 == i).collect();
        if mine.is_empty() {
            continue;
        }
        let rois: Vec<Roi> =
            mine.iter().map(|&place| Roi { image: 0, corners: boxes[place].1 }).collect();
        // One mask at a time: as numbers each is eight times as large as it is.
        let shares = host(&roi_align(&mask.image()?, &rois, side, 1.0, 0)?)?;
        for (&place, shares) in mine.iter().zip(shares.chunks(cells)) {
            let grid = &mut grids[place * cells..][..cells];
            grid.iter_mut().zip(shares).for_each(|(cell, &share)| *cell = f64::from(share >= 0.5));
        }
    }
    Ok(grids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_box_is_filled_from_its_own_mask_and_no_other_is_looked_at() {
        let mask = |columns: std::ops::Range<usize>| Mask {
            height: 4,
            width: 4,
            pixels: (0..16).map(|i| columns.contains(&(i % 4))).collect(),
        };
        let unused = Mask { height: 100, width: 100, pixels: Vec::new() };
        let masks = [mask(0..2), unused, mask(2..4)];
        let whole = [0.0, 0.0, 4.0, 4.0];
        let grids = cropped(&masks, &[(2, whole), (0, whole), (2, whole)], 2).unwrap();
        let (left, right) = ([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(grids, [right, left, right].concat());
        assert!(cropped(&masks, &[], 2).unwrap().is_empty());
    }

    #[test]
    fn where_a_grid_is_too_short_there_is_nothing() {
        let pasted = Mask::pasted(&[1.0; 2], 2, [0.0, 0.0, 4.0, 4.0], [4, 4]);
        assert_eq!(pasted.pixels[..8], [true; 8]);
        assert_eq!(pasted.pixels[12..], [false; 4]);
        // A box that is thinner than any number of cells.
        Mask::pasted(&[1.0; 4], 2, [0.0, 0.0, 1e-20, 4.0], [4, 4]);
        let none = Mask::pasted(&[], 2, [0.0, 0.0, 4.0, 4.0], [4, 4]);
        assert_eq!(none.pixels, [false; 16]);
    }
}
