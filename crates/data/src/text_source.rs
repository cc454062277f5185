//! [`TextSource`]: documents of files or of a generator, by name.

use std::path::Path;

use crate::corpus::{files_in, is_jsonl, is_parquet};
use crate::{Corpus, Layout, Result, stories};

/// Seed of the generated stories.
const STORIES_SEED: u64 = 0;

/// Documents, one at a time.
type Documents<'a> = Box<dyn Iterator<Item = Result<String>> + 'a>;

/// Where documents come from, the same each time.
pub struct TextSource {
    name: String,
    kind: Kind,
}

enum Kind {
    Generated(Box<dyn Fn() -> Documents<'static>>),
    Files(Corpus),
}

impl TextSource {
    /// The documents of a file or a folder, by its name.
    ///
    /// A `.jsonl`, `.ndjson` or `.json` file, or a folder with one of the first two, has them under `text`; a
    /// `.parquet` file, or a folder with one, in the column `text` (feature `parquet`). In other text files
    /// `separator` is the line between two of them.
    ///
    /// # Errors
    /// When the path cannot be read, or a folder holds no such file, or files of several kinds.
    pub fn open(path: &Path, separator: &str) -> Result<Self> {
        let field = || "text".to_string();
        let layout = match kind(path)? {
            Some("parquet") => parquet(path, field())?,
            Some(_) => Layout::Jsonl(field()),
            None => Layout::Separated(separator.to_string()),
        };
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self::files(name, Corpus::open(path, layout)?))
    }

    /// The documents of a corpus.
    pub fn files(name: impl Into<String>, corpus: Corpus) -> Self {
        Self { name: name.into(), kind: Kind::Files(corpus) }
    }

    /// Documents that need no file, the same whenever `documents` is called.
    pub fn generated<I>(name: impl Into<String>, documents: impl Fn() -> I + 'static) -> Self
    where
        I: Iterator<Item = Result<String>> + 'static,
    {
        let documents = move || -> Documents<'static> { Box::new(documents()) };
        Self { name: name.into(), kind: Kind::Generated(Box::new(documents)) }
    }

    /// The first `count` of the embedded [`stories`].
    pub fn stories(count: u64) -> Self {
        Self::generated(format!("{count} generated stories"), move || stories(STORIES_SEED, count))
    }

    /// What the documents are called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The documents.
    pub fn documents(&self) -> impl Iterator<Item = Result<String>> + '_ {
        let documents: Documents<'_> = match &self.kind {
            Kind::Generated(documents) => documents(),
            Kind::Files(corpus) => Box::new(corpus.documents()),
        };
        documents
    }

    /// The line between two documents, where they are text.
    pub(crate) fn separator(&self) -> Option<&str> {
        match &self.kind {
            Kind::Generated(_) => None,
            Kind::Files(corpus) => corpus.separator(),
        }
    }

    /// The files, or the name where there are none.
    pub(crate) fn place(&self) -> String {
        match &self.kind {
            Kind::Generated(_) => self.name.clone(),
            Kind::Files(corpus) => {
                let files = corpus.files().iter().map(|file| file.display().to_string());
                files.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// "jsonl" or "parquet" of a file of that kind, or of a folder with one; none of text.
fn kind(path: &Path) -> Result<Option<&'static str>> {
    if !path.is_dir() {
        let (jsonl, parquet) = (is_jsonl(path), is_parquet(path));
        return Ok(jsonl.then_some("jsonl").or(parquet.then_some("parquet")));
    }
    let files = files_in(path)?;
    let lines = |file: &Path| is_jsonl(file) && file.extension().is_some_and(|e| e != "json");
    let jsonl = files.iter().any(|file| lines(file)).then_some("jsonl");
    Ok(jsonl.or(files.iter().any(|file| is_parquet(file)).then_some("parquet")))
}

#[cfg(feature = "parquet")]
fn parquet(_: &Path, column: String) -> Result<Layout> {
    Ok(Layout::Parquet(column))
}

#[cfg(not(feature = "parquet"))]
fn parquet(path: &Path, _: String) -> Result<Layout> {
    let problem = "parquet files are read with the feature `parquet`; build with it";
    Err(crate::Error::Corpus { path: path.into(), problem: problem.into() })
}
