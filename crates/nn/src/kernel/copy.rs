//! Copies of matrices to panels: some columns, row by row.

use std::ops::Range;

use super::{Real, View};

/// Rows and columns that are transposed at once.
const SQUARE: usize = 4;

/// Columns that are transposed side by side: those of a cache line. More would not stay in the first cache, where lines
/// that lie a power of two apart compete for a few places.
const STRIP: usize = 16;

/// A scalar of which squares are transposed.
pub(crate) trait Square: Copy {
    /// Transposes 4 rows of 4 adjacent elements; rows lie as far apart as is said.
    ///
    /// # Safety
    /// `from` can be read and `to` is the caller's alone.
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn transpose_square(
        (from, from_stride): (*const Self, usize),
        (to, to_stride): (*mut Self, usize),
    ) {
        for i in 0..SQUARE {
            for j in 0..SQUARE {
                // SAFETY: promised by the caller.
                unsafe { *to.add(i * to_stride + j) = *from.add(j * from_stride + i) };
            }
        }
    }
}

impl Square for f64 {}

impl Square for f32 {
    /// In the registers; the compiler does not find this by itself.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn transpose_square(
        (from, from_stride): (*const Self, usize),
        (to, to_stride): (*mut Self, usize),
    ) {
        use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};
        // SAFETY: promised by the caller; every x86-64 has these instructions.
        unsafe {
            let [mut a, mut b, mut c, mut d] =
                std::array::from_fn(|i| _mm_loadu_ps(from.add(i * from_stride)));
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            for (i, row) in [a, b, c, d].into_iter().enumerate() {
                _mm_storeu_ps(to.add(i * to_stride), row);
            }
        }
    }
}

/// Copies a matrix to panels of `width` columns that lie `apart`, with zeros behind the last column.
///
/// # Safety
/// `to` is the caller's alone, with room for the panels, which lie apart by their length at least.
///
/// # Panics
/// When the view leaves the slice: an error of the calling kernel.
#[allow(unsafe_code)]
pub(crate) unsafe fn copy_to_panels<T: Real>(
    (from, view): (&[T], View),
    to: *mut T,
    (width, apart): (usize, usize),
) {
    assert!(view.end() <= from.len(), "a copy from beyond its slice");
    if view.end() == 0 {
        return;
    }
    let from = from.as_ptr().wrapping_add(view.start);
    let part = |i: usize, cols: usize| {
        (from.wrapping_add(i * width * view.col_stride), View { cols, ..view })
    };
    let (whole, left) = (view.cols / width, view.cols % width);
    // SAFETY: inside of the slice, by the assertion, and of the panels; those are the caller's.
    unsafe {
        if view.col_stride == 1 {
            super::vectorised(
                #[inline(always)]
                || rows_to_panels((from, view), to, (width, apart), whole),
            );
        } else {
            (0..whole).for_each(|i| transposed(part(i, width), to.add(i * apart), width));
        }
        if left > 0 {
            let last = to.add(whole * apart);
            (0..view.rows)
                .for_each(|row| last.add(row * width + left).write_bytes(0, width - left));
            match view.col_stride {
                1 => one_by_one(part(whole, left), last, width, (0..view.rows, 0..left)),
                _ => transposed(part(whole, left), last, width),
            }
        }
    }
}

/// Panels that rows are copied to side by side. Lines of more would not stay in the first cache, where panels that lie a
/// power of two apart compete for a few places.
const SIDE_BY_SIDE: usize = 8;

/// Copies rows of adjacent elements to whole panels.
///
/// # Safety
/// As [`copy_to_panels`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn rows_to_panels<T: Real>(
    (from, view): (*const T, View),
    to: *mut T,
    (width, apart): (usize, usize),
    panels: usize,
) {
    /// With rows of a known width, which are copied without a call.
    #[inline(always)]
    unsafe fn of<const W: usize, T: Real>(
        (from, view): (*const T, View),
        to: *mut T,
        apart: usize,
        panels: Range<usize>,
    ) {
        for row in 0..view.rows {
            for panel in panels.clone() {
                // SAFETY: promised by the caller.
                unsafe {
                    let from = from.add(row * view.row_stride + panel * W).cast::<[T; W]>();
                    *to.add(panel * apart + row * W).cast::<[T; W]>() = *from;
                }
            }
        }
    }
    for panels in (0..panels).step_by(SIDE_BY_SIDE).map(|at| at..panels.min(at + SIDE_BY_SIDE)) {
        // SAFETY: promised by the caller.
        unsafe {
            match width {
                2 => of::<2, T>((from, view), to, apart, panels),
                4 => of::<4, T>((from, view), to, apart, panels),
                6 => of::<6, T>((from, view), to, apart, panels),
                8 => of::<8, T>((from, view), to, apart, panels),
                16 => of::<16, T>((from, view), to, apart, panels),
                32 => of::<32, T>((from, view), to, apart, panels),
                64 => of::<64, T>((from, view), to, apart, panels),
                _ => panels.for_each(|panel| {
                    let (part, to) = (from.add(panel * width), to.add(panel * apart));
                    one_by_one((part, view), to, width, (0..view.rows, 0..width));
                }),
            }
        }
    }
}

