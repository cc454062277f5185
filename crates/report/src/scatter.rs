//! Points in groups, such as both sides of an inequality, in panels.

use plotters::prelude::*;

use crate::axis::{Axis, rounded};
use crate::drawing::{Content, Series};
use crate::error::{Error, Result};
use crate::frame::{Axes, Paint};
use crate::legend::{Legend, Names, Sample};
use crate::palette::{GREY, hex};
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

impl Scatter {
    fn names(&self) -> Names<'_> {
        Names::of(self.panels.iter().flat_map(|panel| &panel.groups).map(|group| &group.name))
    }
}

impl Paint for Scatter {
    fn panels(&self) -> Result<Vec<(&str, usize)>> {
        if self.diagonal && self.log_x != self.log_y {
            return Err(Error::Draw(
                "the line y = x needs two linear or two logarithmic axes".to_string(),
            ));
        }
        let points = |panel: &Panel| panel.groups.iter().map(|group| group.points.len()).sum();
        Ok(self.panels.iter().map(|panel| (panel.title.as_str(), points(panel))).collect())
    }

    fn legend(&self) -> Legend {
        let mut legend = self.names().legend(Sample::Mark);
        legend.0.extend(self.diagonal.then(|| ("y = x".to_string(), Sample::Diagonal)));
        legend
    }

    fn axes(&self, panel: usize) -> [Axis; 2] {
        let points = || self.panels[panel].groups.iter().flat_map(|group| &group.points);
        let (xs, ys) = (|| points().map(|p| p.x), || points().map(|p| p.y));
        match self.diagonal {
            true => [
                Axis::over(&self.x, self.log_x, xs().chain(ys())),
                Axis::over(&self.y, self.log_y, xs().chain(ys())),
            ],
            false => [Axis::over(&self.x, self.log_x, xs()), Axis::over(&self.y, self.log_y, ys())],
        }
    }

    fn draw<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        chart: &mut ChartContext<'_, B, Axes>,
        panel: usize,
        [x, y]: &[Axis; 2],
    ) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        if self.diagonal {
            let (low, high) = x.ends();
            let style = GREY.stroke_width(pen.pixels(1.0));
            chart.draw_series(LineSeries::new([(low, low), (high, high)], style))?;
        }
        let names = self.names();
        for group in &self.panels[panel].groups {
            let look = names.look(&group.name);
            let drawn = group.points.iter().filter_map(|p| Some((x.at(p.x)?, y.at(p.y)?)));
            for at in drawn {
                pen.shape(pen.place(chart, at), look)?;
            }
        }
        Ok(())
    }

    fn content(&self, panel: usize) -> Content {
        let names = self.names();
        let series = self.panels[panel].groups.iter().map(|group| Series {
            name: group.name.clone(),
            colour: hex(names.look(&group.name).colour),
            points: group.points.iter().map(|p| vec![rounded(p.x), rounded(p.y)]).collect(),
            labels: group.points.iter().map(|p| p.label.clone()).collect(),
        });
        Content::Points { series: series.collect() }
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
