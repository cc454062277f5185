//! The innermost products: the micro-kernels of gemm, which hold a tile of the output in registers.

use gemm_common::microkernel::MicroKernelFn;

/// The micro-kernels for one kind of processor.
///
/// Every one sums an element in order of k by one fused multiplication and addition after the other (a multiplication
/// and an addition where the processor has no fused one). So the bits of an element do not depend on the tile it is in.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<T: 'static> {
    /// Rows of the largest tile, and columns of a panel of a transposed left operand.
    pub(crate) rows: usize,
    /// Columns of the largest tile, and of a panel of a right operand.
    pub(crate) cols: usize,
    /// Numbers in a vector.
    lanes: usize,
    /// Those for 1 to `rows` rows of one vector, then of two, and so on.
    kernels: &'static [MicroKernelFn<T>],
}

/// A scalar that gemm has micro-kernels for.
pub(crate) trait Tiled: Copy + 'static {
    /// Those for this processor.
    fn tiles() -> Tiles<Self>;
}

/// The tiles of a module of gemm.
macro_rules! tiles {
    ($module:path, $lanes:expr) => {{
        use $module::{MR_DIV_N, NR, UKR};
        const KERNELS: &[MicroKernelFn<T>] = UKR.as_flattened();
        Tiles { rows: NR, cols: MR_DIV_N * $lanes, lanes: $lanes, kernels: KERNELS }
    }};
}

/// Implements [`Tiled`] for a scalar of which so many are in 128 bits.
macro_rules! tiled {
    ($T:ident, $gemm:ident, $lanes:expr) => {
        impl Tiled for $T {
            fn tiles() -> Tiles<Self> {
                type T = $T;
                #[cfg(target_arch = "x86_64")]
                {
                    if is_x86_feature_detected!("avx512f") {
                        return tiles!($gemm::microkernel::avx512f::$T, 4 * $lanes);
                    }
                    if is_x86_feature_detected!("fma") {
                        return tiles!($gemm::microkernel::fma::$T, 2 * $lanes);
                    }
                }
                #[cfg(target_arch = "aarch64")]
                if std::arch::is_aarch64_feature_detected!("neon") {
                    return tiles!($gemm::microkernel::neon::$T, $lanes);
                }
                tiles!($gemm::microkernel::scalar::$T, 1)
            }
        }
    };
}

tiled!(f32, gemm_f32, 4);
tiled!(f64, gemm_f64, 2);

impl<T: super::Real> Tiles<T> {
    /// dst <- alpha lhs rhs (+ dst when `accumulate`) for a tile of (rows, cols), a sum of `depth` terms.
    ///
    /// `dst` has adjacent columns and rows as far apart as it says, `lhs` rows and columns as far apart as it says; `rhs` is a
    /// panel: `depth` rows of [`Tiles::cols`] numbers.
    ///
    /// # Safety
    /// The tile is not empty and no larger than the largest, the operands are readable and the output is the
    /// caller's alone.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn multiply(
        &self,
        (rows, cols, depth): (usize, usize, usize),
        (dst, stride): (*mut T, usize),
        (lhs, [row_stride, term_stride]): (*const T, [usize; 2]),
        rhs: *const T,
        alpha: T,
        accumulate: bool,
    ) {
        let kernel = self.kernels[(cols.div_ceil(self.lanes) - 1) * self.rows + rows - 1];
        // The kernel takes matrices with adjacent rows: its left operand is our right one.
        // SAFETY: promised by the caller; the processor has the instructions, as `tiles` has asked.
        unsafe {
            kernel(
                cols,
                rows,
                depth,
                dst,
                rhs,
                lhs,
                stride as isize,
                1,
                self.cols as isize,
                term_stride as isize,
                row_stride as isize,
                T::ONE,
                alpha,
                accumulate.into(),
                false,
                false,
                false,
                rhs,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Real;

    /// Every tile of a set is that of its definition, and nothing beside it is written.
    ///
    /// The numbers are small integers, so that every sum is exact.
    #[allow(unsafe_code)]
    fn check<T: Real>(tiles: Tiles<T>) {
        let number = |i: usize| T::from_f64((i % 7) as f64 - 3.0);
        for (rows, cols) in (1..=tiles.rows).flat_map(|m| (1..=tiles.cols).map(move |n| (m, n))) {
            // Rows apart, and side by side in a panel, which a NEON kernel reads in another way.
            let layouts = |depth| [[depth + 2, 1], [1, tiles.rows]].map(|strides| (depth, strides));
            for (depth, strides) in [0, 1, 9].into_iter().flat_map(layouts) {
                let stride = cols + 3;
                let lhs: Vec<T> = (0..tiles.rows * (depth + 2)).map(number).collect();
                let panel: Vec<T> = (0..depth * tiles.cols).map(|i| number(5 * i + 1)).collect();
                for accumulate in [false, true] {
                    let before: Vec<T> = (0..rows * stride).map(number).collect();
                    let mut dst = before.clone();
                    // SAFETY: the slices have room for the tile and its operands.
                    unsafe {
                        let (dst, lhs) = (dst.as_mut_ptr(), lhs.as_ptr());
                        let (size, alpha) = ((rows, cols, depth), T::from_f64(0.5));
                        let (dst, lhs) = ((dst, stride), (lhs, strides));
                        tiles.multiply(size, dst, lhs, panel.as_ptr(), alpha, accumulate);
                    }
                    for (at, (value, before)) in dst.iter().zip(&before).enumerate() {
                        let (row, col) = (at / stride, at % stride);
                        let terms = |k: usize| {
                            lhs[row * strides[0] + k * strides[1]].wide()
                                * panel[k * tiles.cols + col].wide()
                        };
                        let want = match (col < cols, accumulate) {
                            (false, _) => before.wide(),
                            (true, false) => 0.5 * (0..depth).map(terms).sum::<f64>(),
                            (true, true) => {
                                before.wide() + 0.5 * (0..depth).map(terms).sum::<f64>()
                            }
                        };
                        let size = (rows, cols, depth, tiles.lanes);
                        assert!(
                            value.wide() == want,
                            "{size:?}, {at}: {}, not {want}",
                            value.wide()
                        );
                    }
                }
            }
        }
    }

    /// Checks those of one scalar that this processor can run.
    macro_rules! check_all {
        ($T:ident, $gemm:ident, $lanes:expr) => {{
            type T = $T;
            check::<T>(T::tiles());
            check(tiles!($gemm::microkernel::scalar::$T, 1));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("fma") {
                check(tiles!($gemm::microkernel::fma::$T, 2 * $lanes));
            }
        }};
    }

    #[test]
    fn tiles_equal_their_definition() {
        check_all!(f32, gemm_f32, 4);
        check_all!(f64, gemm_f64, 2);
    }
}
