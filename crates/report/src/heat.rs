//! Heat maps: a positive value for each step and index, such as singular values during training, in colours of a
//! logarithmic scale.

use plotters::prelude::*;
use plotters::style::FontStyle;
use plotters::style::text_anchor::HPos;

use crate::axis::{Axis, Tick, linear, rounded};
use crate::drawing::Content;
use crate::error::{Error, Result};
use crate::frame::{Axes, Paint};
use crate::palette::{GREY, SHADES, shade};
use crate::pen::{Pen, fit};

/// Height of the key, left and right end of the scale's bar and its height.
const KEY: f64 = 66.0;
const BAR: (f64, f64, f64) = (62.0, 350.0, 14.0);

/// A map.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above the axes.
    pub title: String,
    /// The x of each column, such as a step, rising.
    pub x: Vec<f64>,
    /// The values of index 1, 2, ..., in each row as many as there are columns; what is not positive and finite is
    /// drawn as no value.
    pub rows: Vec<Vec<f64>>,
}

/// Maps of one scale in rows of two.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    /// Below the axes.
    pub x: String,
    /// What the index counts, beside the axes.
    pub y: String,
    /// What the values are.
    pub value: String,
    /// Row by row.
    pub panels: Vec<Panel>,
}

/// The values that have a colour.
fn coloured(panels: &[Panel]) -> impl Iterator<Item = f64> {
    let values = panels.iter().flat_map(|panel| panel.rows.iter().flatten().copied());
    values.filter(|value| value.is_finite() && *value > 0.0)
}

/// Where columns end: halfway to their neighbours.
fn edges(x: &[f64]) -> Vec<f64> {
    let middles: Vec<f64> = x.windows(2).map(|pair| 0.5 * pair[0] + 0.5 * pair[1]).collect();
    let (Some(first), Some(last)) = (x.first(), x.last()) else { return Vec::new() };
    let outer =
        |middle: Option<&f64>, end: f64, alone: f64| middle.map_or(alone, |m| 2.0 * end - m);
    let left = outer(middles.first(), *first, first - 0.5);
    let right = outer(middles.last(), *last, last + 0.5);
    [left].into_iter().chain(middles.iter().copied()).chain([right]).collect()
}

impl HeatMap {
    /// The scale of the colours: from the least to the greatest value, or around a single one.
    fn scale(&self) -> Axis {
        let (low, high) = coloured(&self.panels)
            .fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        if low < high {
            return Axis { name: self.value.clone(), low, high, log: true };
        }
        Axis::over(&self.value, true, coloured(&self.panels))
    }

    /// Whether a cell has no value.
    fn gaps(&self) -> bool {
        let cells: usize = self.panels.iter().flat_map(|p| &p.rows).map(Vec::len).sum();
        coloured(&self.panels).count() < cells
    }

    /// Draws cells, those of one colour side by side as one.
    fn cells<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        rows: &[Vec<f64>],
        (across, down): (&[f64], &[f64]),
    ) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let scale = self.scale();
        let (low, high) = scale.ends();
        let level = |value: &f64| Some(shade((scale.at(*value)? - low) / (high - low)));
        // Cells overlap by half a pixel, so that no seam shows where pixels are shared.
        let over =
            |at: usize, ends: &[f64]| ends[at] + if at + 1 == ends.len() { 0.0 } else { 0.5 };
        for (y, row) in rows.iter().enumerate() {
            let mut x = 0;
            for run in row.chunk_by(|a, b| level(a) == level(b)) {
                let end = x + run.len();
                let corner = (over(end, across), over(y + 1, down));
                let colour = level(&run[0]).map_or(WHITE, |(_, colour)| colour);
                pen.rectangle((across[x], down[y]), corner, colour)?;
                if level(&run[0]).is_none() {
                    for column in x..end {
                        let (from, to) =
                            ((across[column], down[y + 1]), (across[column + 1], down[y]));
                        pen.line(from, to, GREY, 0.5)?;
                    }
                }
                x = end;
            }
        }
        Ok(())
    }
}

