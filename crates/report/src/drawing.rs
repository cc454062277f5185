//! What every figure can do: SVG, PNG, the data that it draws, and what a page needs to show values under the
//! pointer.

use std::path::Path;

use serde::Serialize;

pub use crate::axis::Axis;
use crate::error::Result;

/// A figure.
pub trait Drawing {
    /// The figure as SVG, which names a sans-serif font and needs no file beside it.
    ///
    /// # Errors
    /// When there is nothing to draw, or the data contradict each other.
    fn svg(&self) -> Result<String>;

    /// Writes `path` with the extensions `svg` and `png`, each whole or not at all, the latter with two pixels
    /// for one.
    ///
    /// # Errors
    /// Those of [`Drawing::svg`], and when a file cannot be written.
    fn save(&self, path: &Path) -> Result<()>;

    /// The data that are drawn as comma-separated values, a line for each point, head first.
    ///
    /// # Errors
    /// Those of [`Drawing::svg`].
    fn csv(&self) -> Result<String>;

    /// Where in the SVG which values are drawn.
    ///
    /// # Errors
    /// Those of [`Drawing::svg`].
    fn hover(&self) -> Result<Hover>;
}

/// A rectangle: left, top, width and height, in pixels of a figure.
pub type Rectangle = [f64; 4];

/// Where in a figure which values are drawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hover {
    /// The panels, row by row.
    pub panels: Vec<Panel>,
    /// What stands below the panels: the names of the colours, or the scale.
    pub key: Rectangle,
}

/// A panel of a figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// All of it: title, axes and their names.
    pub frame: Rectangle,
    /// What the axes enclose.
    pub area: Rectangle,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// What is drawn, to six significant digits; values that are not finite stay what they are.
    pub content: Content,
}

/// What a panel shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Content {
    /// Lines with bands.
    Curves {
        /// A line each, of points (x, mean, least, greatest).
        series: Vec<Series>,
    },
    /// Marks.
    Points {
        /// A group each, of points (x, y).
        series: Vec<Series>,
    },
    /// Cells in colours.
    Cells {
        /// What the colours mean.
        value: String,
        /// The x of each column.
        columns: Vec<f64>,
        /// The values, row 1 first; in each as many as there are columns.
        rows: Vec<Vec<f64>>,
    },
}

/// What has one name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its colour, `#rrggbb`.
    pub colour: String,
    /// Its points.
    pub points: Vec<Vec<f64>>,
    /// Of each point, what it is; empty where points have no names.
    pub labels: Vec<String>,
}
