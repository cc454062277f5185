//! Packed operands, and the loops around the tiles.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::thread::LocalKey;

use conditioned_threads as threads;
use gemm_common::cache::CACHE_INFO;

use super::copy::copy_to_panels;
use super::matmul::{Onto, parts};
use super::tiles::Tiles;
use super::{Real, Shared, View};

/// Terms of a sum that a tile adds up before they are added to the output: a block.
pub(crate) const DEPTH: usize = 512;

/// Numbers that are packed at once, about.
const AT_ONCE: usize = 1 << 14;

/// Those of a row among them, at least where there are so many.
const ADJACENT: usize = 128;

/// What a product is besides its right operand.
pub(crate) struct Product<'a, T> {
    /// The output, with adjacent columns.
    pub(crate) dst: (Shared<T>, View),
    /// The left operand.
    pub(crate) lhs: (&'a [T], View),
    /// The factor of the product.
    pub(crate) alpha: T,
    /// What it is added to.
    pub(crate) onto: Onto<'a, T>,
}

/// Some columns of the rows `terms` of a matrix, packed for the tiles.
///
/// Block by block of [`DEPTH`] rows and panel by panel of `width` columns: row by row, with zeros behind the last column.
pub(crate) struct Packed<T: 'static> {
    width: usize,
    terms: Range<usize>,
    columns: Range<usize>,
    panels: Shared<T>,
}

impl<T: Real> Packed<T> {
    /// Packs them on all threads into `scratch` and calls `work` with them.
    fn with<R>(
        scratch: &'static LocalKey<Cell<Vec<Line>>>,
        width: usize,
        (matrix, view): (&[T], View),
        (terms, columns): (Range<usize>, Range<usize>),
        work: impl FnOnce(&Self) -> R,
    ) -> R {
        let len = terms.len() * columns.len().next_multiple_of(width);
        with_scratch(scratch, len, |panels| {
            let packed = Self { width, terms, columns, panels };
            packed.fill((matrix, view));
            work(&packed)
        })
    }

    /// A right operand in panels as wide as a tile.
    pub(crate) fn right<R>(
        tiles: &Tiles<T>,
        operand: (&[T], View),
        part: (Range<usize>, Range<usize>),
        work: impl FnOnce(&Self) -> R,
    ) -> R {
        Self::with(&RIGHT, tiles.cols, operand, part, work)
    }

    /// A left operand, as the columns of its transpose, in panels as wide as a tile is high.
    pub(crate) fn left<R>(
        tiles: &Tiles<T>,
        (lhs, l): (&[T], View),
        part: (Range<usize>, Range<usize>),
        work: impl FnOnce(&Self) -> R,
    ) -> R {
        Self::with(&LEFT, tiles.rows, (lhs, l.t()), part, work)
    }

    #[allow(unsafe_code)]
    fn fill(&self, (matrix, view): (&[T], View)) {
        let width = self.width;
        let (rows, columns) = at_once(self.terms.len().min(DEPTH), self.columns.len(), width);
        let pieces = parts(self.terms.clone(), DEPTH).flat_map(|block| {
            parts(block.clone(), rows).flat_map(move |terms| {
                let block = block.clone();
                parts(self.columns.clone(), columns)
                    .map(move |columns| (block.clone(), terms.clone(), columns))
            })
        });
        threads::for_each(pieces, |_, (block, terms, columns)| {
            let from = (matrix, view.part(&terms, &columns));
            let to = self.panels.part(self.at(&block, columns.start), 0).start();
            let to = to.wrapping_add((terms.start - block.start) * width);
            // SAFETY: these rows of these panels are written here alone.
            unsafe { copy_to_panels(from, to, (width, block.len() * width)) }
        });
    }

    /// Where the panel of one block begins that begins with a column.
    fn at(&self, terms: &Range<usize>, column: usize) -> usize {
        let width = self.columns.len().next_multiple_of(self.width);
        (terms.start - self.terms.start) * width + (column - self.columns.start) * terms.len()
    }

    /// That panel.
    fn panel(&self, terms: &Range<usize>, column: usize) -> *const T {
        self.panels.part(self.at(terms, column), terms.len() * self.width).start()
    }
}

/// Where a row of a left operand begins that is the first of a tile, and how far rows and terms lie apart.
type RowAt<'a, T> = dyn Fn(usize) -> (*const T, [usize; 2]) + 'a;

