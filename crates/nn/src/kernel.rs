//! What the CPU kernels share: scalars with vectorisable functions, slices of storage, work split
//! over threads in a way that does not depend on their number, and matrix products.

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// Elements per parallel piece of work. Pieces depend on the shape only, so sums over pieces have
/// the same bits for any number of threads.
const PIECE: usize = 1 << 14;

/// Whether the CPU kernels serve this tensor; other devices and precisions take
/// [`crate::reference`].
pub(crate) fn serves(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// Calls a generic kernel with the scalar type of a CPU storage.
macro_rules! dispatch {
    ($storage:expr, $name:expr, $T:ident => $call:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $T = f32;
                $call
            }
            candle_core::CpuStorage::F64(_) => {
                type $T = f64;
                $call
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(
                candle_core::backend::BackendStorage::dtype(other),
                $name,
            )
            .bt()),
        }
    };
}
pub(crate) use dispatch;

/// The contiguous elements that a storage and its layout describe.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op }.bt()),
    }
}

/// A finished result as storage.
pub(crate) fn output<T: WithDType>(
    values: Vec<T>,
    shape: impl Into<Shape>,
) -> Result<(CpuStorage, Shape)> {
    Ok((T::to_cpu_storage_owned(values), shape.into()))
}

/// Runs `work` with the widest vector instructions that the processor has.
///
/// The closure must be `#[inline(always)]`, so that its loops are compiled for them.
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// A scalar of the CPU kernels, with functions that vectorise in `f32`.
pub(crate) trait Real: WithDType {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// e^x.
    fn exp(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The larger of two numbers; a NaN on the right is lost, which callers do not rely on.
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    /// Cephes `expf`: e^x = 2^n e^r with |r| <= ln(2)/2, relative error below 2e-7.
    #[inline(always)]
    fn exp(self) -> Self {
        /// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer without a call.
        const ROUND: f32 = 12_582_912.0;
        // ln 2 in two parts; the first has few bits, so that n * LN_2_HIGH is exact.
        const LN_2_HIGH: f32 = 0.693_359_4;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        let x = if self > 88.0 { 88.0 } else { self };
        let x = if x < -87.0 { -87.0 } else { x };
        let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
        let r = x - n * LN_2_HIGH - n * LN_2_LOW;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_6e-1;
        let p = p * r + 0.5;
        let e = p * r * r + r + 1.0;
        e * f32::from_bits(((n as i32 + 127) as u32) << 23)
    }

    /// The rational approximation x P(x^2)/Q(x^2) on [-4, 4] that Eigen uses; error below 4e-7.
    #[inline(always)]
    fn erf(self) -> Self {
        let x = if self > 4.0 { 4.0 } else { self };
        let x = if x < -4.0 { -4.0 } else { x };
        let z = x * x;
        let p = -2.726_142_3e-10;
        let p = p * z + 2.770_681_4e-8;
        let p = p * z - 2.101_024e-6;
        let p = p * z - 5.692_506_4e-5;
        let p = p * z - 7.349_906_3e-4;
        let p = p * z - 2.954_6e-3;
        let p = p * z - 1.609_603_3e-2;
        let q = -1.456_607_2e-5;
        let q = q * z - 2.133_740_6e-4;
        let q = q * z - 1.682_827e-3;
        let q = q * z - 7.373_329e-3;
        let q = q * z - 1.426_473_9e-2;
        x * p / q
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn erf(self) -> Self {
        libm::erf(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
}

/// Partial sums of a reduction; enough for two vectors of 8 or one of 16 lanes.
const LANES: usize = 16;

/// Sum of `f(x_i, y_i)` in a fixed order that vectorises.
#[inline(always)]
pub(crate) fn sum_map2<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let (ys, y_tail) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            lanes[l] += f(x[l], y[l]);
        }
    }
    let mut sum = T::ZERO;
    for (&x, &y) in x_tail.iter().zip(y_tail) {
        sum += f(x, y);
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}

/// Sum of `f(x_i)` in a fixed order that vectorises.
#[inline(always)]
pub(crate) fn sum_map<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    sum_map2(x, x, |x, _| f(x))
}

/// The largest element (`-inf` of an empty slice).
#[inline(always)]
pub(crate) fn maximum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::from_f64(f64::NEG_INFINITY); LANES];
    let (xs, tail) = x.as_chunks::<LANES>();
    for x in xs {
        for l in 0..LANES {
            lanes[l] = lanes[l].larger(x[l]);
        }
    }
    let lanes = lanes.into_iter().chain(tail.iter().copied());
    lanes.fold(T::from_f64(f64::NEG_INFINITY), T::larger)
}

/// x <- softmax(x), stable.
#[inline(always)]
pub(crate) fn softmax_in_place<T: Real>(x: &mut [T]) {
    let max = maximum(x);
    for v in x.iter_mut() {
        *v = (*v - max).exp();
    }
    let scale = T::ONE / sum_map(x, |v| v);
    for v in x.iter_mut() {
        *v *= scale;
    }
}

/// Rows per piece for rows of `width` elements.
pub(crate) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Runs `work(piece, out_piece)` over consecutive pieces of `out` of `piece_len` elements, on all
/// threads when there is more than one piece.
pub(crate) fn for_pieces<T: Send>(
    out: &mut [T],
    piece_len: usize,
    work: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let piece_len = piece_len.max(1);
    if out.len() <= piece_len || rayon::current_num_threads() == 1 {
        out.chunks_mut(piece_len).enumerate().for_each(|(i, piece)| work(i, piece));
    } else {
        out.par_chunks_mut(piece_len).enumerate().for_each(|(i, piece)| work(i, piece));
    }
}

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
    (lhs, l): (&[T], View),
    (rhs, r): (&[T], View),
    alpha: T,
    accumulate: bool,
    parallel: bool,
) {
    assert!(d.rows == l.rows && d.cols == r.cols && l.cols == r.rows, "matmul shapes do not chain");
    assert!(
        d.end() <= dst.len() && l.end() <= lhs.len() && r.end() <= rhs.len(),
        "matmul view out of bounds"
    );
    let threads = rayon::current_num_threads();
    let parallelism = match parallel && threads > 1 {
        true => gemm::Parallelism::Rayon(threads),
        false => gemm::Parallelism::None,
    };
    // SAFETY: the views lie inside their slices (asserted above), `dst` is borrowed mutably and so
    // overlaps neither operand, and gemm touches no element outside the three views.
    unsafe {
        gemm::gemm(
            d.rows,
            d.cols,
            l.cols,
            dst.as_mut_ptr().add(d.start),
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

    /// Largest error of the `f32` functions that the layers rely on (1 ulp of 1 is 1.2e-7).
    const F32_FUNCTION_TOLERANCE: f64 = 4e-7;

    #[test]
    fn exp_is_accurate_to_its_stated_bound() {
        for i in -8600..=8600 {
            let x = i as f32 * 0.01;
            let exact = f64::from(x).exp();
            let relative = (f64::from(Real::exp(x)) - exact).abs() / exact;
            assert!(relative < F32_FUNCTION_TOLERANCE, "exp({x}): relative error {relative:e}");
        }
        assert!(Real::exp(-1e9f32) < 1e-37);
    }

    #[test]
    fn erf_is_accurate_to_its_stated_bound() {
        for i in -6000..=6000 {
            let x = i as f32 * 0.001;
            let error = (f64::from(Real::erf(x)) - libm::erf(f64::from(x))).abs();
            assert!(error < F32_FUNCTION_TOLERANCE, "erf({x}): error {error:e}");
        }
    }

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
