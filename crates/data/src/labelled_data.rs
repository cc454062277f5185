//! [`LabelledData`]: labelled texts by name and hash, to be read again by another process.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, LabelledSource, Labels, Metric, Result, Task, Texts, glue};

/// Texts to train on and to report on.
#[derive(Debug, Clone)]
pub struct LabelledTexts {
    /// Texts to train on.
    pub train: Texts,
    /// Texts to report on, by name; of a task of GLUE by those of [`Task::dev_names`].
    pub dev: Vec<(&'static str, Texts)>,
    /// Rows that were left out as unusable: lines of QQP that are no row, and pairs of MNLI without a
    /// label that its annotators agreed on.
    pub skipped: usize,
}

/// Which texts, known by their content: two are equal when it is, wherever their files lie.
///
/// ```
/// use conditioned_data::{LabelledData, LabelledSource};
///
/// let source = LabelledSource::Generated { first: 0, train: 60, dev: 20 };
/// let data = LabelledData::new(source, Some(50), 0.2)?;
/// let texts = data.load(false)?;
/// assert_eq!((texts.train.len(), texts.dev[0].1.len()), (50, 20));
/// // A search is judged by training texts that are held out.
/// let texts = data.load(true)?;
/// assert_eq!((texts.train.len(), texts.dev[0].1.len()), (40, 10));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledData {
    source: LabelledSource,
    /// What they are called.
    pub name: String,
    /// BLAKE3 of all texts and labels.
    pub hash: String,
    /// Class names; none where labels are scores.
    pub classes: Vec<String>,
    /// The first so many training texts; null is all.
    first: Option<usize>,
    /// Share of the training texts that a search judges by and a table trains on.
    tune: f64,
    /// Training texts of a table.
    pub train_len: usize,
    /// Rows of the files that were left out as unusable.
    pub skipped: usize,
    /// Whether the texts are pairs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pairs: bool,
}

impl PartialEq for LabelledData {
    fn eq(&self, other: &Self) -> bool {
        let key = |data: &Self| (data.name.clone(), data.hash.clone(), data.first, data.tune);
        key(self) == key(other)
    }
}

impl LabelledData {
    /// The texts of a source, read once: the `first` training texts in an order of their own, or all of
    /// them, and the share `tune` of those that a search judges by.
    ///
    /// # Errors
    /// When a file is not as it should be.
    pub fn new(source: LabelledSource, first: Option<usize>, tune: f64) -> Result<Self> {
        let texts = source.read()?;
        let mut data = Self {
            name: source.name(),
            hash: hash(&texts),
            classes: match texts.train.labels() {
                Labels::Classes(names) => names.clone(),
                Labels::Score => Vec::new(),
            },
            source,
            first,
            tune,
            train_len: 0,
            skipped: texts.skipped,
            pairs: texts.train.pairs(),
        };
        data.train_len = data.kept(&texts.train).len();
        Ok(data)
    }

    /// The tasks of GLUE whose files lie in `folder`, a folder each that is called as the task; of one
    /// without training file the dev set is split in two.
    ///
    /// # Errors
    /// When there is none, a task has several, or a file is not as it should be.
    pub fn find_glue(folder: impl AsRef<Path>) -> Result<Vec<Self>> {
        let sources = glue::find(folder.as_ref())?.into_iter();
        let sources = sources.map(|(task, folder)| LabelledSource::of_glue(task, folder));
        sources.map(|source| Self::new(source?, None, 0.0)).collect()
    }

    /// The task of GLUE whose column they fill; none of files of one's own.
    pub fn task(&self) -> Option<Task> {
        self.source.task()
    }

    /// Reads the texts again. A search trains on a part of the training texts and reports on the rest of
    /// them: no text of a dev set takes part.
    ///
    /// # Errors
    /// When they cannot be read or are not those of then, or there are too few to hold some out.
    pub fn load(&self, search: bool) -> Result<LabelledTexts> {
        let texts = self.source.read()?;
        Error::unchanged(&self.name, "texts", &self.hash, &hash(&texts))?;
        if self.is_whole() && !search {
            return Ok(texts);
        }
        let LabelledTexts { train, dev, skipped } = texts;
        let kept = self.kept(&train);
        let subset =
            |name: &str, places: &[usize]| train.subset(format!("{} {name}", self.name), places);
        if !search {
            return Ok(LabelledTexts { train: subset("train", &kept)?, dev, skipped });
        }
        let held_out = kept.len() - self.train_rows(true);
        if !(1..kept.len()).contains(&held_out) {
            let problem =
                format!("leaves no text to train or to tune on, of {}; change it", kept.len());
            return Err(Error::config("tune", self.tune, problem));
        }
        let (tune, rest) = kept.split_at(held_out);
        let dev = vec![("tune", subset("tune", tune)?)];
        Ok(LabelledTexts { train: subset("train", rest)?, dev, skipped })
    }

    /// Texts that a cell of a search, or of a table, trains on.
    pub fn train_rows(&self, search: bool) -> usize {
        let held_out =
            if search { (self.tune * self.train_len as f64).round() as usize } else { 0 };
        self.train_len - held_out
    }

    /// What the texts are judged by; the first is the number that arms are compared by.
    pub fn metrics(&self) -> Vec<Metric> {
        match (self.task(), &self.source) {
            (Some(task), _) => task.metrics().to_vec(),
            (None, LabelledSource::Files { scores: true, .. }) => {
                vec![Metric::Pearson, Metric::Spearman]
            }
            _ if self.classes.len() == 2 => vec![Metric::Accuracy, Metric::F1, Metric::Matthews],
            _ => vec![Metric::Accuracy, Metric::Matthews],
        }
    }

    /// Whether all texts are trained on, in the order of their file.
    fn is_whole(&self) -> bool {
        self.first.is_none() && self.tune == 0.0
    }

    /// Places of the training texts that are kept; a part of them in an order of their own, that of their
    /// hashes.
    fn kept(&self, train: &Texts) -> Vec<usize> {
        let mut places: Vec<usize> = (0..train.len()).collect();
        if self.is_whole() {
            return places;
        }
        places.sort_by_cached_key(|&i| {
            let row = &train.rows()[i];
            let text = format!("{}\0{}", row.text, row.second.as_deref().unwrap_or(""));
            *blake3::hash(text.as_bytes()).as_bytes()
        });
        places.truncate(self.first.unwrap_or(usize::MAX));
        places
    }
}

/// BLAKE3 of all texts and labels.
fn hash(texts: &LabelledTexts) -> String {
    let mut hasher = blake3::Hasher::new();
    for texts in std::iter::once(&texts.train).chain(texts.dev.iter().map(|(_, texts)| texts)) {
        hasher.update(&(texts.len() as u64).to_le_bytes());
        for row in texts.rows() {
            hasher.update(row.text.as_bytes()).update(b"\0");
            hasher.update(row.second.as_deref().unwrap_or("\0").as_bytes()).update(b"\0");
            hasher.update(&row.label.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}
