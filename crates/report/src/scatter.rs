//! Points in groups, such as both sides of an inequality, in panels.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::axis::{Axis, rounded};
use crate::drawing::{Content, Drawing, Hover, Panel as HoverPanel, Series};
use crate::error::{Error, Result};
use crate::frame::{self, Paint, chart, rectangle};
use crate::legend::{Legend, Sample};
use crate::palette::{GREY, Look, distinct, hex, look};
use crate::pen::Pen;

/// A point.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Along the x axis; where it or `y` is not finite, or not positive on a logarithmic axis, no mark is drawn.
    pub x: f64,
    /// Along the y axis.
    pub y: f64,
    /// What it is, for the page and the data.
    pub label: String,
}

/// Points of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name in the legend.
    pub name: String,
    /// Its points.
    pub points: Vec<Point>,
}

/// Groups on common axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above the axes.
    pub title: String,
    /// The groups; the same name has the same colour and mark in every panel.
    pub groups: Vec<Group>,
}

/// Panels in rows of two.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter {
    /// Below the axes.
    pub x: String,
    /// Beside the axes.
    pub y: String,
    /// Whether x is logarithmic.
    pub log_x: bool,
    /// Whether y is logarithmic.
    pub log_y: bool,
    /// Whether both axes have one range and the line y = x is drawn; asks for two axes of one kind.
    pub diagonal: bool,
    /// Row by row.
    pub panels: Vec<Panel>,
}

impl Drawing for Scatter {
    fn svg(&self) -> Result<String> {
        Ok(frame::sketch(self)?.0)
    }

    fn save(&self, path: &Path) -> Result<()> {
        frame::save(self, path)
    }

    fn csv(&self) -> Result<String> {
        frame::csv(self)
    }

    fn hover(&self) -> Result<Hover> {
        Ok(frame::sketch(self)?.1)
    }
}

impl Scatter {
    /// Every name once.
    fn names(&self) -> Vec<&str> {
        distinct(self.panels.iter().flat_map(|p| &p.groups).map(|group| group.name.as_str()))
    }

    /// The look of a name: by its first appearance in the figure.
    fn look(&self, name: &str) -> Look {
        look(self.names().iter().position(|known| *known == name).unwrap_or(0))
    }

    fn legend(&self) -> Legend {
        let entry = |(i, name): (usize, &str)| (name.to_string(), Sample::Mark(look(i)));
        let diagonal = self.diagonal.then(|| ("y = x".to_string(), Sample::Diagonal));
        Legend(self.names().into_iter().enumerate().map(entry).chain(diagonal).collect())
    }

    /// The axes of a panel.
    fn axes(&self, panel: &Panel) -> (Axis, Axis) {
        let points = || panel.groups.iter().flat_map(|group| &group.points);
        let mut x = Axis::over(&self.x, self.log_x, points().map(|p| p.x));
        let mut y = Axis::over(&self.y, self.log_y, points().map(|p| p.y));
        if self.diagonal {
            let both = || points().flat_map(|p| [p.x, p.y]);
            x = Axis::over(&self.x, self.log_x, both());
            y = Axis::over(&self.y, self.log_y, both());
        }
        (x, y)
    }
}

impl Paint for Scatter {
    fn points(&self) -> Result<Vec<usize>> {
        if self.diagonal && self.log_x != self.log_y {
            return Err(Error::Draw(
                "the line y = x needs two linear or two logarithmic axes".to_string(),
            ));
        }
        let points = |panel: &Panel| panel.groups.iter().map(|group| group.points.len()).sum();
        Ok(self.panels.iter().map(points).collect())
    }

    fn key_height(&self, width: f64) -> f64 {
        self.legend().height(width)
    }

    fn key<B: DrawingBackend>(&self, pen: &Pen<'_, B>, top: f64, width: f64) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        self.legend().draw(pen, top, width)
    }

    fn panel<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        area: &DrawingArea<B, Shift>,
        index: usize,
    ) -> Result<HoverPanel>
    where
        B::ErrorType: 'static,
    {
        let panel = &self.panels[index];
        let (x, y) = self.axes(panel);
        let (x_ticks, y_ticks) = (x.ticks(5), y.ticks(6));
        let mut chart = chart(pen.scale, area, &panel.title, (&x, &x_ticks), (&y, &y_ticks))?;
        if self.diagonal {
            let (low, high) = x.ends();
            let style = GREY.stroke_width(pen.pixels(1.0));
            chart.draw_series(LineSeries::new([(low, low), (high, high)], style))?;
        }
        for group in &panel.groups {
            let look = self.look(&group.name);
            let drawn = group.points.iter().filter_map(|p| Some((x.at(p.x)?, y.at(p.y)?)));
            for (x, y) in drawn.map(|at| chart.backend_coord(&at)) {
                pen.shape((f64::from(x) / pen.scale, f64::from(y) / pen.scale), look)?;
            }
        }
        let series = panel.groups.iter().map(|group| Series {
            name: group.name.clone(),
            colour: hex(self.look(&group.name).colour),
            points: group.points.iter().map(|p| vec![rounded(p.x), rounded(p.y)]).collect(),
            labels: group.points.iter().map(|p| p.label.clone()).collect(),
        });
        Ok(HoverPanel {
            title: panel.title.clone(),
            frame: rectangle(area, pen.scale),
            area: rectangle(chart.plotting_area(), pen.scale),
            content: Content::Points { series: series.collect() },
            x,
            y,
        })
    }

    fn records(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["panel", "group", "label", "x", "y"].map(String::from).to_vec()];
        for panel in &self.panels {
            for group in &panel.groups {
                rows.extend(group.points.iter().map(|point| {
                    let names = [&panel.title, &group.name, &point.label].map(String::clone);
                    names.into_iter().chain([point.x, point.y].map(|v| v.to_string())).collect()
                }));
            }
        }
        rows
    }
}
