//! Images as sequences of pixels.

use crate::sequence_set::Flat;
use crate::{Error, ImageData, ImageSet, Images, Result, SequenceSet, SequenceSplits, Splits};

/// The images, by their own parts.
///
/// # Errors
/// When they cannot be read, are not those of then, or have neither one channel nor three.
pub(crate) fn read(images: &ImageData) -> Result<SequenceSplits> {
    let Splits { train, tune, test } = images.load()?;
    Ok(SequenceSplits { train: of_set(&train)?, tune: of_set(&tune)?, test: of_set(&test)? })
}

/// The pixels of images row by row; id 1 is black.
pub(crate) fn of_images(images: &Images) -> Result<SequenceSet> {
    let [channels, height, width] = images.shape();
    let size = height * width;
    let grey = match channels {
        1 => images.pixels().to_vec(),
        3 => {
            let image = |planes: &[u8]| {
                let (red, rest) = planes.split_at(size);
                let (green, blue) = rest.split_at(size);
                let colours = red.iter().zip(green).zip(blue);
                colours.map(|((&r, &g), &b)| grey([r, g, b])).collect::<Vec<_>>()
            };
            images.pixels().chunks_exact(3 * size).flat_map(image).collect()
        }
        _ => {
            let problem = format!("{channels} channels, and sequences are made of 1 or 3");
            return Err(Error::Images { name: images.name().into(), problem });
        }
    };
    of_grey(images.name(), images.white(), images.classes(), &grey, images.labels())
}

fn of_set(images: &ImageSet) -> Result<SequenceSet> {
    if let ImageSet::Memory(images) = images {
        return of_images(images);
    }
    let mut pixels = Vec::new();
    for i in 0..images.len() {
        pixels.extend(images.prepared(i)?.pixels().map(|pixel| grey(pixel.0)));
    }
    of_grey(images.name(), images.white(), images.classes(), &pixels, images.labels())
}

fn of_grey(
    name: &str,
    white: u8,
    classes: usize,
    pixels: &[u8],
    labels: &[u32],
) -> Result<SequenceSet> {
    let size = pixels.len() / labels.len().max(1);
    let flat = Flat {
        tokens: pixels.iter().map(|&pixel| u16::from(pixel) + 1).collect(),
        ends: (1..=labels.len()).map(|i| i * size).collect(),
        labels: labels.to_vec(),
    };
    let sizes = [usize::from(white) + 2, classes];
    SequenceSet::of_flat(format!("pixels of {name}"), sizes, false, flat)
}

/// 0.2989 R + 0.587 G + 0.114 B, cut to a whole number; the three sum to 0.9999, so white becomes 254.
fn grey([r, g, b]: [u8; 3]) -> u8 {
    let sum = 2989 * u32::from(r) + 5870 * u32::from(g) + 1140 * u32::from(b);
    (sum / 10_000) as u8
}
