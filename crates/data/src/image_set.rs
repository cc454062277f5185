//! [`ImageSet`]: labelled images, in memory or in files.

use std::sync::Arc;

use image::RgbImage;

use crate::image::resize::resize;
use crate::transform::rect::Rect;
use crate::{Error, ImageFiles, Images, Interpolation, Normalisation, Result};

/// Labelled images that a [`Loader`](crate::Loader) makes batches of. A copy shares them.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageSet {
    /// Of one size, in memory.
    Memory(Arc<Images>),
    /// Of any size, in files; each is decoded when a batch needs it.
    Files(Arc<ImageFiles>),
}

impl From<Images> for ImageSet {
    fn from(images: Images) -> Self {
        Self::Memory(Arc::new(images))
    }
}

impl From<Arc<Images>> for ImageSet {
    fn from(images: Arc<Images>) -> Self {
        Self::Memory(images)
    }
}

impl From<ImageFiles> for ImageSet {
    fn from(files: ImageFiles) -> Self {
        Self::Files(Arc::new(files))
    }
}

impl ImageSet {
    /// Name of the data set.
    pub fn name(&self) -> &str {
        match self {
            Self::Memory(images) => images.name(),
            Self::Files(files) => files.name(),
        }
    }

    /// Number of images, N.
    pub fn len(&self) -> usize {
        self.labels().len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels().is_empty()
    }

    /// Channels, height and width of what a batch holds, [C, H, W].
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Memory(images) => images.shape(),
            Self::Files(files) => [3, files.preprocessing().side, files.preprocessing().side],
        }
    }

    /// Number of classes; labels run from 0 to `classes - 1`.
    pub fn classes(&self) -> usize {
        match self {
            Self::Memory(images) => images.classes(),
            Self::Files(files) => files.classes().len(),
        }
    }

    /// The label of each image.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Memory(images) => images.labels(),
            Self::Files(files) => files.labels(),
        }
    }

    /// The images at `indices`, in that order; an index may come more than once.
    ///
    /// # Errors
    /// When an index is past the end.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Memory(images) => images.subset(indices)?.into(),
            Self::Files(files) => files.subset(indices)?.into(),
        })
    }

    /// The first `n` images.
    ///
    /// # Errors
    /// When there are fewer than `n`.
    pub fn take(&self, n: usize) -> Result<Self> {
        self.subset(&(0..n).collect::<Vec<_>>())
    }

    /// Mean and standard deviation to normalise by: measured on images in memory, those of
    /// [`Preprocessing`](crate::Preprocessing) for files.
    ///
    /// # Errors
    /// When there is nothing to measure.
    pub fn normalisation(&self) -> Result<Normalisation> {
        match self {
            Self::Memory(images) => Normalisation::measure(images),
            Self::Files(files) => Ok(files.preprocessing().normalisation()),
        }
    }

    /// BLAKE3 of the images and their labels, as 64 hexadecimal digits.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hash(&self) -> Result<String> {
        match self {
            Self::Memory(images) => Ok(images.hash()),
            Self::Files(files) => files.hash(),
        }
    }

    /// The byte that stands for brightness 1.
    pub(crate) fn white(&self) -> u8 {
        match self {
            Self::Memory(images) => images.white(),
            Self::Files(_) => u8::MAX,
        }
    }

    /// One image as it is, in RGB.
    ///
    /// # Errors
    /// When it cannot be read, or is not of three channels of 8 bits.
    pub(crate) fn picture(&self, index: usize) -> Result<RgbImage> {
        match self {
            Self::Files(files) => files.picture(index),
            Self::Memory(images) => {
                let [_, height, width] = images.shape();
                let planes = images.image(index).unwrap_or_default();
                let size = height * width;
                let pixels = (0..size).flat_map(|i| [0, 1, 2].map(|c| planes[c * size + i]));
                let picture = RgbImage::from_raw(width as u32, height as u32, pixels.collect());
                picture.ok_or_else(|| Error::Images {
                    name: images.name().into(),
                    problem: format!("image {index} has not the size of the set"),
                })
            }
        }
    }

    /// One image as the network takes it, without augmentation.
    ///
    /// # Errors
    /// As [`ImageSet::picture`], or when it cannot be resized.
    pub(crate) fn prepared(&self, index: usize) -> Result<RgbImage> {
        match self {
            Self::Files(files) => files.prepared(index),
            Self::Memory(_) => self.picture(index),
        }
    }

    /// A part of an image with the size that the network takes.
    ///
    /// # Errors
    /// When it cannot be resized.
    pub(crate) fn resized(&self, index: usize, image: &RgbImage, rect: Rect) -> Result<RgbImage> {
        let [_, height, width] = self.shape();
        let interpolation = match self {
            Self::Files(files) => files.preprocessing().interpolation,
            Self::Memory(_) => Interpolation::Bicubic,
        };
        let size = [height as u32, width as u32];
        resize(image, rect, size, interpolation).map_err(|problem| Error::Images {
            name: self.name().into(),
            problem: format!("image {index} {problem}"),
        })
    }
}
