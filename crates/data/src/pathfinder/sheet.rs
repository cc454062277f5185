//! Draws `docs/pathfinder.png`; `docs/lra.md` says how and what its rows are.

use std::path::PathBuf;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops::{self, resize};
use image::{ExtendedColorType, GrayImage, ImageEncoder, Luma};

use super::Pathfinder;

/// Pixels along a picture, pictures in a row, pixels between them.
const SIDE: u32 = 96;
const COLUMNS: usize = 8;
const GAP: u32 = 4;
/// How often the sheet may look for images of a label: 8 of 64 are missing once in 10^11 sheets.
const LOOKED_AT: usize = 64;

/// Two rows for each configuration: markers on one path, markers on two.
fn sheet() -> GrayImage {
    let configs =
        [Pathfinder::easy(), Pathfinder::intermediate(), Pathfinder::hard(), Pathfinder::small()];
    let step = SIDE + GAP;
    let rows = 2 * configs.len() as u32;
    let mut sheet =
        GrayImage::from_pixel(COLUMNS as u32 * step + GAP, rows * step + GAP, Luma([255]));
    for (config, name) in configs.iter().zip(0..) {
        let images = config.images(0, 0..LOOKED_AT).unwrap();
        for (row, label) in [1, 0].into_iter().enumerate() {
            let of_label = (0..LOOKED_AT).filter(|&index| images.labels()[index] == label);
            let places: Vec<usize> = of_label.take(COLUMNS).collect();
            assert_eq!(places.len(), COLUMNS);
            for (column, index) in places.into_iter().enumerate() {
                let pixels = images.image(index).unwrap().to_vec();
                let side = config.size as u32;
                let image = GrayImage::from_raw(side, side, pixels).unwrap();
                // As large as whole pixels allow, in the middle of its place.
                let shown = SIDE / side * side;
                let image = resize(&image, shown, shown, imageops::FilterType::Nearest);
                let first = GAP + (SIDE - shown) / 2;
                let place = |index: usize| i64::from(first + index as u32 * step);
                imageops::replace(&mut sheet, &image, place(column), place(2 * name + row));
            }
        }
    }
    sheet
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/pathfinder.png")
}

#[test]
#[ignore = "writes docs/pathfinder.png"]
fn write() {
    let sheet = sheet();
    let file = std::fs::File::create(path()).unwrap();
    let png = PngEncoder::new_with_quality(file, CompressionType::Best, FilterType::NoFilter);
    png.write_image(&sheet, sheet.width(), sheet.height(), ExtendedColorType::L8).unwrap();
}

#[test]
fn the_page_shows_what_is_drawn() {
    let shown = image::open(path()).unwrap().into_luma8();
    let same = shown == sheet();
    assert!(
        same,
        "docs/pathfinder.png is of other images; docs/lra.md has the command that draws it"
    );
}
