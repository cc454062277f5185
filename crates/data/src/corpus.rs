//! [`Corpus`]: documents of text files, one at a time.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str;

use serde_json::Value;

#[cfg(feature = "parquet")]
use crate::rows::Rows;
use crate::{Error, Result};

/// What some programs write at the start of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// How documents lie in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// A file is a document, unchanged.
    Whole,
    /// Lines equal to this one, up to white space at both ends, separate the documents: `<|endoftext|>`
    /// for TinyStories, nothing for blank lines.
    Separated(String),
    /// Each line is a JSON object with the document under this name.
    Jsonl(String),
    /// Each row of a parquet file has the document in the column of this name; nulls are left out.
    ///
    /// Strings inside a structure have a dotted name, as in `answer.text`.
    #[cfg(feature = "parquet")]
    Parquet(String),
}

impl Layout {
    /// Extensions of the files that are taken from a folder.
    fn extensions(&self) -> &'static [&'static str] {
        match self {
            Self::Whole | Self::Separated(_) => &TEXT,
            Self::Jsonl(_) => &JSONL,
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => &PARQUET,
        }
    }
}

const TEXT: [&str; 3] = ["txt", "text", "md"];
const JSONL: [&str; 3] = ["jsonl", "ndjson", "json"];
const PARQUET: [&str; 1] = ["parquet"];

/// Whether a file has one of these extensions, in whatever case.
fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let found = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    extensions.iter().any(|extension| extension.eq_ignore_ascii_case(found))
}

/// Whether a path is a file of JSON lines by its name.
pub(crate) fn is_jsonl(path: &Path) -> bool {
    has_extension(path, &JSONL)
}

/// Whether a path is a parquet file by its name.
pub(crate) fn is_parquet(path: &Path) -> bool {
    has_extension(path, &PARQUET)
}

/// Text files in an order of their own.
///
/// ```
/// use conditioned_data::{Corpus, Layout};
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("a.txt"), "One.\n<|endoftext|>\nTwo,\ntwo.\n")?;
/// let corpus = Corpus::open(folder.path(), Layout::Separated("<|endoftext|>".into()))?;
/// let documents = corpus.documents().collect::<conditioned_data::Result<Vec<_>>>()?;
/// assert_eq!(documents, ["One.", "Two,\ntwo."]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Corpus {
    files: Vec<PathBuf>,
    layout: Layout,
}

impl Corpus {
    /// A file, or the files of a folder and of those inside it, sorted by path.
    ///
    /// From a folder come `.txt`, `.text` and `.md`, or with [`Layout::Jsonl`] `.jsonl`, `.ndjson` and
    /// `.json`, or with `Layout::Parquet` `.parquet`. Hidden files, and those called README or LICENSE, are
    /// left out; others that are left out are named in a warning.
    ///
    /// # Errors
    /// When the path cannot be read, or a folder holds no such file, or text of another layout beside them.
    pub fn open(path: impl AsRef<Path>, layout: Layout) -> Result<Self> {
        let path = path.as_ref();
        let mut files = Vec::new();
        if fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            let all = files_in(path)?;
            let (own, others): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|file| has_extension(file, layout.extensions()));
            if let (Some(own), Some(other)) = (own.first(), others.iter().find(|f| is_text(f))) {
                let problem = format!(
                    "holds {} and {}, which are read in different ways; put each kind in a folder of its own",
                    own.display(),
                    other.display()
                );
                return Err(Error::Corpus { path: path.into(), problem });
            }
            if let Some(other) = others.first().filter(|_| !own.is_empty()) {
                let (folder, n) = (path.display(), others.len());
                tracing::warn!("{folder}: {n} other files are not read, as {}", other.display());
            }
            files = own;
        } else {
            files.push(path.into());
        }
        if files.is_empty() {
            let names = layout.extensions().join(", .");
            let problem = format!("no text here; looked for files in .{names}; put some there");
            return Err(Error::Corpus { path: path.into(), problem });
        }
        Ok(Self { files, layout })
    }

    /// These files, in this order.
    pub fn of(files: Vec<PathBuf>, layout: Layout) -> Self {
        Self { files, layout }
    }

    /// The line between two documents, where they are text.
    pub(crate) fn separator(&self) -> Option<&str> {
        match &self.layout {
            Layout::Separated(separator) => Some(separator),
            _ => None,
        }
    }

    /// The files, in the order of their documents.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The documents of all files, read one at a time; those of nothing but white space are left out.
    ///
    /// With [`Layout::Separated`] the line ends around a document are not part of it.
    ///
    /// # Errors
    /// Of an item, after which there are no others: when a file cannot be read, is not UTF-8, or a
    /// line or column is not what the [`Layout`] says.
    pub fn documents(&self) -> Documents<'_> {
        Documents { files: self.files.iter(), layout: &self.layout, current: None }
    }
}

/// The files of a folder and of those inside it, sorted, without hidden ones and notes on the data.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let stem = name.split('.').next().unwrap_or_default();
        let is_note = ["readme", "license", "licence"].contains(&stem);
        if name.starts_with('.') {
            continue;
        } else if path.is_dir() {
            files.extend(files_in(&path)?);
        } else if !is_note {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file holds documents by its name; a lone `.json` describes others more often.
fn is_text(path: &Path) -> bool {
    has_extension(path, &TEXT) || has_extension(path, &JSONL[..2]) || is_parquet(path)
}

/// The documents of a [`Corpus`].
#[derive(Debug)]
pub struct Documents<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    layout: &'a Layout,
    current: Option<Current<'a>>,
}

