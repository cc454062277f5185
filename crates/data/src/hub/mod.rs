//! Data sets and models of the Hugging Face hub as local files.
//!
//! Files come from the cache that all programs of the hub share, or are fetched into it; a file there
//! is whole, and its hash is the one that the hub promises. Feature `hub`.
//!
//! ```no_run
//! use conditioned_data::hub::Hub;
//! use conditioned_data::{Corpus, Layout};
//!
//! let hub = Hub::from_env()?;
//! let train = |path: &str| path.starts_with("data/train-") && path.ends_with(".parquet");
//! for file in hub.dataset("roneneldan/TinyStories", "main", train)? {
//!     for story in Corpus::open(file, Layout::Parquet("text".into()))?.documents() {
//!         let _tokens = story?.len();
//!     }
//! }
//! let folder = hub.model("gpt2", "main", &["model.safetensors", "vocab.json", "merges.txt"])?;
//! assert!(folder.join("model.safetensors").exists());
//! # Ok::<(), conditioned_data::Error>(())
//! ```

mod cache;
mod client;
mod listing;
mod sets;
mod settings;

use std::fmt;
use std::path::PathBuf;

use cache::Folder;
use client::Client;
use listing::{Entry, Listing, is_commit};

pub use settings::Settings;

use crate::{Error, Result};

/// How far the download of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Path inside the repository.
    pub file: &'a str,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of the whole file.
    pub size: u64,
}

type Report = dyn Fn(Progress<'_>) + Send + Sync;

/// The hub and its cache.
pub struct Hub {
    settings: Settings,
    client: Client,
    report: Box<Report>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub by the environment: see [`Settings::from_env`].
    ///
    /// # Errors
    /// When the environment names no folder for the cache.
    pub fn from_env() -> Result<Self> {
        Ok(Self::new(Settings::from_env()?))
    }

    /// A hub by settings.
    pub fn new(settings: Settings) -> Self {
        let client = Client::new(&settings);
        Self { settings, client, report: Box::new(|_| {}) }
    }

    /// Calls `report` for each piece of a file that arrives, for a progress bar.
    pub fn on_progress(self, report: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        Self { report: Box::new(report), ..self }
    }

    /// The files of a data set whose path in the repository `keep` takes, sorted.
    ///
    /// The revision is a branch (`main`, or `refs/convert/parquet` for the hub's own parquet files of
    /// any data set), a tag, or a commit, which makes a run repeatable and is not asked for again.
    ///
    /// # Errors
    /// When there is no such repository, revision or file, it is not open to this token, the hub
    /// cannot be reached or a download breaks off too often, offline and a file is not in the cache,
    /// or the cache cannot be written.
    pub fn dataset(
        &self,
        id: &str,
        revision: &str,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Vec<PathBuf>> {
        let repository = Repository::new(Kind::Dataset, id, revision)?;
        let folder = Folder::new(&self.settings.cache, &repository);
        let listing = self.listing(&repository, &folder)?;
        let mut kept = listing.files.iter().filter(|entry| keep(&entry.path)).peekable();
        if kept.peek().is_none() {
            return Err(repository.fail(format!("none of its files is asked for; {listing}")));
        }
        let paths = kept.map(|entry| self.file(&repository, &folder, &listing.commit, entry));
        let mut paths = paths.collect::<Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    /// The folder that holds these files of a model; others may be there.
    ///
    /// # Errors
    /// As with [`dataset`](Self::dataset), and when one of the files is not in the repository.
    pub fn model(&self, id: &str, revision: &str, files: &[&str]) -> Result<PathBuf> {
        let repository = Repository::new(Kind::Model, id, revision)?;
        let folder = Folder::new(&self.settings.cache, &repository);
        // Files that are named need no listing.
        if let Some(commit) = self.known_commit(&repository, &folder) {
            let snapshot = folder.snapshot(&commit);
            if files.iter().all(|file| snapshot.join(file).exists()) {
                return Ok(snapshot);
            }
        }
        let listing = self.listing(&repository, &folder)?;
        for file in files {
            let Some(entry) = listing.files.iter().find(|entry| entry.path == **file) else {
                return Err(repository.fail(format!("no file {file}; {listing}")));
            };
            self.file(&repository, &folder, &listing.commit, entry)?;
        }
        Ok(folder.snapshot(&listing.commit))
    }

    /// The commit, when the hub need not or must not be asked for it.
    fn known_commit(&self, repository: &Repository<'_>, folder: &Folder) -> Option<String> {
        if is_commit(repository.revision) {
            Some(repository.revision.into())
        } else if self.settings.offline {
            folder.commit(repository.revision)
        } else {
            None
        }
    }

    fn listing(&self, repository: &Repository<'_>, folder: &Folder) -> Result<Listing> {
        let commit = self.known_commit(repository, folder);
        if let Some(listing) = commit.and_then(|commit| folder.listing(&commit)) {
            return Ok(listing);
        }
        if self.settings.offline {
            return Err(self.absent(repository, &format!("revision {}", repository.revision)));
        }
        let listing = self.client.list(repository)?;
        folder.keep(&listing, repository.revision)?;
        Ok(listing)
    }

    fn file(
        &self,
        repository: &Repository<'_>,
        folder: &Folder,
        commit: &str,
        entry: &Entry,
    ) -> Result<PathBuf> {
        if let Some(path) = folder.whole(commit, entry) {
            return Ok(path);
        }
        if self.settings.offline {
            return Err(self.absent(repository, &entry.path));
        }
        let _lock = folder.lock(entry)?;
        // Another process may have fetched it by now, and be reading it.
        if let Some(path) = folder.whole(commit, entry) {
            return Ok(path);
        }
        // Another revision may have the same content.
        if !folder.has(entry) {
            let blob = folder.blob(entry);
            self.client.download(repository, commit, entry, &blob, &self.report)?;
        }
        folder.point(commit, entry)
    }

    fn absent(&self, repository: &Repository<'_>, what: &str) -> Error {
        repository.fail(format!(
            "{what} is not in the cache {}, and HF_HUB_OFFLINE is set; unset it for one run, or set \
             HF_HOME to the folder that has it",
            self.settings.cache.display()
        ))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dataset,
    Model,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Repository<'a> {
    kind: Kind,
    id: &'a str,
    revision: &'a str,
}

impl<'a> Repository<'a> {
    /// Id and revision become parts of URLs and paths: nothing else gets in.
    fn new(kind: Kind, id: &'a str, revision: &'a str) -> Result<Self> {
        let this = Self { kind, id, revision };
        let word = |part: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(good)
        };
        if !id.split('/').all(word) || id.split('/').count() > 2 {
            return Err(this.fail("not an id of the hub; give one as in owner/name".into()));
        }
        if !revision.split('/').all(word) {
            let problem = format!("{revision:?} is no revision; give a branch, tag or commit");
            return Err(this.fail(problem));
        }
        Ok(this)
    }

    /// As in URLs of the interface and in names of cache folders.
    fn plural(&self) -> &'static str {
        match self.kind {
            Kind::Dataset => "datasets",
            Kind::Model => "models",
        }
    }

    /// Path of its page: models have no prefix.
    fn page(&self) -> String {
        match self.kind {
            Kind::Dataset => format!("datasets/{}", self.id),
            Kind::Model => self.id.into(),
        }
    }

    fn fail(&self, problem: String) -> Error {
        let kind = match self.kind {
            Kind::Dataset => "data set",
            Kind::Model => "model",
        };
        Error::Hub { repository: format!("{kind} {}", self.id), problem }
    }
}
