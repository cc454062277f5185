//! [`Rle`]: masks as runs of pixels.

use crate::{Error, Result};

/// A mask of H x W pixels as the lengths of its runs, column by column: first of zeros, then of ones, and so on.
///
/// The first run may be empty, the others are not: masks of the same pixels are equal. The lengths add up to H W.
///
/// ```
/// use conditioned_data::Rle;
///
/// // Two columns of three rows; the lower two pixels of the first and all of the second.
/// let mask = Rle::of_counts(3, 2, vec![1, 5])?;
/// assert_eq!(mask.to_mask(), [false, true, true, true, true, true]);
/// assert_eq!((mask.area(), mask.bbox()), (5, [0.0, 0.0, 2.0, 3.0]));
/// assert_eq!(mask.compressed(), "15");
/// assert_eq!(Rle::of_string("15", 3, 2)?, mask);
///
/// let triangle = Rle::of_polygons(&[vec![0.0, 0.0, 4.0, 0.0, 0.0, 4.0]], 4, 4)?;
/// let square = Rle::of_box([0.0, 0.0, 2.0, 2.0], 4, 4)?;
/// assert_eq!((triangle.area(), square.area()), (6, 4));
/// assert_eq!(square.iou(&triangle, false)?, 4.0 / 6.0);
/// assert_eq!(square.union(&triangle)?, triangle);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
///
/// Source: `maskApi.c` of pycocotools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    height: usize,
    width: usize,
    counts: Vec<u32>,
}

impl Rle {
    /// The runs of a mask in rows: pixel (y, x) is `mask[y * width + x]`.
    ///
    /// # Panics
    /// When `mask` has not `height * width` pixels.
    pub fn of_mask(mask: &[bool], height: usize, width: usize) -> Self {
        assert_eq!(mask.len(), height * width, "a mask of another size");
        let mut changes = Vec::new();
        let mut change = |x: usize, y: usize| changes.push((x * height + y) as u32);
        // Rows are compared in blocks, which are mostly the same: columns would miss the cache at every pixel.
        const BLOCK: usize = 32;
        let rows = || mask.chunks_exact(width.max(1));
        for ((y, row), above) in (1..).zip(rows().skip(1)).zip(rows()) {
            for (i, (block, other)) in row.chunks(BLOCK).zip(above.chunks(BLOCK)).enumerate() {
                if block != other {
                    let pairs = block.iter().zip(other).enumerate();
                    pairs.filter(|(_, (a, b))| a != b).for_each(|(j, _)| change(i * BLOCK + j, y));
                }
            }
        }
        if let (Some(first), Some(last)) = (rows().next(), rows().last()) {
            let before = std::iter::once(&false).chain(last);
            let pairs = first.iter().zip(before).enumerate();
            pairs.filter(|(_, (a, b))| a != b).for_each(|(x, _)| change(x, 0));
        }
        changes.sort_unstable();
        Self::of_changes(height, width, changes)
    }

    /// The mask of these lengths of runs, of which some may be empty.
    ///
    /// # Errors
    /// When they do not add up to `height * width`, or there are no pixels or 2^32 of them.
    pub fn of_counts(height: usize, width: usize, counts: Vec<u32>) -> Result<Self> {
        let pixels = check_size(height, width)?;
        let sum: u64 = counts.iter().copied().map(u64::from).sum();
        if sum != u64::from(pixels) {
            return Err(mask(format!(
                "its runs add up to {sum} pixels, and {height} x {width} are {pixels}; write it again"
            )));
        }
        let ends = counts.into_iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        Ok(Self::of_changes(height, width, ends))
    }

    /// The mask of a compressed string: five bits of a length in each character from `0` on, the lower ones first,
    /// a sixth bit where more follow; from the fourth length on the difference to the last but one.
    ///
    /// # Errors
    /// When a character is none of these or the last one is missing, or as [`of_counts`](Self::of_counts).
    pub fn of_string(text: &str, height: usize, width: usize) -> Result<Self> {
        let mut counts: Vec<u32> = Vec::new();
        let (mut value, mut bits) = (0i64, 0);
        for (i, byte) in text.bytes().enumerate() {
            let digit = match byte {
                b'0'..=b'o' if bits < 35 => i64::from(byte - b'0'),
                _ => {
                    let found = text.get(i..).and_then(|rest| rest.chars().next()).unwrap_or('?');
                    return Err(mask(format!(
                        "character {found:?} at {i} of its string continues no length; write it again"
                    )));
                }
            };
            value |= (digit & 0x1f) << bits;
            bits += 5;
            if digit & 0x20 != 0 {
                continue;
            }
            if digit & 0x10 != 0 {
                value |= -1 << bits;
            }
            if let [_, .., before, _] = counts[..] {
                value += i64::from(before);
            }
            counts.push(u32::try_from(value).map_err(|_| {
                mask(format!(
                    "run {} of its string has length {value}; write it again",
                    counts.len()
                ))
            })?);
            (value, bits) = (0, 0);
        }
        if bits > 0 {
            return Err(mask("its string is cut short; fetch or write it again".into()));
        }
        Self::of_counts(height, width, counts)
    }

    /// The compressed string, as [`of_string`](Self::of_string) reads it.
    pub fn compressed(&self) -> String {
        let mut text = String::with_capacity(2 * self.counts.len());
        for (i, &count) in self.counts.iter().enumerate() {
            let before = if i > 2 { self.counts[i - 2] } else { 0 };
            let mut value = i64::from(count) - i64::from(before);
            loop {
                let digit = (value & 0x1f) as u8;
                value >>= 5;
                let last = value == if digit & 0x10 != 0 { -1 } else { 0 };
                text.push(char::from(b'0' + digit + if last { 0 } else { 0x20 }));
                if last {
                    break;
                }
            }
        }
        text
    }

