//! [`Folder`]: a repository in the cache that all programs of the hub share.
//!
//! ```text
//! datasets--owner--name/
//!   refs/main                      the commit of a branch
//!   blobs/HASH                     a whole file; HASH.incomplete while it is fetched
//!   snapshots/COMMIT/data/a.parquet   links to the blob
//!   listings/COMMIT.json           all files of the commit: ours, so that offline none is missed
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Repository;
use super::listing::{Entry, Listing, is_commit};
use crate::atomic::write_atomic;
use crate::{Error, Result};

/// The folder of a repository.
pub(super) struct Folder {
    path: PathBuf,
    locks: PathBuf,
}

impl Folder {
    pub(super) fn new(cache: &Path, repository: &Repository<'_>) -> Self {
        let name = format!("{}--{}", repository.plural(), repository.id.replace('/', "--"));
        Self { path: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.path.join("refs").join(revision)
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.path.join("listings").join(format!("{commit}.json"))
    }

    /// The commit that a branch or tag was at when the hub was asked last.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        let commit = fs::read_to_string(self.reference(revision)).ok()?.trim().to_string();
        is_commit(&commit).then_some(commit)
    }

    /// The files of a commit, if the hub was ever asked; a damaged list is as good as none.
    pub(super) fn listing(&self, commit: &str) -> Option<Listing> {
        serde_json::from_slice(&fs::read(self.listing_path(commit)).ok()?).ok()
    }

    /// Remembers the files of a commit and that the revision is at it.
    pub(super) fn keep(&self, listing: &Listing, revision: &str) -> Result<()> {
        let path = self.listing_path(&listing.commit);
        let text = serde_json::to_vec(listing).map_err(|e| Error::cache(&path)(e.into()))?;
        write(&path, &text)?;
        if !is_commit(revision) {
            write(&self.reference(revision), listing.commit.as_bytes())?;
        }
        Ok(())
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path.join("snapshots").join(commit)
    }

    /// The content of a file.
    pub(super) fn blob(&self, entry: &Entry) -> PathBuf {
        self.path.join("blobs").join(&entry.hash)
    }

    /// Whether the content is here.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        fs::metadata(self.blob(entry)).is_ok_and(|m| m.len() == entry.size)
    }

    /// The file of a commit, if it is here.
    pub(super) fn whole(&self, commit: &str, entry: &Entry) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(&entry.path);
        let size = fs::metadata(&path).ok()?.len();
        (size == entry.size).then_some(path)
    }

    /// Waits until no other process fetches this content; until it is dropped, none does.
    pub(super) fn lock(&self, entry: &Entry) -> Result<File> {
        for folder in [&self.locks, &self.path.join("blobs")] {
            fs::create_dir_all(folder).map_err(Error::cache(folder))?;
        }
        let path = self.locks.join(format!("{}.lock", entry.hash));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::cache(&path))?;
        file.lock().map_err(Error::cache(&path))?;
        Ok(file)
    }

    /// Makes the content appear in the snapshot of a commit.
    pub(super) fn point(&self, commit: &str, entry: &Entry) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(&entry.path);
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(Error::cache(folder))?;
        self.link(&path, entry).map_err(Error::cache(&path))?;
        Ok(path)
    }

    fn link(&self, path: &Path, entry: &Entry) -> io::Result<()> {
        // What stands there links to nothing, or to content of another size.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(path)?;
        }
        #[cfg(unix)]
        {
            // Relative, so that the cache may be moved: out of snapshots, the commit and its folders.
            let up = "../".repeat(2 + entry.path.matches('/').count());
            std::os::unix::fs::symlink(format!("{up}blobs/{}", entry.hash), path)
        }
        #[cfg(not(unix))]
        fs::hard_link(self.blob(entry), path)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::cache(folder))?;
    write_atomic(path, bytes).map_err(|error| match error {
        Error::Io { path, source } => Error::Cache { path, source },
        other => other,
    })
}
