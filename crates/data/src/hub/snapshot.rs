//! [`Snapshot`]: the files of a commit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use hf_hub::repository::RepoTreeEntry;

use super::content::Content;
use super::repository::{Kind, Repository, is_commit};
use super::{Hub, Online};
use crate::{Error, Result};

/// The files of a commit: as the hub lists them, or offline those that are in the cache.
pub(super) struct Snapshot<'a, K> {
    pub(super) repository: Repository<'a, K>,
    commit: String,
    /// With what the hub promises of each.
    files: BTreeMap<String, Option<Content>>,
}

impl<'a, K: Kind> Snapshot<'a, K> {
    pub(super) fn new(hub: &'a Hub, id: &'a str, revision: &'a str) -> Result<Self> {
        let repository = Repository::new(hub, id, revision)?;
        match &hub.online {
            Some(online) => Self::listed(repository, online),
            None => Self::cached(repository),
        }
    }

    fn cached(repository: Repository<'a, K>) -> Result<Self> {
        let mut files = BTreeMap::new();
        let commit = repository.remembered();
        if let Some(commit) = &commit {
            collect(&repository.snapshot_folder(commit), "", &mut files);
        }
        match commit {
            Some(commit) if !files.is_empty() => Ok(Self { repository, commit, files }),
            _ => Err(repository.absent(&format!("revision {}", repository.revision))),
        }
    }

    fn listed(repository: Repository<'a, K>, online: &Online) -> Result<Self> {
        let fail = |error| repository.refused(online, "the repository", error);
        let no_list = |problem: String| {
            repository.fail(format!("{} gives no list of its files: {problem}", online.endpoint))
        };
        let remote = repository.remote(online);
        let commit = match is_commit(repository.revision) {
            true => repository.revision.to_string(),
            false => K::commit(&remote, repository.revision).map_err(fail)?.unwrap_or_default(),
        };
        if !is_commit(&commit) {
            return Err(no_list(format!("{commit:?} is no commit")));
        }
        let tree = remote.list_tree().revision(&*commit).recursive(true).send();
        let mut files = BTreeMap::new();
        for entry in tree.map_err(fail)? {
            if let RepoTreeEntry::File { oid, size, path, lfs, .. } = entry {
                if !leads_inside(&path) {
                    return Err(no_list(format!("{path:?} is no path inside a repository")));
                }
                // It becomes the name of a file.
                if !is_commit(&oid) {
                    return Err(no_list(format!("no hash of {path}")));
                }
                files.insert(path, Some(Content { size, oid, is_large: lfs.is_some() }));
            }
        }
        Ok(Self { repository, commit, files })
    }

    /// Their paths inside the repository.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.repository.snapshot_folder(&self.commit)
    }

    /// Files of it, fetched where they are not in the cache.
    pub(super) fn fetch(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let paths = names.iter().map(|name| self.file(name)).collect::<Result<_>>()?;
        if self.repository.hub.online.is_some() {
            self.repository.remember(&self.commit)?;
        }
        Ok(paths)
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        let (Some(online), Some(Some(content))) =
            (&self.repository.hub.online, self.files.get(name))
        else {
            return Ok(path);
        };
        let is_here = || fs::metadata(&path).is_ok_and(|m| m.len() == content.size);
        if is_here() {
            return Ok(path);
        }
        let _lock = self.repository.lock(content)?;
        // Another process may have fetched it by now, and be reading it.
        if is_here() {
            return Ok(path);
        }
        let blob = match self.repository.blob(content) {
            Some(blob) => blob,
            None => self.repository.download(online, &self.commit, name, content)?,
        };
        self.repository.link(&self.commit, name, &blob)
    }

    /// The error of a file that is not among these.
    pub(super) fn lacks(&self, what: &str) -> Error {
        if self.repository.hub.online.is_none() {
            return self.repository.absent(what);
        }
        let first = self.names().take(8).collect::<Vec<_>>().join(", ");
        let more = if self.files.len() > 8 { ", ..." } else { "" };
        self.repository.fail(format!("no {what}; it has: {first}{more}"))
    }
}

/// The files of a folder; a link to nothing is none.
fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Option<Content>>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files);
        } else if path.is_file() {
            files.insert(name, None);
        }
    }
}

fn leads_inside(path: &str) -> bool {
    let normal = |part| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.contains('\\') && Path::new(path).components().all(normal)
}
