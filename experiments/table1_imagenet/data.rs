//! The images of a run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use conditioned_data::{Augment, IdxFolder, Splits, digits, hold_out, split};
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// Seed of every split, the same for all cells: arms and seeds share their images.
const SPLIT_SEED: u64 = 0;

/// Images of the digits that are kept for the test; the size of the prototypes' test split.
const DIGITS_TEST: usize = 497;

/// Which images, and how they are served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// A folder of IDX files; null is the embedded digits.
    pub(crate) folder: Option<PathBuf>,
    /// The name of the set, for titles.
    pub(crate) name: String,
    /// BLAKE3 of the training, tuning and test images, in this order.
    pub(crate) hash: String,
    /// Training images.
    pub(crate) train_images: usize,
    /// Images of the tuning slice.
    pub(crate) tune_images: usize,
    /// Images per step.
    pub(crate) batch_size: usize,
    /// What is done to training images.
    pub(crate) augment: Augment,
}

impl DataConfig {
    /// The images that a recipe asks for, read once to name and hash them.
    ///
    /// # Errors
    /// When they cannot be read or are too few.
    pub(crate) fn new(folder: Option<&PathBuf>, recipe: &Recipe) -> Result<Self> {
        let mut config = Self {
            folder: folder.cloned(),
            name: String::new(),
            hash: String::new(),
            train_images: recipe.train_images,
            tune_images: recipe.tune_images,
            batch_size: recipe.batch_size,
            augment: recipe.augment(),
        };
        let splits = config.read()?;
        config.name = splits.train.name().to_string();
        config.hash = hash(&splits);
        Ok(config)
    }

    /// Reads the images and checks that they are the ones that the run was planned for.
    ///
    /// # Errors
    /// When they cannot be read, or are others.
    pub(crate) fn load(&self) -> Result<Splits> {
        let splits = self.read()?;
        let found = hash(&splits);
        anyhow::ensure!(
            found == self.hash,
            "the images of `{}` are not those that this run was planned for (hash {found}, planned \
             {}); choose another --out",
            self.name,
            self.hash
        );
        Ok(splits)
    }

    fn read(&self) -> Result<Splits> {
        match &self.folder {
            None => {
                let sizes = [self.train_images, self.tune_images, DIGITS_TEST];
                split(&digits()?, SPLIT_SEED, sizes).context("UCI digits")
            }
            Some(folder) => {
                let idx = IdxFolder::read(folder, 10)?;
                let limit = Some(self.train_images);
                hold_out(&idx.train, idx.test, SPLIT_SEED, limit, self.tune_images)
                    .with_context(|| folder.display().to_string())
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
