//! The names of what a figure draws, in lines below its panels.

use plotters::prelude::*;
use plotters::style::FontStyle;
use plotters::style::text_anchor::HPos;

use crate::error::Result;
use crate::palette::{GREY, Look, look};
use crate::pen::{Pen, fit, width};

/// Height of a line.
const LINE: f64 = 24.0;
/// Room left and right.
const MARGIN: f64 = 20.0;
/// What a sample and the space behind a name take.
const SAMPLE: f64 = 30.0;
const GAP: f64 = 20.0;
const TEXT: f64 = 14.0;

/// What stands before a name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sample {
    /// A line of the look's colour.
    Line(Look),
    /// Its mark.
    Mark(Look),
    /// The grey line where both axes agree.
    Diagonal,
}

/// The names of a figure in the order of their first appearance, which gives each its look.
pub(crate) struct Names<'a>(Vec<&'a str>);

impl<'a> Names<'a> {
    /// Each once.
    pub(crate) fn of(names: impl Iterator<Item = &'a String>) -> Self {
        let mut seen: Vec<&str> = Vec::new();
        for name in names {
            if !seen.contains(&name.as_str()) {
                seen.push(name);
            }
        }
        Self(seen)
    }

    /// The look of a name.
    pub(crate) fn look(&self, name: &str) -> Look {
        look(self.0.iter().position(|known| *known == name).unwrap_or(0))
    }

    /// All of them, each behind a sample of its look.
    pub(crate) fn legend(&self, sample: fn(Look) -> Sample) -> Legend {
        let entry = |(place, name): (usize, &&str)| ((*name).to_string(), sample(look(place)));
        Legend(self.0.iter().enumerate().map(entry).collect())
    }
}

/// Names that flow in lines.
#[derive(Default)]
pub(crate) struct Legend(pub(crate) Vec<(String, Sample)>);

impl Legend {
    /// What fits of each name, its sample, and where it stands, for a width.
    fn flow(&self, room: f64) -> Vec<(String, Sample, (f64, f64))> {
        let (mut x, mut y) = (MARGIN, 0.5 * LINE);
        let mut placed = Vec::new();
        for (name, sample) in &self.0 {
            let name = fit(name, TEXT, room - 2.0 * MARGIN - SAMPLE);
            let takes = SAMPLE + width(&name, TEXT);
            if x > MARGIN && x + takes > room - MARGIN {
                (x, y) = (MARGIN, y + LINE);
            }
            placed.push((name, *sample, (x, y)));
            x += takes + GAP;
        }
        placed
    }

    /// Its height for a width.
    pub(crate) fn height(&self, room: f64) -> f64 {
        self.flow(room).last().map_or(0.0, |(_, _, (_, y))| y + 0.5 * LINE + 8.0)
    }

    pub(crate) fn draw<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        top: f64,
        room: f64,
    ) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        for (name, sample, (x, y)) in self.flow(room) {
            let y = top + y;
            match sample {
                Sample::Line(look) if look.dashed => {
                    for start in [0.0, 9.0, 18.0] {
                        pen.line((x + start, y), (x + start + 5.0, y), look.colour, 2.5)?;
                    }
                }
                Sample::Line(look) => pen.line((x, y), (x + 23.0, y), look.colour, 2.5)?,
                Sample::Mark(look) => pen.shape((x + 14.0, y), look)?,
                Sample::Diagonal => pen.line((x, y), (x + 23.0, y), GREY, 1.0)?,
            }
            let style = (TEXT, FontStyle::Normal);
            pen.text(&name, (x + SAMPLE, y), HPos::Left, style, BLACK)?;
        }
        Ok(())
    }
}
