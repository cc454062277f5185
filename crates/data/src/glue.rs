//! [`Task`]: the tasks of GLUE, read from the official files or those of the hub.
//!
//! A. Wang et al., *GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
//! Understanding*, ICLR 2019; the eight tasks of BERT's table (WNLI is left out, as there). The order
//! of the classes is that of the hub's `nyu-mll/glue`, so that a model of the hub means the same.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::table::{Row, at, lines, read_text};
use crate::{Error, Labels, Part, Parts, Result, Texts};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// What [`Task::read`] reads.
#[derive(Debug, Clone)]
pub struct GlueSplits {
    /// Texts to train on.
    pub train: Texts,
    /// Texts to report on, by the names of [`Task::dev_names`].
    pub dev: Vec<(&'static str, Texts)>,
    /// Rows that were left out as unusable: lines of QQP that are no row, and pairs of MNLI without a
    /// label that its annotators agreed on.
    pub skipped: usize,
}

/// Names of a task in files.
struct Names {
    name: &'static str,
    /// Folder of the official files.
    folder: &'static str,
    /// Columns of the first and second text and of the label in the official files.
    tsv: [&'static str; 3],
    /// Columns of the first and second text in those of the hub.
    #[cfg(feature = "parquet")]
    hub: [&'static str; 2],
    /// Nothing for scores.
    classes: &'static [&'static str],
}

const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const SENTENCES: [&str; 2] = ["sentence1", "sentence2"];

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

    fn names(self) -> Names {
        let names = |name, folder, tsv: [&'static str; 3], hub: [&'static str; 2], classes| {
            #[cfg(not(feature = "parquet"))]
            let _ = hub;
            Names {
                name,
                folder,
                tsv,
                #[cfg(feature = "parquet")]
                hub,
                classes,
            }
        };
        let [one, two] = SENTENCES;
        match self {
            // No header: source, label, the author's mark, sentence.
            Self::Cola => {
                let classes = &["unacceptable", "acceptable"];
                names("cola", "CoLA", ["3", "", "1"], ["sentence", ""], classes)
            }
            Self::Sst2 => {
                let classes = &["negative", "positive"];
                names("sst2", "SST-2", ["sentence", "", "label"], ["sentence", ""], classes)
            }
            Self::Mrpc => {
                let columns = ["#1 String", "#2 String", "Quality"];
                names("mrpc", "MRPC", columns, SENTENCES, &["not_equivalent", "equivalent"])
            }
            Self::StsB => names("stsb", "STS-B", [one, two, "score"], SENTENCES, &[]),
            Self::Qqp => {
                let columns = ["question1", "question2"];
                let tsv = ["question1", "question2", "is_duplicate"];
                names("qqp", "QQP", tsv, columns, &["not_duplicate", "duplicate"])
            }
            Self::Mnli => {
                let classes = &["entailment", "neutral", "contradiction"];
                names("mnli", "MNLI", [one, two, "gold_label"], ["premise", "hypothesis"], classes)
            }
            Self::Qnli => {
                let columns = ["question", "sentence"];
                names("qnli", "QNLI", ["question", "sentence", "label"], columns, ENTAILMENT)
            }
            Self::Rte => names("rte", "RTE", [one, two, "label"], SENTENCES, ENTAILMENT),
        }
    }

    /// The name, as on the hub: "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte".
    pub fn name(self) -> &'static str {
        self.names().name
    }

    /// Classes in the order of the hub, or a score.
    pub fn labels(self) -> Labels {
        match self.names().classes {
            [] => Labels::Score,
            names => Labels::Classes(names.iter().copied().map(String::from).collect()),
        }
    }

