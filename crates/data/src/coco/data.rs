//! [`DetectionData`]: images with objects by name and hash, to be read again by another process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Category, CocoSet, Example, Examples, Instance, Shapes};
use crate::stream::{Purpose, stream};
use crate::{Error, Result};

/// Where images with objects come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DetectionSource {
    /// Generated shapes.
    Shapes {
        /// What is drawn.
        shapes: Shapes,
        /// Images to train on.
        train: usize,
        /// Images to choose settings on.
        tune: usize,
        /// Images to report on.
        test: usize,
    },
    /// Files: COCO's `annotations/instances_train2017.json`, `train2017` and the same of `val2017`, or one `coco.json`
    /// and `images`, each image of which has the key `split`, `train` or `val`.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Training images that are held out to choose settings on.
        tune: usize,
        /// Whether what cannot be used is left out and counted.
        skip_broken: bool,
    },
}

/// Three disjoint sets of images.
#[derive(Debug, Clone)]
pub struct DetectionSplits {
    /// Images to train on.
    pub train: Arc<dyn Examples>,
    /// Images to choose settings on.
    pub tune: Arc<dyn Examples>,
    /// Images for the reported number, read once, at the end.
    pub test: Arc<dyn Examples>,
}

/// Which images with objects, known by their content: two are equal when name and content are, wherever their files
/// lie.
///
/// ```
/// use conditioned_data::{DetectionData, DetectionSource, Shapes};
///
/// let source = DetectionSource::Shapes { shapes: Shapes::default(), train: 80, tune: 10, test: 20 };
/// let data = DetectionData::new(source)?;
/// assert_eq!((data.categories.len(), data.images), (4, [80, 10, 20]));
/// assert_eq!(data.load()?.test.len(), 20);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionData {
    source: DetectionSource,
    /// BLAKE3 of the same with names and lengths of files for what is in them; the hash itself without files.
    listing: String,
    /// What they are called.
    pub name: String,
    /// BLAKE3 of the images and objects to train, tune and report on.
    pub hash: String,
    /// The categories, in the order that classes count.
    pub categories: Vec<Category>,
    /// Images to train, tune and report on.
    pub images: [usize; 3],
    /// Entries of files that were left out.
    pub broken: usize,
}

impl PartialEq for DetectionData {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.hash) == (&other.name, &other.hash)
    }
}

impl DetectionData {
    /// The images of a source, read or drawn once to name and hash them.
    ///
    /// # Errors
    /// When a file is not as it should be, a setting is out of its range, a part has no image, or training and test
    /// images have other categories.
    pub fn new(source: DetectionSource) -> Result<Self> {
        let source = source.absolute()?;
        let Read { name, broken, splits, hash } = source.read()?;
        let [hash, listing] = [hash(true)?, hash(false)?];
        let DetectionSplits { train, tune, test } = &splits;
        let images = [train.len(), tune.len(), test.len()];
        if let Some(part) = images.iter().position(|&images| images == 0) {
            let part = ["train", "choose settings", "report"][part];
            let problem = format!("no image to {part} on; give at least one");
            return Err(Error::Images { name, problem });
        }
        if train.categories() != test.categories() {
            let problem = "training and test images have other categories".to_string();
            return Err(Error::Images { name, problem });
        }
        let categories = train.categories().to_vec();
        Ok(Self { source, listing, name, hash, categories, images, broken })
    }

    /// Images that are known by their number alone, for a plan; they cannot be loaded.
    pub fn announced(name: &str, categories: usize, images: [usize; 3]) -> Self {
        let source =
            DetectionSource::Folder { path: PathBuf::new(), tune: images[1], skip_broken: false };
        let category = |id| Category { id, name: String::new() };
        let categories = (1..=categories as u64).map(category).collect();
        let (name, hash, listing) = (name.into(), String::new(), String::new());
        Self { source, listing, name, hash, categories, images, broken: 0 }
    }

