//! [`ImageData`]: images by name and hash, to be read again by another process.

use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::image::files::ImageFiles;
use crate::image::folder::ImageFolder;
use crate::stream::{Purpose, stream};
use crate::{
    CifarFolder, DIGITS_SIZES, Error, IdxFolder, ImageSet, Preprocessing, Result, Splits, digits,
    hold_out, split,
};

/// Classes of MNIST, Fashion-MNIST and KMNIST.
const IDX_CLASSES: usize = 10;

/// Seed of every split: all who read the same data get the same images.
const SPLIT_SEED: u64 = 0;

/// Share of the images of a tree without `val` or `test` that is reported on.
const TEST: f64 = 0.2;

/// Where images come from.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// The embedded UCI digits.
    Digits,
    /// A folder: the IDX files of MNIST, Fashion-MNIST or KMNIST, the binary files of CIFAR, or a folder of images for each
    /// class or parquet files of the Hugging Face hub ([`ImageFolder`]).
    Folder {
        /// The folder.
        path: PathBuf,
        /// How image files of any size are prepared; the others are taken as they are.
        preprocessing: Preprocessing,
        /// Whether files that are no images are left out and counted, rather than an error. All are decoded
        /// once to find them.
        skip_broken: bool,
    },
}

/// How many images there are to train on and to choose settings on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageSizes {
    /// Training images; all that are left where it is none.
    pub train: Option<usize>,
    /// The tuning slice, taken from the training images; of a tree with `val` and `test` it is `val`.
    pub tune: Tuning,
}

/// The size of a tuning slice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tuning {
    /// So many images.
    Images(usize),
    /// So large a part of all training images.
    Share(f64),
}

impl From<[usize; 2]> for ImageSizes {
    fn from([train, tune]: [usize; 2]) -> Self {
        Self { train: Some(train), tune: Tuning::Images(tune) }
    }
}

/// Which images: the embedded digits, or a folder.
///
/// ```
/// use conditioned_data::{ImageData, ImageSource};
///
/// let (data, splits) = ImageData::read(ImageSource::Digits, [1000, 200].into())?;
/// assert_eq!((&*data.name, splits.train.len()), ("UCI digits", 1000));
/// assert_eq!(data.load()?.train, splits.train);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageData {
    /// A folder; null is the embedded digits.
    folder: Option<PathBuf>,
    /// What is known of image files alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<FilesConfig>,
    /// The names of the classes, where they have any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// The name of the set, for titles.
    pub name: String,
    /// BLAKE3 of the training, tuning and test images, in this order.
    pub hash: String,
    /// Training images.
    pub train_images: usize,
    /// Images of the tuning slice.
    pub tune_images: usize,
}

/// How the images of files are prepared, and which are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesConfig {
    preprocessing: Preprocessing,
    /// Files that are no images, or rows of parquet files, as paths from the folder, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    broken: Vec<PathBuf>,
    /// BLAKE3 of names and lengths of all files, or of what the parquet files hold: what is compared when they
    /// are read again.
    listing: String,
}

impl PartialEq for ImageData {
    /// Whether the images are the same, wherever their files lie.
    fn eq(&self, other: &Self) -> bool {
        let content = |data: &Self| {
            let preprocessing = data.files.as_ref().map(|files| files.preprocessing.clone());
            (data.hash.clone(), data.train_images, data.tune_images, preprocessing)
        };
        content(self) == content(other)
    }
}

impl ImageData {
    /// Images that are known by name and number alone, for a plan; they cannot be loaded.
    pub fn announced(name: &str, [train_images, tune_images]: [usize; 2]) -> Self {
        Self {
            folder: None,
            files: None,
            classes: Vec::new(),
            name: name.to_string(),
            hash: String::new(),
            train_images,
            tune_images,
        }
    }

    /// The images of a source, read once to name and hash them, and the headers of image files before that.
    ///
    /// # Errors
    /// When they cannot be read or are too few, a file is no image, or the path is not UTF-8.
    pub fn read(source: ImageSource, sizes: ImageSizes) -> Result<(Self, Splits)> {
        let mut data = Self::announced("", [0, 0]);
        let splits = match source {
            ImageSource::Digits => data.digits(sizes)?,
            ImageSource::Folder { path, preprocessing, skip_broken } => {
                if path.to_str().is_none() {
                    let expected = "must be valid UTF-8, since it is recorded in JSON";
                    return Err(Error::config("folder", path.display(), expected));
                }
                // Found again from any working directory.
                let path = std::path::absolute(&path).unwrap_or(path);
                data.folder = Some(path.clone());
                match packed(&path)? {
                    Some(packed) => data.packed(packed, sizes)?,
                    None => data.files(&path, &preprocessing, skip_broken, sizes)?,
                }
            }
        };
        for (part, set) in
            [("train", &splits.train), ("choose settings", &splits.tune), ("report", &splits.test)]
        {
            if set.is_empty() {
                let name = splits.train.name().to_string();
                let problem =
                    format!("no image is left to {part} on; give more images, or a larger part");
                return Err(Error::Images { name, problem });
            }
        }
        data.train_images = splits.train.len();
        data.tune_images = splits.tune.len();
        data.name = splits.train.name().to_string();
        data.hash = hash(&splits, ImageSet::hash)?;
        Ok((data, splits))
    }

