//! `hub:ID` in place of a path: data sets and models of the Hugging Face hub, with a bar for each
//! file that is fetched. Needs the feature `hub`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use conditioned_data::{Task, TextSource};

/// The id in `hub:ID`, if the path is one.
pub fn id(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix("hub:")
}

/// The documents of a file or a folder, `separator` the line between two of them; or where it is `hub:ID` the
/// column `text` of its training split.
///
/// # Errors
/// When there are none, or the hub cannot give them.
pub fn text(path: &Path, separator: &str) -> Result<TextSource> {
    match id(path) {
        Some(id) => fetch::text(id),
        None => Ok(TextSource::open(path, separator)?),
    }
}

/// The folder of a model: as given, or fetched where it is `hub:ID`.
///
/// # Errors
/// When the hub cannot give it.
pub fn model(folder: &Path) -> Result<PathBuf> {
    id(folder).map_or(Ok(folder.to_path_buf()), fetch::model)
}

/// The folder of GLUE's files: as given, or where it is `hub:ID` (nyu-mll/glue) that of its parquet files of
/// `tasks`, a folder each.
///
/// # Errors
/// When the hub cannot give them, or has none of them.
pub fn glue(folder: &Path, tasks: &[Task]) -> Result<PathBuf> {
    id(folder).map_or(Ok(folder.to_path_buf()), |id| fetch::glue(id, tasks))
}

#[cfg(feature = "hub")]
mod fetch {
    use conditioned_data::hub::Hub;
    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

    use super::*;

    pub(super) fn text(id: &str) -> Result<TextSource> {
        Ok(hub()?.text(id)?)
    }

    pub(super) fn model(id: &str) -> Result<PathBuf> {
        const FILES: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];
        Ok(hub()?.model(id, "main", &FILES)?)
    }

    pub(super) fn glue(id: &str, tasks: &[Task]) -> Result<PathBuf> {
        Ok(hub()?.glue(id, tasks)?)
    }

    /// A hub by the environment whose downloads show on the terminal, if there is one.
    fn hub() -> Result<Hub> {
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let bar = ProgressBar::hidden().with_style(ProgressStyle::with_template(template)?);
        let hub = Hub::from_env()?.on_progress(move |progress| {
            if bar.message() != progress.file {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.set_message(progress.file.to_string());
                bar.set_length(progress.size);
                bar.reset();
            }
            bar.set_position(progress.done);
            if progress.done == progress.size {
                bar.finish_and_clear();
            }
        });
        Ok(hub)
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
}