impl Paint for HeatMap {
    fn panels(&self) -> Result<Vec<(&str, usize)>> {
        for panel in &self.panels {
            let columns = panel.x.len();
            if let Some(at) = panel.rows.iter().position(|row| row.len() != columns) {
                return Err(Error::Draw(format!(
                    "{}: row {} has {} values for {columns} columns",
                    panel.title,
                    at + 1,
                    panel.rows[at].len(),
                )));
            }
            let rising = panel.x.windows(2).all(|pair| pair[0] < pair[1]);
            if !rising || panel.x.iter().any(|x| !x.is_finite()) {
                return Err(Error::Draw(format!("{}: x does not rise", panel.title)));
            }
        }
        let points = |panel: &Panel| panel.x.len() * panel.rows.len();
        Ok(self.panels.iter().map(|panel| (panel.title.as_str(), points(panel))).collect())
    }

    fn key_height(&self, _width: f64) -> f64 {
        KEY
    }

    fn key<B: DrawingBackend>(&self, pen: &Pen<'_, B>, top: f64, _width: f64) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let (small, (left, right, height)) = ((13.0, FontStyle::Normal), BAR);
        pen.text(&fit(&self.value, 13.0, 440.0), (left, top + 6.0), HPos::Left, small, BLACK)?;
        let (above, below) = (top + 17.0, top + 17.0 + height);
        if coloured(&self.panels).next().is_some() {
            let edge = |i: usize| left + (right - left) * i as f64 / SHADES as f64;
            for i in 0..SHADES {
                let (_, colour) = shade(i as f64 / (SHADES - 1) as f64);
                pen.rectangle((edge(i), above), ((edge(i + 1) + 0.5).min(right), below), colour)?;
            }
            let scale = self.scale();
            let (low, high) = scale.ends();
            for (place, label) in scale.ticks(7) {
                let x = left + (right - left) * (place - low) / (high - low);
                pen.line((x, below), (x, below + 5.0), BLACK, 1.0)?;
                pen.text(&label, (x, below + 14.0), HPos::Center, small, BLACK)?;
            }
        }
        if self.gaps() {
            let x = right + 24.0;
            for i in 0..3 {
                let x = x + f64::from(i) * height;
                pen.line((x, below), (x + height, above), GREY, 0.5)?;
            }
            let at = (x + 3.0 * height + 8.0, 0.5 * (above + below));
            pen.text("no value", at, HPos::Left, small, BLACK)?;
        }
        Ok(())
    }

    fn axes(&self, panel: usize) -> [Axis; 2] {
        let Panel { x, rows, .. } = &self.panels[panel];
        let columns = edges(x);
        let (low, high) = (*columns.first().unwrap_or(&0.0), *columns.last().unwrap_or(&1.0));
        let last = rows.len().max(1) as f64;
        [
            Axis { name: self.x.clone(), low, high, log: false },
            // Index 1 is above.
            Axis { name: self.y.clone(), low: last + 0.5, high: 0.5, log: false },
        ]
    }

    fn y_ticks(&self, y: &Axis) -> Vec<Tick> {
        let first: Tick = (1.0, "1".to_string());
        let further = linear(y.ends(), 6, 1.0).into_iter().filter(|tick| tick.0 > 1.0);
        [first].into_iter().chain(further).collect()
    }

    fn draw<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        chart: &mut ChartContext<'_, B, Axes>,
        panel: usize,
        [x, _]: &[Axis; 2],
    ) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let panel = &self.panels[panel];
        let across = edges(&panel.x).into_iter().map(|edge| pen.place(chart, (edge, 1.0)).0);
        let across: Vec<f64> = across.collect();
        let down = (0..=panel.rows.len()).map(|row| pen.place(chart, (x.low, row as f64 + 0.5)).1);
        let down: Vec<f64> = down.collect();
        self.cells(pen, &panel.rows, (&across, &down))
    }

    fn content(&self, panel: usize) -> Content {
        let panel = &self.panels[panel];
        let rows = panel.rows.iter().map(|row| row.iter().copied().map(rounded).collect());
        Content::Cells { value: self.value.clone(), columns: panel.x.clone(), rows: rows.collect() }
    }

    fn records(&self) -> Vec<Vec<String>> {
        let mut records = vec![["panel", "index", "x", "value"].map(String::from).to_vec()];
        for panel in &self.panels {
            for (index, row) in panel.rows.iter().enumerate() {
                records.extend(row.iter().zip(&panel.x).map(|(value, x)| {
                    let (index, x) = ((index + 1).to_string(), x.to_string());
                    vec![panel.title.clone(), index, x, value.to_string()]
                }));
            }
        }
        records
    }
}
