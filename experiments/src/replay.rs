//! What a finished cell has trained, read again from a copy of its last checkpoint.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use conditioned_train::{Control, Outcome, Run, Status};

use crate::cells::Cell;
use crate::folder::Folder;

/// The configuration of a finished cell of a table, and what `run_cell` leaves of it.
///
/// # Errors
/// When the cell is not finished, or its last checkpoint cannot be read.
pub fn finished<C: Cell, T>(
    folder: &Folder,
    run_cell: impl FnOnce(&C, &Run, &mut Control<'_>) -> Result<(Outcome, T)>,
) -> Result<(C, T)> {
    let config: C = folder.config()?;
    ensure!(
        folder.summary::<C::Summary>()?.is_some() && !config.is_search(),
        "{}: not a finished cell of a table; `run` makes them",
        folder.path().display()
    );
    // Trained on in a copy, from its last checkpoint: a run that is complete takes no step there, and
    // one whose checkpoint is gone cannot change the record.
    let copy = tempfile::tempdir()?;
    let run = Run { folder: copy.path().to_path_buf(), identity: serde_json::to_string(&config)? };
    let own = Run { folder: folder.path().to_path_buf(), identity: String::new() };
    std::fs::create_dir_all(run.checkpoints())?;
    for (from, to) in files(&own.checkpoints(), &run.checkpoints())?
        .into_iter()
        .chain([(own.metrics(), run.metrics())])
    {
        std::fs::copy(&from, to).with_context(|| from.display().to_string())?;
    }
    let mut control = Control { stop: &AtomicBool::new(true), progress: &mut |_| {} };
    let (outcome, trained) = run_cell(&config, &run, &mut control)?;
    ensure!(
        outcome.steps_here == 0 && outcome.status == Status::Finished,
        "{}: its last checkpoint is missing or damaged; remove the folder and `run` it again",
        folder.path().display()
    );
    Ok((config, trained))
}

/// The files of a folder, each with the path of its copy in another.
fn files(from: &Path, to: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let entries = std::fs::read_dir(from).with_context(|| from.display().to_string())?;
    let copies = entries.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), to.join(entry.file_name())))
    });
    copies.collect()
}
