//! [`Repository`]: what is asked for, and its folder in the cache.
//!
//! ```text
//! datasets--owner--name/
//!   refs/main                      the commit of a branch
//!   blobs/HASH                     a whole file; OID.incomplete while it is fetched
//!   snapshots/COMMIT/data/a.parquet   links to the blob
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{HFRepositorySync, HFResult, RepoType, RepoTypeDataset, RepoTypeModel};

use super::content::Content;
use super::{Hub, Online};
use crate::atomic::write_atomic;
use crate::{Error, Result};

/// A kind of repository. (hf-hub's `RepoTypeAny` asks for the head of a model where it is a data set.)
pub(super) trait Kind: RepoType {
    /// As in messages.
    const NAME: &'static str;

    /// The commit that a revision is at.
    fn commit(remote: &HFRepositorySync<Self>, revision: &str) -> HFResult<Option<String>>;
}

impl Kind for RepoTypeDataset {
    const NAME: &'static str = "data set";

    fn commit(remote: &HFRepositorySync<Self>, revision: &str) -> HFResult<Option<String>> {
        Ok(remote.info().revision(revision).send()?.sha)
    }
}

impl Kind for RepoTypeModel {
    const NAME: &'static str = "model";

    fn commit(remote: &HFRepositorySync<Self>, revision: &str) -> HFResult<Option<String>> {
        Ok(remote.info().revision(revision).send()?.sha)
    }
}

pub(super) struct Repository<'a, K> {
    pub(super) hub: &'a Hub,
    pub(super) kind: K,
    pub(super) id: &'a str,
    pub(super) revision: &'a str,
}

impl<K: Kind> fmt::Display for Repository<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", K::NAME, self.id)
    }
}

impl<'a, K: Kind> Repository<'a, K> {
    /// Id and revision become parts of URLs and paths: nothing else gets in.
    pub(super) fn new(hub: &'a Hub, id: &'a str, revision: &'a str) -> Result<Self> {
        let this = Self { hub, kind: K::default(), id, revision };
        let word = |part: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(good)
        };
        if !id.split('/').all(word) || id.split('/').count() > 2 {
            return Err(this.fail("not an id of the hub; give one as in owner/name"));
        }
        if !revision.split('/').all(word) {
            let problem = format!("{revision:?} is no revision; give a branch, tag or commit");
            return Err(this.fail(problem));
        }
        Ok(this)
    }

    pub(super) fn fail(&self, problem: impl Into<String>) -> Error {
        Error::Hub { repository: self.to_string(), problem: problem.into() }
    }

    /// As hf-hub asks for it.
    pub(super) fn remote(&self, online: &Online) -> HFRepositorySync<K> {
        let (owner, name) = hf_hub::split_id(self.id);
        online.client.repository(self.kind, owner, name)
    }

    fn name(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.id.replace('/', "--"))
    }

    fn folder(&self) -> PathBuf {
        self.hub.cache.join(self.name())
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.folder().join("blobs")
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    fn reference(&self) -> PathBuf {
        self.folder().join("refs").join(self.revision)
    }

    /// The commit that the revision was at when it was fetched last.
    pub(super) fn remembered(&self) -> Option<String> {
        if is_commit(self.revision) {
            return Some(self.revision.into());
        }
        let commit = fs::read_to_string(self.reference()).ok()?.trim().to_string();
        is_commit(&commit).then_some(commit)
    }

    /// Remembers that the revision is at a commit, whose files are here.
    pub(super) fn remember(&self, commit: &str) -> Result<()> {
        if is_commit(self.revision) {
            return Ok(());
        }
        let path = self.reference();
        create_parent(&path)?;
        write_atomic(&path, commit.as_bytes()).map_err(|error| match error {
            Error::Io { path, reason } => Error::Cache { path, reason },
            other => other,
        })
    }

    /// The content in the cache, perhaps of another commit.
    pub(super) fn blob(&self, content: &Content) -> Option<PathBuf> {
        let entries = fs::read_dir(self.blobs()).ok()?.filter_map(io::Result::ok);
        let mut whole = entries.filter(|e| e.metadata().is_ok_and(|m| m.len() == content.size));
        let blob = whole.find(|e| e.file_name().to_str().is_some_and(|name| content.is(name)))?;
        Some(blob.path())
    }

    /// Waits until no other process fetches this content; until it is dropped, none does.
    pub(super) fn lock(&self, content: &Content) -> Result<File> {
        let name = format!("{}.lock", content.oid);
        let path = self.hub.cache.join(".locks").join(self.name()).join(name);
        create_parent(&path)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::cache(&path))?;
        file.lock().map_err(Error::cache(&path))?;
        Ok(file)
    }

    /// Makes a blob appear in the snapshot of a commit.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<PathBuf> {
        let path = self.snapshot_folder(commit).join(file);
        create_parent(&path)?;
        // What stands there links to nothing, or to content of another size.
        let link = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => link(&path, file, blob),
        };
        link.map_err(Error::cache(&path))?;
        Ok(path)
    }
}

#[cfg(unix)]
fn link(path: &Path, file: &str, blob: &Path) -> io::Result<()> {
    // Relative, so that the cache may be moved: out of snapshots, the commit and its folders.
    let up = "../".repeat(2 + file.matches('/').count());
    let name = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(name), path)
}

#[cfg(not(unix))]
fn link(path: &Path, _: &str, blob: &Path) -> io::Result<()> {
    fs::hard_link(blob, path)
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::cache(folder))
}

/// Whether a revision is a commit: it never changes.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
