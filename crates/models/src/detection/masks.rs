//! Masks of objects: in images, and in the grids of boxes.

use super::boxes::Corners;

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
    /// The mask inside a box as a grid of `side` x `side`: whether at least half of a cell is of the object, by
    /// RoIAlign of the mask, as mmdetection makes its targets.
    pub(super) fn cropped(&self, [x1, y1, x2, y2]: Corners, side: usize) -> Vec<bool> {
        let cell = |low: f64, high: f64| (high - low) / side as f64;
        let (w, h) = (cell(x1, x2), cell(y1, y2));
        let samples = |cell: f64| (cell.ceil().max(1.0)) as usize;
        let (columns, rows) = (samples(w), samples(h));
        let share = |row: usize, column: usize| -> f64 {
            let at = |low: f64, cell: f64, place: usize, i: usize, samples: usize| {
                low - 0.5 + (place as f64 + (i as f64 + 0.5) / samples as f64) * cell
            };
            let points = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
            let values = points
                .map(|(i, j)| self.at(at(y1, h, row, i, rows), at(x1, w, column, j, columns)));
            values.sum::<f64>() / (rows * columns) as f64
        };
        let cells = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
        cells.map(|(row, column)| share(row, column) >= 0.5).collect()
    }

    /// Its value between pixels, whose centres have whole coordinates: RoIAlign's bilinear interpolation.
    fn at(&self, y: f64, x: f64) -> f64 {
        let (h, w) = (self.height as f64, self.width as f64);
        if !((-1.0..=h).contains(&y) && (-1.0..=w).contains(&x)) {
            return 0.0;
        }
        let split = |v: f64, size: f64| {
            let v = v.max(0.0).min(size - 1.0);
            (v.floor() as usize, v - v.floor())
        };
        let ((y, b), (x, a)) = (split(y, h), split(x, w));
        let pixel = |y: usize, x: usize| {
            let (y, x) = (y.min(self.height - 1), x.min(self.width - 1));
            f64::from(u8::from(self.pixels[y * self.width + x]))
        };
        (1.0 - b) * ((1.0 - a) * pixel(y, x) + a * pixel(y, x + 1))
            + b * ((1.0 - a) * pixel(y + 1, x) + a * pixel(y + 1, x + 1))
    }

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
