//! Matrix products over strided views.

use std::ops::Range;

use conditioned_threads as threads;

use super::Real;

/// Up to so many elements gemm may sum a product in lanes.
const FEW: usize = 16 * 16;

/// The longest sum that gemm never cuts into blocks.
const DEPTH: usize = 512;

/// Multiplications worth a piece of their own, a few microseconds.
const PIECE: usize = 1 << 18;

/// Pieces for each thread, so that one which is held up does not hold up the others.
const PIECES: usize = 2;

/// Pieces begin at multiples of so many rows and columns, which the kernels of gemm take at once.
const CORNER: (usize, usize) = (12, 64);

/// A strided view of a matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct View {
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) cols: usize,
    /// Offset of the first element.
    pub(crate) start: usize,
    /// Distance between rows.
    pub(crate) row_stride: usize,
    /// Distance between columns.
    pub(crate) col_stride: usize,
}

impl View {
    /// A row-major matrix of `rows` x `cols` at `start` whose rows lie `row_stride` apart.
    pub(crate) fn rows(rows: usize, cols: usize, start: usize, row_stride: usize) -> Self {
        Self { rows, cols, start, row_stride, col_stride: 1 }
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            start: self.start,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// The part of some rows and columns.
    fn part(self, rows: &Range<usize>, cols: &Range<usize>) -> Self {
        Self {
            rows: rows.len(),
            cols: cols.len(),
            start: self.start + rows.start * self.row_stride + cols.start * self.col_stride,
            ..self
        }
    }

    /// One past the last element that the view touches.
    fn end(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        self.start + (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }
}

/// dst <- alpha lhs rhs (+ dst when `accumulate`).
///
/// `parallel` lets the product use all threads; without it the call is serial, for use inside a
/// piece. The split is over the output, so the bits do not depend on it. Nor do the bits of a row
/// depend on the other rows, or on zeros behind its end: a sequence has the same bits alone and in
/// a padded batch.
///
/// # Panics
/// When shapes do not chain or a view leaves its slice: an error of the calling kernel.
#[allow(unsafe_code)]
pub(crate) fn matmul<T: Real>(
    (dst, d): (&mut [T], View),
    lhs: (&[T], View),
    rhs: (&[T], View),
    alpha: T,
    accumulate: bool,
    parallel: bool,
) {
    // SAFETY: `dst` is borrowed mutably, so nobody else touches it.
    unsafe { product((Shared::new(dst), d), lhs, rhs, alpha, accumulate, parallel) }
}

/// alpha lhs rhs, row-major, on all threads.
///
/// # Panics
/// As [`matmul`].
#[allow(unsafe_code)]
pub(crate) fn product_of<T: Real>(lhs: (&[T], View), rhs: (&[T], View), alpha: T) -> Vec<T> {
    let view = View::rows(lhs.1.rows, rhs.1.cols, 0, rhs.1.cols);
    // SAFETY: the product writes every element of the view, which is the whole vector.
    unsafe {
        filled_by_products(view.rows * view.cols, |dst| {
            product((dst, view), lhs, rhs, alpha, false, true);
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
    write(Shared { start: out.as_mut_ptr(), len });
    // SAFETY: promised by the caller.
    unsafe { out.set_len(len) };
    out
}

/// A slice that several threads write to, each to its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

impl<T> Shared<T> {
    /// Shares `slice`, which must stay borrowed while it is written to.
    fn new(slice: &mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The part of `len` elements from `start` on.
    ///
    /// # Panics
    /// When there is no such part: an error of the calling kernel.
    #[allow(unsafe_code)]
    pub(crate) fn part(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "a part beyond its slice");
        // SAFETY: inside the allocation, by the assertion.
        Self { start: unsafe { self.start.add(start) }, len }
    }

    /// Writes `values` from `start` on.
    ///
    /// # Safety
    /// As [`matmul_shared`].
    ///
    /// # Panics
    /// When they do not fit: an error of the calling kernel.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn write(self, start: usize, values: &[T])
    where
        T: Real,
    {
        assert!(start + values.len() <= self.len, "values beyond their slice");
        // SAFETY: inside the allocation, by the assertion; `values` is borrowed from elsewhere.
        unsafe {
            let to = self.start.add(start);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }

    /// Writes zeros to the elements of a view with adjacent columns.
    ///
    /// # Safety
    /// As [`matmul_shared`].
    ///
    /// # Panics
    /// When the view leaves the slice: an error of the calling kernel.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn zero(self, view: View)
    where
        T: Real,
    {
        assert!(view.end() <= self.len && view.col_stride == 1, "zeros beyond their slice");
        for row in 0..view.rows {
            // SAFETY: inside the allocation, by the assertion; a float of zero bytes is zero.
            unsafe {
                let row = self.start.add(view.start + row * view.row_stride);
                std::ptr::write_bytes(row, 0, view.cols);
            }
        }
    }
}

// SAFETY: a pointer that is only written through by `matmul_shared`, whose callers promise that no
// two threads touch the same element.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Shared<T> {}

/// dst <- alpha lhs rhs (+ dst when `accumulate`), serial, into elements that no other thread
/// touches: the columns of one head, for example.
///
/// # Safety
/// While the call runs nobody else reads or writes the elements of the view, and the slice behind
/// `dst` is alive.
///
/// # Panics
/// As [`matmul`].
#[allow(unsafe_code)]
pub(crate) unsafe fn matmul_shared<T: Real>(
    dst: (Shared<T>, View),
    lhs: (&[T], View),
    rhs: (&[T], View),
    alpha: T,
    accumulate: bool,
) {
    // SAFETY: promised by the caller.
    unsafe { product(dst, lhs, rhs, alpha, accumulate, false) }
}

/// The product behind both.
///
/// # Safety
/// As [`matmul_shared`].
#[allow(unsafe_code)]
unsafe fn product<T: Real>(
    (dst, d): (Shared<T>, View),
    (lhs, l): (&[T], View),
    (rhs, r): (&[T], View),
    alpha: T,
    accumulate: bool,
    parallel: bool,
) {
    assert!(d.rows == l.rows && d.cols == r.cols && l.cols == r.rows, "matmul shapes do not chain");
    assert!(
        d.end() <= dst.len && l.end() <= lhs.len() && r.end() <= rhs.len(),
        "matmul view out of bounds"
    );
    let adjacent = l.col_stride == 1 && r.row_stride == 1;
    let few = d.rows < 2 || d.cols < 2 || l.cols < 3 || adjacent && d.rows * d.cols <= FEW;
    // SAFETY: the views lie inside their slices (asserted above), and the elements of `d` are ours
    // alone and so overlap neither operand.
    unsafe {
        match few {
            true => by_copies((dst, d), (lhs, l), (rhs, r), alpha, accumulate, parallel),
            false => in_pieces((dst, d), (lhs, l), (rhs, r), alpha, accumulate, parallel),
        }
    }
}

/// A small product, on copies for which gemm has no way of its own.
///
/// gemm sums the products of one row or column, those of few elements with adjacent operands, and
/// sums of one or two terms in another order than all others. The bits of a row would depend on
/// how many rows there are, and those of a sequence on its batch.
///
/// # Safety
/// As [`matmul_shared`], with views inside their slices.
#[allow(unsafe_code)]
unsafe fn by_copies<T: Real>(
    (dst, d): (Shared<T>, View),
    (mut lhs, mut l): (&[T], View),
    (mut rhs, mut r): (&[T], View),
    alpha: T,
    accumulate: bool,
    parallel: bool,
) {
    let (rows, cols, depth) = (d.rows.max(2), d.cols.max(2), l.cols.max(3));
    let (left, right);
    if d.rows < 2 || l.cols < 3 || d.rows * d.cols <= FEW {
        // Its columns are adjacent then, and its rows are not.
        left = enlarged(lhs, l.t(), depth, rows);
        (lhs, l) = (&left, View::rows(depth, rows, 0, rows).t());
    }
    if d.cols < 2 || r.rows < 3 {
        right = enlarged(rhs, r, depth, cols);
        (rhs, r) = (&right, View::rows(depth, cols, 0, cols));
    }
    let mut out = vec![T::ZERO; rows * cols];
    let at = |row, col| d.start + row * d.row_stride + col * d.col_stride;
    let places = || (0..d.rows).flat_map(|row| (0..d.cols).map(move |col| (row, col)));
    // SAFETY: `at` is an element of the view, which is inside its slice and ours.
    unsafe {
        if accumulate {
            places().for_each(|(i, j)| out[i * cols + j] = *dst.start.add(at(i, j)));
        }
        let to = (Shared::new(&mut out), View::rows(rows, cols, 0, cols));
        in_pieces(to, (lhs, l), (rhs, r), alpha, accumulate, parallel);
        places().for_each(|(i, j)| *dst.start.add(at(i, j)) = out[i * cols + j]);
    }
}

/// A copy of a matrix, row-major, with zeros below and beside it up to `rows` x `cols`.
fn enlarged<T: Real>(from: &[T], view: View, rows: usize, cols: usize) -> Vec<T> {
    let mut copy = vec![T::ZERO; rows * cols];
    for (row, copy) in copy.chunks_exact_mut(cols).take(view.rows).enumerate() {
        for (col, copy) in copy.iter_mut().take(view.cols).enumerate() {
            *copy = from[view.start + row * view.row_stride + col * view.col_stride];
        }
    }
    copy
}

/// The product, in pieces of the output on all threads where it is `parallel`.
///
/// gemm's own way on several threads lets them wait for each other twice, and some of its packing is done by one.
///
/// # Safety
/// As [`by_copies`].
#[allow(unsafe_code)]
unsafe fn in_pieces<T: Real>(
    (dst, d): (Shared<T>, View),
    (lhs, l): (&[T], View),
    (rhs, r): (&[T], View),
    alpha: T,
    accumulate: bool,
    parallel: bool,
) {
    let (down, across) = match parallel {
        true => grid(d.rows, d.cols, l.cols),
        false => (1, 1),
    };
    let depth = 0..l.cols;
    threads::for_each(0..down * across, |_, piece| {
        let rows = cut(d.rows, down, piece / across, CORNER.0);
        let cols = cut(d.cols, across, piece % across, CORNER.1);
        let d = d.part(&rows, &cols);
        // SAFETY: promised by the caller; pieces share no element of the output.
        unsafe {
            let (l, r) = (l.part(&rows, &depth), r.part(&depth, &cols));
            in_blocks((dst, d), (lhs, l), (rhs, r), alpha, accumulate);
        }
    });
}

/// How many pieces the output is cut into, down and across: those for which the operands are packed least often.
fn grid(rows: usize, cols: usize, depth: usize) -> (usize, usize) {
    let threads = threads::count();
    let most = (rows * cols * depth / PIECE).min(PIECES * threads);
    if threads == 1 || most < 2 {
        return (1, 1);
    }
    // No piece has few elements, which gemm sums in another order.
    let least_rows = (4 * CORNER.0).max((FEW / cols + 1).next_multiple_of(CORNER.0));
    let most_across = (cols / (4 * CORNER.1)).clamp(1, most);
    let grids = (1..=most_across).map(|across| {
        let down = (most / across).min(rows / least_rows).max(1);
        (down, across)
    });
    let packed = |&(down, across): &(usize, usize)| {
        (std::cmp::Reverse(down * across), down * cols + across * rows)
    };
    grids.min_by_key(packed).unwrap_or((1, 1))
}

/// Part `i` of `len` things in `parts` of about equal size that begin at multiples of `step`.
fn cut(len: usize, parts: usize, i: usize, step: usize) -> Range<usize> {
    let begin = |i: usize| if i == parts { len } else { i * len / parts / step * step };
    begin(i)..begin(i + 1)
}

/// The product as a sum over blocks of [`DEPTH`] columns of the left operand.
///
/// gemm cuts a long sum into equal blocks, whose length depends on that of the sum: a padded
/// sequence would be summed otherwise than a sequence alone.
///
/// # Safety
/// As [`by_copies`].
#[allow(unsafe_code)]
unsafe fn in_blocks<T: Real>(
    (dst, d): (Shared<T>, View),
    (lhs, l): (&[T], View),
    (rhs, r): (&[T], View),
    alpha: T,
    accumulate: bool,
) {
    // An empty sum writes zeros.
    for from in (0..l.cols.max(1)).step_by(DEPTH) {
        // SAFETY: promised by the caller; the block is inside the operands, and gemm touches
        // nothing outside the three views.
        unsafe {
            gemm::gemm(
                d.rows,
                d.cols,
                DEPTH.min(l.cols - from),
                dst.start.add(d.start),
                d.col_stride as isize,
                d.row_stride as isize,
                accumulate || from > 0,
                lhs.as_ptr().wrapping_add(l.start + from * l.col_stride),
                l.col_stride as isize,
                l.row_stride as isize,
                rhs.as_ptr().wrapping_add(r.start + from * r.row_stride),
                r.col_stride as isize,
                r.row_stride as isize,
                T::ONE,
                alpha,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strided_product_equals_the_definition() {
        let lhs: Vec<f64> = (0..60).map(|i| (i as f64).sin()).collect();
        let rhs: Vec<f64> = (0..60).map(|i| (i as f64).cos()).collect();
        let (l, r) = (View::rows(3, 4, 2, 9), View::rows(5, 4, 1, 7).t());
        let mut dst = vec![1.0; 40];
        let d = View::rows(3, 5, 4, 6);
        matmul((&mut dst, d), (&lhs, l), (&rhs, r), 0.5, true, false);
        for i in 0..3 {
            for j in 0..5 {
                let product: f64 = (0..4).map(|k| lhs[2 + 9 * i + k] * rhs[1 + 7 * j + k]).sum();
                assert!((dst[4 + 6 * i + j] - (1.0 + 0.5 * product)).abs() < 1e-14);
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
        matmul((&mut dst, View::rows(rows, cols, 0, cols)), l, (rhs, r), T::ONE, true, true);
        dst
    }

    #[test]
    fn the_bits_of_a_product_do_not_depend_on_how_it_is_cut() {
        // With few columns, pieces of few rows would have other sums.
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

    #[test]
    fn pieces_are_all_of_the_output_and_none_has_few_elements() {
        let mut cuts = 0;
        for (rows, cols) in (2..2000).step_by(37).flat_map(|m| [2, 3, 5, 64, 700].map(|n| (m, n))) {
            for (rows, cols) in [(rows, cols), (cols, rows)] {
                for count in [1, 2, 3, 7, 16] {
                    let (down, across) = threads::with_count(count, || grid(rows, cols, 2048));
                    let parts = |len: usize, parts: usize, step: usize| -> Vec<_> {
                        (0..parts).map(|i| cut(len, parts, i, step)).collect()
                    };
                    let (r, c) = (parts(rows, down, CORNER.0), parts(cols, across, CORNER.1));
                    for (parts, len) in [(&r, rows), (&c, cols)] {
                        assert!(parts.iter().cloned().flatten().eq(0..len), "{parts:?} of {len}");
                    }
                    let least = r.iter().flat_map(|r| c.iter().map(|c| r.len() * c.len())).min();
                    assert!(
                        down * across == 1 || least > Some(FEW),
                        "{rows} x {cols}: {r:?} {c:?}"
                    );
                    cuts += usize::from(down > 1) + usize::from(across > 1);
                }
            }
        }
        assert!(cuts > 100, "{cuts}");
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
