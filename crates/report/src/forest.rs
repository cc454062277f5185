//! A forest plot as SVG and PNG: differences with their intervals, two marks a line, drawn with an embedded
//! font.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontStyle;
use plotters::style::text_anchor::HPos;

/// The colour of a line.
pub use plotters::style::RGBColor;

use crate::error::{Result, write};
use crate::palette::{GREY, LIGHT};
use crate::pen::{Pen, fonts, save_png};
use crate::statistics::Sample;

/// Width of the figure.
const WIDTH: f64 = 900.0;
/// Where axes begin and end.
const AXIS: (f64, f64) = (420.0, 876.0);
/// What stands above the panels, a line, what stands between two cases, and what stands below an axis.
const HEIGHTS: [f64; 4] = [128.0, 40.0, 8.0, 78.0];

/// A line: an arm of a case.
pub struct Line {
    /// The case, such as a model and its data.
    pub case: String,
    /// The arm.
    pub name: String,
    /// Its colour.
    pub colour: RGBColor,
    /// Differences, an open and a filled mark: above zero is better.
    pub marks: [Sample; 2],
}

/// Lines on one scale.
pub struct Panel {
    /// Above its lines.
    pub heading: String,
    /// What is measured, below the axis.
    pub unit: String,
    /// Least and greatest value, step and decimals of the ticks.
    pub axis: (f64, f64, f64, usize),
    /// Lines of the same case follow each other.
    pub lines: Vec<Line>,
}

/// The figure.
pub struct Forest {
    /// Its title.
    pub title: String,
    /// What it shows.
    pub subtitle: String,
    /// The meaning of an open and of a filled mark.
    pub marks: [String; 2],
    /// From top to bottom.
    pub panels: Vec<Panel>,
}

impl Forest {
    /// Writes `path` with the extensions `svg` and `png`, the latter with two pixels for one.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write(&path.with_extension("svg"), &self.svg()?)?;
        save_png(path, self.size(), |area, scale| self.draw(area, scale))
    }

    /// The figure as SVG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        fonts()?;
        let mut svg = String::new();
        self.draw(&SVGBackend::with_string(&mut svg, self.size()).into_drawing_area(), 1.0)?;
        Ok(svg)
    }

    fn size(&self) -> (u32, u32) {
        let height = HEIGHTS[0] + self.panels.iter().map(|p| p.height() + HEIGHTS[3]).sum::<f64>();
        (WIDTH as u32, (height - 20.0) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: f64) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let pen = Pen { area, scale };
        area.fill(&WHITE)?;
        pen.text(&self.title, (20.0, 26.0), HPos::Left, (24.0, FontStyle::Bold), BLACK)?;
        pen.text(&self.subtitle, (20.0, 54.0), HPos::Left, (15.0, FontStyle::Normal), GREY)?;
        for (x, meaning, filled) in [(27.0, &self.marks[0], false), (330.0, &self.marks[1], true)] {
            pen.mark((x, 84.0), filled, BLACK)?;
            pen.text(meaning, (x + 14.0, 85.0), HPos::Left, (16.0, FontStyle::Normal), BLACK)?;
        }
        let mut y = HEIGHTS[0];
        for panel in &self.panels {
            panel.draw(&pen, y)?;
            y += panel.height() + HEIGHTS[3];
        }
        Ok(area.present()?)
    }
}

impl Panel {
    fn height(&self) -> f64 {
        let cases = self.lines.chunk_by(|a, b| a.case == b.case).count();
        10.0 + HEIGHTS[1] * self.lines.len() as f64 + HEIGHTS[2] * cases as f64
    }

    fn draw<B: DrawingBackend>(&self, pen: &Pen<'_, B>, top: f64) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let (low, high, step, decimals) = self.axis;
        let x = |value: f64| AXIS.0 + (AXIS.1 - AXIS.0) * (value - low) / (high - low);
        let bottom = top + self.height();
        let (small, plain) = ((15.0, FontStyle::Normal), (17.0, FontStyle::Normal));
        for tick in (low / step).ceil() as i32..=(high / step).floor() as i32 {
            let (colour, width) = if tick == 0 { (BLACK, 2.0) } else { (LIGHT, 1.0) };
            let value = f64::from(tick) * step;
            pen.line((x(value), top), (x(value), bottom), colour, width)?;
            let label = format!("{value:.decimals$}");
            pen.text(&label, (x(value), bottom + 14.0), HPos::Center, small, BLACK)?;
        }
        pen.text(&self.heading, (20.0, top), HPos::Left, (19.0, FontStyle::Bold), BLACK)?;
        pen.text("baseline better", (x(0.0) - 8.0, top - 8.0), HPos::Right, small, GREY)?;
        pen.text("method better", (x(0.0) + 8.0, top - 8.0), HPos::Left, small, GREY)?;
        let middle = 0.5 * (AXIS.0 + AXIS.1);
        pen.text(&self.unit, (middle, bottom + 35.0), HPos::Center, small, BLACK)?;
        let mut y = top + 30.0;
        for case in self.lines.chunk_by(|a, b| a.case == b.case) {
            pen.text(&case[0].case, (20.0, y), HPos::Left, plain, BLACK)?;
            for line in case {
                pen.text(&line.name, (AXIS.0 - 14.0, y), HPos::Right, plain, line.colour)?;
                for (mark, y, filled) in
                    [(&line.marks[0], y - 8.0, false), (&line.marks[1], y + 8.0, true)]
                {
                    let half = mark.half_width().unwrap_or(0.0);
                    pen.line((x(mark.mean - half), y), (x(mark.mean + half), y), line.colour, 2.0)?;
                    pen.mark((x(mark.mean), y), filled, line.colour)?;
                }
                y += HEIGHTS[1];
            }
            y += HEIGHTS[2];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_written_and_hold_the_names() {
        let folder = tempfile::tempdir().unwrap();
        let sample = |values: &[f64]| Sample::of(values).unwrap();
        let line = Line {
            case: "ViT".into(),
            name: "pooled".into(),
            colour: BLACK,
            marks: [sample(&[1.0, 2.0]), sample(&[-1.0])],
        };
        let axis = (-2.0, 4.0, 2.0, 1);
        let panel =
            Panel { heading: "Images".into(), unit: "points".into(), axis, lines: vec![line] };
        let marks = ["open".into(), "filled".into()];
        let forest =
            Forest { title: "Gain".into(), subtitle: "by seed".into(), marks, panels: vec![panel] };
        forest.save(&folder.path().join("answer")).unwrap();
        let svg = std::fs::read_to_string(folder.path().join("answer.svg")).unwrap();
        for text in [
            "Gain", "by seed", "open", "filled", "Images", "points", "ViT", "pooled", "-2.0", "4.0",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        let png = std::fs::read(folder.path().join("answer.png")).unwrap();
        assert_eq!(&png[1..4], b"PNG");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
