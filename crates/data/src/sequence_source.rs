//! [`SequenceSource`]: where labelled sequences come from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::listops::Seen;
use crate::lra::{self, halves, listops_files, pathfinder_files, pixels, retrieval, text};
use crate::sequence_data::absolute;
use crate::sequence_shards::{Make, Part};
use crate::{Error, ImageData, ListOps, Pathfinder, Result, SequenceSplits};

/// Generated sequences that are made anew each time; more of them are kept in files, where there is a folder.
const FEW: usize = 20_000;

/// Where sequences come from: generated, the released files of the Long Range Arena, or what stands in for
/// them.
///
/// Sequences of bytes have the ids 1 to 256, byte b the id b + 1; sequences of pixels likewise, so that the
/// brightest of a set has the id `white` + 1.
///
/// ```
/// use conditioned_data::{SequenceData, SequenceSource};
///
/// let folder = tempfile::tempdir()?;
/// let rows = |n| (0..n).map(|i| format!("{{\"text\": \"film {i}\", \"label\": {}}}\n", i % 2)).collect::<String>();
/// let path = folder.path().join("films.jsonl");
/// std::fs::write(&path, rows(40))?;
/// let data = SequenceData::new(SequenceSource::Text { path, max_length: 100 }, None)?;
/// assert_eq!((&*data.name, data.vocabulary, data.longest), ("bytes of films", 257, 7));
/// assert_eq!((data.train_len, data.tune_len, data.test_len), (32, 4, 4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SequenceSource {
    /// Generated ListOps: sequences 0 to `train` - 1 of a seed to train on, the next to tune and to test on, all
    /// of them different.
    ListOps {
        /// Which trees.
        config: ListOps,
        /// Seed of all of them.
        seed: u64,
        /// Sequences to train on.
        train: usize,
        /// Sequences to choose settings on.
        tune: usize,
        /// Sequences to report on.
        test: usize,
    },
    /// The released ListOps: `basic_train.tsv`, `basic_val.tsv` and `basic_test.tsv` in the folder, or in its
    /// `listops-1000`.
    ListOpsFiles {
        /// The folder.
        folder: PathBuf,
    },
    /// Classes of texts by their bytes: those of IMDb, the folder with `train/pos` and so on or the one with
    /// `aclImdb`, or a file of labelled texts ([`Texts::read`](crate::Texts::read)), of which a tenth is tuned
    /// and a tenth reported on.
    ///
    /// A tenth of the training texts of IMDb, which has no such part, is tuned on. Texts are held out by their
    /// hash, of each class the same share, and equal texts are in one part.
    Text {
        /// The folder or file.
        path: PathBuf,
        /// Bytes of the longest text; longer ones are cut.
        max_length: usize,
    },
    /// Pairs of texts by their bytes: those of AAN that cite each other or not, in `new_aan_pairs.train.tsv` and
    /// so on in the folder or its `tsv_data`; or, of the texts of [`SequenceSource::Text`], halves of one text or
    /// of two texts of one class.
    Retrieval {
        /// The folder or file.
        path: PathBuf,
        /// Bytes of the longest text; longer ones are cut.
        max_length: usize,
    },
    /// Images pixel by pixel, row after row, colours turned to grey: 0.2989 R + 0.587 G + 0.114 B, cut to a whole
    /// number.
    Pixels {
        /// Which images.
        images: Box<ImageData>,
    },
    /// Generated images of Pathfinder, pixel by pixel: images 0 to `train` - 1 of a seed to train on, the next to tune
    /// and to test on, all of them different.
    Pathfinder {
        /// Which images.
        config: Pathfinder,
        /// Seed of all of them.
        seed: u64,
        /// Images to train on.
        train: usize,
        /// Images to choose settings on.
        tune: usize,
        /// Images to report on.
        test: usize,
    },
    /// The released Pathfinder, hard, of 32 x 32 pixels: `imgs` and `metadata` in the folder, in its
    /// `curv_contour_length_14` or in its `pathfinder32/curv_contour_length_14`. The first 80 % are to train on,
    /// then 10 % each to tune and to report on.
    PathfinderFiles {
        /// The folder.
        folder: PathBuf,
    },
}

