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
        for [start, end] in mask.spans().map(|span| span.map(|place| place as usize)) {
            let mut at = start;
            while at < end {
                let (column, top) = (at / old_height, at % old_height);
                let bottom = (top + end - at).min(old_height);
                spans[column].push([above[top], above[bottom]]);
                at += bottom - top;
            }
        }
        let columns = self.columns.iter().enumerate();
        let ends = columns.flat_map(|(column, &from)| {
            let rows = spans[from].iter().flatten();
            rows.map(move |row| (column * height + row) as u32)
        });
        Rle::of_changes(height, width, ends)
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
