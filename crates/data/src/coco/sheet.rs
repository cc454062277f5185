//! Draws `docs/shapes.png`; `docs/detection.md` says how and what it shows.

use std::path::PathBuf;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops;
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};

use super::{Example, Examples, Shapes};

/// Pixels of the sheet for each of an image, images in a column and a row, pixels between them.
const ZOOM: u32 = 2;
const ROWS: usize = 4;
const COLUMNS: usize = 6;
const GAP: u32 = 4;

fn sheet() -> RgbImage {
    let images = Shapes::default().images(0, 0..ROWS * COLUMNS).unwrap();
    let step = ZOOM * 64 + GAP;
    let size = [COLUMNS, ROWS].map(|count| count as u32 * step + GAP);
    let mut sheet = RgbImage::from_pixel(size[0], size[1], Rgb([255; 3]));
    for index in 0..images.len() {
        let picture = outlined(images.example(index).unwrap());
        let place = |index: usize| i64::from(GAP + index as u32 * step);
        imageops::replace(&mut sheet, &picture, place(index % COLUMNS), place(index / COLUMNS));
    }
    sheet
}

/// An image with white outlines of its masks and black boxes, enlarged.
fn outlined(example: Example) -> RgbImage {
    let Example { height, width, pixels, instances, .. } = example;
    let image = RgbImage::from_raw(width as u32, height as u32, pixels).unwrap();
    let [across, down] = [width, height].map(|side| ZOOM * side as u32);
    let mut large = imageops::resize(&image, across, down, imageops::FilterType::Nearest);
    for instance in instances {
        let mask = instance.mask.to_mask();
        let holds = |x: i64, y: i64| {
            let inside = (0..i64::from(across)).contains(&x) && (0..i64::from(down)).contains(&y);
            let [x, y] = [x, y].map(|at| at as usize / ZOOM as usize);
            inside && mask[y * width + x]
        };
        for (x, y, pixel) in large.enumerate_pixels_mut() {
            let [x, y] = [x, y].map(i64::from);
            let near = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)];
            if holds(x, y) && near.iter().any(|&(x, y)| !holds(x, y)) {
                *pixel = Rgb([255; 3]);
            }
        }
        let [left, top, wide, high] = instance.bbox.map(|side| ZOOM * side as u32);
        for (x, y) in (left..left + wide).flat_map(|x| [(x, top), (x, top + high - 1)]) {
            large.put_pixel(x, y, Rgb([0; 3]));
        }
        for (x, y) in (top..top + high).flat_map(|y| [(left, y), (left + wide - 1, y)]) {
            large.put_pixel(x, y, Rgb([0; 3]));
        }
    }
    large
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/shapes.png")
}

#[test]
#[ignore = "writes docs/shapes.png"]
fn write() {
    let sheet = sheet();
    let file = std::fs::File::create(path()).unwrap();
    let png = PngEncoder::new_with_quality(file, CompressionType::Best, FilterType::Adaptive);
    png.write_image(&sheet, sheet.width(), sheet.height(), ExtendedColorType::Rgb8).unwrap();
}

#[test]
fn the_page_shows_what_is_drawn() {
    let shown = image::open(path()).unwrap().into_rgb8();
    let same = shown == sheet();
    assert!(
        same,
        "docs/shapes.png is of other images; docs/detection.md has the command that draws it"
    );
}
