//! Learning curves, a mean with its range, in panels.

use plotters::prelude::*;

use crate::axis::{Axis, rounded};
use crate::drawing::{Content, Series};
use crate::error::Result;
use crate::frame::{Axes, Paint};
use crate::legend::{Legend, Names, Sample};
use crate::palette::{Look, hex};
use crate::pen::Pen;

/// One curve: a mean over seeds with its range.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// (x, mean, least, greatest) in order of x; where one is not finite, or not positive on a logarithmic axis,
    /// the line is broken.
    pub points: Vec<(f64, f64, f64, f64)>,
}

impl Curve {
    /// Mean and range over runs, each (step, value) in order, at the steps that all have; `None` of no
    /// runs.
    pub fn over(name: String, runs: &[&[(usize, f64)]]) -> Option<Self> {
        let at = |run: &[(usize, f64)], step: usize| {
            let found = run.binary_search_by_key(&step, |(step, _)| *step);
            found.ok().map(|i| run[i].1)
        };
        let points = runs.first()?.iter().filter_map(|&(step, _)| {
            let values: Vec<f64> = runs.iter().map(|run| at(run, step)).collect::<Option<_>>()?;
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            Some((step as f64, mean, low, high))
        });
        Some(Self { name, points: points.collect() })
    }
}

/// Curves on common axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above the axes.
    pub title: String,
    /// The curves; the same name has the same colour in every panel.
    pub curves: Vec<Curve>,
}

/// Panels in rows of two.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Below the axes.
    pub x: String,
    /// Beside the axes.
    pub y: String,
    /// Whether y is logarithmic: values that are not positive are left out.
    pub log_y: bool,
    /// Row by row.
    pub panels: Vec<Panel>,
}

impl Figure {
    fn names(&self) -> Names<'_> {
        Names::of(self.panels.iter().flat_map(|panel| &panel.curves).map(|curve| &curve.name))
    }
}

impl Paint for Figure {
    fn panels(&self) -> Result<Vec<(&str, usize)>> {
        let points = |panel: &Panel| panel.curves.iter().map(|curve| curve.points.len()).sum();
        Ok(self.panels.iter().map(|panel| (panel.title.as_str(), points(panel))).collect())
    }

    fn legend(&self) -> Legend {
        self.names().legend(Sample::Line)
    }

    fn axes(&self, panel: usize) -> [Axis; 2] {
        let points = || self.panels[panel].curves.iter().flat_map(|curve| &curve.points);
        [
            Axis::over(&self.x, false, points().map(|p| p.0)),
            Axis::over(&self.y, self.log_y, points().flat_map(|p| [p.1, p.2, p.3])),
        ]
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
        let names = self.names();
        for curve in &self.panels[panel].curves {
            curve_on(chart, pen, names.look(&curve.name), &curve.drawn(x, y))?;
        }
        Ok(())
    }

    fn content(&self, panel: usize) -> Content {
        let names = self.names();
        let points = |curve: &Curve| {
            curve.points.iter().map(|p| [p.0, p.1, p.2, p.3].map(rounded).to_vec()).collect()
        };
        let series = self.panels[panel].curves.iter().map(|curve| Series {
            name: curve.name.clone(),
            colour: hex(names.look(&curve.name).colour),
            points: points(curve),
            labels: Vec::new(),
        });
        Content::Curves { series: series.collect() }
    }

    fn records(&self) -> Vec<Vec<String>> {
        let mut rows =
            vec![["panel", "curve", "x", "mean", "low", "high"].map(String::from).to_vec()];
        for panel in &self.panels {
            for curve in &panel.curves {
                rows.extend(curve.points.iter().map(|(x, mean, low, high)| {
                    let numbers = [x, mean, low, high].map(f64::to_string);
                    [panel.title.clone(), curve.name.clone()].into_iter().chain(numbers).collect()
                }));
            }
        }
        rows
    }
}

/// A point in drawn coordinates: x, mean, and the band where it has one.
type Drawn = (f64, f64, Option<(f64, f64)>);

impl Curve {
    /// The points in drawn coordinates, `None` where the line is broken; a band that reaches below what a
    /// logarithmic axis shows ends at the axis.
    fn drawn(&self, x: &Axis, y: &Axis) -> Vec<Option<Drawn>> {
        let floor = y.ends().0;
        let point = |&(at, mean, low, high): &(f64, f64, f64, f64)| {
            let below = |low: f64| y.at(low).or((y.log && low <= 0.0).then_some(floor));
            Some((x.at(at)?, y.at(mean)?, below(low).zip(y.at(high))))
        };
        self.points.iter().map(point).collect()
    }
}

/// Draws what is not broken of a curve.
fn curve_on<B: DrawingBackend>(
    chart: &mut ChartContext<'_, B, Axes>,
    pen: &Pen<'_, B>,
    look: Look,
    drawn: &[Option<Drawn>],
) -> Result<()>
where
    B::ErrorType: 'static,
{
    let stroke = look.colour.stroke_width(pen.pixels(2.0));
    let banded = |point: &Option<Drawn>| point.and_then(|(x, _, band)| Some((x, band?)));
    let bands: Vec<Option<(f64, (f64, f64))>> = drawn.iter().map(banded).collect();
    for run in bands.split(Option::is_none).filter(|run| run.len() > 1) {
        let upper = run.iter().flatten().map(|(x, (_, high))| (*x, *high));
        let lower = run.iter().rev().flatten().map(|(x, (low, _))| (*x, *low));
        let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
        chart.draw_series([Polygon::new(outline, look.colour.mix(0.12))])?;
    }
    for run in drawn.split(Option::is_none) {
        let line: Vec<(f64, f64)> = run.iter().flatten().map(|(x, y, _)| (*x, *y)).collect();
        if let ([(x, _, band)], [at]) = (&run.iter().flatten().collect::<Vec<_>>()[..], &line[..]) {
            // A point alone: a dot, its range as a bar.
            if let Some((low, high)) = band {
                let bar = look.colour.stroke_width(pen.pixels(1.0));
                chart.draw_series([PathElement::new([(*x, *low), (*x, *high)], bar)])?;
            }
            chart.draw_series([Circle::new(*at, pen.pixels(3.5), look.colour.filled())])?;
        } else if look.dashed {
            let (dash, gap) = (pen.pixels(6.0), pen.pixels(4.0));
            chart.draw_series(DashedLineSeries::new(line, dash, gap, stroke))?;
        } else if line.len() > 1 {
            chart.draw_series(LineSeries::new(line, stroke))?;
        }
    }
    Ok(())
}
