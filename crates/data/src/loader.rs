//! [`Loader`]: seeded batches as tensors.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::prefetch::Prefetch;
use crate::recipe::{Raw, Recipe};
use crate::{Augment, Error, ImageSet, Normalisation, Result};

/// How a [`Loader`] makes batches.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Images in a batch, B.
    pub batch_size: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Whether each epoch has its own random order; otherwise that of the set.
    pub shuffle: bool,
    /// Whether to leave out a last batch of fewer than B images.
    pub drop_last: bool,
    /// Threads that make batches ahead; with 0 each is made when asked for. The batches are the same.
    pub workers: usize,
    /// What the images go through.
    pub augment: Augment,
}

impl LoaderConfig {
    /// For training: shuffled, every image once an epoch, no augmentation, no threads.
    pub fn training(batch_size: usize, seed: u64) -> Self {
        Self { seed, shuffle: true, ..Self::evaluation(batch_size) }
    }

    /// For evaluation: in the set's order, every image, one-hot targets, no augmentation, no threads.
    pub fn evaluation(batch_size: usize) -> Self {
        let augment = Augment::default();
        Self { batch_size, seed: 0, shuffle: false, drop_last: false, workers: 0, augment }
    }
}

/// One batch.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Normalised images, (B, C, H, W) in f32, on the loader's device.
    pub images: Tensor,
    /// Soft targets, (B, K) in f32, on the loader's device; each row sums to 1.
    pub targets: Tensor,
    /// Labels before smoothing and mixing, B of them.
    pub labels: Vec<u32>,
}

/// Makes the batches of any epoch, the same for the same seed whatever the number of threads.
///
/// The order of an epoch comes from (seed, epoch), the moves of an image from (seed, epoch, index),
/// the mixing of a batch from (seed, epoch, batch).
///
/// ```
/// use candle_core::Device;
/// use conditioned_data::{Images, Loader, LoaderConfig, Normalisation};
///
/// let images = Images::new("demo", [1, 1, 2], 2, 4, vec![0, 4, 1, 3, 2, 2], vec![0, 1, 1])?;
/// let normalisation = Normalisation::measure(&images)?;
/// let config = LoaderConfig::training(2, 7);
/// let loader = Loader::new(images, config, &normalisation, &Device::Cpu)?;
/// for batch in loader.epoch(0) {
///     let batch = batch?;
///     assert_eq!(batch.images.dims()[1..], [1, 1, 2]);
/// }
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Loader {
    recipe: Arc<Recipe>,
    device: Device,
}

impl Loader {
    /// Checks the settings against the images; batches will reach `device`.
    ///
    /// # Errors
    /// When a setting is out of range, the normalisation has another number of channels, or
    /// `drop_last` would leave no batch at all.
    pub fn new(
        images: impl Into<ImageSet>,
        config: LoaderConfig,
        normalisation: &Normalisation,
        device: &Device,
    ) -> Result<Self> {
        let images = images.into();
        if config.batch_size == 0 {
            return Err(Error::config("batch_size", 0, "expected at least 1"));
        }
        if config.drop_last && images.len() < config.batch_size {
            let expected = format!("drop_last leaves no batch of the {} images", images.len());
            return Err(Error::config("batch_size", config.batch_size, expected));
        }
        let recipe = Arc::new(Recipe::new(images, config, normalisation)?);
        Ok(Self { recipe, device: device.clone() })
    }

    /// The images that batches are made of.
    pub fn images(&self) -> &ImageSet {
        &self.recipe.images
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        let (n, size) = (self.recipe.images.len(), self.recipe.config.batch_size);
        if self.recipe.config.drop_last { n / size } else { n.div_ceil(size) }
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: usize) -> Epoch {
        self.epoch_from(epoch, 0, 1)
    }

    /// Batches `first`, `first + every`, ... of epoch `epoch`: those left of an interrupted run, or those of one
    /// among several processes.
    ///
    /// They are the same that [`epoch`](Self::epoch) gives at their places; none past the end.
    ///
    /// # Panics
    /// When `every` is 0.
    pub fn epoch_from(&self, epoch: usize, first: usize, every: usize) -> Epoch {
        let end = self.batches();
        let recipe = self.recipe.clone();
        let order = recipe.order(epoch);
        let make = move |batch| recipe.make(&order, epoch, batch);
        let workers = self.recipe.config.workers;
        let raw = Prefetch::new((first.min(end)..end).step_by(every), workers, Arc::new(make));
        let [channels, height, width] = self.recipe.images.shape();
        let classes = self.recipe.images.classes();
        Epoch { raw, device: self.device.clone(), sizes: [channels, height, width, classes] }
    }
}

/// The batches of one epoch; dropping it ends its threads.
pub struct Epoch {
    raw: Prefetch<Result<Raw>>,
    device: Device,
    sizes: [usize; 4],
}

impl Epoch {
    // Tensors are made by the caller's thread: a device's stream stays with one thread.
    fn tensors(&self, raw: Raw) -> Result<Batch> {
        let Raw { pixels, targets, labels } = raw;
        let (b, [c, h, w, k]) = (labels.len(), self.sizes);
        let images = Tensor::from_vec(pixels, (b, c, h, w), &self.device)?;
        let targets = Tensor::from_vec(targets, (b, k), &self.device)?;
        Ok(Batch { images, targets, labels })
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = self.raw.next()?;
        Some(raw.and_then(|raw| self.tensors(raw?)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.raw.size_hint()
    }
}
