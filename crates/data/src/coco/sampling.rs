//! [`Sampling`]: where the pixels of a changed image come from, and masks that follow it.

use super::Rle;

/// For each row and column of a changed image, the one of the original that it shows.
///
/// A mask follows all changes at once, run by run: nothing is ever as large as the image.
#[derive(Debug, Clone)]
pub(crate) struct Sampling {
    /// Rising: nothing turns an image upside down.
    rows: Vec<usize>,
    columns: Vec<usize>,
}

impl Sampling {
    /// No change of an image of this size.
    pub(crate) fn new([height, width]: [usize; 2]) -> Self {
        Self { rows: (0..height).collect(), columns: (0..width).collect() }
    }

    /// Mirrors left and right.
    pub(crate) fn flip(&mut self) {
        self.columns.reverse();
    }

    /// Takes the nearest pixel: row y of `height` shows row `floor(y H / height)` of H.
    ///
    /// That is OpenCV's `INTER_NEAREST`, by which MMDetection resizes bitmaps.
    pub(crate) fn resize(&mut self, [height, width]: [usize; 2]) {
        let nearest = |old: &[usize], new: usize| {
            (0..new).map(|at| old[at * old.len() / new]).collect::<Vec<_>>()
        };
        self.rows = nearest(&self.rows, height);
        self.columns = nearest(&self.columns, width);
    }

    /// Keeps `height` rows from `top` on and `width` columns from `left` on, which must be there.
    pub(crate) fn crop(&mut self, [top, left]: [usize; 2], [height, width]: [usize; 2]) {
        self.rows = self.rows[top..top + height].to_vec();
        self.columns = self.columns[left..left + width].to_vec();
    }

    /// A mask of the original as a mask of the changed image.
    pub(crate) fn mask(&self, mask: &Rle) -> Rle {
        let [old_height, old_width] = mask.size();
        let (height, width) = (self.rows.len(), self.columns.len());
        // Row r of the original and those above it give the first `above[r + 1]` rows.
        let mut above = vec![0; old_height + 1];
        for &row in &self.rows {
            above[row + 1] += 1;
        }
        for row in 0..old_height {
            above[row + 1] += above[row];
        }
        let mut spans = vec![Vec::new(); old_width];
        let mut at = 0;
        for (run, &count) in mask.counts.iter().enumerate() {
            let end = at + count as usize;
            while at < end {
                let (column, top) = (at / old_height, at % old_height);
                let bottom = (top + end - at).min(old_height);
                if run % 2 == 1 {
                    spans[column].push([above[top], above[bottom]]);
                }
                at += bottom - top;
            }
        }
        let mut runs = Runs::default();
        for (column, &from) in self.columns.iter().enumerate() {
            for span in &spans[from] {
                runs.add(span.map(|row| column * height + row));
            }
        }
        Rle { height, width, counts: runs.end(height * width) }
    }
}

/// Runs of zeros and ones in turn.
#[derive(Default)]
struct Runs {
    counts: Vec<u32>,
    covered: usize,
}

impl Runs {
    /// Ones in start..end, which begins no sooner than the ones before it end.
    fn add(&mut self, [start, end]: [usize; 2]) {
        if start == end {
            return;
        }
        match self.counts.last_mut() {
            Some(ones) if start == self.covered => *ones += (end - start) as u32,
            _ => self.counts.extend([(start - self.covered) as u32, (end - start) as u32]),
        }
        self.covered = end;
    }

    fn end(mut self, pixels: usize) -> Vec<u32> {
        if self.covered < pixels || self.counts.is_empty() {
            self.counts.push((pixels - self.covered) as u32);
        }
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn masks_follow_as_pixels_do(
            [height, width] in [1usize..9, 1usize..9], [rows, columns] in [1usize..20, 1usize..20],
            bits in prop::collection::vec(any::<bool>(), 64), flip: bool, corner: prop::sample::Index,
        ) {
            let mask = &bits[..height * width];
            let mut sampling = Sampling::new([height, width]);
            sampling.resize([rows, columns]);
            let resized = sampling.mask(&Rle::of_mask(mask, height, width)).to_mask();
            let at = |y: usize, x: usize| mask[y * height / rows * width + x * width / columns];
            let wanted: Vec<bool> =
                (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))).map(|(y, x)| at(y, x)).collect();
            prop_assert_eq!(&resized, &wanted);

            let (top, left) = (corner.index(rows), corner.index(columns));
            sampling.crop([top, left], [rows - top, columns - left]);
            if flip {
                sampling.flip();
            }
            let [rows, columns] = [rows - top, columns - left];
            let x_of = |x: usize| if flip { columns - 1 - x } else { x };
            let wanted: Vec<bool> = (0..rows)
                .flat_map(|y| (0..columns).map(move |x| (y, x)))
                .map(|(y, x)| at(y + top, x_of(x) + left))
                .collect();
            // The runs of the same mask are the same runs.
            let found = sampling.mask(&Rle::of_mask(mask, height, width));
            prop_assert_eq!(found, Rle::of_mask(&wanted, rows, columns));
        }
    }
}
