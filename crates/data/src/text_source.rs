//! [`TextSource`]: documents of files or of a generator, by name.

use std::path::Path;

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
    /// A `.jsonl` or `.ndjson` file, or a folder with one at the top, has them under `text`; in other
    /// text files `separator` is the line between two of them.
    ///
    /// # Errors
    /// When the path cannot be read, or a folder holds no such file.
    pub fn open(path: &Path, separator: &str) -> Result<Self> {
        let layout = match is_jsonl(path) {
            true => Layout::Jsonl("text".to_string()),
            false => Layout::Separated(separator.to_string()),
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

/// Whether a path is a JSONL file, or a folder of which one lies at the top.
fn is_jsonl(path: &Path) -> bool {
    let named = |path: &Path| path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson");
    let inside =
        || path.read_dir().is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| named(&e.path()))));
    named(path) || inside()
}
