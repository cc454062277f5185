//! Draws `docs/transforms.png`; `docs/transforms.md` says how and what its rows are.

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops::{self, crop_imm, resize};
use image::{ImageEncoder, Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::op::Op;
use super::rand_augment::RandAugment;
use super::rect::Rect;
use super::{colour_jitter, erase, random_resized_crop};
use crate::stream::{Purpose, stream};

/// Pixels along a picture, pictures in a row, pixels between them.
const SIDE: u32 = 96;
const COLUMNS: usize = 6;
const GAP: u32 = 4;

type Transform = Box<dyn Fn(&mut RgbImage, &mut ChaCha8Rng)>;

#[test]
#[ignore = "writes docs/transforms.png"]
fn sheet() {
    let rows = rows();
    let step = SIDE + GAP;
    let (width, height) = (COLUMNS as u32 * step + GAP, rows.len() as u32 * step + GAP);
    let mut sheet = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    for (row, transform) in rows.iter().enumerate() {
        for column in 0..COLUMNS {
            let mut image = picture(&mut stream(0, 0, column, Purpose::Image));
            transform(&mut image, &mut stream(0, 1 + row, column, Purpose::Image));
            let place = |index: usize| i64::from(GAP + index as u32 * step);
            imageops::replace(&mut sheet, &image, place(column), place(row));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/transforms.png");
    let file = std::fs::File::create(path).unwrap();
    let png = PngEncoder::new_with_quality(file, CompressionType::Best, FilterType::Adaptive);
    png.write_image(&sheet, width, height, image::ExtendedColorType::Rgb8).unwrap();
}

fn rows() -> Vec<Transform> {
    let mut rows: Vec<Transform> = vec![Box::new(|_, _| {})];
    rows.push(Box::new(|image, rng| {
        let Rect { top, left, height, width } =
            random_resized_crop::draw(SIDE as usize, SIDE as usize, [0.08, 1.0], rng);
        let crop = crop_imm(image, left as u32, top as u32, width as u32, height as u32);
        *image = resize(&crop.to_image(), SIDE, SIDE, imageops::FilterType::CatmullRom);
    }));
    rows.push(Box::new(|image, rng| colour_jitter::apply(0.4, image, rng)));
    for op in Op::ALL {
        rows.push(Box::new(move |image, rng| op.draw(9.0, rng).run(image)));
    }
    let augment: RandAugment = "rand-m9-mstd0.5-inc1".parse().unwrap();
    rows.push(Box::new(move |image, rng| augment.apply(image, rng)));
    rows.push(Box::new(|image, rng| {
        // Planes with mean 0 and spread 1, and back.
        let size = (SIDE * SIDE) as usize;
        let mut planes = vec![0.0; 3 * size];
        for (place, pixel) in image.pixels().enumerate() {
            for channel in 0..3 {
                planes[channel * size + place] = (f32::from(pixel.0[channel]) - 128.0) / 64.0;
            }
        }
        erase::apply(1.0, [3, SIDE as usize, SIDE as usize], &mut planes, rng);
        for (place, pixel) in image.pixels_mut().enumerate() {
            pixel.0 =
                [0, 1, 2].map(|channel| (planes[channel * size + place] * 64.0 + 128.0) as u8);
        }
    }));
    rows
}

/// A sky over a ground, a sun, and a house.
fn picture(rng: &mut ChaCha8Rng) -> RgbImage {
    let mut colour = |low: u8, high: u8| [(); 3].map(|()| rng.random_range(low..=high));
    let (sky, ground, sun) = (colour(90, 190), colour(50, 130), colour(160, 230));
    let (wall, roof) = (colour(120, 220), colour(30, 110));
    let mut place = |low: f64, high: f64| rng.random_range(low..high);
    let (sun_x, sun_y, sun_radius) = (place(0.15, 0.85), place(0.12, 0.3), place(0.07, 0.12));
    let (horizon, middle, half) = (place(0.6, 0.8), place(0.3, 0.7), place(0.12, 0.2));
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (x, y) = [x, y].map(|at| (f64::from(at) + 0.5) / f64::from(SIDE)).into();
        let (across, above) = ((x - middle).abs(), 0.85 - y);
        let flat = if above > 0.0 && above < 2.0 * half && across < half {
            let window =
                (across - half / 2.0).abs() < half / 4.0 && (above - half).abs() < half / 3.0;
            if window { roof } else { wall }
        } else if above >= 2.0 * half && across < 3.2 * half - above {
            roof
        } else if (x - sun_x).hypot(y - sun_y) < sun_radius {
            sun
        } else if y > horizon {
            ground.map(|p| p - (40.0 * (y - horizon)) as u8)
        } else {
            sky.map(|p| p + (60.0 * y / horizon) as u8)
        };
        Rgb(flat)
    })
}
