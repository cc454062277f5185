//! Matrix products over strided views.

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
/// piece. The split is over the output, so the bits do not depend on it.
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
    let threads = rayon::current_num_threads();
    let parallelism = match parallel && threads > 1 {
        true => gemm::Parallelism::Rayon(threads),
        false => gemm::Parallelism::None,
    };
    // SAFETY: the views lie inside their slices (asserted above), the elements of `d` are ours
    // alone and so overlap neither operand, and gemm touches nothing outside the three views.
    unsafe {
        gemm::gemm(
            d.rows,
            d.cols,
            l.cols,
            dst.start.add(d.start),
            d.col_stride as isize,
            d.row_stride as isize,
            accumulate,
            lhs.as_ptr().add(l.start),
            l.col_stride as isize,
            l.row_stride as isize,
            rhs.as_ptr().add(r.start),
            r.col_stride as isize,
            r.row_stride as isize,
            T::ONE,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
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
}
