//! [`DetectionLoader`]: seeded batches of images with their objects.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;

use super::transform::{Changed, LONGEST};
use super::{Category, DetectionAugment, Examples, Rle};
use crate::prefetch::Prefetch;
use crate::stream::{Purpose, stream};
use crate::{Error, Normalisation, Result};

/// How a [`DetectionLoader`] makes batches.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionLoaderConfig {
    /// Images in a batch, B.
    pub batch_size: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Whether each epoch has its own random order; otherwise that of the images.
    pub shuffle: bool,
    /// Threads that make batches ahead; with 0 each is made when asked for. The batches are the same.
    pub workers: usize,
    /// Height and width of a batch are multiples of it.
    pub divisor: usize,
    /// What the images and their objects go through.
    pub augment: DetectionAugment,
}

impl DetectionLoaderConfig {
    /// For training: shuffled, flipped, in multiples of 32 pixels, no threads.
    pub fn training(batch_size: usize, seed: u64) -> Self {
        let augment = DetectionAugment::default();
        Self { seed, shuffle: true, augment, ..Self::evaluation(batch_size) }
    }

    /// For evaluation: in the order of the images, as they are, in multiples of 32 pixels, no threads.
    pub fn evaluation(batch_size: usize) -> Self {
        let augment = DetectionAugment::none();
        Self { batch_size, seed: 0, shuffle: false, workers: 0, divisor: 32, augment }
    }
}

/// One batch.
#[derive(Debug, Clone)]
pub struct DetectionBatch {
    /// Normalised images, (B, 3, H, W) in f32, on the loader's device; 0 right of and below each.
    ///
    /// H and W are the largest of the batch, rounded up to multiples of the divisor.
    pub images: Tensor,
    /// What is in each of them.
    pub targets: Vec<DetectionTarget>,
}

/// The objects of an image in a batch, in their order in the image without those that a crop took away.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionTarget {
    /// The id of the image.
    pub id: u64,
    /// Height and width of the image in the batch, without what is right of and below it.
    pub size: [usize; 2],
    /// Height and width before all changes.
    pub original_size: [usize; 2],
    /// What height and width were multiplied by; boxes divided by it are in pixels of the original, unless it was
    /// flipped or cropped.
    pub scale: [f64; 2],
    /// Left, top, right and bottom of each object, in pixels of the batch.
    pub boxes: Vec<[f64; 4]>,
    /// The category of each, from 0.
    pub classes: Vec<u32>,
    /// Whether each is a crowd.
    pub crowd: Vec<bool>,
    /// The pixels of each, in `size`.
    pub masks: Vec<Rle>,
}

/// Makes the batches of any epoch, the same for the same seed whatever the number of threads.
///
/// The order of an epoch comes from (seed, epoch), the changes of an image from (seed, epoch, index). Every image
/// comes once an epoch, also those without objects.
///
/// ```
/// use std::sync::Arc;
/// use candle_core::Device;
/// use conditioned_data::{DetectionLoader, DetectionLoaderConfig, Preprocessing, Shapes};
///
/// let images = Arc::new(Shapes::default().images(0, 0..20)?);
/// let normalisation = Preprocessing::imagenet(224).normalisation();
/// let config = DetectionLoaderConfig::training(8, 0);
/// let loader = DetectionLoader::new(images, config, &normalisation, &Device::Cpu)?;
/// assert_eq!(loader.batches(), 3);
/// for batch in loader.epoch(0) {
///     let batch = batch?;
///     assert_eq!(batch.images.dims()[1..], [3, 64, 64]);
///     assert_eq!(batch.targets[0].size, [64, 64]);
/// }
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DetectionLoader {
    recipe: Arc<Recipe>,
    device: Device,
}

impl DetectionLoader {
    /// Checks the settings; batches will reach `device`.
    ///
    /// # Errors
    /// When a setting is out of range, or the normalisation is not of three channels.
    pub fn new(
        images: Arc<dyn Examples>,
        config: DetectionLoaderConfig,
        normalisation: &Normalisation,
        device: &Device,
    ) -> Result<Self> {
        if config.batch_size == 0 {
            return Err(Error::config("batch_size", 0, "expected at least 1"));
        }
        if !(1..=LONGEST).contains(&config.divisor) {
            return Err(Error::config(
                "divisor",
                config.divisor,
                format!("expected 1 to {LONGEST}"),
            ));
        }
        config.augment.check()?;
        let tables = normalisation.tables_of(3, u8::MAX)?;
        Ok(Self { recipe: Arc::new(Recipe { images, config, tables }), device: device.clone() })
    }

