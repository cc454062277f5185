//! [`Content`]: what the hub promises of a file.

use std::fs::File;
use std::io::{self, Read};

use aws_lc_rs::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// Size and hash of a file.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) size: u64,
    /// Git's hash, of the file or, when it is large, of the pointer that git keeps in its place.
    pub(super) oid: String,
    pub(super) is_large: bool,
}

impl Content {
    /// Whether a file of this size and of this name in the cache is the promised one.
    ///
    /// The name is the SHA-256 of a large file, and git's hash of another. The hub lists the SHA-256 too,
    /// but hf-hub 1.0 drops it. The pointer holds nothing but it and the size, so that the hash of the
    /// pointer tells as much.
    pub(super) fn is(&self, name: &str) -> bool {
        if !self.is_large {
            return name == self.oid;
        }
        let size = self.size;
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {size}\n");
        let mut context = git_context(pointer.len() as u64);
        context.update(pointer.as_bytes());
        hex(&context.finish()) == self.oid
    }

    /// The name of a file in the cache, if it is the promised one.
    pub(super) fn name(&self, file: &mut File) -> io::Result<Option<String>> {
        let size = file.metadata()?.len();
        let mut context = if self.is_large { Context::new(&SHA256) } else { git_context(size) };
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => context.update(&buffer[..read]),
            }
        }
        let name = hex(&context.finish());
        Ok((size == self.size && self.is(&name)).then_some(name))
    }
}

/// The beginning of git's hash.
fn git_context(size: u64) -> Context {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {size}\0").as_bytes());
    context
}

fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
