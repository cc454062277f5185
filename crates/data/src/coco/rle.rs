//! [`Rle`]: masks as runs of pixels.

/// A mask of H x W pixels as the lengths of its runs, column by column: first of zeros, then of ones, and so on.
///
/// The first run may be empty; the lengths add up to H W.
///
/// Source: `maskApi.c` of pycocotools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) counts: Vec<u32>,
}

impl Rle {
    /// The runs of a mask in rows: pixel (y, x) is `mask[y * width + x]`.
    ///
    /// # Panics
    /// When `mask` has not `height * width` pixels.
    pub fn of_mask(mask: &[bool], height: usize, width: usize) -> Self {
        assert_eq!(mask.len(), height * width, "a mask of another size");
        let columns = (0..width).flat_map(|x| (0..height).map(move |y| mask[y * width + x]));
        let (mut counts, mut value) = (vec![0], false);
        for pixel in columns {
            if pixel != value {
                counts.push(0);
                value = pixel;
            }
            if let Some(count) = counts.last_mut() {
                *count += 1;
            }
        }
        Self { height, width, counts }
    }

    /// The mask in rows: pixel (y, x) is at `y * width + x`.
    pub fn to_mask(&self) -> Vec<bool> {
        let mut mask = vec![false; self.height * self.width];
        let mut at = 0;
        for (run, &count) in self.counts.iter().enumerate() {
            for i in at..at + count as usize {
                mask[i % self.height * self.width + i / self.height] = run % 2 == 1;
            }
            at += count as usize;
        }
        mask
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Pixels of the object.
    pub fn area(&self) -> usize {
        self.counts.iter().skip(1).step_by(2).map(|&count| count as usize).sum()
    }
}
