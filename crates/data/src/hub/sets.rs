//! What can be asked for: files of a data set, running text, the tasks of GLUE, images, a model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::{RepoTypeDataset, RepoTypeModel};

use super::Hub;
use super::snapshot::Snapshot;
use crate::image::shards::place;
use crate::{Corpus, Error, Layout, Part, Result, Task, TextSource};

const REVISION: &str = "main";

/// Where the hub keeps parquet files that it made of a data set in other files.
const CONVERTED: &str = "refs/convert/parquet";

const CONFIG: &str = "config.json";

/// How a model of images wants them.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// What a tokenizer may be read from.
const TOKENIZER: [&str; 8] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
];

impl Hub {
    /// The files of a data set whose path in the repository `keep` takes, sorted.
    ///
    /// The revision is a branch (`main`, or `refs/convert/parquet` for the hub's own parquet files of
    /// any data set), a tag, or a commit, which makes a run repeatable. Offline there are the files that
    /// were ever fetched, by any program of the hub.
    ///
    /// # Errors
    /// When there is no such repository, revision or file, it is not open to this token, the hub
    /// cannot be reached or a download breaks off too often, offline and it is not in the cache,
    /// or the cache cannot be written.
    pub fn dataset(
        &self,
        id: &str,
        revision: &str,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Vec<PathBuf>> {
        Ok(self.kept(id, revision, keep)?.1)
    }

    fn kept<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        keep: impl Fn(&str) -> bool,
    ) -> Result<(Snapshot<'a, RepoTypeDataset>, Vec<PathBuf>)> {
        let snapshot = Snapshot::new(self, id, revision)?;
        let kept: Vec<_> = snapshot.names().filter(|name| keep(name)).collect();
        if kept.is_empty() {
            return Err(snapshot.lacks("file that is asked for"));
        }
        let mut paths = snapshot.fetch(&kept)?;
        paths.sort();
        Ok((snapshot, paths))
    }

    /// The folder of a model: its configuration, the first of `weights` that it has, with the shards of an
    /// index, and of the files of a tokenizer those that it has. Others may be there.
    ///
    /// # Errors
    /// As with [`dataset`](Self::dataset), and when it has no configuration or none of `weights`.
    pub fn model(&self, id: &str, revision: &str, weights: &[&str]) -> Result<PathBuf> {
        let snapshot = Snapshot::<RepoTypeModel>::new(self, id, revision)?;
        if !snapshot.has(CONFIG) {
            return Err(snapshot.lacks(CONFIG));
        }
        let Some(weights) = weights.iter().find(|name| snapshot.has(name)) else {
            return Err(snapshot.lacks(&format!("weights (looked for {})", weights.join(", "))));
        };
        let index = weights.strip_suffix(".index.json").and_then(|file| file.rsplit_once('.'));
        let is_shard = |name: &str| {
            index.is_some_and(|(stem, extension)| {
                let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
                rest.is_some_and(|rest| rest.starts_with('-') && rest.ends_with('.'))
            })
        };
        let is_wanted = |name: &&str| {
            let beside = *name == CONFIG || *name == PREPROCESSOR || TOKENIZER.contains(name);
            beside || name == weights || is_shard(name)
        };
        let wanted: Vec<_> = snapshot.names().filter(is_wanted).collect();
        snapshot.fetch(&wanted)?;
        Ok(snapshot.folder())
    }

    /// The training split of a data set: the column `text` of its parquet files.
    ///
    /// # Errors
    /// As with [`dataset`](Self::dataset), and when the files are of several configurations.
    pub fn text(&self, id: &str) -> Result<TextSource> {
        let is_training = |file: &str| {
            let name = file.rsplit('/').next().unwrap_or(file);
            name.starts_with("train") && name.ends_with(".parquet")
        };
        let (snapshot, files) = self.kept(id, REVISION, is_training)?;
        let folders: BTreeSet<_> = files.iter().map(|file| file.parent()).collect();
        if folders.len() > 1 {
            let problem = format!(
                "training files of {} configurations; download those of one and give their text",
                folders.len()
            );
            return Err(snapshot.repository.fail(problem));
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
        Ok(self.kept(id, REVISION, is_wanted)?.0.folder())
    }

    /// The folder of the parquet files of labelled images, which [`ImageSource::Folder`](crate::ImageSource)
    /// reads: those of the data set itself, or where it has none those that the hub made of it.
    ///
    /// # Errors
    /// As with [`dataset`](Self::dataset), and when the files to train on are of several configurations.
    pub fn images(&self, id: &str) -> Result<PathBuf> {
        let is_training = |file: &&str| matches!(place(Path::new(file)), Some((_, Part::Train)));
        let own = match Snapshot::<RepoTypeDataset>::new(self, id, REVISION) {
            Ok(own) if own.names().any(|name| is_training(&name)) => Some(own),
            Err(error) if self.online.is_some() => return Err(error),
            _ => None,
        };
        let snapshot = match own {
            Some(own) => own,
            None => Snapshot::new(self, id, CONVERTED).map_err(|error| match error {
                Error::Hub { repository, problem } => {
                    let none = "no parquet files to train on, and of those that the hub makes";
                    Error::Hub { repository, problem: format!("{none} {problem}") }
                }
                other => other,
            })?,
        };
        let training = snapshot.names().filter(is_training);
        let folders: BTreeSet<_> =
            training.filter_map(|name| Some(place(Path::new(name))?.0)).collect();
        let Some(&folder) = folders.first() else {
            return Err(snapshot.lacks("parquet files to train on"));
        };
        if folders.len() > 1 {
            let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let problem = format!(
                "training files of {} configurations ({}); download those of one and give their folder",
                folders.len(),
                names.join(", ")
            );
            return Err(snapshot.repository.fail(problem));
        }
        let is_wanted = |name: &&str| place(Path::new(name)).is_some_and(|(of, _)| of == folder);
        let wanted: Vec<_> = snapshot.names().filter(is_wanted).collect();
        snapshot.fetch(&wanted)?;
        Ok(snapshot.folder().join(folder))
    }
}