impl SequenceSource {
    /// The released task that lies in a folder; texts are cut to `max_length` bytes.
    ///
    /// # Errors
    /// When there is none: says what was looked for.
    pub fn find(folder: impl AsRef<Path>, max_length: usize) -> Result<Self> {
        let (folder, path) = (folder.as_ref().to_path_buf(), folder.as_ref().to_path_buf());
        Ok(match () {
            () if listops_files::FILES.root(&folder).is_some() => Self::ListOpsFiles { folder },
            () if retrieval::FILES.root(&folder).is_some() => Self::Retrieval { path, max_length },
            () if pathfinder_files::FILES.root(&folder).is_some() => {
                Self::PathfinderFiles { folder }
            }
            () if text::FILES.root(&folder).is_some() => Self::Text { path, max_length },
            () => {
                let all = [
                    &listops_files::FILES,
                    &retrieval::FILES,
                    &pathfinder_files::FILES,
                    &text::FILES,
                ];
                return Err(lra::missing(&folder, "task of the Long Range Arena", &all));
            }
        })
    }

    /// Reads the sequences, or generates them, many of them into a folder of `cache`.
    pub(crate) fn read(&self, cache: Option<&Path>) -> Result<SequenceSplits> {
        match self {
            Self::ListOps { config, seed, train, tune, test } => {
                let make = |range, seen: &mut Seen| config.unseen(*seed, range, seen);
                self.generate("listops", [*train, *tune, *test], &make, cache)
            }
            Self::Pathfinder { config, seed, train, tune, test } => {
                let make =
                    |range, seen: &mut Seen| pixels::of_images(&config.unseen(*seed, range, seen)?);
                self.generate("pathfinder", [*train, *tune, *test], &make, cache)
            }
            Self::ListOpsFiles { folder } => listops_files::read(folder),
            Self::Text { path, max_length } => text::read(path, *max_length),
            Self::Retrieval { path, max_length } => {
                match (path.is_dir(), retrieval::FILES.root(path)) {
                    (true, Some(root)) => retrieval::read(&root, *max_length),
                    (true, None) if text::FILES.root(path).is_none() => {
                        let files = [&retrieval::FILES, &text::FILES];
                        Err(lra::missing(path, "pairs of AAN and no texts to halve", &files))
                    }
                    _ => halves::read(path, *max_length),
                }
            }
            Self::Pixels { images } => pixels::read(images),
            Self::PathfinderFiles { folder } => pathfinder_files::read(folder),
        }
    }

    /// Sequences 0 to `train` - 1, then those to tune and to test on.
    fn generate(
        &self,
        kind: &str,
        [train, tune, test]: [usize; 3],
        make: Make<'_>,
        cache: Option<&Path>,
    ) -> Result<SequenceSplits> {
        let middle = train.checked_add(tune);
        let Some((middle, end)) = middle.and_then(|sum| Some((sum, sum.checked_add(test)?))) else {
            let expected = "expected fewer sequences";
            return Err(Error::config("train", train, expected));
        };
        let ranges = [0..train, train..middle, middle..end];
        let mut seen = Seen::default();
        let [train, tune, test] = match cache.filter(|_| end > FEW) {
            None => {
                let mut set = |range| make(range, &mut seen);
                let [train, tune, test] = ranges;
                [set(train)?, set(tune)?, set(test)?]
            }
            Some(cache) => {
                let recipe = serde_json::to_value(self)
                    .map_err(|e| Error::config("source", kind, format!("{e}; change it")))?;
                let hash = blake3::hash(recipe.to_string().as_bytes()).to_hex();
                // A folder of its own: other settings never meet the same files.
                let folder = cache.join(format!("{kind}-{}", &hash[..16]));
                let [train, tune, test] = ranges;
                let part = |name, range| Part { folder: &folder, name, recipe: &recipe, range };
                let parts = [part("train", train), part("tune", tune), part("test", test)];
                if !parts.iter().all(Part::is_written) {
                    for part in &parts {
                        part.write(&mut seen, make)?;
                    }
                }
                [parts[0].read()?, parts[1].read()?, parts[2].read()?]
            }
        };
        Ok(SequenceSplits { train, tune, test })
    }

    /// The same with paths that are found from any working directory.
    pub(crate) fn absolute(mut self) -> Result<Self> {
        match &mut self {
            Self::ListOpsFiles { folder } | Self::PathfinderFiles { folder } => {
                *folder = absolute("folder", folder)?;
            }
            Self::Text { path, .. } | Self::Retrieval { path, .. } => {
                *path = absolute("path", path)?;
            }
            Self::ListOps { .. } | Self::Pathfinder { .. } | Self::Pixels { .. } => {}
        }
        Ok(self)
    }
}
