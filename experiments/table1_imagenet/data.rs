//! The images of a run.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use conditioned_data::{Augment, DIGITS_SIZES, IdxFolder, Splits, digits, hold_out, split};
use conditioned_models::vit::VitConfig;
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// Classes of the MNIST family.
const IDX_CLASSES: usize = 10;

/// Seed of every split, the same for all cells: arms and seeds share their images.
const SPLIT_SEED: u64 = 0;

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
    /// When they cannot be read, are too few, or do not fit the network.
    pub(crate) fn new(folder: Option<&PathBuf>, recipe: &Recipe) -> Result<Self> {
        let counts = [
            ("train_images", recipe.train_images),
            ("tune_images", recipe.tune_images),
            ("batch_size", recipe.batch_size),
        ];
        for (name, count) in counts {
            ensure!(count > 0, "--set {name}=0: at least one is needed");
        }
        if let Some(folder) = folder {
            ensure!(
                folder.to_str().is_some(),
                "--data {}: the path must be valid UTF-8, since it is recorded in JSON",
                folder.display()
            );
        }
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
        let network = VitConfig::preset(&recipe.model)?;
        let wanted = [network.channels, network.image_size, network.image_size];
        ensure!(
            splits.train.shape() == wanted && splits.train.classes() == network.classes,
            "{}: images are {:?} with {} classes, model {} takes {wanted:?} with {}",
            splits.train.name(),
            splits.train.shape(),
            splits.train.classes(),
            recipe.model,
            network.classes
        );
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
        ensure!(
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
                let sizes = [self.train_images, self.tune_images, DIGITS_SIZES[2]];
                split(&digits()?, SPLIT_SEED, sizes).context("UCI digits")
            }
            Some(folder) => {
                let idx = IdxFolder::read(folder, IDX_CLASSES)?;
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
