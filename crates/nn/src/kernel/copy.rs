//! Copies of matrices to adjacent rows.

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

/// Copies a matrix to rows of adjacent elements that begin `stride` apart.
///
/// # Safety
/// `to` is the caller's alone, with room for all rows.
///
/// # Panics
/// When the view leaves the slice: an error of the calling kernel.
#[allow(unsafe_code)]
pub(crate) unsafe fn copy<T: Real>(from: &[T], view: View, to: *mut T, stride: usize) {
    assert!(view.end() <= from.len(), "a copy from beyond its slice");
    if view.end() == 0 {
        return;
    }
    let from = from.as_ptr().wrapping_add(view.start);
    // SAFETY: inside of the slice, by the assertion, and of `to`, as the caller promises.
    unsafe {
        if view.col_stride == 1 {
            for row in 0..view.rows {
                let from = from.add(row * view.row_stride);
                std::ptr::copy_nonoverlapping(from, to.add(row * stride), view.cols);
            }
        } else if view.row_stride == 1 {
            super::vectorised(
                #[inline(always)]
                || transpose(from, view, to, stride),
            );
        } else {
            one_by_one(from, view, 0..view.rows, 0..view.cols, to, stride);
        }
    }
}

/// The copy of a matrix whose columns are adjacent in memory.
///
/// # Safety
/// As [`copy`], for a view inside of its slice.
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
        one_by_one(from, view, 0..rows, cols..view.cols, to, stride);
        one_by_one(from, view, rows..view.rows, 0..view.cols, to, stride);
    }
}

/// The copy of some rows and columns of any matrix.
///
/// # Safety
/// As [`copy`], for a view inside of its slice.
#[allow(unsafe_code)]
unsafe fn one_by_one<T: Real>(
    from: *const T,
    view: View,
    rows: Range<usize>,
    cols: Range<usize>,
    to: *mut T,
    stride: usize,
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

    #[test]
    fn a_copy_is_the_matrix_and_nothing_else_is_written() {
        for (rows, cols) in [(0, 3), (5, 0), (1, 1), (3, 5), (4, 4), (9, 16), (17, 35), (64, 7)] {
            let from: Vec<f32> = (0..2 + 3 * rows * (cols + 2)).map(|i| i as f32).collect();
            let strides = [(cols + 1, 1), (1, rows + 2), (3 * (cols + 1), 3)];
            for (row_stride, col_stride) in strides {
                let view = View { rows, cols, start: 2, row_stride, col_stride };
                let stride = cols + 3;
                let mut to = vec![-1.0; rows * stride];
                // SAFETY: as long as all rows.
                #[allow(unsafe_code)]
                unsafe {
                    copy(&from, view, to.as_mut_ptr(), stride);
                }
                for (i, to) in to.into_iter().enumerate() {
                    let (row, col) = (i / stride, i % stride);
                    let want = match col < cols {
                        true => from[2 + row * row_stride + col * col_stride],
                        false => -1.0,
                    };
                    assert!(to == want, "{rows} x {cols}, {row_stride} and {col_stride}: {i}");
                }
            }
        }
    }
}