    /// Reads the images again; of image files names and lengths, of parquet files all.
    ///
    /// # Errors
    /// When they cannot be read, or are not those of then.
    pub fn load(&self) -> Result<Splits> {
        let mut again = self.clone();
        let sizes = [self.train_images, self.tune_images].into();
        let (splits, planned, found) = match (&self.folder, &self.files) {
            (None, _) => {
                let splits = again.digits(sizes)?;
                let found = hash(&splits, ImageSet::hash)?;
                (splits, &self.hash, found)
            }
            (Some(folder), None) => {
                let packed = packed(folder)?.ok_or_else(|| Error::ImageFolder {
                    folder: folder.clone(),
                    problem: "the files that this run was planned with are gone; put them back"
                        .into(),
                })?;
                let splits = again.packed(packed, sizes)?;
                let found = hash(&splits, ImageSet::hash)?;
                (splits, &self.hash, found)
            }
            (Some(folder), Some(files)) => {
                let tree = ImageFolder::read(folder, &files.preprocessing)?;
                let splits = tree_splits(tree, folder, &files.broken, sizes)?;
                let found = listing(&splits)?;
                (splits, &files.listing, found)
            }
        };
        Error::unchanged(&self.name, "images", planned, &found)?;
        Ok(splits)
    }

    /// How image files are prepared; none for images that are taken as they are.
    pub fn preprocessing(&self) -> Option<&Preprocessing> {
        self.files.as_ref().map(|files| &files.preprocessing)
    }

    /// Files that are no images and are left out.
    pub fn broken(&self) -> usize {
        self.files.as_ref().map_or(0, |files| files.broken.len())
    }

    fn digits(&mut self, sizes: ImageSizes) -> Result<Splits> {
        let digits = ImageSet::from(digits()?);
        let tune = tune_size(sizes.tune, digits.len());
        let left = digits.len().saturating_sub(tune + DIGITS_SIZES[2]);
        split(&digits, SPLIT_SEED, [sizes.train.unwrap_or(left), tune, DIGITS_SIZES[2]])
    }

    fn packed(&mut self, packed: Packed, sizes: ImageSizes) -> Result<Splits> {
        self.classes = packed.classes;
        let tune = tune_size(sizes.tune, packed.train.len());
        hold_out(&packed.train, packed.test, SPLIT_SEED, sizes.train, tune)
    }

    fn files(
        &mut self,
        folder: &Path,
        preprocessing: &Preprocessing,
        skip_broken: bool,
        sizes: ImageSizes,
    ) -> Result<Splits> {
        let mut broken = Vec::new();
        let tree = ImageFolder::read(folder, preprocessing)?;
        if tree.passed_over > 0 {
            tracing::info!(
                "{}: {} files are passed over: they are no images by their suffixes, or lie in no class",
                folder.display(),
                tree.passed_over
            );
        }
        for files in
            [Some(&tree.train), tree.tune.as_ref(), tree.test.as_ref()].into_iter().flatten()
        {
            for bad in files.broken(skip_broken)? {
                if !skip_broken {
                    return Err(Error::picture(files.full_path(&bad.file), bad.problem));
                }
                tracing::info!(
                    "left out: {}: {}",
                    files.full_path(&bad.file).display(),
                    bad.problem
                );
                broken.push(files.path_in(folder, &bad.file));
            }
        }
        broken.sort();
        self.classes = tree.train.classes().to_vec();
        let splits = tree_splits(tree, folder, &broken, sizes)?;
        self.files = Some(FilesConfig {
            preprocessing: preprocessing.clone(),
            broken,
            listing: listing(&splits)?,
        });
        Ok(splits)
    }
}

/// Images that lie packed in few files.
struct Packed {
    train: ImageSet,
    test: ImageSet,
    classes: Vec<String>,
}

/// The images of CIFAR, or of MNIST, Fashion-MNIST or KMNIST, if they are in a folder.
fn packed(folder: &Path) -> Result<Option<Packed>> {
    if CifarFolder::is_in(folder) {
        let CifarFolder { train, test, names: classes } = CifarFolder::read(folder)?;
        return Ok(Some(Packed { train: train.into(), test: test.into(), classes }));
    }
    // Where some of its files are missing, its reader says which.
    if IdxFolder::is_in(folder) {
        let IdxFolder { train, test } = IdxFolder::read(folder, IDX_CLASSES)?;
        return Ok(Some(Packed { train: train.into(), test: test.into(), classes: Vec::new() }));
    }
    Ok(None)
}

/// The splits of a tree without the files that are broken.
fn tree_splits(
    tree: ImageFolder,
    folder: &Path,
    broken: &[PathBuf],
    sizes: ImageSizes,
) -> Result<Splits> {
    let whole = |files: ImageFiles| files.without(folder, broken);
    let train = whole(tree.train);
    let (train, test) = match tree.test {
        Some(test) => (ImageSet::from(train), whole(test).into()),
        None => {
            let order = test_order(train.len());
            let (test, rest) = order.split_at((TEST * train.len() as f64).round() as usize);
            (train.subset(rest)?.into(), ImageSet::from(train.subset(test)?))
        }
    };
    match tree.tune {
        Some(tune) => {
            let Splits { train, .. } = hold_out(&train, test.clone(), SPLIT_SEED, sizes.train, 0)?;
            Ok(Splits { train, tune: whole(tune).into(), test })
        }
        None => hold_out(&train, test, SPLIT_SEED, sizes.train, tune_size(sizes.tune, train.len())),
    }
}

/// Which images of a tree are reported on: the first in this order.
fn test_order(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(SPLIT_SEED, 1, 0, Purpose::Split));
    order
}

fn tune_size(tune: Tuning, train: usize) -> usize {
    match tune {
        Tuning::Images(images) => images,
        Tuning::Share(share) => (share * train as f64).round() as usize,
    }
}

fn listing(splits: &Splits) -> Result<String> {
    hash(splits, |images| match images {
        ImageSet::Files(files) => files.listing_hash(),
        ImageSet::Memory(images) => Ok(images.hash()),
    })
}

fn hash(splits: &Splits, of: impl Fn(&ImageSet) -> Result<String>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for images in [&splits.train, &splits.tune, &splits.test] {
        hasher.update(of(images)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
