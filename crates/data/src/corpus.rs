//! [`Corpus`]: documents of text files, one at a time.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str;

use serde_json::Value;

#[cfg(feature = "parquet")]
use crate::rows::Rows;
use crate::{Error, Result};

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
            Self::Whole | Self::Separated(_) => &["txt", "text", "md"],
            Self::Jsonl(_) => &["jsonl", "ndjson", "json"],
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => &["parquet"],
        }
    }
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
    /// `.json`, or with `Layout::Parquet` `.parquet`; names that start with a dot are left out.
    ///
    /// # Errors
    /// When the path cannot be read, or a folder holds no such file.
    pub fn open(path: impl AsRef<Path>, layout: Layout) -> Result<Self> {
        let path = path.as_ref();
        let mut files = Vec::new();
        if fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            collect(path, layout.extensions(), &mut files)?;
            files.sort();
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

fn collect(folder: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if hidden {
            continue;
        } else if path.is_dir() {
            collect(&path, extensions, files)?;
        } else if extensions.iter().any(|e| e.eq_ignore_ascii_case(extension)) {
            files.push(path);
        }
    }
    Ok(())
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
    offset: u64,
    line: usize,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Self { path, reader: BufReader::with_capacity(1 << 16, file), offset: 0, line: 0 })
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
            .map_err(|e| fail(format!("not JSON: {e}; put one object on each line")))?;
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
        let text = String::from_utf8(bytes).map_err(|e| Error::Utf8 {
            path: self.path.into(),
            offset: start + e.utf8_error().valid_up_to() as u64,
        })?;
        Ok(Some(text))
    }
}
