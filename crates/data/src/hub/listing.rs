//! [`Listing`]: the files of a commit, their sizes and hashes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde::{Deserialize, Serialize};

/// As many files as the hub lists; of more it leaves some out.
const MOST: usize = 50_000;

/// The files of a commit.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<Entry>,
}

/// A file of a repository.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Path inside the repository.
    pub(super) path: String,
    pub(super) size: u64,
    /// SHA-256 of a large file, git's hash of another: its name in the cache.
    pub(super) hash: String,
}

/// Names the first files, so that a wrong name can be put right.
impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.files.iter().take(8).map(|entry| &*entry.path).collect::<Vec<_>>();
        let more = if self.files.len() > 8 { ", ..." } else { "" };
        write!(f, "it has: {}{more}", names.join(", "))
    }
}

/// What the hub sends, as far as it is used.
#[derive(Deserialize)]
struct Wire {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the hub's answer and lets nothing through that could lead out of the cache.
    pub(super) fn parse(answer: &str) -> Result<Self, String> {
        let wire: Wire = serde_json::from_str(answer).map_err(|e| e.to_string())?;
        if !is_commit(&wire.sha) {
            return Err(format!("{:?} is no commit", wire.sha));
        }
        if wire.siblings.len() >= MOST {
            return Err(format!("{MOST} files or more are not listed in full"));
        }
        let files = wire.siblings.into_iter().map(Entry::parse).collect::<Result<_, _>>()?;
        Ok(Self { commit: wire.sha, files })
    }
}

impl Entry {
    fn parse(wire: Sibling) -> Result<Self, String> {
        let path = wire.rfilename;
        let inside = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || path.contains('\\') || !inside {
            return Err(format!("{path:?} is no path inside a repository"));
        }
        let (size, hash) = match wire.lfs {
            Some(large) => (Some(large.size), Some(large.sha256)),
            None => (wire.size, wire.blob_id),
        };
        match (size, hash) {
            (Some(size), Some(hash)) if is_hex(&hash, 40) || is_hex(&hash, 64) => {
                Ok(Self { path, size, hash })
            }
            _ => Err(format!("no size and hash of {path}")),
        }
    }

    /// Whether the content is the promised one.
    pub(super) fn matches(&self, file: &mut File) -> io::Result<bool> {
        let mut context = if self.hash.len() == 64 {
            Context::new(&SHA256)
        } else {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", self.size).as_bytes());
            context
        };
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => context.update(&buffer[..read]),
            }
        }
        let digest = context.finish();
        let found = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(found.eq_ignore_ascii_case(&self.hash))
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a revision is a commit: it never changes.
pub(super) fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}
