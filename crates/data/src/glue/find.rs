//! The tasks in a folder with a folder for each.

use std::path::{Path, PathBuf};

use super::files::Source;
use crate::{Error, Result, Task};

impl Task {
    /// Whether `folder` has the training file too, and not the dev file alone.
    pub(crate) fn has_training(self, folder: &Path) -> Result<bool> {
        Ok(Source::find(self, folder)?.has_training())
    }
}

/// The tasks whose files lie in `folder`, each with its own, in the order of [`Task::ALL`].
pub(crate) fn find(folder: &Path) -> Result<Vec<(Task, PathBuf)>> {
    let fail = |problem| Err(Error::Corpus { path: folder.into(), problem });
    if !folder.is_dir() {
        return fail("no such folder; give one with a folder for each task of GLUE".into());
    }
    let root = std::path::absolute(folder).map_err(Error::io(folder))?;
    let entries = || -> std::io::Result<Vec<PathBuf>> {
        root.read_dir()?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut entries = entries().map_err(Error::io(folder))?;
    entries.sort();
    let mut found = Vec::new();
    for task in Task::ALL {
        let own: Vec<&PathBuf> = entries.iter().filter(|path| is_of(path, task)).collect();
        match own[..] {
            [] => {}
            [own] => found.push((task, own.clone())),
            _ => return fail(format!("several folders of task {task}: {own:?}; leave one")),
        }
    }
    if found.is_empty() {
        let names = Task::ALL.map(Task::name).join(", ");
        return fail(format!("no folder of a task of GLUE ({names}) in it; put one there"));
    }
    Ok(found)
}

/// Whether a folder is called as a task, as in `rte` or `SST-2`.
fn is_of(path: &Path, task: Task) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    path.is_dir() && name.parse().is_ok_and(|named: Task| named == task)
}
