//! Where the files of a task are, and how their rows are laid out.

use std::path::{Path, PathBuf};

use crate::table::{Row, at, lines, read_text};
use crate::{Error, Result, Task, Texts};

/// Where the files of a task are.
pub(super) struct Source {
    task: Task,
    folder: PathBuf,
    /// Whether they are the hub's.
    hub: bool,
}

impl Source {
    pub(super) fn find(task: Task, folder: &Path) -> Result<Self> {
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

    pub(super) fn read(&self, set: &'static str, skipped: &mut usize) -> Result<Texts> {
        let name = format!("{} {set}", self.task.name());
        let labels = self.task.labels();
        if self.hub {
            let files = parquet(&self.folder, set);
            if files.is_empty() {
                let path = self.folder.join(format!("{}-*.parquet", hub(set)));
                return Err(self.missing(&path, set));
            }
            let mut rows = Vec::new();
            for file in &files {
                let texts =
                    Texts::of_rows(file, name.clone(), self.hub_rows(file)?, Some(&labels))?;
                rows.extend(texts.into_rows());
            }
            return Texts::new(name, labels, rows);
        }
        let path = self.folder.join(official(set));
        if !path.is_file() {
            return Err(self.missing(&path, set));
        }
        Texts::of_rows(&path, name, self.task.tsv(&path, skipped)?, Some(&labels))
    }

    /// Whether the training file is there too, which [`find`](Self::find) does not ask for.
    pub(super) fn has_training(&self) -> bool {
        self.folder.join(official("train")).is_file() || !parquet(&self.folder, "train").is_empty()
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

impl Task {
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
