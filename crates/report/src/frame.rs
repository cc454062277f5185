//! What figures share: panels in rows of two with axes, and a key below them, where it covers no data.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::axis::{Axis, Tick};
use crate::drawing::{Content, Drawing, Hover, Panel, Rectangle};
use crate::error::{Error, Result, write};
use crate::grid::csv_text;
use crate::legend::Legend;
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

/// A figure of panels: what differs from kind to kind.
pub(crate) trait Paint {
    /// The title and the number of points of each panel.
    ///
    /// # Errors
    /// When the data contradict each other.
    fn panels(&self) -> Result<Vec<(&str, usize)>>;

    /// The axes of a panel, x first.
    fn axes(&self, panel: usize) -> [Axis; 2];

    /// The ticks of a y axis.
    fn y_ticks(&self, y: &Axis) -> Vec<Tick> {
        y.ticks(6)
    }

    /// Draws the data of a panel into its axes.
    fn draw<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        chart: &mut ChartContext<'_, B, Axes>,
        panel: usize,
        axes: &[Axis; 2],
    ) -> Result<()>
    where
        B::ErrorType: 'static;

    /// What a panel shows, for the page.
    fn content(&self, panel: usize) -> Content;

    /// The names of what is drawn, which are the key of the figure.
    fn legend(&self) -> Legend {
        Legend::default()
    }

    /// The height of the key for a width.
    fn key_height(&self, width: f64) -> f64 {
        self.legend().height(width)
    }

    /// Draws the key below `top`.
    fn key<B: DrawingBackend>(&self, pen: &Pen<'_, B>, top: f64, width: f64) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        self.legend().draw(pen, top, width)
    }

    /// The data: head and rows.
    fn records(&self) -> Vec<Vec<String>>;
}

impl<F: Paint> Drawing for F {
    fn svg(&self) -> Result<String> {
        Ok(sketch(self)?.0)
    }

    fn save(&self, path: &Path) -> Result<()> {
        write(&path.with_extension("svg"), &self.svg()?)?;
        save_png(path, size(self)?, |area, scale| paint(self, area, scale).map(|_| ()))
    }

    fn csv(&self) -> Result<String> {
        self.panels()?;
        csv_text(&self.records())
    }

    fn hover(&self) -> Result<Hover> {
        Ok(sketch(self)?.1)
    }
}

/// The figure as SVG, and where its values are.
fn sketch(figure: &impl Paint) -> Result<(String, Hover)> {
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

/// Rows and columns of panels.
fn grid(figure: &impl Paint) -> Result<(usize, usize)> {
    let panels = figure.panels()?;
    if panels.iter().all(|(_, points)| *points == 0) {
        return Err(Error::Draw("it has no points".to_string()));
    }
    let columns = panels.len().clamp(1, 2);
    Ok((panels.len().div_ceil(columns), columns))
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
    let areas = above.split_evenly((rows, columns));
    for (index, ((title, _), area)) in figure.panels()?.into_iter().zip(&areas).enumerate() {
        let axes = figure.axes(index);
        let mut chart = chart(scale, area, title, &axes, &figure.y_ticks(&axes[1]))?;
        figure.draw(&pen, &mut chart, index, &axes)?;
        let [x, y] = axes;
        panels.push(Panel {
            title: title.to_string(),
            frame: rectangle(area, scale),
            area: rectangle(chart.plotting_area(), scale),
            x,
            y,
            content: figure.content(index),
        });
    }
    figure.key(&pen, height, width)?;
    area.present()?;
    Ok(Hover { panels, key: [0.0, height, width, figure.key_height(width)] })
}

/// Axes with a title.
fn chart<'a, B: DrawingBackend>(
    scale: f64,
    area: &'a DrawingArea<B, Shift>,
    title: &str,
    [x, y]: &[Axis; 2],
    y_ticks: &[Tick],
) -> Result<ChartContext<'a, B, Axes>>
where
    B::ErrorType: 'static,
{
    let size = |length: f64| (length * scale).round() as u32;
    let x_ticks = x.ticks(5);
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
        .build_cartesian_2d(coordinate(x, &x_ticks), coordinate(y, y_ticks))?;
    chart
        .configure_mesh()
        .x_desc(fit(&x.name, 13.0, 420.0))
        .y_desc(fit(&y.name, 13.0, 320.0))
        .label_style(("sans-serif", size(13.0)))
        .x_label_formatter(&|place| label(&x_ticks, *place))
        .y_label_formatter(&|place| label(y_ticks, *place))
        .set_all_tick_mark_size(size(5.0))
        .light_line_style(RGBColor(242, 242, 242).stroke_width(size(1.0)))
        .bold_line_style(LIGHT.stroke_width(size(1.0)))
        .axis_style(RGBColor(60, 60, 60).stroke_width(size(1.0)))
        .draw()?;
    Ok(chart)
}

/// Where a part of the figure is, in its pixels.
fn rectangle<B: DrawingBackend, C: plotters::coord::CoordTranslate>(
    area: &DrawingArea<B, C>,
    scale: f64,
) -> Rectangle {
    let (x, y) = area.get_pixel_range();
    [x.start, y.start, x.end - x.start, y.end - y.start].map(|at| f64::from(at) / scale)
}
