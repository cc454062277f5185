//! The two layouts of data sets that are known here: running text, and the tasks of GLUE.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Hub, Kind, Repository};
use crate::{Corpus, Layout, Result, Task, TextSource};

const REVISION: &str = "main";

impl Hub {
    /// The training split of a data set: the column `text` of its parquet files.
    ///
    /// # Errors
    /// As with [`dataset`](Self::dataset), and when the files are of several configurations.
    pub fn text(&self, id: &str) -> Result<TextSource> {
        let is_training = |file: &str| {
            let name = file.rsplit('/').next().unwrap_or(file);
            name.starts_with("train") && name.ends_with(".parquet")
        };
        let files = self.dataset(id, REVISION, is_training)?;
        let folders: BTreeSet<_> = files.iter().map(|file| file.parent()).collect();
        if folders.len() > 1 {
            let problem = format!(
                "training files of {} configurations; download those of one and give their text",
                folders.len()
            );
            return Err(Repository::new(Kind::Dataset, id, REVISION)?.fail(problem));
        }
        Ok(TextSource::files(id, Corpus::of(files, Layout::Parquet("text".to_string()))))
    }

    /// The folder with the parquet files of `tasks`, a folder each, of a data set laid out as
    /// `nyu-mll/glue`.
    ///
    /// # Errors
    /// As with [`dataset`](Self::dataset).
    pub fn glue(&self, id: &str, tasks: &[Task]) -> Result<PathBuf> {
        let is_wanted = |file: &str| {
            let Some((folder, name)) = file.split_once('/') else { return false };
            let of_task = tasks.iter().any(|task| task.name() == folder);
            let labelled = name.starts_with("train") || name.starts_with("validation");
            of_task && labelled && name.ends_with(".parquet")
        };
        let files = self.dataset(id, REVISION, is_wanted)?;
        let root = files.first().and_then(|file| file.parent()?.parent());
        let missing = || {
            let problem = "no folder of a task of GLUE".to_string();
            Repository { kind: Kind::Dataset, id, revision: REVISION }.fail(problem)
        };
        Ok(root.ok_or_else(missing)?.to_path_buf())
    }
}
