//! Products with a packed right operand: the loops around the tiles.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::thread::LocalKey;

use conditioned_threads as threads;
use gemm_common::cache::CACHE_INFO;

use super::copy::copy;
use super::matmul::{Onto, parts};
use super::tiles::Tiles;
use super::{Real, Shared, View};

/// Terms of a sum that a tile adds up before they are added to the output: a block.
pub(crate) const DEPTH: usize = 512;

/// Numbers that are packed at once.
const AT_ONCE: usize = 1 << 14;

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

/// Some rows, the terms of a sum, and columns of a right operand, packed for the tiles.
///
/// Block by block of [`DEPTH`] rows and panel by panel of as many columns as a tile: row by row, with zeros behind the
/// last column.
pub(crate) struct Packed<'a, T: 'static> {
    tiles: &'a Tiles<T>,
    terms: Range<usize>,
    columns: Range<usize>,
    panels: Shared<T>,
}

impl<'a, T: Real> Packed<'a, T> {
    /// Packs them on all threads and calls `work` with them.
    pub(crate) fn with<R>(
        tiles: &'a Tiles<T>,
        (rhs, r): (&[T], View),
        terms: Range<usize>,
        columns: Range<usize>,
        work: impl FnOnce(&Self) -> R,
    ) -> R {
        let width = columns.len().next_multiple_of(tiles.cols);
        with_scratch(&PANELS, terms.len() * width, |panels| {
            let packed = Self { tiles, terms, columns, panels };
            packed.fill((rhs, r));
            work(&packed)
        })
    }

    #[allow(unsafe_code)]
    fn fill(&self, (rhs, r): (&[T], View)) {
        let width = self.tiles.cols;
        let panels = (AT_ONCE / (width * self.terms.len().clamp(1, DEPTH))).max(1);
        let pieces = parts(self.terms.clone(), DEPTH).flat_map(|terms| {
            parts(self.columns.clone(), panels * width).map(move |columns| (terms.clone(), columns))
        });
        threads::for_each(pieces, |_, (terms, columns)| {
            for columns in parts(columns, width) {
                let (view, panel) = (r.part(&terms, &columns), self.panel(&terms, columns.start));
                // SAFETY: a panel is written here alone.
                unsafe {
                    if view.cols < width {
                        panel.zero(View::rows(view.rows, width - view.cols, view.cols, width));
                    }
                    copy(rhs, view, panel.start(), width);
                }
            }
        });
    }

    /// The panel of one block that begins with a column.
    fn panel(&self, terms: &Range<usize>, column: usize) -> Shared<T> {
        let width = self.columns.len().next_multiple_of(self.tiles.cols);
        let block = (terms.start - self.terms.start) * width;
        let before = (column - self.columns.start) * terms.len();
        self.panels.part(block + before, terms.len() * self.tiles.cols)
    }

    /// Some rows and columns of a product; the columns begin with a panel.
    ///
    /// # Safety
    /// They are rows of the product and columns of those that are packed, and nobody else reads or writes them. The views lie
    /// inside their slices, and the left operand has the terms that are packed.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn multiply(
        &self,
        product: &Product<'_, T>,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) {
        let (lhs, l) = product.lhs;
        for terms in parts(self.terms.clone(), DEPTH) {
            let view = l.part(rows, &terms);
            // SAFETY: promised by the caller; the scratch has room for the copy.
            unsafe {
                if view.col_stride == 1 {
                    let lhs = lhs.as_ptr().wrapping_add(view.start);
                    self.block(product, (lhs, view.row_stride), rows, columns, &terms);
                } else {
                    with_scratch(&LEFT, view.rows * view.cols, |left| {
                        copy(lhs, view, left.start(), view.cols);
                        self.block(product, (left.start(), view.cols), rows, columns, &terms);
                    });
                }
            }
        }
    }

    /// The terms of one block, by a left operand of adjacent columns.
    ///
    /// # Safety
    /// As [`Packed::multiply`].
    #[allow(unsafe_code)]
    unsafe fn block(
        &self,
        product: &Product<'_, T>,
        (lhs, stride): (*const T, usize),
        rows: &Range<usize>,
        columns: &Range<usize>,
        terms: &Range<usize>,
    ) {
        let (tiles, (dst, d)) = (self.tiles, product.dst);
        let onto = if terms.start > 0 { Onto::Itself } else { product.onto };
        let accumulate = !matches!(onto, Onto::Nothing);
        // Panels that stay in the second cache, beside rows and output, while all rows are multiplied by them.
        let bytes = (terms.len() * tiles.cols * size_of::<T>()).max(1);
        let group = (CACHE_INFO[1].cache_bytes / 3 / bytes).max(1) * tiles.cols;
        for group in parts(columns.clone(), group) {
            for tile_rows in parts(rows.clone(), tiles.rows) {
                let at = |row, col| d.start + row * d.row_stride + col;
                if let Onto::Rows(begin) = onto {
                    for row in tile_rows.clone() {
                        let part = dst.part(at(row, group.start), group.len());
                        // SAFETY: promised by the caller.
                        begin(row, group.clone(), unsafe { part.zeros() });
                    }
                }
                let lhs = lhs.wrapping_add((tile_rows.start - rows.start) * stride);
                for columns in parts(group.clone(), tiles.cols) {
                    let size = (tile_rows.len(), columns.len(), terms.len());
                    let to = dst.part(at(tile_rows.start, columns.start), 0).start();
                    let to = (to, d.row_stride);
                    let panel = self.panel(terms, columns.start).start();
                    // SAFETY: promised by the caller.
                    unsafe {
                        tiles.multiply(size, to, (lhs, stride), panel, product.alpha, accumulate);
                    }
                }
            }
        }
    }
}

thread_local! {
    /// For packed right operands.
    static PANELS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// For copies of left operands.
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
