//! Matrix products over strided views.
//!
//! A product packs its right operand into panels, once and on all threads, and then makes pieces of its output, each a row
//! of tiles after the other (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). A left operand
//! is read where it lies, or packed too where its columns are not adjacent. The tiles are gemm's; its own products would pack
//! the right operand once for each piece, and sum small ones in another order.

use std::ops::Range;

use conditioned_threads as threads;

use super::packed::{DEPTH, Packed, Product};
use super::tiles::Tiles;
use super::{Real, Shared, View};

/// Terms whose panels are packed together.
const PACKED_DEPTH: usize = 4 * DEPTH;

/// Numbers of an operand that are packed together, at most or a panel more: what they take stays with the thread.
const PACKED: usize = 1 << 21;

/// Multiplications worth a piece of their own, a few microseconds.
const PIECE: usize = 1 << 18;

/// Pieces for each thread, so that one which is held up does not hold up the others.
const PIECES: usize = 8;

/// Rows of a piece, at least where there are so many and at most. With fewer, memory would not keep up, as a piece reads
/// all panels; with more, a copy of a left operand would not stay in the cache.
const ROWS: (usize, usize) = (96, 256);

/// Columns of a piece, at least.
const COLUMNS: usize = 128;

/// Sets some columns of a row, which are zeros, to what they begin as.
pub(crate) type Begin<'a, T> = dyn Fn(usize, Range<usize>, &mut [T]) + Sync + 'a;

/// What the elements of an output are before a product is added to them.
pub(crate) enum Onto<'a, T> {
    /// Zero.
    Nothing,
    /// What they are.
    Itself,
    /// What a function makes of zeros in some columns of a row.
    Rows(&'a Begin<'a, T>),
}

impl<T> Onto<'_, T> {
    /// Itself if `accumulate`, else zero.
    pub(crate) fn itself_if(accumulate: bool) -> Self {
        if accumulate { Self::Itself } else { Self::Nothing }
    }
}

impl<T> Clone for Onto<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Onto<'_, T> {}

/// dst <- onto + alpha lhs rhs, on all threads; inside of a loop on this thread alone.
///
/// Every element is a sum in order of k, cut every [`DEPTH`] terms. So its bits depend on nothing else: not on the number
/// of threads, the other rows and columns, or zeros behind the end of the sum; a sequence has the same bits alone and in
/// a padded batch.
///
/// # Panics
/// When shapes do not chain, the columns of `dst` are not adjacent or a view leaves its slice: an error of the calling kernel.
#[allow(unsafe_code)]
pub(crate) fn matmul<T: Real>(
    (dst, d): (&mut [T], View),
    lhs: (&[T], View),
    rhs: (&[T], View),
    alpha: T,
    onto: Onto<'_, T>,
) {
    // SAFETY: `dst` is borrowed mutably, so nobody else touches it.
    unsafe { matmul_shared((Shared::new(dst), d), lhs, rhs, alpha, onto) }
}

