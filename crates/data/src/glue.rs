//! [`Task`]: the tasks of GLUE, read from the official files or those of the hub.
//!
//! A. Wang et al., *GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
//! Understanding*, ICLR 2019; the eight tasks of BERT's table (WNLI is left out, as there). The order
//! of the classes is that of the hub's `nyu-mll/glue`, so that a model of the hub means the same.

mod files;
mod find;
mod names;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, LabelledTexts, Labels, Part, Parts, Result};
use files::Source;
pub(crate) use find::find;

/// A task of GLUE.
///
/// ```
/// use conditioned_data::{Labels, Task};
///
/// let task: Task = "SST-2".parse()?;
/// assert_eq!((task, task.name()), (Task::Sst2, "sst2"));
/// assert_eq!(task.labels(), Labels::Classes(vec!["negative".into(), "positive".into()]));
/// assert!("sst3".parse::<Task>().is_err());
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Whether a sentence is acceptable English.
    Cola,
    /// Whether a sentence of a film review is positive.
    Sst2,
    /// Whether two sentences say the same.
    Mrpc,
    /// How similar two sentences are, 0 to 5.
    StsB,
    /// Whether two questions ask the same.
    Qqp,
    /// Whether a premise entails or contradicts a hypothesis; two dev sets.
    Mnli,
    /// Whether a sentence answers a question.
    Qnli,
    /// Whether a text entails another.
    Rte,
}

impl Task {
    /// All tasks, in the order of the usual table.
    pub const ALL: [Self; 8] = [
        Self::Mnli,
        Self::Sst2,
        Self::StsB,
        Self::Rte,
        Self::Qnli,
        Self::Qqp,
        Self::Mrpc,
        Self::Cola,
    ];

    /// The name, as on the hub: "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte".
    pub fn name(self) -> &'static str {
        self.names().name
    }

    /// The name in publications: "CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE".
    pub fn title(self) -> &'static str {
        self.names().folder
    }

    /// Classes in the order of the hub, or a score.
    pub fn labels(self) -> Labels {
        match self.names().classes {
            [] => Labels::Score,
            names => Labels::Classes(names.iter().copied().map(String::from).collect()),
        }
    }

    /// Names of the dev sets: "matched" and "mismatched" for MNLI, "dev" for the others.
    pub fn dev_names(self) -> &'static [&'static str] {
        if self == Self::Mnli { &["matched", "mismatched"] } else { &["dev"] }
    }

    /// Reads training and dev texts from a folder.
    ///
    /// `folder` holds the official `train.tsv` and `dev.tsv` (`dev_matched.tsv` and
    /// `dev_mismatched.tsv` of MNLI), or a folder with them that is called as the task; with feature
    /// `parquet`, the hub's `train-*.parquet` and `validation-*.parquet` do as well. White space at
    /// both ends of a text is left out.
    ///
    /// # Errors
    /// When a file is missing or is not as its task lays it out, by file and line.
    pub fn read(self, folder: impl AsRef<Path>) -> Result<LabelledTexts> {
        let (source, mut skipped) = (Source::find(self, folder.as_ref())?, 0);
        let train = source.read("train", &mut skipped)?;
        let dev = self.dev_names().iter().map(|&set| Ok((set, source.read(set, &mut skipped)?)));
        Ok(LabelledTexts { train, dev: dev.collect::<Result<_>>()?, skipped })
    }

    /// Reads the first dev set alone and splits it, for want of the training texts; `share` of its
    /// rows, on average, are the new dev set.
    ///
    /// Rows are assigned by a hash of their first text, so that no question is on both sides. The name
    /// of both sets says "split of": numbers on them do not compare with published ones.
    ///
    /// # Errors
    /// As [`read`](Self::read), or when `share` leaves nothing on one side.
    pub fn split_dev(self, folder: impl AsRef<Path>, share: f64) -> Result<LabelledTexts> {
        let (source, mut skipped) = (Source::find(self, folder.as_ref())?, 0);
        let set = self.dev_names()[0];
        let all = source.read(set, &mut skipped)?;
        let parts = Parts { seed: 0, tune: share, test: 0.0 };
        let (mut train, mut dev) = (Vec::new(), Vec::new());
        for (i, row) in all.rows().iter().enumerate() {
            match parts.part(&row.text)? {
                Part::Train => train.push(i),
                Part::Tune | Part::Test => dev.push(i),
            }
        }
        let name = |part| format!("{} {part}, split of {set}", self.name());
        let train = all.subset(name("train"), &train)?;
        let dev = vec![(set, all.subset(name("dev"), &dev)?)];
        Ok(LabelledTexts { train, dev, skipped })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    /// Capitals and hyphens do not matter.
    fn from_str(name: &str) -> Result<Self> {
        let plain = name.to_ascii_lowercase().replace(['-', '_'], "");
        Self::ALL.into_iter().find(|task| task.name() == plain).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::config("task", name, format!("expected one of {known}"))
        })
    }
}
