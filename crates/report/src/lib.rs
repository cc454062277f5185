//! What a reader sees of training runs: numbers with their spread, tables, curves. Knows nothing of training.
//!
//! | module | holds |
//! | --- | --- |
//! | [`statistics`] | mean and deviation, the paired difference with its interval, the median |
//! | [`grid`] | one table for a terminal, Markdown, LaTeX and CSV |
//! | [`curves`] | learning curves as SVG and PNG |
//! | [`forest`] | differences with their intervals as SVG and PNG |
//! | [`tensorboard`] | scalars and histograms as an event file of TensorBoard |
//!
//! ```
//! use conditioned_report::statistics::Sample;
//!
//! // The differences of two arms, seed by seed.
//! let sample = Sample::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).ok_or("no values")?;
//! assert_eq!(sample.difference(1), "+3.0 [+1.0, +5.0], 5");
//! # Ok::<(), &str>(())
//! ```

pub mod curves;
mod error;
pub mod forest;
pub mod grid;
pub mod statistics;
pub mod tensorboard;

pub use error::{Error, Result};
