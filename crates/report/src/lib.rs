//! What a reader sees of training runs: numbers with their spread, tables, figures, pages. Knows nothing of training.
//!
//! | module | holds |
//! | --- | --- |
//! | [`statistics`] | mean and deviation, the paired difference with its interval, the median |
//! | [`grid`] | one table for a terminal, Markdown, LaTeX and CSV |
//! | [`drawing`] | what every figure can do: SVG, PNG, its data, values under the pointer |
//! | [`curves`] | learning curves with their ranges |
//! | [`scatter`] | groups of points, such as both sides of an inequality |
//! | [`heat`] | a value for each step and index in colours, such as singular values |
//! | [`forest`] | differences with their intervals as SVG and PNG |
//! | [`pictures`] | images with the objects that are in them, or were found |
//! | [`tensorboard`] | scalars and histograms as an event file of TensorBoard |
//! | [`html`] | a report that is one file: answer, table, figures, and what led to them |
//!
//! ```
//! use conditioned_report::statistics::Sample;
//!
//! // The differences of two arms, seed by seed.
//! let sample = Sample::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).ok_or("no values")?;
//! assert_eq!(sample.difference(1), "+3.0 [+1.0, +5.0], 5");
//! # Ok::<(), &str>(())
//! ```

mod axis;
pub mod curves;
pub mod drawing;
mod error;
pub mod forest;
mod frame;
pub mod grid;
pub mod heat;
pub mod html;
mod legend;
mod palette;
mod pen;
pub mod pictures;
pub mod scatter;
pub mod statistics;
pub mod tensorboard;

pub use error::{Error, Result};
