//! What can go wrong: drawing, making a page, and writing files.

use std::io::Write;
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use plotters::drawing::DrawingAreaErrorKind;
use thiserror::Error;

/// An error of this crate.
#[derive(Debug, Error)]
pub enum Error {
    /// A figure cannot be drawn.
    #[error("the figure cannot be drawn: {0}")]
    Draw(String),
    /// A file cannot be written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A page cannot be made.
    #[error("the page cannot be made: {0}")]
    Page(String),
    /// A table cannot be written as CSV.
    #[error("the table cannot be written as CSV: {0}")]
    Csv(#[from] csv::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for Error {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Draw(error.to_string())
    }
}

/// The error of a file.
pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    |reason| Error::File { path: path.to_path_buf(), reason }
}

/// Writes a file so that a reader sees the old content or the new.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

/// [`write`] of bytes.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(file(path))
}
