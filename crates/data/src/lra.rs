//! The tasks of the Long Range Arena (Y. Tay et al., ICLR 2021, arXiv 2011.04006) from their released files, and
//! what stands in for them under a name of its own.

pub(crate) mod halves;
pub(crate) mod listops_files;
pub(crate) mod pathfinder_files;
pub(crate) mod pixels;
pub(crate) mod retrieval;
pub(crate) mod text;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Ids of bytes and of padding.
const BYTES: usize = 257;

/// Where the files of a task may lie in a folder.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Folders in the folder, the folder itself first.
    places: &'static [&'static str],
    /// What is looked for in each.
    file: &'static str,
}

impl Layout {
    /// The folder that has the files.
    pub(crate) fn root(&self, folder: &Path) -> Option<PathBuf> {
        // A path that ends in a slash would be another one.
        let at = |place: &&str| if place.is_empty() { folder.into() } else { folder.join(place) };
        self.places.iter().map(at).find(|root: &PathBuf| root.join(self.file).exists())
    }

    /// The folder that has the files, or an error that says what was looked for.
    fn find(&self, folder: &Path, what: &str) -> Result<PathBuf> {
        self.root(folder).ok_or_else(|| missing(folder, what, &[self]))
    }
}

/// That a folder has none of these.
pub(crate) fn missing(folder: &Path, what: &str, layouts: &[&Layout]) -> Error {
    let names = layouts.iter().flat_map(|layout| {
        let file = layout.file;
        layout.places.iter().map(move |place| match *place {
            "" => file.to_string(),
            place => format!("{place}/{file}"),
        })
    });
    let looked_for = names.collect::<Vec<_>>().join(", ");
    Error::Missing { folder: folder.into(), what: what.into(), looked_for }
}

/// Hands on the lines of a file of any size by their number, from 1, without their ends.
fn lines(path: &Path, mut each: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
            break;
        }
        let end = line.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        each(number, &line[..end])?;
    }
    Ok(())
}

/// The ids of the first `max_length` bytes.
fn ids(bytes: &[u8], max_length: usize) -> impl Iterator<Item = u16> {
    bytes.iter().take(max_length).map(|&byte| u16::from(byte) + 1)
}

/// That texts may have a byte.
fn check_length(max_length: usize) -> Result<()> {
    match max_length {
        0 => Err(Error::config("max_length", 0, "expected at least 1 byte")),
        _ => Ok(()),
    }
}

/// A file without a row.
fn no_row(path: &Path) -> Error {
    let problem = "no row in it; fetch the file again".into();
    Error::Corpus { path: path.into(), problem }
}
