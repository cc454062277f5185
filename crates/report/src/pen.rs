//! Drawing in pixels of the figure, whatever their size in the file, with an embedded font.

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::error::{Error, Result, write_bytes};
use crate::frame::Axes;
use crate::palette::{Look, Shape};

/// Pixels of a PNG for each of the figure's.
const PNG_SCALE: u32 = 2;

/// Registers the embedded font.
pub(crate) fn fonts() -> Result<()> {
    use dejavu::sans;
    for (style, font) in [(FontStyle::Normal, sans::regular()), (FontStyle::Bold, sans::bold())] {
        register_font("sans-serif", style, font)
            .map_err(|_| Error::Draw("the embedded font is damaged".to_string()))?;
    }
    Ok(())
}

/// Draws a bitmap of a figure of `size`, by a function of its area and scale, and writes it as PNG.
pub(crate) fn save_png(
    path: &Path,
    (width, height): (u32, u32),
    draw: impl FnOnce(&DrawingArea<BitMapBackend<'_>, Shift>, f64) -> Result<()>,
) -> Result<()> {
    let (width, height) = (width * PNG_SCALE, height * PNG_SCALE);
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    draw(&area, f64::from(PNG_SCALE))?;
    drop(area);
    write_bytes(&path.with_extension("png"), &encoded(&pixels, (width, height))?)
}

/// Pixels of red, green and blue as a PNG file.
pub(crate) fn encoded(pixels: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive)
        .write_image(pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| Error::Draw(error.to_string()))?;
    Ok(png)
}

/// The width of a text.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    let font = FontDesc::new(FontFamily::SansSerif, size, FontStyle::Normal);
    font.box_size(text).map_or(0.0, |(width, _)| f64::from(width))
}

/// The text, or as much of it as has room, with an ellipsis.
pub(crate) fn fit(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_string();
    }
    let mut short: Vec<char> = text.chars().collect();
    loop {
        short.pop();
        let text: String = short.iter().chain(&['…']).collect();
        if short.is_empty() || width(&text, size) <= room {
            return text;
        }
    }
}

/// Draws on an area with `scale` pixels for each of the figure's.
pub(crate) struct Pen<'a, B: DrawingBackend> {
    pub(crate) area: &'a DrawingArea<B, Shift>,
    pub(crate) scale: f64,
}

impl<B: DrawingBackend> Pen<'_, B>
where
    B::ErrorType: 'static,
{
    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }

    /// Where a point of a chart is, in pixels of the figure.
    pub(crate) fn place(&self, chart: &ChartContext<'_, B, Axes>, point: (f64, f64)) -> (f64, f64) {
        let (x, y) = chart.backend_coord(&point);
        (f64::from(x) / self.scale, f64::from(y) / self.scale)
    }

    /// A length in pixels of the file.
    pub(crate) fn pixels(&self, length: f64) -> u32 {
        (length * self.scale).round() as u32
    }

    pub(crate) fn text(
        &self,
        text: &str,
        at: (f64, f64),
        anchor: HPos,
        (size, style): (f64, FontStyle),
        colour: RGBColor,
    ) -> Result<()> {
        let font = FontDesc::new(FontFamily::SansSerif, size * self.scale, style);
        let style = font.color(&colour).pos(Pos::new(anchor, VPos::Center));
        Ok(self.area.draw(&Text::new(text.to_string(), self.at(at), style))?)
    }

    pub(crate) fn line(
        &self,
        from: (f64, f64),
        to: (f64, f64),
        colour: RGBColor,
        width: f64,
    ) -> Result<()> {
        let style = colour.stroke_width(self.pixels(width));
        Ok(self.area.draw(&PathElement::new([self.at(from), self.at(to)], style))?)
    }

    /// A filled rectangle from its upper left to its lower right corner.
    pub(crate) fn rectangle(
        &self,
        from: (f64, f64),
        to: (f64, f64),
        colour: RGBColor,
    ) -> Result<()> {
        Ok(self.area.draw(&Rectangle::new([self.at(from), self.at(to)], colour.filled()))?)
    }

    /// A circle, filled or open.
    pub(crate) fn mark(&self, at: (f64, f64), filled: bool, colour: RGBColor) -> Result<()> {
        self.circle(at, 6.0, colour)?;
        self.circle(at, 4.0, if filled { colour } else { WHITE })
    }

    /// A filled circle.
    pub(crate) fn circle(&self, at: (f64, f64), radius: f64, colour: RGBColor) -> Result<()> {
        Ok(self.area.draw(&Circle::new(self.at(at), radius * self.scale, colour.filled()))?)
    }

    /// A mark of a group of points, with a white edge that keeps it apart from those below.
    pub(crate) fn shape(&self, at: (f64, f64), look: Look) -> Result<()> {
        let radius = 4.2;
        for (radius, colour) in [(radius + 1.1, WHITE), (radius, look.colour)] {
            match look.shape {
                Shape::Circle => self.circle(at, radius, colour)?,
                Shape::Ring => {
                    self.circle(at, radius, colour)?;
                    self.circle(at, radius - 1.8, WHITE)?;
                }
                _ => {
                    let corner =
                        |(x, y): (f64, f64)| self.at((at.0 + radius * x, at.1 + radius * y));
                    let corners: Vec<(i32, i32)> =
                        look.shape.outline().into_iter().map(corner).collect();
                    self.area.draw(&Polygon::new(corners, colour.filled()))?;
                }
            }
        }
        Ok(())
    }
}