/// Copies a matrix whose columns are not adjacent to rows of adjacent elements that begin `stride` apart.
///
/// # Safety
/// As [`copy_to_panels`].
#[allow(unsafe_code)]
unsafe fn transposed<T: Real>((from, view): (*const T, View), to: *mut T, stride: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        if view.row_stride == 1 {
            super::vectorised(
                #[inline(always)]
                || transpose(from, view, to, stride),
            );
        } else {
            one_by_one((from, view), to, stride, (0..view.rows, 0..view.cols));
        }
    }
}

/// The copy of a matrix whose columns are adjacent in memory.
///
/// # Safety
/// As [`copy_to_panels`], for a view inside of its slice.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn transpose<T: Real>(from: *const T, view: View, to: *mut T, stride: usize) {
    let (rows, cols) = (view.rows / SQUARE * SQUARE, view.cols / SQUARE * SQUARE);
    for strip in (0..cols).step_by(STRIP) {
        for row in (0..rows).step_by(SQUARE) {
            for col in (strip..cols.min(strip + STRIP)).step_by(SQUARE) {
                let at = col * view.col_stride + row;
                // SAFETY: the square is inside of the view, and there is room for it.
                unsafe {
                    let to = (to.add(row * stride + col), stride);
                    T::transpose_square((from.add(at), view.col_stride), to);
                }
            }
        }
    }
    // SAFETY: promised by the caller.
    unsafe {
        one_by_one((from, view), to, stride, (0..rows, cols..view.cols));
        one_by_one((from, view), to, stride, (rows..view.rows, 0..view.cols));
    }
}

/// The copy of some rows and columns of any matrix.
///
/// # Safety
/// As [`copy_to_panels`], for a view inside of its slice.
#[allow(unsafe_code)]
unsafe fn one_by_one<T: Real>(
    (from, view): (*const T, View),
    to: *mut T,
    stride: usize,
    (rows, cols): (Range<usize>, Range<usize>),
) {
    for row in rows {
        for col in cols.clone() {
            // SAFETY: inside of the view, and there is room for it.
            unsafe {
                *to.add(row * stride + col) =
                    *from.add(row * view.row_stride + col * view.col_stride);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Real>(from: impl Fn(usize) -> T) {
        let shapes = [(0, 3), (5, 0), (1, 1), (3, 5), (4, 4), (9, 16), (17, 35), (64, 7), (7, 130)];
        let untouched = from(0);
        for ((rows, cols), width) in
            shapes.into_iter().flat_map(|s| [2, 4, 5, 6, 8, 16, 32, 64].map(|w| (s, w)))
        {
            let from: Vec<T> = (0..2 + 3 * rows * (cols + 2)).map(|i| from(1 + i)).collect();
            let strides = [(cols + 1, 1), (1, rows + 2), (3 * (cols + 1), 3)];
            for ((row_stride, col_stride), gap) in strides.into_iter().zip([0, 3, 3 * width]) {
                let view = View { rows, cols, start: 2, row_stride, col_stride };
                let (len, apart) = (rows * width, rows * width + gap);
                let mut to = vec![untouched; cols.div_ceil(width) * apart + 3];
                // SAFETY: as long as all panels.
                #[allow(unsafe_code)]
                unsafe {
                    copy_to_panels((&from, view), to.as_mut_ptr(), (width, apart));
                }
                for (i, to) in to.into_iter().enumerate() {
                    let (panel, at) = (i / apart.max(1), i % apart.max(1));
                    let (row, col) = (at / width, panel * width + at % width);
                    let want = match (at < len && panel < cols.div_ceil(width), col < cols) {
                        (true, true) => from[2 + row * row_stride + col * col_stride],
                        (true, false) => T::ZERO,
                        (false, _) => untouched,
                    };
                    assert!(to == want, "{rows} x {cols} by {width}, {row_stride}: {i}");
                }
            }
        }
    }

    #[test]
    fn panels_are_the_matrix_with_zeros_behind_it_and_nothing_else_is_written() {
        check(|i| i as f32 - 1.0);
        check(|i| i as f64 - 1.0);
    }
}
