//! Learning curves as SVG and PNG, drawn with an embedded font.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::error::{self, Error, Result, write};

/// Size of one panel in pixels.
const PANEL: (u32, u32) = (520, 400);

/// Colours that stay apart for the colour-blind (Okabe & Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// One curve: a mean over seeds with its range.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// (x, mean, least, greatest) in order of x.
    pub points: Vec<(f64, f64, f64, f64)>,
}

impl Curve {
    /// Mean and range over runs, each (step, value) in order, at the steps that all have; `None` of no
    /// runs.
    pub fn over(name: String, runs: &[&[(usize, f64)]]) -> Option<Self> {
        let steps = runs.iter().map(|run| run.len()).min()?;
        let points = (0..steps).map(|i| {
            let values: Vec<f64> = runs.iter().map(|run| run[i].1).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (runs[0][i].0 as f64, mean, low, high)
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
    /// Row by row.
    pub panels: Vec<Panel>,
}

impl Figure {
    /// Writes `path` with the extensions `svg` and `png`.
    ///
    /// # Errors
    /// When there is nothing to draw or a file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())
            .map_err(|_| Error::Draw("the embedded font is damaged".to_string()))?;
        let (rows, columns) = self.grid();
        let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, size).into_drawing_area())?;
        let file = path.with_extension("svg");
        write(&file, &svg)?;
        let file = path.with_extension("png");
        // plotters encodes by extension into a file: draw beside, then rename.
        let beside = path.with_extension("part.png");
        self.draw(BitMapBackend::new(&beside, size).into_drawing_area())?;
        std::fs::rename(&beside, &file).map_err(error::file(&file))
    }

    /// Rows and columns of panels.
    fn grid(&self) -> (usize, usize) {
        let columns = self.panels.len().clamp(1, 2);
        (self.panels.len().div_ceil(columns), columns)
    }

    /// The colour of a name: by its first appearance in the figure.
    fn colour(&self, name: &str) -> RGBColor {
        let mut names: Vec<&str> = Vec::new();
        for curve in self.panels.iter().flat_map(|panel| &panel.curves) {
            if !names.contains(&curve.name.as_str()) {
                names.push(&curve.name);
            }
        }
        let position = names.iter().position(|known| *known == name).unwrap_or(0);
        COLOURS[position % COLOURS.len()]
    }

    fn draw<B: DrawingBackend>(&self, area: DrawingArea<B, Shift>) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        area.fill(&WHITE)?;
        let areas = area.split_evenly(self.grid());
        for (area, panel) in areas.iter().zip(&self.panels) {
            self.panel(area, panel)?;
        }
        area.present()?;
        Ok(())
    }

    fn panel<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, panel: &Panel) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let points = || panel.curves.iter().flat_map(|curve| &curve.points);
        let (x_range, y_range) =
            (range(points().map(|p| p.0)), range(points().flat_map(|p| [p.2, p.3])));
        let decimals = usize::from(y_range.end - y_range.start < 10.0);
        // Where curves end low, as losses do, the legend stands above them.
        let fall = |curve: &Curve| Some(curve.points.last()?.1 < curve.points.first()?.1);
        let corner = match panel.curves.iter().any(|curve| fall(curve) == Some(true)) {
            true => SeriesLabelPosition::UpperRight,
            false => SeriesLabelPosition::LowerRight,
        };
        let mut chart = ChartBuilder::on(area)
            .caption(&panel.title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(x_range, y_range)?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .label_style(("sans-serif", 13))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.decimals$}"))
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()?;
        for curve in &panel.curves {
            let colour = self.colour(&curve.name);
            let upper = curve.points.iter().map(|p| (p.0, p.3));
            let lower = curve.points.iter().rev().map(|p| (p.0, p.2));
            let band: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart.draw_series([Polygon::new(band, colour.mix(0.12))])?;
            let line = curve.points.iter().map(|p| (p.0, p.1));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(corner)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(180, 180, 180))
            .label_font(("sans-serif", 13))
            .draw()?;
        Ok(())
    }
}

/// The range of finite values with a margin; 0 to 1 when there are none.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let finite = values.filter(|v| v.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = (0.04 * (high - low)).max(1e-9);
    low - margin..high + margin
}
