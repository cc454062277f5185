//! How a batch is made, away from any thread and device.

use image::RgbImage;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::augment::Geometry;
use crate::mix::{Mixer, targets};
use crate::stream::{Purpose, stream};
use crate::transform::{colour_jitter, erase, random_resized_crop};
use crate::{Augment, ImageSet, LoaderConfig, Normalisation, Result};

/// A batch before it becomes tensors.
pub(crate) struct Raw {
    pub(crate) pixels: Vec<f32>,
    pub(crate) targets: Vec<f32>,
    pub(crate) labels: Vec<u32>,
}

/// All that a thread needs to make any batch.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) images: ImageSet,
    pub(crate) config: LoaderConfig,
    /// Normalised value of every byte, for each channel.
    tables: Vec<[f32; 256]>,
    mixer: Mixer,
}

impl Recipe {
    pub(crate) fn new(
        images: ImageSet,
        config: LoaderConfig,
        normalisation: &Normalisation,
    ) -> Result<Self> {
        config.augment.check(&images)?;
        let tables = normalisation.tables(&images)?;
        let mixer = Mixer::new(&config.augment)?;
        Ok(Self { images, config, tables, mixer })
    }

    /// The images of an epoch in the order of their use, by index; the r-th repeat of image i is r N + i.
    pub(crate) fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut stream(self.config.seed, epoch, 0, Purpose::Order));
        }
        let repeats = self.config.augment.repeats;
        if repeats > 1 {
            let n = order.len();
            order = order
                .into_iter()
                .flat_map(|index| (0..repeats).map(move |r| r * n + index))
                .take(n)
                .collect();
        }
        order
    }

    /// Batch `batch` of an epoch in that order.
    pub(crate) fn make(&self, order: &[usize], epoch: usize, batch: usize) -> Result<Raw> {
        let shape @ [_, height, width] = self.images.shape();
        let start = batch * self.config.batch_size;
        let indices = &order[start..order.len().min(start + self.config.batch_size)];
        let size: usize = shape.iter().product();
        let mut pixels = Vec::with_capacity(indices.len() * size);
        for &index in indices {
            self.render(epoch, index, &mut pixels)?;
        }
        let label = |index: &usize| self.images.labels()[index % self.images.len()];
        let labels: Vec<u32> = indices.iter().map(label).collect();
        let classes = self.images.classes();
        let mut targets = targets(&labels, classes, self.config.augment.label_smoothing);
        let mut rng = stream(self.config.seed, epoch, batch, Purpose::Batch);
        let mix = self.mixer.draw(height, width, &mut rng);
        mix.apply(shape, &mut pixels, classes, &mut targets);
        Ok(Raw { pixels, targets, labels })
    }

    /// Appends one image, changed, moved and normalised.
    fn render(&self, epoch: usize, drawn: usize, out: &mut Vec<f32>) -> Result<()> {
        let (augment, index) = (&self.config.augment, drawn % self.images.len());
        let shape @ [channels, height, width] = self.images.shape();
        let (size, start) = (height * width, out.len());
        let mut rng = stream(self.config.seed, epoch, drawn, Purpose::Image);
        let decoded;
        let image = match &self.images {
            ImageSet::Memory(images) if !augment.changes_pictures() => {
                &images.pixels()[index * channels * size..(index + 1) * channels * size]
            }
            images => {
                decoded = planes(&picture(images, index, augment, &mut rng)?);
                &decoded
            }
        };
        let planes = image.chunks_exact(size).zip(&self.tables);
        if augment.moves() {
            let geometry = Geometry::draw(augment, height, width, &mut rng);
            for (plane, table) in planes {
                geometry.render(plane, table, out);
            }
        } else {
            for (plane, table) in planes {
                out.extend(plane.iter().map(|&p| table[usize::from(p)]));
            }
        }
        if augment.erase > 0.0 {
            erase::apply(augment.erase, shape, &mut out[start..], &mut rng);
        }
        Ok(())
    }
}

/// One image with the size of the network, its colours and shapes changed.
fn picture(
    images: &ImageSet,
    index: usize,
    augment: &Augment,
    rng: &mut impl Rng,
) -> Result<RgbImage> {
    let mut image = match augment.crop_scale {
        None => images.prepared(index)?,
        Some(scale) => {
            let image = images.picture(index)?;
            let rect = random_resized_crop::draw(
                image.height() as usize,
                image.width() as usize,
                scale,
                rng,
            );
            images.resized(index, &image, rect)?
        }
    };
    if let Some(rand_augment) = &augment.rand_augment {
        rand_augment.apply(&mut image, rng);
    }
    if augment.colour_jitter > 0.0 {
        colour_jitter::apply(augment.colour_jitter, &mut image, rng);
    }
    Ok(image)
}

/// The pixels channel by channel.
fn planes(image: &RgbImage) -> Vec<u8> {
    let pixels = image.as_raw();
    (0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect()
}
