//! Sets of images that candle-datasets has read, as [`Images`].

use candle_core::{DType, Tensor};
use candle_datasets::vision::Dataset;

use crate::{Error, Images, Result};

impl Images {
    /// Training and test images of a set that `candle_datasets::vision` has read; `shape` is (C, H, W), which it
    /// does not say of images that it keeps as rows of pixels.
    ///
    /// Its `cifar::load` gives (C, W, H): transpose the last two axes first.
    ///
    /// # Errors
    /// When the images are not of this shape, a brightness is not from 0 to 1, or a label is no class.
    pub fn of_candle(name: &str, set: &Dataset, shape: [usize; 3]) -> Result<(Self, Self)> {
        let images = |images: &Tensor, labels: &Tensor| {
            let brightness = images.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            if let Some(bad) = brightness.iter().find(|value| !(0.0..=1.0).contains(*value)) {
                let problem = format!("brightness {bad}, expected 0 to 1");
                return Err(Error::Images { name: name.into(), problem });
            }
            let pixels = brightness.iter().map(|value| (value * 255.0).round() as u8).collect();
            let labels = labels.to_dtype(DType::U32)?.to_vec1()?;
            Self::new(name, shape, set.labels, u8::MAX, pixels, labels)
        };
        Ok((
            images(&set.train_images, &set.train_labels)?,
            images(&set.test_images, &set.test_labels)?,
        ))
    }
}
