//! [`Texts`]: labelled texts, or pairs of them, of classes or with a score.

use std::collections::BTreeSet;
use std::path::Path;

use crate::table::{self, Row, at};
use crate::{Error, Result};

/// What the label of a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// One of K classes, by name; the label is the place of the name, from 0.
    Classes(Vec<String>),
    /// A number, as the similarity of two sentences.
    Score,
}

impl Labels {
    /// Numbers that a model predicts for a text: K for classes, 1 for a score.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Classes(names) => names.len(),
            Self::Score => 1,
        }
    }

    /// The label that a file writes as `text`, or what is wrong with it.
    fn value(&self, text: &str) -> std::result::Result<f32, String> {
        match self {
            Self::Classes(names) => match names.iter().position(|name| name == text) {
                Some(class) => Ok(class as f32),
                None if text.is_empty() => {
                    Err("no label; leave out the rows that have none".into())
                }
                None => {
                    let known = names.join(", ");
                    Err(format!("label {text:?} is not one of {known}; correct it or leave it out"))
                }
            },
            Self::Score => {
                text.parse().ok().filter(|score: &f32| score.is_finite()).ok_or_else(|| {
                    format!("score {text:?} is not a number; correct it or leave it out")
                })
            }
        }
    }
}

/// A labelled text, or pair of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// The text, or the first of two.
    pub text: String,
    /// The second text of a pair.
    pub second: Option<String>,
    /// The class, a whole number from 0, or the score.
    pub label: f32,
}

/// Labelled texts, all of them single or all of them pairs.
///
/// ```
/// use conditioned_data::{Labels, Texts};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("train.csv");
/// std::fs::write(&path, "text,label\n\"Good, really.\",positive\nDull.,negative\n")?;
/// let train = Texts::read(&path, None)?;
/// assert_eq!(train.labels(), &Labels::Classes(vec!["negative".into(), "positive".into()]));
/// assert_eq!((train.rows()[0].text.as_str(), train.rows()[0].label), ("Good, really.", 1.0));
///
/// std::fs::write(&path, "text,label\nFine.,positive\n")?;
/// let dev = Texts::read(&path, Some(train.labels()))?;
/// assert_eq!(dev.rows()[0].label, 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Texts {
    name: String,
    labels: Labels,
    rows: Vec<Text>,
}

impl Texts {
    /// Texts under a name for messages and reports.
    ///
    /// # Errors
    /// When there is no row, when there are fewer than two classes or two of one name, when a label is
    /// no class or score, or when some rows are pairs and others are not.
    pub fn new(name: impl Into<String>, labels: Labels, rows: Vec<Text>) -> Result<Self> {
        let name = name.into();
        let fail = |problem: String| Err(Error::Texts { name: name.clone(), problem });
        if let Labels::Classes(classes) = &labels {
            let distinct = classes.iter().collect::<BTreeSet<_>>().len();
            if distinct < 2 || distinct < classes.len() {
                return fail(format!("classes {classes:?}; give at least two, of different names"));
            }
        }
        let Some(first) = rows.first() else { return fail("no row; give at least one".into()) };
        for (i, row) in rows.iter().enumerate() {
            let fits = match &labels {
                Labels::Classes(classes) => {
                    row.label.fract() == 0.0 && (0.0..classes.len() as f32).contains(&row.label)
                }
                Labels::Score => row.label.is_finite(),
            };
            if !fits {
                let of = match &labels {
                    Labels::Classes(classes) => format!("one of {} classes", classes.len()),
                    Labels::Score => "a finite score".into(),
                };
                return fail(format!("label {} of row {i} is not {of}; correct it", row.label));
            }
            if row.second.is_some() != first.second.is_some() {
                return fail(format!("row {i} and row 0: one is a pair, one is not; split them"));
            }
        }
        Ok(Self { name, labels, rows })
    }

    /// Reads a `.csv`, `.tsv` or `.jsonl` file with the columns `text`, perhaps `text2`, and `label`.
    ///
    /// `sentence`, or `sentence1` and `sentence2`, do as well. Without `labels` the labels are the
    /// classes that the file has, sorted by name, or by value where all are whole numbers; to read
    /// further files of the same task, give those of the training file. Fields of a `.tsv` lie between
    /// tabs, without quotes. A file of scores is read with [`Labels::Score`].
    ///
    /// # Errors
    /// With file, line and remedy: when the file cannot be read or is not UTF-8, when it has no row,
    /// a column is missing, a row has other columns than the first, a label is unknown, or, without
    /// `labels`, all rows have the same.
    pub fn read(path: impl AsRef<Path>, labels: Option<&Labels>) -> Result<Self> {
        let path = path.as_ref();
        Self::of_rows(path, path.display().to_string(), table::read(path)?, labels)
    }

    pub(crate) fn of_rows(
        path: &Path,
        name: String,
        rows: Vec<Row>,
        labels: Option<&Labels>,
    ) -> Result<Self> {
        if rows.is_empty() {
            let problem = "no labelled row; give a file with a header and at least one".into();
            return Err(Error::Corpus { path: path.into(), problem });
        }
        let labels = match labels {
            Some(labels) => labels.clone(),
            None => Labels::Classes(classes(path, &rows)?),
        };
        let rows = rows.into_iter().map(|row| {
            let label = labels.value(&row.label).map_err(|problem| at(path, row.line, problem))?;
            Ok(Text { text: row.text, second: row.second, label })
        });
        let rows = rows.collect::<Result<_>>()?;
        Self::new(name, labels, rows)
    }

    pub(crate) fn into_rows(self) -> Vec<Text> {
        self.rows
    }

    /// The name, as in "rte train" or a path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the labels are.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The texts, in the order of the file.
    pub fn rows(&self) -> &[Text] {
        &self.rows
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row, which no way of making them allows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the rows are pairs.
    pub fn pairs(&self) -> bool {
        self.rows.first().is_some_and(|row| row.second.is_some())
    }

    /// The rows at `indices`, in their order, under another name: a part to tune on, or fewer to train on.
    ///
    /// # Errors
    /// When an index is past the last row, or there is none.
    pub fn subset(&self, name: impl Into<String>, indices: &[usize]) -> Result<Self> {
        let row = |&i: &usize| {
            let missing =
                || Error::config("index", i, format!("{} has {} rows", self.name, self.len()));
            self.rows.get(i).cloned().ok_or_else(missing)
        };
        let rows = indices.iter().map(row).collect::<Result<_>>()?;
        Self::new(name, self.labels.clone(), rows)
    }
}

/// The classes of a file.
fn classes(path: &Path, rows: &[Row]) -> Result<Vec<String>> {
    if let Some(row) = rows.iter().find(|row| row.label.is_empty()) {
        return Err(at(path, row.line, "no label; leave out the rows that have none"));
    }
    let names: BTreeSet<&str> = rows.iter().map(|row| row.label.as_str()).collect();
    let mut names: Vec<String> = names.into_iter().map(String::from).collect();
    if let [name] = names.as_slice() {
        let problem = format!(
            "every row has the label {name:?}; give a file with two classes or more, or read it \
             with the labels of the training file"
        );
        return Err(Error::Corpus { path: path.into(), problem });
    }
    if names.iter().all(|name| name.parse::<i64>().is_ok()) {
        names.sort_by_key(|name| name.parse::<i64>().ok());
    }
    Ok(names)
}
