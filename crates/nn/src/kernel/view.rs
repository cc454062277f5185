//! Matrices in slices.

use std::ops::Range;

use super::Real;

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
    pub(crate) fn part(self, rows: &Range<usize>, cols: &Range<usize>) -> Self {
        Self {
            rows: rows.len(),
            cols: cols.len(),
            start: self.start + rows.start * self.row_stride + cols.start * self.col_stride,
            ..self
        }
    }

    /// One past the last element that the view touches.
    pub(crate) fn end(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        self.start + (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }
}

/// A slice that several threads write to, each to its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

impl<T> Shared<T> {
    /// Shares `slice`, which must stay borrowed while it is written to.
    #[allow(unsafe_code)]
    pub(crate) fn new(slice: &mut [T]) -> Self {
        // SAFETY: these are its elements.
        unsafe { Self::at(slice.as_mut_ptr(), slice.len()) }
    }

    /// `len` elements at `start`, which may be unset.
    ///
    /// # Safety
    /// There is room for them, as long as they are used.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn at(start: *mut T, len: usize) -> Self {
        Self { start, len }
    }

    /// The first element.
    pub(crate) fn start(self) -> *mut T {
        self.start
    }

    /// The part of `len` elements from `start` on.
    ///
    /// # Panics
    /// When there is no such part: an error of the calling kernel.
    pub(crate) fn part(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "a part beyond its slice");
        Self { start: self.start.wrapping_add(start), len }
    }

    /// Its elements, set to zero.
    ///
    /// # Safety
    /// As [`super::matmul_shared`], for as long as the result lives.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn zeros<'a>(self) -> &'a mut [T]
    where
        T: Real,
    {
        // SAFETY: inside the allocation; nobody else touches them, as the caller promises. A float of zero bytes is zero.
        unsafe {
            std::ptr::write_bytes(self.start, 0, self.len);
            std::slice::from_raw_parts_mut(self.start, self.len)
        }
    }

    /// Writes `values` from `start` on.
    ///
    /// # Safety
    /// As [`super::matmul_shared`].
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
    /// As [`super::matmul_shared`].
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

// SAFETY: a pointer, every use of which is unsafe; callers promise that no thread touches an element while another writes it.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
