//! `hub:ID` in place of a path: data sets and models of the Hugging Face hub, with a bar for each
//! file that is fetched. Needs the feature `hub`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use conditioned_data::{Corpus, Task};

/// The id in `hub:ID`, if the path is one.
pub fn id(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix("hub:")
}

/// The training split of a data set: the column `text` of its parquet files.
///
/// # Errors
/// When it has none, or the hub cannot give them; without the feature always.
#[cfg(feature = "hub")]
pub fn corpus(id: &str) -> Result<Corpus> {
    let is_training = |file: &str| {
        let name = file.rsplit('/').next().unwrap_or(file);
        name.starts_with("train") && name.ends_with(".parquet")
    };
    let files = hub()?.dataset(id, "main", is_training)?;
    let folders: std::collections::BTreeSet<_> = files.iter().map(|file| file.parent()).collect();
    anyhow::ensure!(
        folders.len() == 1,
        "hub:{id}: training files of {} configurations; download those of one and give their text",
        folders.len()
    );
    Ok(Corpus::of(files, conditioned_data::Layout::Parquet("text".to_string())))
}

/// The folder of a model: as given, or fetched where it is `hub:ID`.
///
/// # Errors
/// When the hub cannot give it; without the feature always.
#[cfg(feature = "hub")]
pub fn model(folder: &Path) -> Result<PathBuf> {
    const FILES: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];
    match id(folder) {
        Some(id) => Ok(hub()?.model(id, "main", &FILES)?),
        None => Ok(folder.to_path_buf()),
    }
}

/// The folder of GLUE's files: as given, or where it is `hub:ID` (nyu-mll/glue) that of its parquet files of
/// `tasks`, a folder each.
///
/// # Errors
/// When the hub cannot give them, or has none of them; without the feature always.
#[cfg(feature = "hub")]
pub fn glue(folder: &Path, tasks: &[Task]) -> Result<PathBuf> {
    let Some(id) = id(folder) else { return Ok(folder.to_path_buf()) };
    let is_wanted = |file: &str| {
        let Some((folder, name)) = file.split_once('/') else { return false };
        let of_task = tasks.iter().any(|task| task.name() == folder);
        let labelled = name.starts_with("train") || name.starts_with("validation");
        of_task && labelled && name.ends_with(".parquet")
    };
    let files = hub()?.dataset(id, "main", is_wanted)?;
    let root = files.first().and_then(|file| file.parent()?.parent());
    Ok(root.ok_or_else(|| anyhow::anyhow!("hub:{id}: no folder of a task of GLUE"))?.to_path_buf())
}

/// A hub by the environment whose downloads show on the terminal, if there is one.
#[cfg(feature = "hub")]
fn hub() -> Result<conditioned_data::hub::Hub> {
    use indicatif::{ProgressBar, ProgressStyle};
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = ProgressBar::hidden().with_style(ProgressStyle::with_template(template)?);
    let hub = conditioned_data::hub::Hub::from_env()?.on_progress(move |progress| {
        if bar.message() != progress.file {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
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

/// The training split of a data set.
///
/// # Errors
/// Always: this build is without the hub.
#[cfg(not(feature = "hub"))]
pub fn corpus(id: &str) -> Result<Corpus> {
    anyhow::bail!("hub:{id}: this build is without the hub; build it with `--features hub`")
}

/// The folder of GLUE's files.
///
/// # Errors
/// When it is on the hub: this build is without.
#[cfg(not(feature = "hub"))]
pub fn glue(folder: &Path, _: &[Task]) -> Result<PathBuf> {
    model(folder)
}

/// The folder of a model.
///
/// # Errors
/// When it is on the hub: this build is without.
#[cfg(not(feature = "hub"))]
pub fn model(folder: &Path) -> Result<PathBuf> {
    match id(folder) {
        Some(id) => corpus(id).map(|_| PathBuf::new()),
        None => Ok(folder.to_path_buf()),
    }
}