    /// Whether the label is a score.
    pub fn is_regression(self) -> bool {
        self == Self::StsB
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
    pub fn read(self, folder: impl AsRef<Path>) -> Result<GlueSplits> {
        let (source, mut skipped) = (Source::find(self, folder.as_ref())?, 0);
        let train = source.read("train", &mut skipped)?;
        let dev = self.dev_names().iter().map(|&set| Ok((set, source.read(set, &mut skipped)?)));
        Ok(GlueSplits { train, dev: dev.collect::<Result<_>>()?, skipped })
    }

    /// Reads the first dev set alone and splits it, for want of the training texts; `share` of its
    /// rows, on average, are the new dev set.
    ///
    /// Rows are assigned by a hash of their first text, so that no question is on both sides. The name
    /// of both sets says "split of": numbers on them do not compare with published ones.
    ///
    /// # Errors
    /// As [`read`](Self::read), or when `share` leaves nothing on one side.
    pub fn split_dev(self, folder: impl AsRef<Path>, share: f64) -> Result<GlueSplits> {
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
        Ok(GlueSplits { train, dev, skipped })
    }

    /// The rows of an official file.
    fn tsv(self, path: &Path, skipped: &mut usize) -> Result<Vec<Row>> {
        let text = read_text(path)?;
        let mut lines = lines(&text).map(|(i, line)| (i, line.split('\t').collect::<Vec<_>>()));
        let header: Vec<&str> = match self {
            Self::Cola => vec!["0", "1", "2", "3"],
            _ => lines.next().map_or_else(Vec::new, |(_, header)| header),
        };
        let find = |name: &str| {
            let missing = || {
                let found = header.join(", ");
                at(path, 1, format!("no column {name:?}, found {found}; is it of another task?"))
            };
            header.iter().position(|column| column.trim() == name).ok_or_else(missing)
        };
        let [first, second, label] = self.names().tsv;
        let (first, label) = (find(first)?, find(label)?);
        let second = if second.is_empty() { None } else { Some(find(second)?) };
        let mut rows = Vec::new();
        for (line, fields) in lines {
            if fields.len() != header.len() {
                // The file of QQP has line ends inside questions.
                if self == Self::Qqp {
                    *skipped += 1;
                    continue;
                }
                let (found, expected) = (fields.len(), header.len());
                let problem =
                    format!("{found} fields where {expected} are expected; fetch it again");
                return Err(at(path, line, problem));
            }
            let text = |i: usize| fields[i].trim().to_string();
            let label = text(label);
            if self == Self::Mnli && label == "-" {
                *skipped += 1;
                continue;
            }
            let second = second.map(text);
            rows.push(Row { line, text: text(first), second, label: self.class(label) });
        }
        Ok(rows)
    }

    /// A label by its name, where a file has its number.
    fn class(self, label: String) -> String {
        let class = label.parse().ok().and_then(|i: usize| self.names().classes.get(i).copied());
        class.map_or(label, String::from)
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

/// Where the files of a task are.
struct Source {
    task: Task,
    folder: PathBuf,
    /// Whether they are the hub's.
    hub: bool,
}

impl Source {
    fn find(task: Task, folder: &Path) -> Result<Self> {
        let names = task.names();
        let folders = [folder.join(names.folder), folder.join(names.name), folder.into()];
        let set = task.dev_names()[0];
        for folder in folders {
            if folder.join(official(set)).is_file() {
                return Ok(Self { task, folder, hub: false });
            }
            if !parquet(&folder, set).is_empty() {
                return Ok(Self { task, folder, hub: true });
            }
        }
        let problem = format!(
            "no {} and no {}-*.parquet here, in {} or in {}; give the folder of {}'s files",
            official(set),
            hub(set),
            names.folder,
            names.name,
            names.folder
        );
        Err(Error::Corpus { path: folder.into(), problem })
    }

    fn read(&self, set: &'static str, skipped: &mut usize) -> Result<Texts> {
        let name = format!("{} {set}", self.task.name());
        let labels = self.task.labels();
        if self.hub {
            let files = parquet(&self.folder, set);
            let path = self.folder.join(format!("{}-*.parquet", hub(set)));
            if files.is_empty() {
                return Err(self.missing(&path, set));
            }
            let rows = files.iter().map(|file| self.hub_rows(file)).collect::<Result<Vec<_>>>()?;
            return Texts::of_rows(&path, name, rows.concat(), Some(&labels));
        }
        let path = self.folder.join(official(set));
        if !path.is_file() {
            return Err(self.missing(&path, set));
        }
        Texts::of_rows(&path, name, self.task.tsv(&path, skipped)?, Some(&labels))
    }

    fn missing(&self, path: &Path, set: &str) -> Error {
        let remedy = match set {
            "train" => "put it there, or train on a split of the dev set (`Task::split_dev`)",
            _ => "put it there",
        };
        let problem =
            format!("the {set} file of {} is missing; {remedy}", self.task.names().folder);
        Error::Corpus { path: path.into(), problem }
    }

    #[cfg(feature = "parquet")]
    fn hub_rows(&self, path: &Path) -> Result<Vec<Row>> {
        let [first, second] = self.task.names().hub;
        let columns = [first, "label", second];
        let columns = if second.is_empty() { &columns[..2] } else { &columns };
        let rows = crate::rows::table(path, columns)?;
        let row = |(line, mut values): (usize, Vec<String>)| {
            // In the order of `columns`.
            let second = if values.len() > 2 { values.pop() } else { None };
            let label = self.task.class(values.pop().unwrap_or_default());
            let text = values.pop().unwrap_or_default().trim().into();
            Row { line, text, second: second.map(|text| text.trim().into()), label }
        };
        Ok((1..).zip(rows).map(row).collect())
    }

    #[cfg(not(feature = "parquet"))]
    fn hub_rows(&self, path: &Path) -> Result<Vec<Row>> {
        let problem = "parquet files are read with the feature `parquet`; build with it";
        Err(Error::Corpus { path: path.into(), problem: problem.into() })
    }
}

/// The official file of a set.
fn official(set: &str) -> String {
    match set {
        "matched" | "mismatched" => format!("dev_{set}.tsv"),
        _ => format!("{set}.tsv"),
    }
}

/// How the hub's files of a set begin.
fn hub(set: &str) -> String {
    match set {
        "train" => set.into(),
        "dev" => "validation".into(),
        _ => format!("validation_{set}"),
    }
}

/// The hub's files of a set, in order.
fn parquet(folder: &Path, set: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let rest = name.strip_suffix(".parquet").and_then(|name| name.strip_prefix(&hub(set)));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(wanted).collect();
    files.sort();
    files
}
