//! A file of a repository, fetched into the blobs of the cache.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use hf_hub::HFError;

use super::Online;
use super::content::Content;
use super::repository::{Kind, Repository, create_parent};
use crate::{Error, Result};

/// Bytes of a request: all that is lost where a connection breaks.
const PIECE: u64 = 64 << 20;

/// Requests in a row that may break off.
const TRIES: u32 = 4;

impl<K: Kind> Repository<'_, K> {
    /// Fetches a file, going on where an earlier download broke off, and takes it for whole only when its
    /// size and hash are right.
    pub(super) fn download(
        &self,
        online: &Online,
        commit: &str,
        name: &str,
        content: &Content,
    ) -> Result<PathBuf> {
        let size = content.size;
        let path = self.blobs().join(format!("{}.incomplete", content.oid));
        let write_error = Error::cache(&path);
        create_parent(&path)?;
        let open = File::options().create(true).truncate(false).read(true).append(true).open(&path);
        let mut part = open.map_err(&write_error)?;
        let remote = self.remote(online);
        let (mut done, mut failed) = (part.metadata().map_err(&write_error)?.len(), 0);
        while done < size {
            tracing::info!(file = name, done, size, "fetching from {self}");
            let end = size.min(done + PIECE);
            let range = (done > 0 || end < size).then_some(done..end);
            let request = remote.download_file_to_bytes().filename(name).revision(commit);
            match request.maybe_range(range).send() {
                Ok(bytes) => {
                    // Not every server can start in the middle.
                    if bytes.len() as u64 == size {
                        part.set_len(0).map_err(&write_error)?;
                        done = 0;
                    }
                    part.write_all(&bytes).map_err(&write_error)?;
                    done += bytes.len() as u64;
                    if bytes.is_empty() || done > end {
                        break;
                    }
                    failed = 0;
                }
                Err(error) if is_broken(&error) => {
                    failed += 1;
                    if failed == TRIES {
                        return Err(self.broken_off(name, done, size, error));
                    }
                }
                Err(error) => return Err(self.refused(online, name, error)),
            }
        }
        // From the start: a part may be of an earlier process.
        let read = File::open(&path).and_then(|mut file| content.name(&mut file));
        let Some(hash) = read.map_err(&write_error)? else {
            fs::remove_file(&path).map_err(&write_error)?;
            let problem = "came damaged: its size or hash is not the hub's; fetch it again";
            return Err(self.fail(format!("{name} {problem}")));
        };
        part.sync_all().map_err(&write_error)?;
        let blob = self.blobs().join(hash);
        fs::rename(&path, &blob).map_err(Error::cache(&blob))?;
        Ok(blob)
    }
}

/// Whether an answer began and did not end.
fn is_broken(error: &HFError) -> bool {
    match error {
        HFError::Request { source, .. } => source.is_body() || source.is_decode(),
        HFError::Xet { .. } => true,
        _ => false,
    }
}
