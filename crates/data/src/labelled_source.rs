//! [`LabelledSource`]: where labelled texts come from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, LabelledTexts, Labels, Result, Task, Texts, entailments};

/// Share of a dev set that is reported on where there is no training set.
const SPLIT: f64 = 0.2;

/// Where texts come from: tasks of GLUE, files of one's own, or generated pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelledSource {
    /// The official files of a task of GLUE in a folder, or those of the hub.
    Glue {
        /// Which.
        task: Task,
        /// The folder.
        folder: PathBuf,
    },
    /// The dev file of a task of GLUE alone, split in two.
    SplitDev {
        /// Which.
        task: Task,
        /// The folder.
        folder: PathBuf,
    },
    /// Files to train and to report on.
    Files {
        /// Training texts.
        train: PathBuf,
        /// Texts to report on.
        dev: PathBuf,
        /// Whether labels are scores.
        scores: bool,
    },
    /// Generated pairs from `first` on, some to train and some to report on; they stand in the place of RTE.
    Generated {
        /// The first pair.
        first: usize,
        /// Pairs to train on.
        train: usize,
        /// Pairs to report on.
        dev: usize,
    },
}

impl LabelledSource {
    /// Seed of the generated pairs, and of the [`premises`](crate::premises) that go with them.
    pub const SEED: u64 = 0;

    /// The task of GLUE in `folder`, which may lack the training file.
    pub(crate) fn of_glue(task: Task, folder: PathBuf) -> Result<Self> {
        Ok(match task.has_training(&folder)? {
            true => Self::Glue { task, folder },
            false => Self::SplitDev { task, folder },
        })
    }

    /// What the texts are called.
    pub fn name(&self) -> String {
        match self {
            Self::Glue { task, .. } => task.name().to_string(),
            Self::SplitDev { task, .. } => format!("{task} (split of its dev set)"),
            Self::Files { train, .. } => {
                train.file_stem().unwrap_or_default().display().to_string()
            }
            Self::Generated { .. } => "generated pairs".to_string(),
        }
    }

    /// The task of GLUE that they are, or stand in the place of; none of files of one's own.
    pub fn task(&self) -> Option<Task> {
        match self {
            Self::Glue { task, .. } | Self::SplitDev { task, .. } => Some(*task),
            Self::Generated { .. } => Some(Task::Rte),
            Self::Files { .. } => None,
        }
    }

    /// Reads the texts.
    ///
    /// # Errors
    /// When a file is not as it should be.
    pub fn read(&self) -> Result<LabelledTexts> {
        match self {
            Self::Glue { task, folder } => task.read(folder),
            Self::SplitDev { task, folder } => task.split_dev(folder, SPLIT),
            Self::Files { train, dev, scores } => read_files(train, dev, *scores),
            &Self::Generated { first, train, dev } => {
                let middle = first + train;
                let pairs = entailments(Self::SEED, middle..middle + dev)?;
                Ok(LabelledTexts {
                    train: entailments(Self::SEED, first..middle)?,
                    dev: vec![("dev", pairs)],
                    skipped: 0,
                })
            }
        }
    }
}

fn read_files(train: &Path, dev: &Path, scores: bool) -> Result<LabelledTexts> {
    let train = Texts::read(train, scores.then_some(&Labels::Score))?;
    let dev = Texts::read(dev, Some(train.labels()))?;
    if train.pairs() != dev.pairs() {
        let kind = |texts: &Texts| if texts.pairs() { "pairs" } else { "single texts" };
        let (train_kind, dev_kind) = (kind(&train), kind(&dev));
        let problem =
            format!("holds {train_kind}, {} {dev_kind}; they must be of one kind", dev.name());
        return Err(Error::Texts { name: train.name().into(), problem });
    }
    Ok(LabelledTexts { train, dev: vec![("dev", dev)], skipped: 0 })
}
