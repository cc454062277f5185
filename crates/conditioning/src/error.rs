//! What can go wrong, with the numbers needed to see why.

use candle_core::{DType, Shape};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
///
/// It converts into [`candle_core::Error`], so that `?` works inside functions that return
/// candle's own result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error from candle itself.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A tensor has the wrong shape.
    #[error("{tensor} has shape {found:?}, expected {expected}")]
    Shape {
        /// Which tensor.
        tensor: &'static str,
        /// The shape it has.
        found: Shape,
        /// The shape it should have.
        expected: String,
    },

    /// A tensor has the wrong dtype.
    #[error("{tensor} has dtype {found:?}, expected {expected}")]
    Dtype {
        /// Which tensor.
        tensor: &'static str,
        /// The dtype it has.
        found: DType,
        /// The dtypes that are accepted.
        expected: &'static str,
    },

    /// A tensor lies on another device than what it goes with.
    #[error("{tensor} is on {found}, {other} on {expected}")]
    Device {
        /// Which tensor.
        tensor: &'static str,
        /// Where it lies.
        found: String,
        /// What it goes with.
        other: &'static str,
        /// Where that lies.
        expected: String,
    },

    /// A token holds NaN or an infinity: no singular value decomposition exists.
    #[error("{tensor} is {value} at batch {batch}, token {token}, channel {channel}")]
    NonFinite {
        /// Which tensor.
        tensor: &'static str,
        /// The first such value in reading order.
        value: f64,
        /// Index of its sequence (0 for a 2-D tensor).
        batch: usize,
        /// Index of its token, padding included.
        token: usize,
        /// Index of its channel.
        channel: usize,
    },

    /// A result, a conditioned token or a gradient, exceeds the range of the dtype that has to hold it.
    #[error(
        "the result is {value:e} at batch {batch}, token {token}, channel {channel}, which exceeds the range of \
         {dtype:?}: use a wider dtype, smaller values or a smaller strength"
    )]
    Overflow {
        /// The dtype that cannot hold it.
        dtype: DType,
        /// The value before rounding.
        value: f64,
        /// Index of its sequence.
        batch: usize,
        /// Index of its token, padding included.
        token: usize,
        /// Index of its channel.
        channel: usize,
    },

    /// The strength t is negative, NaN or infinite.
    #[error("strength t is {0}, expected a finite number, 0 or more")]
    Strength(f64),

    /// A setting is outside of its range.
    #[error("{setting} is {value}, expected a number in {range}")]
    Fraction {
        /// The range.
        range: &'static str,
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: f64,
    },

    /// An eigenvalue or singular value decomposition did not converge.
    #[error("{decomposition} of a {rows}x{columns} matrix did not converge")]
    NoConvergence {
        /// Which decomposition.
        decomposition: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },

    /// Statistics were asked of no token at all.
    #[error("no tokens to take statistics from: every row is padding, or there is no row")]
    NoTokens,

    /// A statistic left the range of f64.
    #[error("{tensor} is {value} at index {index}: the tokens are too large for it")]
    Statistic {
        /// Which statistic.
        tensor: &'static str,
        /// The value found.
        value: f64,
        /// Its row-major index.
        index: usize,
    },

    /// A write to state that was built over frozen tensors.
    #[error("{tensor} is frozen (not a variable): this instance can only evaluate")]
    ReadOnly {
        /// The tensor to be written.
        tensor: &'static str,
    },

    /// A state to be loaded lacks a tensor.
    #[error("state lacks tensor {0:?}")]
    MissingTensor(&'static str),

    /// A state to be loaded has a tensor that this type does not know.
    #[error("state has unknown tensor {found:?}, expected {expected:?}")]
    UnknownTensor {
        /// The unknown name.
        found: String,
        /// The names that exist.
        expected: Vec<&'static str>,
    },
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            error => candle_core::Error::wrap(error),
        }
    }
}
