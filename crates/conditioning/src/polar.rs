//! Which way leads to the polar factor U V^T of X = U S V^T.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How C = t sigma_1 U V^T is computed.
///
/// | choice | arithmetic | where | kappa(Y) at t = 1 |
/// | --- | --- | --- | --- |
/// | `Exact` | an eigenproblem of the small Gram side, f64 | on the host | 2 (1 + 1e-6), kappa(X) to 1e7 |
/// | `Iterative` | matrix products alone, f32 (f64 for f64) | on the device of X | 2 + tolerance, kappa(X) to 1e6 |
///
/// It serialises as `"automatic"`, `"exact"` or `{"iterative": {"tolerance": 0.001}}`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Polar {
    /// What [`Polar::choose`] says.
    #[default]
    Automatic,
    /// The symmetric eigenproblem, in f64 on the host.
    Exact,
    /// Polar Express polynomials, on the device of X.
    ///
    /// Directions with sigma_i >= 1e-6 sigma_1 get their part t sigma_1 to within `tolerance`,
    /// relatively; weaker ones a part that falls to zero in proportion to sigma_i. The number of
    /// steps follows from the tolerance alone, so the bits of a sequence do not depend on its batch:
    /// 12 steps for 1e-3. NaN and infinity are errors on the CPU and pass through elsewhere. The
    /// derivative of [`Gradient::Full`](crate::Gradient::Full) is computed on the host all the same.
    Iterative {
        /// In (0, 1); below 1e-5 only f64 tokens can follow.
        tolerance: f64,
    },
}

/// The tolerance of the automatic choice: kappa(Y) <= 2.002 at t = 1 before rounding.
pub const TOLERANCE: f64 = 1e-3;

impl Polar {
    /// The way for (tokens, channels) on a device: `Exact` on the CPU, elsewhere `Iterative` with
    /// [`TOLERANCE`].
    ///
    /// On the CPU the eigenproblem was faster at every size measured, (8, 512) to (1024, 768), by
    /// 2.7 times or more (`docs/NUMERICS.md`): it needs two products with X where the iteration needs
    /// 24, and it works on as many sequences at once as there are threads. That held whatever the
    /// size, so the size does not enter yet. On a GPU the products are nearly free, and the exact way
    /// would move X to the host and back; this half of the rule is arithmetic, not yet a measurement.
    pub fn choose(_tokens: usize, _channels: usize, device: &Device) -> Self {
        match device {
            Device::Cpu => Self::Exact,
            Device::Cuda(_) | Device::Metal(_) => Self::Iterative { tolerance: TOLERANCE },
        }
    }

    /// The way for the matrices of x, (..., N, d).
    pub(crate) fn way(self, x: &Tensor) -> Self {
        match (self, x.dims()) {
            (Self::Automatic, [.., n, d]) => Self::choose(*n, *d, x.device()),
            (polar, _) => polar,
        }
    }

    /// Itself, if its tolerance is a number in (0, 1).
    pub(crate) fn checked(self) -> Result<Self> {
        match self {
            Self::Iterative { tolerance } if !(tolerance > 0.0 && tolerance < 1.0) => {
                Err(Error::Fraction { range: "(0, 1)", setting: "tolerance", value: tolerance })
            }
            polar => Ok(polar),
        }
    }
}