impl<T: Real> Product<'_, T> {
    /// Some rows and columns of it, for the terms that are packed; they begin with a panel of what is packed.
    ///
    /// A left operand whose columns are adjacent is read where it lies; one that is not packed is packed here.
    ///
    /// # Safety
    /// They are rows of the product and columns of those that are packed, and nobody else reads or writes them. The views lie
    /// inside their slices, and the left operand has the terms that are packed; if it is packed, all rows of the same terms.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn multiply(
        &self,
        tiles: &Tiles<T>,
        (left, right): (Option<&Packed<T>>, &Packed<T>),
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) {
        let (lhs, l) = self.lhs;
        for terms in parts(right.terms.clone(), DEPTH) {
            let multiply = |left: &RowAt<'_, T>| {
                // SAFETY: promised by the caller.
                unsafe { self.block(tiles, (left, right), rows, columns, &terms) }
            };
            let of_packed = |left: &Packed<T>| {
                multiply(&|row| (left.panel(&terms, row), [1, tiles.rows]));
            };
            if l.col_stride == 1 {
                multiply(&|row| {
                    let at = l.start + row * l.row_stride + terms.start;
                    (lhs.as_ptr().wrapping_add(at), [l.row_stride, 1])
                });
            } else if let Some(left) = left {
                of_packed(left);
            } else {
                Packed::left(tiles, (lhs, l), (terms.clone(), rows.clone()), of_packed);
            }
        }
    }

    /// The terms of one block.
    ///
    /// # Safety
    /// As [`Product::multiply`].
    #[allow(unsafe_code)]
    unsafe fn block(
        &self,
        tiles: &Tiles<T>,
        (left, right): (&RowAt<'_, T>, &Packed<T>),
        rows: &Range<usize>,
        columns: &Range<usize>,
        terms: &Range<usize>,
    ) {
        let (dst, d) = self.dst;
        let at = |row, col| d.start + row * d.row_stride + col;
        let onto = if terms.start > 0 { Onto::Itself } else { self.onto };
        let accumulate = !matches!(onto, Onto::Nothing);
        // Panels that stay in the second cache, beside rows and output, while all rows are multiplied by them.
        let bytes = (terms.len() * tiles.cols * size_of::<T>()).max(1);
        let group = (CACHE_INFO[1].cache_bytes / 3 / bytes).max(1) * tiles.cols;
        for group in parts(columns.clone(), group) {
            for tile_rows in parts(rows.clone(), tiles.rows) {
                if let Onto::Rows(begin) = onto {
                    for row in tile_rows.clone() {
                        let part = dst.part(at(row, group.start), group.len());
                        // SAFETY: promised by the caller.
                        begin(row, group.clone(), unsafe { part.zeros() });
                    }
                }
                let lhs = left(tile_rows.start);
                for columns in parts(group.clone(), tiles.cols) {
                    let size = (tile_rows.len(), columns.len(), terms.len());
                    let to = dst.part(at(tile_rows.start, columns.start), 0).start();
                    let rhs = right.panel(terms, columns.start);
                    // SAFETY: promised by the caller.
                    unsafe {
                        tiles.multiply(size, (to, d.row_stride), lhs, rhs, self.alpha, accumulate);
                    }
                }
            }
        }
    }
}

/// Rows and columns that are packed at once, of so many in a block: whole panels.
fn at_once(rows: usize, columns: usize, width: usize) -> (usize, usize) {
    let across = (AT_ONCE / rows.clamp(1, AT_ONCE / ADJACENT)).next_multiple_of(width);
    (AT_ONCE / across.min(columns.next_multiple_of(width)).clamp(1, AT_ONCE), across)
}

thread_local! {
    /// For packed right operands.
    static RIGHT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// For packed left operands.
    static LEFT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// A cache line, which begins where vectors do.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code, reason = "only its place is used")] [MaybeUninit<u8>; 64]);

/// Calls `work` with room for `len` numbers, which the thread keeps for the next call.
#[allow(unsafe_code)]
fn with_scratch<T: Real, R>(
    scratch: &'static LocalKey<Cell<Vec<Line>>>,
    len: usize,
    work: impl FnOnce(Shared<T>) -> R,
) -> R {
    let mut lines = scratch.take();
    let wanted = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    if lines.len() < wanted {
        lines = vec![Line([MaybeUninit::uninit(); 64]); wanted];
    }
    // SAFETY: so long are the lines, which nobody else has until they are put back.
    let result = work(unsafe { Shared::at(lines.as_mut_ptr().cast(), len) });
    scratch.set(lines);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads are not woken for a few numbers, and rows are read in stretches of some length.
    #[test]
    fn small_operands_are_packed_in_one_piece() {
        for width in [4, 6, 16, 64] {
            for (rows, columns) in
                [(0, 5), (5, 0), (10, 192), (16, 640), (384, 10), (8, 1500), (1, 10_000)]
            {
                let (down, across) = at_once(rows, columns, width);
                assert!(across.is_multiple_of(width) && down > 0);
                let pieces = rows.div_ceil(down) * columns.div_ceil(across);
                let numbers = rows * columns.next_multiple_of(width);
                assert!(
                    pieces <= numbers.div_ceil(AT_ONCE),
                    "{rows} x {columns} by {width}: {pieces}"
                );
            }
            let (down, across) = at_once(DEPTH, 1536, width);
            assert!(across >= ADJACENT && down * across <= AT_ONCE && 2 * down * across > AT_ONCE);
        }
    }
}