    /// Reads the images again.
    ///
    /// # Errors
    /// As [`DetectionData::new`], or when they are other images than those that were named and hashed.
    pub fn load(&self) -> Result<DetectionSplits> {
        let Read { splits, hash, .. } = self.source.read()?;
        Error::unchanged(&self.name, "images", &self.listing, &hash(false)?)?;
        Ok(splits)
    }
}

/// What a source holds.
struct Read {
    name: String,
    broken: usize,
    splits: DetectionSplits,
    /// BLAKE3 of all, with the content of files or without.
    hash: Box<dyn Fn(bool) -> Result<String>>,
}

impl DetectionSource {
    fn absolute(self) -> Result<Self> {
        Ok(match self {
            Self::Folder { path, tune, skip_broken } => {
                let path = std::path::absolute(&path).map_err(Error::io(&path))?;
                Self::Folder { path, tune, skip_broken }
            }
            shapes @ Self::Shapes { .. } => shapes,
        })
    }

    fn read(&self) -> Result<Read> {
        match self {
            Self::Shapes { shapes, train, tune, test } => {
                // A seed for each part: its images do not depend on how many the others have.
                let part = |seed, images| shapes.images(seed, 0..images);
                let (train, tune, test) = (part(0, *train)?, part(1, *tune)?, part(2, *test)?);
                let sets = [train.clone(), tune.clone(), test.clone()];
                let hash = move |_| joined(&sets, |set| hash_of(set));
                Ok(Read {
                    name: format!("generated shapes, {0} x {0}", shapes.side),
                    broken: 0,
                    splits: DetectionSplits {
                        train: Arc::new(train),
                        tune: Arc::new(tune),
                        test: Arc::new(test),
                    },
                    hash: Box::new(hash),
                })
            }
            Self::Folder { path, tune, skip_broken } => {
                let part = |name| part(path, name, *skip_broken);
                let (all, test) = (part("train")?, part("val")?);
                let mut order: Vec<usize> = (0..all.len()).collect();
                order.shuffle(&mut stream(0, 0, 0, Purpose::Split));
                let (chosen, rest) = order.split_at((*tune).min(all.len()));
                let (train, tuning) = (all.subset(rest)?, all.subset(chosen)?);
                let broken = all.broken() + test.broken();
                let sets = [train.clone(), tuning.clone(), test.clone()];
                let hash = move |content| {
                    joined(&sets, |set| if content { set.hash() } else { set.listing_hash() })
                };
                Ok(Read {
                    name: crate::idx::set_name(path),
                    broken,
                    splits: DetectionSplits {
                        train: Arc::new(train),
                        tune: Arc::new(tuning),
                        test: Arc::new(test),
                    },
                    hash: Box::new(hash),
                })
            }
        }
    }
}

/// BLAKE3 of the hashes of three sets.
fn joined<T>(sets: &[T; 3], hash: impl Fn(&T) -> Result<String>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for set in sets {
        hasher.update(hash(set)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// BLAKE3 of images and objects.
fn hash_of(images: &dyn Examples) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for i in 0..images.len() {
        let Example { height, width, pixels, instances, .. } = images.example(i)?;
        for number in [height, width, instances.len()] {
            hasher.update(&(number as u64).to_le_bytes());
        }
        hasher.update(&pixels);
        for Instance { category, mask, .. } in &instances {
            hasher.update(&(*category as u64).to_le_bytes());
            for count in mask.counts() {
                hasher.update(&count.to_le_bytes());
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The part `train` or `val` of a folder.
fn part(folder: &Path, name: &str, skip_broken: bool) -> Result<CocoSet> {
    let one = folder.join("coco.json");
    if one.is_file() {
        return CocoSet::read(&one, &folder.join("images"), Some(name), skip_broken);
    }
    let json = folder.join(format!("annotations/instances_{name}2017.json"));
    CocoSet::read(&json, &folder.join(format!("{name}2017")), None, skip_broken)
}
