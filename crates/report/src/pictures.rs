//! Images with the objects that are in them, or were found.

use image::{RgbImage, imageops};
use plotters::prelude::*;
use plotters::style::FontStyle;
use plotters::style::text_anchor::HPos;

use crate::error::{Error, Result};
use crate::palette::COLOURS;
use crate::pen::{Pen, encoded, fit, fonts, width};

/// Height of a text, and of the strip that a title stands in, in pixels of the picture.
const TEXT: f64 = 11.0;
const STRIP: u32 = 20;

/// Pixels between two pictures of a sheet.
const GAP: u32 = 8;

/// The part of a pixel of an object that has the colour of the object.
const TINT: f64 = 0.4;

/// An image and the objects in it.
#[derive(Debug, Clone)]
pub struct Picture {
    /// What stands above it in a sheet.
    pub title: String,
    /// The image.
    pub image: RgbImage,
    /// Its objects, the last in front.
    pub objects: Vec<Object>,
}

/// An object in an image.
#[derive(Debug, Clone)]
pub struct Object {
    /// Left, top, right and bottom of its box in pixels of the image.
    pub corners: [f64; 4],
    /// Whether each pixel of the image, row by row, is of it; empty where nobody knows.
    pub mask: Vec<bool>,
    /// What stands at its box, where there is room.
    pub label: String,
    /// Objects of one group have one colour, of which there are six.
    pub group: usize,
}

impl Object {
    /// Its colour: all but black, which dark images hide.
    fn colour(&self) -> RGBColor {
        let colours = &COLOURS[1..];
        colours[self.group % colours.len()]
    }
}

impl Picture {
    /// The image, `zoom` times as large, with masks tinted, boxes around them, and labels where the box is wide enough.
    ///
    /// # Errors
    /// When a mask is of another size than the image, or the picture cannot be drawn.
    pub fn draw(&self, zoom: u32) -> Result<RgbImage> {
        fonts()?;
        let (columns, rows) = self.image.dimensions();
        let mut tinted = self.image.clone();
        for object in self.objects.iter().filter(|object| !object.mask.is_empty()) {
            if object.mask.len() != columns as usize * rows as usize {
                let problem = format!("a mask of {} pixels", object.mask.len());
                return Err(Error::Draw(format!("{problem} in an image of {columns} x {rows}")));
            }
            let RGBColor(red, green, blue) = object.colour();
            let masked = tinted.pixels_mut().zip(&object.mask).filter(|(_, mask)| **mask);
            for (pixel, _) in masked {
                for (value, colour) in pixel.0.iter_mut().zip([red, green, blue]) {
                    let mixed = (1.0 - TINT) * f64::from(*value) + TINT * f64::from(colour);
                    *value = mixed.round() as u8;
                }
            }
        }
        let (across, down) = (columns * zoom, rows * zoom);
        let mut large = imageops::resize(&tinted, across, down, imageops::FilterType::Nearest);
        let area = BitMapBackend::with_buffer(&mut large, (across, down)).into_drawing_area();
        let pen = Pen { area: &area, scale: 1.0 };
        for object in &self.objects {
            let [left, top, right, bottom] =
                object.corners.map(|at| (at * f64::from(zoom)).round());
            let (right, bottom) =
                (right.min(f64::from(across) - 1.0), bottom.min(f64::from(down) - 1.0));
            let colour = object.colour();
            let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
            for (from, to) in corners.into_iter().zip(corners.into_iter().cycle().skip(1)) {
                pen.line(from, to, colour, 1.0)?;
            }
            let room = width(&object.label, TEXT) + 4.0;
            if !object.label.is_empty() && room <= right - left + TEXT {
                let top = (top - TEXT - 3.0).max(0.0);
                let middle = top + TEXT / 2.0 + 1.0;
                pen.rectangle((left, top), (left + room, top + TEXT + 3.0), colour)?;
                let style = (TEXT, FontStyle::Normal);
                pen.text(&object.label, (left + 2.0, middle), HPos::Left, style, WHITE)?;
            }
        }
        drop(area);
        Ok(large)
    }

    /// How often larger a picture is drawn so that its longer side has about `pixels`.
    pub fn zoom(&self, pixels: u32) -> u32 {
        let (columns, rows) = self.image.dimensions();
        (pixels / columns.max(rows).max(1)).max(1)
    }
}

