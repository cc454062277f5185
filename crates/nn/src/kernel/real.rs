//! The scalars of the CPU kernels.

use candle_core::WithDType;

use super::copy::Square;
use super::tiles::Tiled;

/// A scalar of the CPU kernels, with functions that vectorise in `f32`.
pub(crate) trait Real: WithDType + Square + Tiled {
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
    /// The same number as f64.
    fn wide(self) -> f64;
    /// The larger of two numbers; a NaN on the right is lost, which callers do not rely on.
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

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
    fn wide(self) -> f64 {
        self
    }

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
}
