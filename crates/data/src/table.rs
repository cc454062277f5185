//! [`Row`]: labelled rows of CSV, TSV and JSONL files, as strings with their lines.

use std::fs;
use std::path::Path;

use csv::{ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use crate::corpus::json_remedy;
use crate::{Error, Result};

/// Names of the column of the text, the first that is there.
const FIRST: [&str; 3] = ["text", "sentence", "sentence1"];
/// Names of the column of the second text, if there is any.
const SECOND: [&str; 2] = ["text2", "sentence2"];
const LABEL: &str = "label";

/// One labelled text, or pair of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Line of the file, from 1; of a parquet file the row.
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) second: Option<String>,
    pub(crate) label: String,
}

/// The rows of a file, in the layout that its name tells.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    let layout: fn(&Path, &str) -> Result<Vec<Row>> = match extension.to_ascii_lowercase().as_str()
    {
        "csv" => csv,
        "tsv" => tsv,
        "jsonl" | "ndjson" => jsonl,
        _ => {
            let problem =
                "the name tells no layout; expected .csv, .tsv or .jsonl: name the file so";
            return Err(Error::Corpus { path: path.into(), problem: problem.into() });
        }
    };
    let text = read_text(path)?;
    if text.trim().is_empty() { Ok(Vec::new()) } else { layout(path, &text) }
}

/// An error that names the line.
pub(crate) fn at(path: &Path, line: usize, problem: impl std::fmt::Display) -> Error {
    Error::Corpus { path: path.into(), problem: format!("line {line}: {problem}") }
}

/// The text of a file in UTF-8, without a byte-order mark.
///
/// # Errors
/// When the file cannot be read or is not UTF-8: says where, and what it is where that shows.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let mut text =
        String::from_utf8(bytes).map_err(|e| Error::utf8(path, e.as_bytes(), e.utf8_error()))?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// The lines with anything in them, by number.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.split('\n'));
    lines.map(|(i, line)| (i, line.trim_end_matches('\r'))).filter(|(_, line)| !line.is_empty())
}

/// Where text, second text and label are.
struct Columns<T> {
    text: T,
    second: Option<T>,
    label: T,
}

impl Columns<usize> {
    fn of(path: &Path, header: &[&str]) -> Result<Self> {
        let named = FIRST.iter().chain(&SECOND).chain([&LABEL]);
        for name in named {
            if header.iter().filter(|column| *column == name).count() > 1 {
                return Err(at(path, 1, format!("two columns {name:?}; rename one of them")));
            }
        }
        let find = |name: &&str| header.iter().position(|column| column == name);
        let missing = |what: &str| {
            let found = header.join(", ");
            at(path, 1, format!("no column {what}; found {found}: name one so in the header"))
        };
        Ok(Self {
            text: FIRST.iter().find_map(find).ok_or_else(|| missing(&either(&FIRST)))?,
            second: SECOND.iter().find_map(find),
            label: find(&LABEL).ok_or_else(|| missing(&either(&[LABEL])))?,
        })
    }

    fn row(&self, line: usize, fields: &[&str]) -> Row {
        let field = |i: usize| fields.get(i).copied().unwrap_or("");
        Row {
            line,
            text: field(self.text).into(),
            second: self.second.map(|i| field(i).into()),
            label: field(self.label).trim().into(),
        }
    }
}

fn either(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ")
}

fn width(path: &Path, line: usize, found: usize, expected: usize, remedy: &str) -> Error {
    at(path, line, format!("{found} fields where the header has {expected}; {remedy}"))
}

/// Fields may be quoted, and then hold commas, quotes and line ends.
fn csv(path: &Path, text: &str) -> Result<Vec<Row>> {
    let mut reader = ReaderBuilder::new().from_reader(text.as_bytes());
    let fail = |e: csv::Error| match e.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(1, |pos| pos.line() as usize);
            let remedy = "quote a text that has a comma or a line end";
            width(path, line, *len as usize, *expected_len as usize, remedy)
        }
        _ => Error::Corpus { path: path.into(), problem: format!("{e}; write the file again") },
    };
    let header = reader.headers().map_err(fail)?.clone();
    let columns = Columns::of(path, &header.iter().map(str::trim).collect::<Vec<_>>())?;
    let rows = reader.records().map(|record| {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(1, |position| position.line() as usize);
        Ok(columns.row(line, &record.iter().collect::<Vec<_>>()))
    });
    rows.collect()
}

/// Fields between tabs; a quote mark is a character like any other.
fn tsv(path: &Path, text: &str) -> Result<Vec<Row>> {
    let mut lines = lines(text).map(|(i, line)| (i, line.split('\t').collect::<Vec<_>>()));
    let header = lines.next().map_or_else(Vec::new, |(_, header)| header);
    let columns = Columns::of(path, &header.iter().map(|name| name.trim()).collect::<Vec<_>>())?;
    let rows = lines.map(|(line, fields)| {
        if fields.len() != header.len() {
            let remedy = "write a tab or a line end inside a text as a space";
            return Err(width(path, line, fields.len(), header.len(), remedy));
        }
        Ok(columns.row(line, &fields))
    });
    rows.collect()
}

/// An object a line; the first one tells the names.
fn jsonl(path: &Path, text: &str) -> Result<Vec<Row>> {
    let objects = lines(text).filter(|(_, line)| !line.trim().is_empty()).map(|(line, content)| {
        let object = serde_json::from_str::<Map<String, Value>>(content)
            .map_err(|e| at(path, line, json_remedy(&e)))?;
        Ok((line, object))
    });
    let objects = objects.collect::<Result<Vec<_>>>()?;
    let Some((line, first)) = objects.first() else { return Ok(Vec::new()) };
    let find =
        |names: &[&'static str]| names.iter().copied().find(|name| first.contains_key(*name));
    let text = find(&FIRST)
        .ok_or_else(|| at(path, *line, format!("no field {}; name one so", either(&FIRST))))?;
    let columns = Columns { text, second: find(&SECOND), label: LABEL };
    objects.iter().map(|(line, object)| json_row(path, *line, object, &columns)).collect()
}

fn json_row(
    path: &Path,
    line: usize,
    object: &Map<String, Value>,
    columns: &Columns<&str>,
) -> Result<Row> {
    let get = |name: &str| {
        let missing = || at(path, line, format!("no field {name:?}; give every object one"));
        object.get(name).ok_or_else(missing)
    };
    let string = |name: &str| match get(name)? {
        Value::String(text) => Ok(text.clone()),
        _ => Err(at(path, line, format!("{name:?} is not a string; write it as one"))),
    };
    let label = match get(columns.label)? {
        Value::String(label) => label.trim().into(),
        label @ (Value::Number(_) | Value::Bool(_)) => label.to_string(),
        _ => {
            let problem = format!("{LABEL:?} is no string or number; leave out rows without one");
            return Err(at(path, line, problem));
        }
    };
    let second = columns.second.map(string).transpose()?;
    Ok(Row { line, text: string(columns.text)?, second, label })
}
