//! Files that are whole or absent.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// Writes beside, syncs and renames: a process killed at any instant leaves the old file or the new.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = Error::io(path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".tmp").tempfile_in(folder).map_err(&io)?;
    file.write_all(bytes).map_err(&io)?;
    // A temporary file is private to its owner; a shard is an ordinary file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(&io)?;
    }
    file.as_file().sync_all().map_err(&io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    // The rename itself lives in the folder; not every system can sync one.
    File::open(folder).and_then(|folder| folder.sync_all()).or(Ok(()))
}