impl Iterator for Documents<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.current.is_none() {
                match Current::open(self.files.next()?, self.layout) {
                    Ok(file) => self.current = Some(file),
                    Err(error) => return self.end(error),
                }
            }
            let document = match self.current.as_mut()?.document() {
                Ok(document) => document,
                Err(error) => return self.end(error),
            };
            match document {
                Some(text) if text.trim().is_empty() => {}
                Some(text) => return Some(Ok(text)),
                None => self.current = None,
            }
        }
    }
}

impl Documents<'_> {
    fn end(&mut self, error: Error) -> Option<Result<String>> {
        (self.files, self.current) = ([].iter(), None);
        Some(Err(error))
    }
}

/// The file that is being read, and how.
#[derive(Debug)]
enum Current<'a> {
    Whole(Lines<'a>),
    Separated(Lines<'a>, &'a str),
    Jsonl(Lines<'a>, &'a str),
    #[cfg(feature = "parquet")]
    Parquet(Box<Rows<'a>>),
}

impl<'a> Current<'a> {
    fn open(path: &'a Path, layout: &'a Layout) -> Result<Self> {
        Ok(match layout {
            Layout::Whole => Self::Whole(Lines::open(path)?),
            Layout::Separated(separator) => Self::Separated(Lines::open(path)?, separator.trim()),
            Layout::Jsonl(field) => Self::Jsonl(Lines::open(path)?, field),
            #[cfg(feature = "parquet")]
            Layout::Parquet(column) => Self::Parquet(Box::new(Rows::open(path, column)?)),
        })
    }

    /// The next document, or `None` at the end of the file.
    fn document(&mut self) -> Result<Option<String>> {
        match self {
            Self::Whole(lines) => lines.whole(),
            Self::Separated(lines, separator) => lines.separated(separator),
            Self::Jsonl(lines, field) => lines.json(field),
            #[cfg(feature = "parquet")]
            Self::Parquet(rows) => rows.document(),
        }
    }
}

/// A file, line by line.
#[derive(Debug)]
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    /// The first bytes of the file.
    start: Vec<u8>,
    offset: u64,
    line: usize,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let first = reader.fill_buf().map_err(Error::io(path))?;
        let start = first[..first.len().min(8)].to_vec();
        // A byte-order mark is no text.
        let mark = if start.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        reader.consume(mark);
        Ok(Self { path, reader, start, offset: mark as u64, line: 0 })
    }

    fn whole(&mut self) -> Result<Option<String>> {
        let mut text = String::new();
        while let Some(line) = self.next_line()? {
            text.push_str(&line);
        }
        Ok((!text.is_empty()).then_some(text))
    }

    fn separated(&mut self, separator: &str) -> Result<Option<String>> {
        let mut text = String::new();
        while let Some(line) = self.next_line()? {
            if line.trim() != separator {
                text.push_str(&line);
            } else if !text.trim().is_empty() {
                break;
            } else {
                text.clear();
            }
        }
        let kept = text.trim_matches(['\r', '\n']).len();
        let start = text.len() - text.trim_start_matches(['\r', '\n']).len();
        Ok((!text.is_empty()).then(|| text[start..start + kept].to_string()))
    }

    fn json(&mut self, field: &str) -> Result<Option<String>> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        if line.trim().is_empty() {
            return Ok(Some(String::new()));
        }
        let fail = |problem: String| {
            let problem = format!("line {}: {problem}", self.line);
            Error::Corpus { path: self.path.into(), problem }
        };
        let value: Value = serde_json::from_str(&line)
            .map_err(|e| fail(format!("not JSON: {}", json_remedy(&e))))?;
        match value.get(field) {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(fail(format!("{field:?} is not a string; name the field of the text"))),
            None => Err(fail(format!("no field {field:?}; name the field of the text"))),
        }
    }

    /// The next line with its line feed.
    fn next_line(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let read = self.reader.read_until(b'\n', &mut bytes).map_err(Error::io(self.path))?;
        if read == 0 {
            return Ok(None);
        }
        let start = self.offset;
        self.offset += read as u64;
        self.line += 1;
        // A line feed is never inside a character, so a line is UTF-8 when the file is.
        let text = String::from_utf8(bytes).map_err(|e| {
            let offset = start + e.utf8_error().valid_up_to() as u64;
            Error::not_utf8(self.path, &self.start, self.line, offset)
        })?;
        Ok(Some(text))
    }
}

/// What is wrong with a line of JSON, and what to do.
pub(crate) fn json_remedy(error: &serde_json::Error) -> String {
    let problem = error.to_string();
    match problem.contains("surrogate") || problem.contains("unexpected end of hex escape") {
        true => format!(
            "{problem}: half a character as \\ud83d without its other half; write the text again without it, \
             in Python by text.encode('utf-8', 'replace')"
        ),
        false => format!("{problem}; put one JSON object on each line"),
    }
}