/// Pictures in rows of `in_row`, each with its title above it and about `pixels` long, on white.
///
/// # Errors
/// When there is none, or one cannot be drawn.
pub fn sheet(pictures: &[Picture], in_row: usize, pixels: u32) -> Result<RgbImage> {
    fonts()?;
    let draw = |picture: &Picture| picture.draw(picture.zoom(pixels));
    let drawn: Vec<RgbImage> = pictures.iter().map(draw).collect::<Result<_>>()?;
    if drawn.is_empty() {
        return Err(Error::Draw("a sheet without pictures".to_string()));
    }
    let (mut places, mut across, mut top) = (Vec::new(), 0, 0);
    for row in drawn.chunks(in_row.max(1)) {
        let mut left = GAP;
        for image in row {
            places.push((left, top));
            left += image.width() + GAP;
        }
        across = across.max(left);
        top += row.iter().map(RgbImage::height).max().unwrap_or(0) + STRIP + GAP;
    }
    let mut sheet = RgbImage::from_pixel(across, top, image::Rgb([255; 3]));
    for (image, &(left, top)) in drawn.iter().zip(&places) {
        imageops::replace(&mut sheet, image, i64::from(left), i64::from(top + STRIP));
    }
    let area = BitMapBackend::with_buffer(&mut sheet, (across, top)).into_drawing_area();
    let pen = Pen { area: &area, scale: 1.0 };
    for ((picture, image), (left, top)) in pictures.iter().zip(&drawn).zip(places) {
        let at = (f64::from(left), f64::from(top) + f64::from(STRIP) / 2.0);
        let title = fit(&picture.title, TEXT, f64::from(image.width()));
        pen.text(&title, at, HPos::Left, (TEXT, FontStyle::Normal), BLACK)?;
    }
    drop(area);
    Ok(sheet)
}

/// An image as a PNG file.
///
/// # Errors
/// When it has no pixels.
pub fn png(image: &RgbImage) -> Result<Vec<u8>> {
    encoded(image, image.dimensions())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        let image = RgbImage::from_pixel(40, 20, image::Rgb([10; 3]));
        let mask = (0..800).map(|at| at / 40 >= 10 && at % 40 < 20).collect();
        let object =
            Object { corners: [0.0, 10.0, 20.0, 20.0], mask, label: "square".into(), group: 0 };
        Picture { title: "found".to_string(), image, objects: vec![object] }
    }

    #[test]
    fn a_mask_is_tinted_a_box_drawn_and_the_rest_left_alone() {
        let plain = Picture { objects: Vec::new(), ..picture() }.draw(4).unwrap();
        let drawn = picture().draw(4).unwrap();
        assert_eq!(drawn.dimensions(), (160, 80));
        assert_eq!(plain.get_pixel(60, 70), &image::Rgb([10; 3]));
        let RGBColor(red, green, blue) = COLOURS[1];
        let tinted = [red, green, blue].map(|c| (6.0 + TINT * f64::from(c)).round() as u8);
        assert_eq!(drawn.get_pixel(60, 70).0, tinted);
        assert_eq!(drawn.get_pixel(80, 60).0, [red, green, blue], "the right edge of the box");
        assert_eq!(drawn.get_pixel(120, 60), plain.get_pixel(120, 60));
        let label = (0..80).filter(|&x| drawn.get_pixel(x, 32).0 != [10; 3]).count();
        assert!((30..60).contains(&label), "{label} pixels of the label");
    }

    #[test]
    fn sheets_and_files_hold_every_picture() {
        let sheet = sheet(&[picture(), picture(), picture()], 2, 80).unwrap();
        assert_eq!(sheet.dimensions(), (2 * 80 + 3 * GAP, 2 * (40 + STRIP + GAP)));
        let again = image::load_from_memory(&png(&sheet).unwrap()).unwrap().into_rgb8();
        assert_eq!(again, sheet);
        assert!(super::sheet(&[], 2, 80).is_err());
        let mut wrong = picture();
        wrong.objects[0].mask.pop();
        assert!(wrong.draw(1).unwrap_err().to_string().contains("799 pixels"));
    }
}