    /// The mask whose pixels are other than those before from each of the places on, which are sorted.
    pub(super) fn of_changes(
        height: usize,
        width: usize,
        changes: impl IntoIterator<Item = u32>,
    ) -> Self {
        let end = (height * width) as u32;
        let mut places: Vec<u32> = Vec::new();
        for place in changes {
            match places.last() {
                // Twice another is the same.
                Some(&last) if last == place => drop(places.pop()),
                _ => places.push(place),
            }
        }
        if places.last() != Some(&end) {
            places.push(end);
        }
        let mut before = 0;
        for place in &mut places {
            (*place, before) = (*place - before, *place);
        }
        places.shrink_to_fit();
        Self { height, width, counts: places }
    }

    /// The mask in rows: pixel (y, x) is at `y * width + x`.
    pub fn to_mask(&self) -> Vec<bool> {
        let mut mask = vec![false; self.height * self.width];
        for [start, end] in self.spans() {
            let (mut x, mut y) = (start as usize / self.height, start as usize % self.height);
            for _ in start..end {
                mask[y * self.width + x] = true;
                y += 1;
                if y == self.height {
                    (x, y) = (x + 1, 0);
                }
            }
        }
        mask
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The lengths of its runs, in pixels.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Pixels of the object.
    pub fn area(&self) -> usize {
        self.counts.iter().skip(1).step_by(2).map(|&count| count as usize).sum()
    }

    /// Left, top, width and height of the smallest box around its pixels; zeros where it has none.
    pub fn bbox(&self) -> [f64; 4] {
        let height = self.height as u32;
        let (mut left, mut right, mut top, mut bottom) = (u32::MAX, 0, u32::MAX, 0);
        for [start, end] in self.spans() {
            let (first, last) = (start / height, (end - 1) / height);
            left = left.min(first);
            right = last;
            if first < last {
                (top, bottom) = (0, height - 1);
            } else {
                top = top.min(start % height);
                bottom = bottom.max((end - 1) % height);
            }
        }
        match left {
            u32::MAX => [0.0; 4],
            _ => [left, top, right - left + 1, bottom - top + 1].map(f64::from),
        }
    }

    /// The pixels that are in either.
    ///
    /// # Errors
    /// When the masks differ in size.
    pub fn union(&self, other: &Self) -> Result<Self> {
        self.check(other)?;
        Ok(Self::union_of(self.height, self.width, &[self, other]))
    }

    /// The pixels that are in any of the masks, all of this size.
    pub(super) fn union_of(height: usize, width: usize, masks: &[&Self]) -> Self {
        let mut spans: Vec<[u32; 2]> = masks.iter().flat_map(|mask| mask.spans()).collect();
        spans.sort_unstable();
        let mut joined: Vec<[u32; 2]> = Vec::with_capacity(spans.len());
        for [start, end] in spans {
            match joined.last_mut() {
                Some([_, last]) if start <= *last => *last = end.max(*last),
                _ => joined.push([start, end]),
            }
        }
        Self::of_changes(height, width, joined.into_iter().flatten())
    }

    /// |A and B| / |A or B| with A this mask and B the true one; of a crowd |A and B| / |A|: it may hold any
    /// number of objects. 0 where they have no pixel in common.
    ///
    /// # Errors
    /// When the masks differ in size.
    pub fn iou(&self, truth: &Self, crowd: bool) -> Result<f64> {
        self.check(truth)?;
        let areas = [self, truth].map(Self::area);
        Ok(iou_of_areas(self.intersection(truth), areas, crowd))
    }

    /// Pixels that are in both masks, of the same size.
    pub(super) fn intersection(&self, other: &Self) -> usize {
        let (mut ours, mut theirs) = (self.spans(), other.spans());
        let (mut a, mut b) = (ours.next(), theirs.next());
        let mut common = 0;
        while let (Some([start, end]), Some([from, to])) = (a, b) {
            common += end.min(to).saturating_sub(start.max(from)) as usize;
            if end < to {
                a = ours.next();
            } else {
                b = theirs.next();
            }
        }
        common
    }

    /// Where its runs of ones begin and end, in columns one after the other.
    pub(super) fn spans(&self) -> impl Iterator<Item = [u32; 2]> {
        let mut at = 0;
        self.counts.chunks_exact(2).map(move |runs| {
            let start = at + runs[0];
            at = start + runs[1];
            [start, at]
        })
    }

    /// Checks that another mask is of the same size.
    pub(super) fn check(&self, other: &Self) -> Result<()> {
        match self.size() == other.size() {
            true => Ok(()),
            false => Err(mask(format!(
                "{} x {} pixels and {} x {} of another: give masks of one image",
                self.height, self.width, other.height, other.width
            ))),
        }
    }
}

/// Intersection over union, or over the first of the areas if the second is of a crowd.
pub(super) fn iou_of_areas(common: usize, [area, truth]: [usize; 2], crowd: bool) -> f64 {
    match common {
        0 => 0.0,
        _ if crowd => common as f64 / area as f64,
        _ => common as f64 / (area + truth - common) as f64,
    }
}

/// The number of pixels of a mask.
pub(super) fn check_size(height: usize, width: usize) -> Result<u32> {
    let pixels = height.checked_mul(width).and_then(|pixels| u32::try_from(pixels).ok());
    match pixels {
        Some(0) => Err(mask(format!("{height} x {width}: no pixels; give the size of its image"))),
        Some(pixels) => Ok(pixels),
        None => Err(mask(format!("{height} x {width} pixels are 2^32 or more; make it smaller"))),
    }
}

/// What is wrong with a mask.
pub(super) fn mask(problem: String) -> Error {
    Error::Mask { problem }
}
