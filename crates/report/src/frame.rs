//! What figures share: panels in rows of two with axes, and a key below them, where it covers no data.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::axis::{Axis, Tick};
use crate::drawing::{Hover, Panel, Rectangle};
use crate::error::{Error, Result, write};
use crate::palette::LIGHT;
use crate::pen::{Pen, fit, fonts, save_png};

/// Size of one panel in pixels.
pub(crate) const PANEL: (f64, f64) = (520.0, 400.0);
/// Units of an SVG for each pixel, as plotters draws at whole units.
const FINE: u32 = 4;

/// Axes with ticks of ours, in drawn coordinates.
pub(crate) type Axes = Cartesian2d<Ticked, Ticked>;

/// An axis in drawn coordinates with lines where we want them. (plotters' own such axis has no labels for f64.)
pub(crate) struct Ticked {
    line: RangedCoordf64,
    labelled: Vec<f64>,
    between: Vec<f64>,
}

impl Ranged for Ticked {
    type ValueType = f64;
    type FormatOption = DefaultFormatting;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.line.map(value, limit)
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => self.between.clone(),
            false => self.labelled.clone(),
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.line.range()
    }
}

/// A figure of panels.
pub(crate) trait Paint {
    /// The number of points of each panel.
    ///
    /// # Errors
    /// When the data contradict each other.
    fn points(&self) -> Result<Vec<usize>>;

    /// The height of the key for a width.
    fn key_height(&self, width: f64) -> f64;

    /// Draws the key below `top`.
    fn key<B: DrawingBackend>(&self, pen: &Pen<'_, B>, top: f64, width: f64) -> Result<()>
    where
        B::ErrorType: 'static;

    /// Draws the panel of an index on a part of the pen's area.
    fn panel<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        area: &DrawingArea<B, Shift>,
        index: usize,
    ) -> Result<Panel>
    where
        B::ErrorType: 'static;

    /// The data: head and rows.
    fn records(&self) -> Vec<Vec<String>>;
}

/// The figure as SVG, and where its values are.
pub(crate) fn sketch(figure: &impl Paint) -> Result<(String, Hover)> {
    let (width, height) = size(figure)?;
    let mut svg = String::new();
    let fine = (width * FINE, height * FINE);
    let area = SVGBackend::with_string(&mut svg, fine).into_drawing_area();
    let hover = paint(figure, &area, f64::from(FINE))?;
    drop(area);
    // The size in pixels, in front of the view box in finer units; and what SVG takes for granted.
    let head = |(width, height): (u32, u32)| format!("width=\"{width}\" height=\"{height}\"");
    let svg = svg.replacen(&head(fine), &head((width, height)), 1);
    Ok((svg.replace(" opacity=\"1\"", "").replace(" stroke=\"none\"", ""), hover))
}

/// Writes SVG and PNG.
pub(crate) fn save(figure: &impl Paint, path: &Path) -> Result<()> {
    write(&path.with_extension("svg"), &sketch(figure)?.0)?;
    save_png(path, size(figure)?, |area, scale| paint(figure, area, scale).map(|_| ()))
}

/// The data as comma-separated values.
pub(crate) fn csv(figure: &impl Paint) -> Result<String> {
    figure.points()?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in figure.records() {
        writer.write_record(record)?;
    }
    let bytes = writer.into_inner().map_err(|e| csv::Error::from(e.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Rows and columns of panels.
fn grid(figure: &impl Paint) -> Result<(usize, usize)> {
    let points = figure.points()?;
    if points.iter().all(|points| *points == 0) {
        return Err(Error::Draw("it has no points".to_string()));
    }
    let columns = points.len().clamp(1, 2);
    Ok((points.len().div_ceil(columns), columns))
}

fn size(figure: &impl Paint) -> Result<(u32, u32)> {
    fonts()?;
    let (rows, columns) = grid(figure)?;
    let width = PANEL.0 * columns as f64;
    let height = PANEL.1 * rows as f64 + figure.key_height(width);
    Ok((width as u32, height as u32))
}

fn paint<B: DrawingBackend>(
    figure: &impl Paint,
    area: &DrawingArea<B, Shift>,
    scale: f64,
) -> Result<Hover>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let (rows, columns) = grid(figure)?;
    let pen = Pen { area, scale };
    let (width, height) = (PANEL.0 * columns as f64, PANEL.1 * rows as f64);
    let (above, _) = area.split_vertically(pen.pixels(height));
    let mut panels = Vec::new();
    for (index, area) in above.split_evenly((rows, columns)).iter().enumerate() {
        if index < figure.points()?.len() {
            panels.push(figure.panel(&pen, area, index)?);
        }
    }
    figure.key(&pen, height, width)?;
    area.present()?;
    Ok(Hover { panels, key: [0.0, height, width, figure.key_height(width)] })
}

/// Axes with a title.
pub(crate) fn chart<'a, B: DrawingBackend>(
    scale: f64,
    area: &'a DrawingArea<B, Shift>,
    title: &str,
    (x, x_ticks): (&Axis, &[Tick]),
    (y, y_ticks): (&Axis, &[Tick]),
) -> Result<ChartContext<'a, B, Axes>>
where
    B::ErrorType: 'static,
{
    let size = |length: f64| (length * scale).round() as u32;
    let places = |ticks: &[Tick]| ticks.iter().map(|tick| tick.0).collect::<Vec<f64>>();
    let label = |ticks: &[Tick], place: f64| {
        let tick = ticks.iter().find(|tick| tick.0 == place);
        tick.map_or_else(String::new, |tick| tick.1.clone())
    };
    let coordinate = |axis: &Axis, ticks: &[Tick]| {
        let (low, high) = axis.ends();
        let line = (low..high).into();
        Ticked { line, labelled: places(ticks), between: axis.minor() }
    };
    let mut chart = ChartBuilder::on(area)
        .caption(fit(title, 16.0, PANEL.0 - 24.0), ("sans-serif", size(16.0)))
        .margin(size(12.0))
        .x_label_area_size(size(42.0))
        .y_label_area_size(size(62.0))
        .build_cartesian_2d(coordinate(x, x_ticks), coordinate(y, y_ticks))?;
    chart
        .configure_mesh()
        .x_desc(fit(&x.name, 13.0, 420.0))
        .y_desc(fit(&y.name, 13.0, 320.0))
        .label_style(("sans-serif", size(13.0)))
        .x_label_formatter(&|place| label(x_ticks, *place))
        .y_label_formatter(&|place| label(y_ticks, *place))
        .set_all_tick_mark_size(size(5.0))
        .light_line_style(RGBColor(242, 242, 242).stroke_width(size(1.0)))
        .bold_line_style(LIGHT.stroke_width(size(1.0)))
        .axis_style(RGBColor(60, 60, 60).stroke_width(size(1.0)))
        .draw()?;
    Ok(chart)
}

/// What of a part of the figure, in pixels of the figure.
pub(crate) fn rectangle<B: DrawingBackend, C: plotters::coord::CoordTranslate>(
    area: &DrawingArea<B, C>,
    scale: f64,
) -> Rectangle {
    let (x, y) = area.get_pixel_range();
    [x.start, y.start, x.end - x.start, y.end - y.start].map(|at| f64::from(at) / scale)
}
