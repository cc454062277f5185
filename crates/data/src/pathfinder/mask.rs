//! [`Mask`]: what of the window is taken.

use super::direction::{Point, add};

/// Two dashes may lie on each other up to this sum of their masks, 1.8 of 255 (the published generator asks for less).
const CROWDED: u16 = 459;
/// A path may start where the mask is at most 0.3, of 255.
const FREE: u8 = 76;

/// How far each pixel is covered, of 255, row by row.
#[derive(Debug, Clone)]
pub(super) struct Mask {
    size: i32,
    cells: Vec<u8>,
}

impl Mask {
    /// A window whose outer `border` pixels are taken.
    pub(super) fn new(size: usize, border: usize) -> Self {
        let inner = border..size - border;
        let taken = |index| [index / size, index % size].iter().any(|at| !inner.contains(at));
        let cells = (0..size * size).map(|index| if taken(index) { 255 } else { 0 }).collect();
        Self { size: size as i32, cells }
    }

    /// The place of a pixel, or `None` when it is outside.
    pub(super) fn index(&self, [y, x]: Point) -> Option<usize> {
        let inside = 0..self.size;
        (inside.contains(&y) && inside.contains(&x)).then(|| (y * self.size + x) as usize)
    }

    /// Makes this mask equal to one of the same size.
    pub(super) fn reset(&mut self, to: &Self) {
        self.cells.copy_from_slice(&to.cells);
    }

    /// Takes what `cells` around `at` cover.
    pub(super) fn cover(&mut self, at: Point, cells: &[(Point, u8)]) {
        for &(offset, byte) in cells {
            if let Some(index) = self.index(add(at, offset)) {
                self.cells[index] = self.cells[index].max(byte);
            }
        }
    }

    /// Whether `cells` around `at` lie on nothing, or hardly.
    pub(super) fn admits(&self, at: Point, cells: &[(Point, u8)]) -> bool {
        cells.iter().all(|&(offset, byte)| {
            let below = self.index(add(at, offset)).map_or(0, |index| self.cells[index]);
            u16::from(below) + u16::from(byte) < CROWDED
        })
    }

    /// How far the most covered of the pixels `around` a place is covered; what is outside counts as taken.
    pub(super) fn most(&self, at: Point, around: &[Point]) -> u8 {
        let cover = |&offset| self.index(add(at, offset)).map_or(255, |index| self.cells[index]);
        around.iter().map(cover).max().unwrap_or(0)
    }

    /// Share of the pixels where a path may start.
    pub(super) fn free(&self) -> f64 {
        let free = self.cells.iter().filter(|&&byte| byte <= FREE).count();
        free as f64 / self.cells.len() as f64
    }

    /// Whether all of `kernel` is outside around some pixel of the window.
    pub(super) fn misses(&self, kernel: &[Point]) -> bool {
        let outside = |at| kernel.iter().all(|&offset| self.index(add(at, offset)).is_none());
        self.pixels().any(outside)
    }

    /// The pixels around which every pixel of `kernel` is free.
    pub(super) fn starts(&self, kernel: &[Point]) -> Vec<Point> {
        self.pixels().filter(|&at| self.most(at, kernel) <= FREE).collect()
    }

    fn pixels(&self) -> impl Iterator<Item = Point> + use<> {
        let size = self.size;
        (0..size).flat_map(move |y| (0..size).map(move |x| [y, x]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_where_their_dash_has_room() {
        let mask = Mask::new(6, 2);
        assert_eq!(mask.free(), 4.0 / 36.0);
        assert_eq!(mask.starts(&[[0, 0]]), [[2, 2], [2, 3], [3, 2], [3, 3]]);
        // Room is asked for at the pixel to the right.
        assert_eq!(mask.starts(&[[0, 1]]), [[2, 1], [2, 2], [3, 1], [3, 2]]);
        assert_eq!(mask.starts(&[[0, 0], [1, 0]]), [[2, 2], [2, 3]]);
        assert!(mask.starts(&[[0, 0], [2, 0]]).is_empty());
        // At the right border, one pixel to the right is outside.
        assert!(mask.misses(&[[0, 1]]) && mask.misses(&[[0, 1], [1, 0]]) && mask.misses(&[]));
        assert!(!mask.misses(&[[0, 0]]) && !mask.misses(&[[0, 1], [0, -1]]));
    }

    #[test]
    fn what_is_covered_is_not_covered_again() {
        let mut mask = Mask::new(5, 1);
        assert!(mask.admits([2, 2], &[([0, 0], 255)]));
        // 255 of the border and 204 are 1.8.
        assert!(mask.admits([2, 2], &[([2, 0], 203)]) && !mask.admits([2, 2], &[([2, 0], 204)]));
        assert!(mask.admits([2, 2], &[([9, 9], 255)]));
        let cells = [([0, 0], 200), ([0, 1], 77), ([1, 0], 76), ([0, 9], 9)];
        mask.cover([2, 2], &cells);
        mask.cover([2, 2], &[([0, 0], 100)]);
        assert!(mask.admits([2, 2], &[([0, 0], 255), ([0, 1], 255)]));
        assert!(!mask.admits([2, 2], &[([0, 0], 255), ([0, 2], 204)]));
        assert_eq!(mask.most([2, 2], &[[0, 0], [0, 1]]), 200);
        assert_eq!((mask.most([2, 2], &[[1, 1]]), mask.most([2, 2], &[[9, 0]])), (0, 255));
        assert_eq!(mask.free(), 7.0 / 25.0);
        mask.reset(&Mask::new(5, 1));
        assert_eq!(mask.most([2, 2], &[[0, 0]]), 0);
    }
}
