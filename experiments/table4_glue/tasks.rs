//! The labelled texts of a fine-tuning: tasks of GLUE that are there, or generated pairs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use conditioned_data::{GlueSplits, Task, entailments};
use experiments::classification::{LabelledTexts, content_hash};
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// Seed of the generated pairs and of the text that goes with them.
pub(crate) const SEED: u64 = 0;

/// Share of a dev set that is reported on where there is no training set.
const SPLIT: f64 = 0.2;

/// Where texts come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Source {
    /// The official files.
    Files(PathBuf),
    /// The dev file alone, split in two.
    SplitDev(PathBuf),
    /// Generated pairs from `first` on, some to train and some to report on.
    Generated { first: usize, train: usize, dev: usize },
}

/// The texts of a task, known by their content: two are equal when it is, wherever their files lie.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskConfig {
    /// The task whose column they fill.
    pub(crate) task: Task,
    source: Source,
    /// What they are called.
    pub(crate) name: String,
    /// BLAKE3 of all texts and labels.
    hash: String,
    /// Training texts.
    pub(crate) train_rows: usize,
    /// Rows of the files that were left out as unusable.
    pub(crate) skipped: usize,
}

impl PartialEq for TaskConfig {
    fn eq(&self, other: &Self) -> bool {
        (self.task, &self.name, &self.hash) == (other.task, &other.name, &other.hash)
    }
}

impl TaskConfig {
    /// The tasks of GLUE whose files lie in `folder`, each read once.
    ///
    /// # Errors
    /// When there is none, or a file is not as it should be.
    pub(crate) fn find(folder: &Path) -> Result<Vec<Self>> {
        ensure!(folder.is_dir(), "--data {}: no such folder", folder.display());
        let folder = std::path::absolute(folder).with_context(|| folder.display().to_string())?;
        let mut found = Vec::new();
        for task in Task::ALL {
            let own: Vec<_> =
                entries(&folder)?.into_iter().filter(|path| is_of(path, task)).collect();
            let [own] = &own[..] else {
                ensure!(
                    own.is_empty(),
                    "--data: several folders of task {task}: {own:?}; leave one"
                );
                continue;
            };
            let own = own.clone();
            let source = match has_training(&own)? {
                true => Source::Files(own),
                false => Source::SplitDev(own),
            };
            found.push(Self::read(task, source)?);
        }
        ensure!(
            !found.is_empty(),
            "--data {}: no folder of a task of GLUE ({}) in it",
            folder.display(),
            Task::ALL.map(Task::name).join(", ")
        );
        Ok(found)
    }

    /// Generated pairs in the place of RTE.
    ///
    /// # Errors
    /// When there are none, or more are asked for than differ.
    pub(crate) fn generated(recipe: &Recipe) -> Result<Self> {
        let Recipe { first_pair: first, task_rows: train, task_dev_rows: dev, .. } = *recipe;
        Self::read(Task::Rte, Source::Generated { first, train, dev })
    }

    fn read(task: Task, source: Source) -> Result<Self> {
        let mut config = Self {
            task,
            name: match &source {
                Source::Files(_) => task.name().to_string(),
                Source::SplitDev(_) => format!("{task} (split of its dev set)"),
                Source::Generated { .. } => "generated pairs".to_string(),
            },
            source,
            hash: String::new(),
            train_rows: 0,
            skipped: 0,
        };
        let splits = config.splits()?;
        (config.hash, config.train_rows) = (hash(&splits), splits.train.len());
        config.skipped = splits.skipped;
        Ok(config)
    }

    fn splits(&self) -> Result<GlueSplits> {
        Ok(match &self.source {
            Source::Files(folder) => self.task.read(folder)?,
            Source::SplitDev(folder) => self.task.split_dev(folder, SPLIT)?,
            &Source::Generated { first, train, dev } => {
                let middle = first + train;
                GlueSplits {
                    train: entailments(SEED, first..middle)?,
                    dev: vec![("dev", entailments(SEED, middle..middle + dev)?)],
                    skipped: 0,
                }
            }
        })
    }

    /// Reads the texts.
    ///
    /// # Errors
    /// When they are not those that the run was planned with.
    pub(crate) fn load(&self) -> Result<LabelledTexts> {
        let splits = self.splits()?;
        ensure!(
            hash(&splits) == self.hash,
            "{}: the texts are not those that this run was planned with; choose another --out",
            self.name
        );
        let dev = splits.dev.into_iter();
        Ok(LabelledTexts {
            train: Arc::new(splits.train),
            dev: dev.map(|(name, texts)| (name.to_string(), Arc::new(texts))).collect(),
            metrics: self.task.metrics().to_vec(),
        })
    }
}

/// What lies in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        folder.read_dir()?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().with_context(|| folder.display().to_string())?;
    paths.sort();
    Ok(paths)
}

/// Whether a folder is called as a task, as in `rte` or `SST-2`.
fn is_of(path: &Path, task: Task) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    path.is_dir() && name.parse().is_ok_and(|named: Task| named == task)
}

/// Whether training texts lie in a folder.
fn has_training(folder: &Path) -> Result<bool> {
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        name == "train.tsv" || (name.starts_with("train") && name.ends_with(".parquet"))
    };
    Ok(entries(folder)?.iter().any(named))
}

/// BLAKE3 of all texts and labels.
fn hash(splits: &GlueSplits) -> String {
    content_hash(std::iter::once(&splits.train).chain(splits.dev.iter().map(|(_, texts)| texts)))
}
