//! Labelled images for training: readers, splits, augmentation and seeded loaders.
//!
//! | to | use |
//! | --- | --- |
//! | read images | [`digits()`] (embedded), [`IdxFolder::read`] (MNIST and its family), [`Images::new`] |
//! | choose training, tuning and test images | [`split()`], [`hold_out`] |
//! | measure mean and spread | [`Normalisation::measure`], on the training images |
//! | crop, shift, flip, mix, smooth | [`Augment`] |
//! | make batches | [`Loader`] |
//!
//! Letters: N images, B batch, C channels, H height, W width, K classes. Images are (N, C, H, W)
//! everywhere. All randomness comes from seeds: the same seed gives the same batches, bit for bit,
//! for any number of loader threads.
//!
//! ```
//! use candle_core::Device;
//! use conditioned_data::{Augment, Loader, LoaderConfig, Normalisation};
//! use conditioned_data::{DIGITS_SIZES, digits, split};
//!
//! let splits = split(&digits()?, 0, DIGITS_SIZES)?;
//! let normalisation = Normalisation::measure(&splits.train)?;
//!
//! let augment = Augment { crop_padding: 1, label_smoothing: 0.1, ..Augment::default() };
//! let config = LoaderConfig { augment, workers: 2, ..LoaderConfig::training(65, 1) };
//! let train = Loader::new(splits.train, config, &normalisation, &Device::Cpu)?;
//! assert_eq!(train.batches(), 17);
//! for batch in train.epoch(0).take(2) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims(), [65, 1, 8, 8]);
//!     assert_eq!(batch.targets.dims(), [65, 10]);
//! }
//!
//! // Tuning and test images: the same normalisation, no augmentation, nothing left out.
//! let tune = Loader::new(splits.tune, LoaderConfig::evaluation(128), &normalisation, &Device::Cpu)?;
//! let sizes = tune.epoch(0).map(|b| Ok(b?.labels.len())).collect::<conditioned_data::Result<Vec<_>>>()?;
//! assert_eq!(sizes, [128, 72]);
//! # Ok::<(), conditioned_data::Error>(())
//! ```

mod augment;
mod digits;
mod error;
mod idx;
mod images;
mod loader;
mod mix;
mod normalisation;
mod prefetch;
mod recipe;
mod split;
mod stream;

pub use augment::Augment;
pub use digits::{DIGITS_SIZES, digits};
pub use error::{Error, Result};
pub use idx::IdxFolder;
pub use images::Images;
pub use loader::{Batch, Epoch, Loader, LoaderConfig};
pub use normalisation::Normalisation;
pub use split::{Splits, hold_out, split};
