//! How a batch is made, away from any thread and device.

use std::sync::Arc;

use rand::seq::SliceRandom;

use crate::augment::Geometry;
use crate::mix::{Mixer, targets};
use crate::stream::{Purpose, stream};
use crate::{Images, LoaderConfig, Normalisation, Result};

/// A batch before it becomes tensors.
pub(crate) struct Raw {
    pub(crate) pixels: Vec<f32>,
    pub(crate) targets: Vec<f32>,
    pub(crate) labels: Vec<u32>,
}

/// All that a thread needs to make any batch.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) images: Arc<Images>,
    pub(crate) config: LoaderConfig,
    /// Normalised value of every byte, for each channel.
    tables: Vec<[f32; 256]>,
    mixer: Mixer,
}

impl Recipe {
    pub(crate) fn new(
        images: Arc<Images>,
        config: LoaderConfig,
        normalisation: &Normalisation,
    ) -> Result<Self> {
        config.augment.check(images.shape())?;
        let tables = normalisation.tables(&images)?;
        let mixer = Mixer::new(&config.augment)?;
        Ok(Self { images, config, tables, mixer })
    }

    /// The images of an epoch, by index, in the order of their use.
    pub(crate) fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut stream(self.config.seed, epoch, 0, Purpose::Order));
        }
        order
    }

    /// Batch `batch` of an epoch in that order.
    pub(crate) fn make(&self, order: &[usize], epoch: usize, batch: usize) -> Raw {
        let shape @ [_, height, width] = self.images.shape();
        let start = batch * self.config.batch_size;
        let indices = &order[start..order.len().min(start + self.config.batch_size)];
        let mut pixels = Vec::with_capacity(indices.len() * self.images.size());
        for &index in indices {
            self.render(epoch, index, &mut pixels);
        }
        let labels: Vec<u32> = indices.iter().map(|&i| self.images.labels()[i]).collect();
        let classes = self.images.classes();
        let mut targets = targets(&labels, classes, self.config.augment.label_smoothing);
        let mut rng = stream(self.config.seed, epoch, batch, Purpose::Batch);
        let mix = self.mixer.draw(height, width, &mut rng);
        mix.apply(shape, &mut pixels, classes, &mut targets);
        Raw { pixels, targets, labels }
    }

    /// Appends one image, moved and normalised.
    fn render(&self, epoch: usize, index: usize, out: &mut Vec<f32>) {
        let [_, height, width] = self.images.shape();
        let size = self.images.size();
        let image = &self.images.pixels()[index * size..(index + 1) * size];
        let planes = image.chunks_exact(height * width).zip(&self.tables);
        if !self.config.augment.moves() {
            for (plane, table) in planes {
                out.extend(plane.iter().map(|&p| table[usize::from(p)]));
            }
            return;
        }
        let mut rng = stream(self.config.seed, epoch, index, Purpose::Image);
        let geometry = Geometry::draw(&self.config.augment, height, width, &mut rng);
        for (plane, table) in planes {
            geometry.render(plane, table, out);
        }
    }
}