/// As [`matmul`], into elements that no other thread touches: the columns of one head, for example.
///
/// # Safety
/// While the call runs nobody else reads or writes the elements of the view, and the slice behind
/// `dst` is alive.
///
/// # Panics
/// As [`matmul`].
#[allow(unsafe_code)]
pub(crate) unsafe fn matmul_shared<T: Real>(
    (dst, d): (Shared<T>, View),
    (lhs, l): (&[T], View),
    (rhs, r): (&[T], View),
    alpha: T,
    onto: Onto<'_, T>,
) {
    assert!(d.rows == l.rows && d.cols == r.cols && l.cols == r.rows, "matmul shapes do not chain");
    assert!(l.end() <= lhs.len() && r.end() <= rhs.len(), "matmul view out of bounds");
    assert!(d.col_stride == 1, "matmul into columns that are not adjacent");
    if d.rows == 0 || d.cols == 0 {
        return;
    }
    let product = Product { dst: (dst.part(0, d.end()), d), lhs: (lhs, l), alpha, onto };
    let tiles = T::tiles();
    for terms in parts(0..l.cols, PACKED_DEPTH) {
        let most = PACKED / terms.len().max(1);
        let across = even(d.cols, most, tiles.cols);
        let size = piece(d.rows, across, terms.len(), &tiles);
        let multiply = |left: Option<&Packed<T>>| {
            for columns in parts(0..d.cols, across) {
                let pieces = parts(0..d.rows, size.0).flat_map(|rows| {
                    parts(columns.clone(), size.1).map(move |columns| (rows.clone(), columns))
                });
                Packed::right(&tiles, (rhs, r), (terms.clone(), columns.clone()), |right| {
                    threads::for_each(pieces, |_, (rows, columns)| {
                        // SAFETY: the views lie inside their slices (asserted above), the elements of `d` are ours alone,
                        // as the caller promises, and pieces, which begin with panels, have none in common.
                        unsafe { product.multiply(&tiles, (left, right), &rows, &columns) }
                    });
                });
            }
        };
        // Pieces side by side have the same rows: what has to be packed of those is packed once, before.
        let side_by_side = size.1 < d.cols && d.rows <= most;
        if l.col_stride != 1 && side_by_side {
            Packed::left(&tiles, (lhs, l), (terms.clone(), 0..d.rows), |left| multiply(Some(left)));
        } else {
            multiply(None);
        }
    }
}

/// alpha lhs rhs, row-major, on all threads.
///
/// # Panics
/// As [`matmul`].
pub(crate) fn product_of<T: Real>(lhs: (&[T], View), rhs: (&[T], View), alpha: T) -> Vec<T> {
    filled(lhs, rhs, alpha, Onto::Nothing)
}

/// lhs rhs, row-major, on all threads, added to what `begin` makes of zeros in some columns of a row.
///
/// # Panics
/// As [`matmul`].
pub(crate) fn product_onto<T: Real>(
    lhs: (&[T], View),
    rhs: (&[T], View),
    begin: &Begin<'_, T>,
) -> Vec<T> {
    filled(lhs, rhs, T::ONE, Onto::Rows(begin))
}

/// A product onto anything but itself.
#[allow(unsafe_code)]
fn filled<T: Real>(lhs: (&[T], View), rhs: (&[T], View), alpha: T, onto: Onto<'_, T>) -> Vec<T> {
    let view = View::rows(lhs.1.rows, rhs.1.cols, 0, rhs.1.cols);
    // SAFETY: the product writes every element of the view, which is the whole vector.
    unsafe {
        filled_by_products(view.rows * view.cols, |dst| {
            matmul_shared((dst, view), lhs, rhs, alpha, onto);
        })
    }
}

/// A vector of `len` elements that products, or zeros, are written to.
///
/// # Safety
/// `write` writes every element (a product that does not accumulate writes its whole view), and
/// accumulates only onto written ones.
#[allow(unsafe_code)]
pub(crate) unsafe fn filled_by_products<T: Real>(
    len: usize,
    write: impl FnOnce(Shared<T>),
) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    // SAFETY: the vector has room for so many, and the caller promises that they are written.
    unsafe {
        write(Shared::at(out.as_mut_ptr(), len));
        out.set_len(len);
    }
    out
}

/// A range in parts of `size`, the last of what is left; an empty one in one part, as the sum of no terms is zero.
pub(crate) fn parts(
    range: Range<usize>,
    size: usize,
) -> impl Iterator<Item = Range<usize>> + Clone {
    let starts = range.start..range.end.max(range.start + 1);
    starts.step_by(size).map(move |from| from..range.end.min(from + size))
}

/// The size of parts of `len`: as few as `most` allows, and as even as multiples of `step` are.
fn even(len: usize, most: usize, step: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1)).next_multiple_of(step)
}

