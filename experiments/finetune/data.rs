//! The texts of a run: a task of GLUE, or files of one's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use conditioned_data::{Labels, Metric, Task, Texts};
use conditioned_models::hugging_face::bert::Head;
use experiments::classification::{LabelledTexts, content_hash};
use experiments::hub;
use serde::{Deserialize, Serialize};

use crate::options::Options;
use crate::recipe::Recipe;

/// Where the texts are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Source {
    /// A task of GLUE in a folder.
    Glue {
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
}

/// The texts of a run, known by their content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    source: Source,
    /// What they are called.
    pub(crate) name: String,
    /// BLAKE3 of all texts and labels.
    hash: String,
    /// Class names; none where labels are scores.
    pub(crate) classes: Vec<String>,
    /// The first so many training texts; null is all.
    first: Option<usize>,
    /// Share of the training texts to tune on.
    tune: f64,
    /// Training texts of a table.
    pub(crate) train_len: usize,
}

impl DataConfig {
    /// The texts that the options name, read once.
    ///
    /// # Errors
    /// When options are missing or contradict each other, or a file is not as it should be.
    pub(crate) fn new(options: &Options, recipe: &Recipe) -> Result<Self> {
        let Some(task) = &options.task else {
            bail!(
                "--task is missing: give a task of GLUE with --data FOLDER, or a file of texts with \
                 --dev FILE"
            );
        };
        ensure!(
            !(options.scores && task.parse::<Task>().is_ok()),
            "--scores: is for files; the labels of a task of GLUE are known"
        );
        let full =
            |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
        let (source, name) = match (task.parse::<Task>(), &options.data, &options.dev) {
            (Ok(task), Some(folder), None) => {
                let folder = full(&hub::glue(folder, &[task])?)?;
                (Source::Glue { task, folder }, task.name().to_string())
            }
            (Ok(task), ..) => {
                bail!("--task {task}: needs --data with the folder of its files, and no --dev")
            }
            (Err(_), Some(_), _) if Path::new(task).is_file() => {
                bail!("--task {task}: --data is for the tasks of GLUE; a file needs --dev")
            }
            (Err(_), None, Some(dev)) if Path::new(task).is_file() => {
                let (train, scores) = (full(Path::new(task))?, options.scores);
                let name = train.file_stem().map_or(String::new(), |s| s.display().to_string());
                (Source::Files { train, dev: full(dev)?, scores }, name)
            }
            (Err(_), _, None) if Path::new(task).is_file() => {
                bail!("--task {task}: needs --dev with the file of texts to report on")
            }
            (Err(error), ..) => bail!("--task {task}: no file of that name, and {error}"),
        };
        let mut config = Self {
            source,
            name,
            hash: String::new(),
            classes: Vec::new(),
            first: recipe.train_rows,
            tune: recipe.tune,
            train_len: 0,
        };
        let (train, dev) = config.read()?;
        config.hash = hash(&train, &dev);
        if let Labels::Classes(names) = train.labels() {
            config.classes.clone_from(names);
        }
        config.train_len = config.kept(&train).len();
        Ok(config)
    }

    fn read(&self) -> Result<(Texts, Vec<(String, Texts)>)> {
        Ok(match &self.source {
            Source::Glue { task, folder } => {
                let splits = task.read(folder)?;
                let dev = splits.dev.into_iter().map(|(name, texts)| (name.to_string(), texts));
                (splits.train, dev.collect())
            }
            Source::Files { train, dev, scores } => {
                let train = Texts::read(train, scores.then_some(&Labels::Score))?;
                let dev = Texts::read(dev, Some(train.labels()))?;
                let kind = |texts: &Texts| if texts.pairs() { "pairs" } else { "single texts" };
                ensure!(
                    train.pairs() == dev.pairs(),
                    "{} holds {}, {} {}; they must be of one kind",
                    train.name(),
                    kind(&train),
                    dev.name(),
                    kind(&dev)
                );
                (train, vec![("dev".to_string(), dev)])
            }
        })
    }

    /// Places of the training texts that are kept, in an order of their own: that of their hashes.
    fn kept(&self, train: &Texts) -> Vec<usize> {
        let mut places: Vec<usize> = (0..train.len()).collect();
        places.sort_by_cached_key(|&i| {
            let row = &train.rows()[i];
            let text = format!("{}\0{}", row.text, row.second.as_deref().unwrap_or(""));
            *blake3::hash(text.as_bytes()).as_bytes()
        });
        places.truncate(self.first.unwrap_or(usize::MAX));
        places
    }

    /// Reads the texts. A search trains on a part of the training texts and reports on the rest of
    /// them: no text of a dev set takes part.
    ///
    /// # Errors
    /// When they are not those that the run was planned with.
    pub(crate) fn load(&self, search: bool) -> Result<LabelledTexts> {
        let (train, dev) = self.read()?;
        ensure!(
            hash(&train, &dev) == self.hash,
            "{}: the texts are not those that this run was planned with; choose another --out",
            self.name
        );
        let kept = self.kept(&train);
        let subset = |name: &str, places: &[usize]| -> Result<Arc<Texts>> {
            Ok(Arc::new(train.subset(format!("{} {name}", self.name), places)?))
        };
        let metrics = self.metrics()?;
        if !search {
            let dev = dev.into_iter().map(|(name, texts)| (name, Arc::new(texts)));
            return Ok(LabelledTexts {
                train: subset("train", &kept)?,
                dev: dev.collect(),
                metrics,
            });
        }
        let held_out = kept.len() - self.train_rows(true);
        ensure!(
            (1..kept.len()).contains(&held_out),
            "--set tune={}: leaves no text to train or to tune on, of {}",
            self.tune,
            kept.len()
        );
        let (tune, rest) = kept.split_at(held_out);
        let dev = vec![("tune".to_string(), subset("tune", tune)?)];
        Ok(LabelledTexts { train: subset("train", rest)?, dev, metrics })
    }

    /// Texts that a cell of a search, or of a table, trains on.
    pub(crate) fn train_rows(&self, search: bool) -> usize {
        let held_out =
            if search { (self.tune * self.train_len as f64).round() as usize } else { 0 };
        self.train_len - held_out
    }

    /// What the texts are judged by; the first is the number that arms are compared by.
    fn metrics(&self) -> Result<Vec<Metric>> {
        Ok(match &self.source {
            Source::Glue { task, .. } => task.metrics().to_vec(),
            Source::Files { scores: true, .. } => vec![Metric::Pearson, Metric::Spearman],
            Source::Files { .. } if self.classes.len() == 2 => {
                vec![Metric::Accuracy, Metric::F1, Metric::Matthews]
            }
            Source::Files { .. } => vec![Metric::Accuracy, Metric::Matthews],
        })
    }

    /// The head in a saved model.
    pub(crate) fn head(&self) -> Head {
        if self.classes.is_empty() { Head::Score } else { Head::Classes(self.classes.clone()) }
    }
}

/// BLAKE3 of all texts and labels.
fn hash(train: &Texts, dev: &[(String, Texts)]) -> String {
    content_hash(std::iter::once(train).chain(dev.iter().map(|(_, texts)| texts)))
}
