//! `hub:ID` in place of a path: data sets and models of the Hugging Face hub. Needs the feature `hub`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use conditioned_data::{Task, TextSource};

/// The id in `hub:ID`, if the path is one.
pub fn id(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix("hub:")
}

/// That a path which reads like an id of the hub exists.
fn check(path: &Path, what: &str, of_hub: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_word = |part: &str| part.chars().all(good) && !part.starts_with('.');
    let parts: Vec<_> = path.to_str().unwrap_or_default().split('/').collect();
    let reads_like_id =
        parts.len() <= 2 && parts.iter().all(|part| !part.is_empty() && is_word(part));
    ensure!(
        !reads_like_id || path.exists(),
        "no {what} {path}; if it is a {of_hub} of the hub, write hub:{path}",
        path = path.display()
    );
    Ok(())
}

/// The documents of a file or a folder, `separator` the line between two of them; or where it is `hub:ID` the
/// column `text` of its training split.
///
/// # Errors
/// When there are none, or the hub cannot give them.
pub fn text(path: &Path, separator: &str) -> Result<TextSource> {
    if let Some(id) = id(path) {
        return fetch::text(id);
    }
    check(path, "file or folder", "data set")?;
    Ok(TextSource::open(path, separator)?)
}

/// The folder of a model: as given, or fetched where it is `hub:ID`.
///
/// # Errors
/// When there is none, or the hub cannot give it.
pub fn model(folder: &Path) -> Result<PathBuf> {
    if let Some(id) = id(folder) {
        return fetch::model(id);
    }
    check(folder, "folder", "model")?;
    Ok(folder.to_path_buf())
}

/// The folder of GLUE's files: as given, or where it is `hub:ID` (nyu-mll/glue) that of its parquet files of
/// `tasks`, a folder each.
///
/// # Errors
/// When there is no folder, or the hub cannot give them.
pub fn glue(folder: &Path, tasks: &[Task]) -> Result<PathBuf> {
    if let Some(id) = id(folder) {
        return fetch::glue(id, tasks);
    }
    check(folder, "folder", "data set")?;
    Ok(folder.to_path_buf())
}

/// The folder of labelled images: as given, or where it is `hub:ID` that of its parquet files.
///
/// # Errors
/// When there is no folder, or the hub cannot give them.
pub fn images(folder: &Path) -> Result<PathBuf> {
    if let Some(id) = id(folder) {
        return fetch::images(id);
    }
    check(folder, "folder", "data set")?;
    Ok(folder.to_path_buf())
}

#[cfg(feature = "hub")]
mod fetch {
    use conditioned_data::hub::Hub;
    use conditioned_models::hugging_face::WEIGHTS;

    use super::*;

    pub(super) fn text(id: &str) -> Result<TextSource> {
        Ok(Hub::from_env()?.text(id)?)
    }

    pub(super) fn model(id: &str) -> Result<PathBuf> {
        Ok(Hub::from_env()?.model(id, "main", &WEIGHTS)?)
    }

    pub(super) fn glue(id: &str, tasks: &[Task]) -> Result<PathBuf> {
        Ok(Hub::from_env()?.glue(id, tasks)?)
    }

    pub(super) fn images(id: &str) -> Result<PathBuf> {
        Ok(Hub::from_env()?.images(id)?)
    }
}

#[cfg(not(feature = "hub"))]
mod fetch {
    use super::*;

    fn refused<T>(id: &str) -> Result<T> {
        anyhow::bail!("hub:{id}: this build is without the hub; build it with `--features hub`")
    }

    pub(super) fn text(id: &str) -> Result<TextSource> {
        refused(id)
    }

    pub(super) fn model(id: &str) -> Result<PathBuf> {
        refused(id)
    }

    pub(super) fn glue(id: &str, _: &[Task]) -> Result<PathBuf> {
        refused(id)
    }

    pub(super) fn images(id: &str) -> Result<PathBuf> {
        refused(id)
    }
}