/// Rows and columns of a piece of an output: as many pieces for every thread, if they are worth it.
fn piece<T: Real>(rows: usize, cols: usize, depth: usize, tiles: &Tiles<T>) -> (usize, usize) {
    let worth = (rows * cols * depth / PIECE).max(1);
    let threads = threads::count().min(worth);
    let least = if threads == 1 { 1 } else { worth.min(PIECES * threads) };
    let down = rows.div_ceil(ROWS.1).max(least.min(rows / ROWS.0)).max(1);
    let down = if down < least { down } else { down.next_multiple_of(threads) };
    let across = least.div_ceil(down);
    let even = (across..=2 * across).find(|across| down * across % threads == 0);
    let across = even.unwrap_or(across).min(cols / COLUMNS).max(1);
    let size = |len: usize, parts: usize, step: usize| len.div_ceil(parts).next_multiple_of(step);
    (size(rows, down, tiles.rows), size(cols, across, tiles.cols))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tiles::Tiled;

    /// Rows of `cols` that lie next to each other, one below the other, or apart in both directions.
    fn layouts(rows: usize, cols: usize) -> [View; 3] {
        let strides = [(cols + 1, 1), (1, rows + 2), (2 * cols + 3, 2)];
        strides.map(|(row_stride, col_stride)| View {
            rows,
            cols,
            start: 3,
            row_stride,
            col_stride,
        })
    }

    /// Sums of up to 2500 products of numbers up to 1, in f64.
    const SUM_TOLERANCE: f64 = 1e-12;

    #[test]
    fn a_product_onto_anything_equals_the_definition_and_leaves_the_rest() {
        let begin: &Begin<'_, f64> = &|row, columns, y| {
            columns.zip(y).for_each(|(col, y)| *y += row as f64 - 3.0 * col as f64);
        };
        // Of no terms; less than a tile; more than one panel, block and piece; more than is packed together.
        let shapes =
            [(2, 3, 0), (1, 1, 1), (7, 70, 3), (5, 1, 600), (300, 150, 520), (13, 1100, 2500)];
        for (rows, cols, depth) in shapes {
            let large = rows * cols * depth > 10_000_000;
            let numbers = |view: View, f: fn(f64) -> f64| -> Vec<f64> {
                (0..view.end().max(3)).map(|i| f(i as f64)).collect()
            };
            let element = |values: &[f64], view: View, i: usize, j: usize| {
                values[view.start + i * view.row_stride + j * view.col_stride]
            };
            for (l, r) in
                layouts(rows, depth).into_iter().zip(layouts(depth, cols).into_iter().rev())
            {
                let (lhs, rhs) = (numbers(l, f64::sin), numbers(r, f64::cos));
                for onto in [Onto::Nothing, Onto::Itself, Onto::Rows(begin)] {
                    let d = View::rows(rows, cols, 2, cols + 4);
                    let before: Vec<f64> = (0..d.end() + 5).map(|i| i as f64).collect();
                    let mut dst = before.clone();
                    matmul((&mut dst, d), (&lhs, l), (&rhs, r), 0.5, onto);
                    for (at, (&value, &before)) in dst.iter().zip(&before).enumerate() {
                        let place =
                            at.checked_sub(d.start).map(|at| (at / (cols + 4), at % (cols + 4)));
                        let want = match (place, onto) {
                            (Some((i, j)), _) if i < rows && j < cols => {
                                // Every element of a large one would take long.
                                if large && (i * cols + j) % 101 != 0 {
                                    continue;
                                }
                                let terms = (0..depth)
                                    .map(|k| element(&lhs, l, i, k) * element(&rhs, r, k, j));
                                let product = 0.5 * terms.sum::<f64>();
                                match onto {
                                    Onto::Nothing => product,
                                    Onto::Itself => before + product,
                                    Onto::Rows(_) => i as f64 - 3.0 * j as f64 + product,
                                }
                            }
                            _ => before,
                        };
                        let error = (value - want).abs() / want.abs().max(1.0);
                        assert!(
                            error < SUM_TOLERANCE,
                            "{rows} x {depth} x {cols}, {at}: {value}, not {want}"
                        );
                    }
                }
            }
        }
    }

    /// lhs rhs of random entries, with a left operand of adjacent or distant columns.
    fn of_rows<T: Real>(
        lhs: &[T],
        rows: usize,
        rhs: &[T],
        cols: usize,
        adjacent: [bool; 2],
    ) -> Vec<T> {
        let depth = rhs.len() / cols;
        let across: Vec<T> = (0..depth * rows).map(|i| lhs[i % rows * depth + i / rows]).collect();
        let l = match adjacent[0] {
            true => (lhs, View::rows(rows, depth, 0, depth)),
            false => (&across[..], View::rows(depth, rows, 0, rows).t()),
        };
        let r = match adjacent[1] {
            true => View::rows(cols, depth, 0, depth).t(),
            false => View::rows(depth, cols, 0, cols),
        };
        let mut dst = vec![T::ONE; rows * cols];
        matmul((&mut dst, View::rows(rows, cols, 0, cols)), l, (rhs, r), T::ONE, Onto::Itself);
        dst
    }

    #[test]
    fn pieces_are_worth_their_thread_and_as_many_for_each() {
        let tiles = f32::tiles();
        let pieces = |[rows, cols, depth]: [usize; 3], count| {
            let (r, c) = threads::with_count(count, || piece(rows, cols, depth, &tiles));
            rows.div_ceil(r) * cols.div_ceil(c)
        };
        // A small product is one piece however many threads there are, a somewhat larger one as many as it is worth.
        assert_eq!(pieces([64, 192, 10], 16), 1);
        assert_eq!(pieces([90, 640, 16], 16), 3);
        for shape in [[1576, 384, 1152], [1576, 1536, 384], [768, 4160, 192], [192, 768, 4160]] {
            assert_eq!(pieces(shape, 2) % 2, 0, "{shape:?}");
            assert!(pieces(shape, 2) >= 8, "{shape:?}");
        }
        let (_, columns) = threads::with_count(16, || piece(12_000, 2048, 512, &tiles));
        assert!(columns >= 512, "a transposed operand would be copied for every {columns} columns");
    }

    #[test]
    fn the_bits_of_a_product_do_not_depend_on_how_it_is_cut() {
        let shapes = [(128, 3, 2048), (600, 2, 1500), (400, 70, 530), (97, 530, 300)];
        for (rows, cols, depth) in shapes {
            let wave = |i: usize| (0.7 * i as f64).sin() as f32;
            let lhs: Vec<f32> = (0..rows * depth).map(wave).collect();
            let rhs: Vec<f32> = (0..depth * cols).map(|i| wave(3 * i)).collect();
            for adjacent in [[true, true], [true, false], [false, true], [false, false]] {
                let on = |count| {
                    threads::with_count(count, || of_rows(&lhs, rows, &rhs, cols, adjacent))
                };
                let whole = on(1);
                for count in [2, 3, 8] {
                    assert!(whole == on(count), "({rows}, {depth}) x ({depth}, {cols}), {count}");
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn the_bits_of_a_row_do_not_depend_on_other_rows(
            rows in 1usize..90, of in 0usize..9, cols in 1usize..90, depth in 1usize..1300,
            adjacent in proptest::array::uniform2(proptest::bool::ANY),
        ) {
            let kept = 1 + of * (rows - 1) / 8;
            let wave = |i: usize| (0.7 * i as f64).sin();
            let (lhs, rhs): (Vec<f32>, Vec<f32>) = (
                (0..rows * depth).map(|i| wave(i) as f32).collect(),
                (0..depth * cols).map(|i| wave(3 * i) as f32).collect(),
            );
            let all = of_rows(&lhs, rows, &rhs, cols, adjacent);
            let some = of_rows(&lhs[..kept * depth], kept, &rhs, cols, adjacent);
            proptest::prop_assert!(all[..kept * cols] == some[..]);
        }

        #[test]
        fn zeros_behind_a_sum_leave_its_bits(
            rows in 1usize..40, cols in 1usize..40, depth in 1usize..900, zeros in 0usize..900,
        ) {
            let value = |row: usize, k: usize| match k < depth {
                true => (0.7 * (row * 977 + k) as f32).sin(),
                false => 0.0,
            };
            let operand = |rows: usize, depth: usize| -> Vec<f32> {
                (0..rows * depth).map(|i| value(i / depth, i % depth)).collect()
            };
            let of = |depth: usize| {
                of_rows(&operand(rows, depth), rows, &operand(cols, depth), cols, [true; 2])
            };
            proptest::prop_assert!(of(depth) == of(depth + zeros));
        }
    }
}
