//! Files that are whole or absent.

use std::io::Write;
use std::path::Path;

use atomic_write_file::AtomicWriteFile;

use crate::{Error, Result};

/// Writes beside, syncs and renames: a process killed at any instant leaves the old file or the new.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(Error::io(path))
}