    /// The categories that classes count.
    pub fn categories(&self) -> &[Category] {
        self.recipe.images.categories()
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        self.recipe.images.len().div_ceil(self.recipe.config.batch_size)
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: usize) -> DetectionEpoch {
        self.epoch_from(epoch, 0, 1)
    }

    /// Batches `first`, `first + every`, ... of epoch `epoch`: those left of an interrupted run, or those of one
    /// among several processes.
    ///
    /// They are the same that [`epoch`](Self::epoch) gives at their places; none past the end.
    ///
    /// # Panics
    /// When `every` is 0.
    pub fn epoch_from(&self, epoch: usize, first: usize, every: usize) -> DetectionEpoch {
        let (end, recipe) = (self.batches(), self.recipe.clone());
        let order = recipe.order(epoch);
        let make = move |batch| recipe.make(&order, epoch, batch);
        let workers = self.recipe.config.workers;
        let raw = Prefetch::new((first.min(end)..end).step_by(every), workers, Arc::new(make));
        DetectionEpoch { raw, device: self.device.clone() }
    }
}

/// The batches of one epoch; dropping it ends its threads.
pub struct DetectionEpoch {
    raw: Prefetch<Result<Raw>>,
    device: Device,
}

impl Iterator for DetectionEpoch {
    type Item = Result<DetectionBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = self.raw.next()?;
        // Tensors are made by the caller's thread: a device's stream stays with one thread.
        Some(raw.and_then(|raw| {
            let Raw { pixels, size: [height, width], targets } = raw?;
            let shape = (targets.len(), 3, height, width);
            let images = Tensor::from_vec(pixels, shape, &self.device)?;
            Ok(DetectionBatch { images, targets })
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.raw.size_hint()
    }
}

/// A batch before it becomes a tensor.
struct Raw {
    pixels: Vec<f32>,
    size: [usize; 2],
    targets: Vec<DetectionTarget>,
}

/// All that a thread needs to make any batch.
#[derive(Debug)]
struct Recipe {
    images: Arc<dyn Examples>,
    config: DetectionLoaderConfig,
    /// Normalised value of every byte, for each channel.
    tables: Vec<[f32; 256]>,
}

impl Recipe {
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut stream(self.config.seed, epoch, 0, Purpose::Order));
        }
        order
    }

    /// Batch `batch` of an epoch in that order.
    fn make(&self, order: &[usize], epoch: usize, batch: usize) -> Result<Raw> {
        let DetectionLoaderConfig { batch_size, seed, divisor, augment, .. } = &self.config;
        let start = batch * batch_size;
        let indices = &order[start..order.len().min(start + batch_size)];
        let categories = self.images.categories().len();
        let (mut pictures, mut targets) = (Vec::new(), Vec::new());
        for &index in indices {
            let example = self.images.example(index)?;
            let (id, original_size) = (example.id, [example.height, example.width]);
            let mut rng = stream(*seed, epoch, index, Purpose::Image);
            let changed = augment.apply(example, categories, &mut rng)?;
            targets.push(target(id, original_size, &changed));
            pictures.push(changed.image);
        }
        let longest = |axis: usize| targets.iter().map(|target| target.size[axis]).max();
        let size = [0, 1].map(|axis| longest(axis).unwrap_or(0).next_multiple_of(*divisor));
        let [height, width] = size;
        let mut pixels = vec![0.0; pictures.len() * 3 * height * width];
        let planes = pixels.chunks_exact_mut(height * width);
        let channels = pictures.iter().flat_map(|picture| (0..3).map(move |c| (picture, c)));
        for (plane, (picture, c)) in planes.zip(channels) {
            let (columns, table) = (picture.width() as usize, &self.tables[c]);
            let rows = picture.as_raw().chunks_exact(3 * columns);
            for (row, bytes) in plane.chunks_exact_mut(width).zip(rows) {
                for (value, pixel) in row.iter_mut().zip(bytes.chunks_exact(3)) {
                    *value = table[usize::from(pixel[c])];
                }
            }
        }
        Ok(Raw { pixels, size, targets })
    }
}

fn target(id: u64, original_size: [usize; 2], changed: &Changed) -> DetectionTarget {
    let Changed { image, instances, scale } = changed;
    let corners = |[left, top, width, height]: [f64; 4]| [left, top, left + width, top + height];
    DetectionTarget {
        id,
        size: [image.height() as usize, image.width() as usize],
        original_size,
        scale: *scale,
        boxes: instances.iter().map(|instance| corners(instance.bbox)).collect(),
        classes: instances.iter().map(|instance| instance.category as u32).collect(),
        crowd: instances.iter().map(|instance| instance.crowd).collect(),
        masks: instances.iter().map(|instance| instance.mask.clone()).collect(),
    }
}
