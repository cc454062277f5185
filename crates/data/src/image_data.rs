//! [`ImageData`]: images by name and hash, to be read again by another process.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DIGITS_SIZES, Error, IdxFolder, Result, Splits, digits, hold_out, split};

/// Classes of the MNIST family.
const IDX_CLASSES: usize = 10;

/// Seed of every split: all who read the same data get the same images.
const SPLIT_SEED: u64 = 0;

/// Which images: the embedded digits, or a folder of IDX files.
///
/// ```
/// use conditioned_data::ImageData;
///
/// let (data, splits) = ImageData::read(None, [1000, 200])?;
/// assert_eq!((&*data.name, splits.train.len()), ("UCI digits", 1000));
/// assert_eq!(data.load()?.train, splits.train);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageData {
    /// A folder of IDX files; null is the embedded digits.
    folder: Option<PathBuf>,
    /// The name of the set, for titles.
    pub name: String,
    /// BLAKE3 of the training, tuning and test images, in this order.
    pub hash: String,
    /// Training images.
    pub train_images: usize,
    /// Images of the tuning slice, taken from the training data.
    tune_images: usize,
}

impl PartialEq for ImageData {
    /// Whether the images are the same, wherever their files lie.
    fn eq(&self, other: &Self) -> bool {
        let content = |data: &Self| (data.hash.clone(), data.train_images, data.tune_images);
        content(self) == content(other)
    }
}

impl ImageData {
    /// Images that are known by name and number alone, for a plan; they cannot be loaded.
    pub fn announced(name: &str, [train_images, tune_images]: [usize; 2]) -> Self {
        let (name, hash) = (name.to_string(), String::new());
        Self { folder: None, name, hash, train_images, tune_images }
    }

    /// The images of a folder, or the embedded ones, read once to name and hash them.
    ///
    /// # Errors
    /// When they cannot be read or are too few, or the path is not UTF-8.
    pub fn read(
        folder: Option<&Path>,
        [train_images, tune_images]: [usize; 2],
    ) -> Result<(Self, Splits)> {
        if let Some(folder) = folder.filter(|folder| folder.to_str().is_none()) {
            let expected = "must be valid UTF-8, since it is recorded in JSON";
            return Err(Error::config("folder", folder.display(), expected));
        }
        let mut data = Self {
            // Found again from any working directory.
            folder: folder.map(|f| std::path::absolute(f).unwrap_or_else(|_| f.to_path_buf())),
            name: String::new(),
            hash: String::new(),
            train_images,
            tune_images,
        };
        let splits = data.splits()?;
        data.name = splits.train.name().to_string();
        data.hash = hash(&splits);
        Ok((data, splits))
    }

    /// Reads the images again.
    ///
    /// # Errors
    /// When they cannot be read, or are not those of then.
    pub fn load(&self) -> Result<Splits> {
        let splits = self.splits()?;
        Error::unchanged(&self.name, "images", &self.hash, &hash(&splits))?;
        Ok(splits)
    }

    fn splits(&self) -> Result<Splits> {
        match &self.folder {
            None => {
                let sizes = [self.train_images, self.tune_images, DIGITS_SIZES[2]];
                split(&digits()?, SPLIT_SEED, sizes)
            }
            Some(folder) => {
                let idx = IdxFolder::read(folder, IDX_CLASSES)?;
                let limit = Some(self.train_images);
                hold_out(&idx.train, idx.test, SPLIT_SEED, limit, self.tune_images)
            }
        }
    }
}

fn hash(splits: &Splits) -> String {
    let mut hasher = blake3::Hasher::new();
    for images in [&splits.train, &splits.tune, &splits.test] {
        hasher.update(images.hash().as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
