//! Pictures of images with their objects.

use anyhow::{Context, Result};
use conditioned_data::{Category, Detection, Example, Instance, Rle};
use conditioned_report::pictures::{Object, Picture};
use image::RgbImage;

/// The score from which on a detection is drawn, where nothing else is said.
pub const LEAST_SCORE: f64 = 0.5;

/// An image with the objects that are in it.
///
/// # Errors
/// When it has another number of pixels than it says.
pub fn truth(example: &Example, categories: &[Category]) -> Result<Picture> {
    let object = |instance: &Instance| {
        let label = categories[instance.category].name.clone();
        object(instance.bbox, Some(&instance.mask), label, instance.category)
    };
    let title = format!("image {}, the truth", example.id);
    picture(title, example, example.instances.iter().map(object).collect())
}

/// An image with what was found in it, of at least a score; the best in front.
///
/// # Errors
/// When it has another number of pixels than it says.
pub fn found(
    example: &Example,
    detections: &[Detection],
    categories: &[Category],
    least: f64,
) -> Result<Picture> {
    let mut drawn: Vec<&Detection> = detections
        .iter()
        .filter(|found| found.image == example.id && found.score >= least)
        .collect();
    drawn.sort_by(|a, b| a.score.total_cmp(&b.score));
    let object = |found: &Detection| {
        let label = format!("{} {:.2}", categories[found.category].name, found.score);
        object(found.bbox, found.mask.as_ref(), label, found.category)
    };
    let title = format!("image {}, found with a score of {least} or more", example.id);
    picture(title, example, drawn.into_iter().map(object).collect())
}

fn picture(title: String, example: &Example, objects: Vec<Object>) -> Result<Picture> {
    let Example { height, width, pixels, .. } = example;
    let image = RgbImage::from_raw(*width as u32, *height as u32, pixels.clone());
    let image = image.with_context(|| format!("image {}: too few pixels", example.id))?;
    Ok(Picture { title, image, objects })
}

fn object([x, y, w, h]: [f64; 4], mask: Option<&Rle>, label: String, group: usize) -> Object {
    let mask = mask.map_or(Vec::new(), Rle::to_mask);
    Object { corners: [x, y, x + w, y + h], mask, label, group }
}
