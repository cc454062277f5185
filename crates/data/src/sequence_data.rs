//! [`SequenceData`]: labelled sequences by name and hash, to be read again by another process.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, SequenceSet, SequenceSource};

/// Three disjoint sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceSplits {
    /// Sequences to train on.
    pub train: SequenceSet,
    /// Sequences to choose settings on.
    pub tune: SequenceSet,
    /// Sequences for the reported number, read once, at the end.
    pub test: SequenceSet,
}

impl SequenceSplits {
    fn sets(&self) -> [(&'static str, &SequenceSet); 3] {
        [("train", &self.train), ("choose settings", &self.tune), ("report", &self.test)]
    }

    fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (_, set) in self.sets() {
            hasher.update(set.hash().as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Which sequences, known by their content: two are equal when name and content are, wherever their files lie.
///
/// ```
/// use conditioned_data::{ListOps, SequenceData, SequenceSource};
///
/// let config = ListOps::short();
/// let source = SequenceSource::ListOps { config, seed: 0, train: 80, tune: 10, test: 20 };
/// let data = SequenceData::new(source, None)?;
/// assert_eq!((data.vocabulary, data.classes, data.train_len), (16, 10, 80));
/// assert!(data.longest < 128);
/// assert_eq!(data.load()?.test.len(), 20);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceData {
    source: SequenceSource,
    /// Folder for what takes long to generate; null generates it each time.
    cache: Option<PathBuf>,
    /// What they are called.
    pub name: String,
    /// BLAKE3 of the training, tuning and test sequences with their labels.
    pub hash: String,
    /// Number of ids, that of padding, 0, among them.
    pub vocabulary: usize,
    /// Number of classes.
    pub classes: usize,
    /// Tokens of the longest sequence of all.
    pub longest: usize,
    /// Whether each row is a pair of sequences.
    pub pairs: bool,
    /// Rows to train on.
    pub train_len: usize,
    /// Rows to choose settings on.
    pub tune_len: usize,
    /// Rows to report on.
    pub test_len: usize,
}

impl PartialEq for SequenceData {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.hash) == (&other.name, &other.hash)
    }
}

impl SequenceData {
    /// Sequences that are known by their sizes alone, for a plan: ids, classes and tokens of the longest, then rows to
    /// train, tune and report on. They cannot be loaded.
    pub fn announced(
        name: &str,
        source: SequenceSource,
        [vocabulary, classes, longest]: [usize; 3],
        [train_len, tune_len, test_len]: [usize; 3],
    ) -> Self {
        let pairs = matches!(source, SequenceSource::Retrieval { .. });
        let (name, hash, cache) = (name.to_string(), String::new(), None);
        Self {
            source,
            cache,
            name,
            hash,
            vocabulary,
            classes,
            longest,
            pairs,
            train_len,
            tune_len,
            test_len,
        }
    }

    /// The sequences of a source, read or generated once to name and hash them. More than 20,000 generated ones
    /// are kept in files in a folder of `cache`, from which they are read from then on.
    ///
    /// # Errors
    /// When a file is not as it should be, a setting is out of its range, a part has no sequence, or a path is
    /// not UTF-8.
    pub fn new(source: SequenceSource, cache: Option<&Path>) -> Result<Self> {
        let source = source.absolute()?;
        let cache = cache.map(|path| absolute("cache", path)).transpose()?;
        let splits = source.read(cache.as_deref())?;
        for (part, set) in splits.sets() {
            if set.is_empty() {
                let name = set.name().to_string();
                let problem = format!("no sequence to {part} on; give at least one");
                return Err(Error::Sequences { name, problem });
            }
        }
        let SequenceSplits { train, tune, test } = &splits;
        Ok(Self {
            name: train.name().to_string(),
            hash: splits.hash(),
            vocabulary: train.vocabulary(),
            classes: train.classes(),
            longest: train.longest().max(tune.longest()).max(test.longest()),
            pairs: train.pairs(),
            train_len: train.len(),
            tune_len: tune.len(),
            test_len: test.len(),
            source,
            cache,
        })
    }

    /// Where they come from.
    pub fn source(&self) -> &SequenceSource {
        &self.source
    }

    /// Reads the sequences again, or generates them.
    ///
    /// # Errors
    /// When they cannot be read or are not those of then.
    pub fn load(&self) -> Result<SequenceSplits> {
        let splits = self.source.read(self.cache.as_deref())?;
        Error::unchanged(&self.name, "sequences", &self.hash, &splits.hash())?;
        Ok(splits)
    }
}

/// A path that is found again from any working directory.
pub(crate) fn absolute(field: &'static str, path: &Path) -> Result<PathBuf> {
    if path.to_str().is_none() {
        let expected = "must be valid UTF-8, since it is recorded in JSON";
        return Err(Error::config(field, path.display(), expected));
    }
    Ok(std::path::absolute(path).unwrap_or_else(|_| path.into()))
}
