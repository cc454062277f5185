//! [`Shards`]: the parquet files of a folder of images, by their names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::folder::{ImageFolder, TEST, TRAIN, TUNE};
use super::preprocessing::Preprocessing;
use crate::{Error, Part, Result};

/// The parquet files of one configuration of a data set of the Hugging Face hub, each part sorted.
#[derive(Debug)]
pub(super) struct Shards {
    /// The folder of the configuration, in which the paths of the files begin.
    pub(super) root: PathBuf,
    pub(super) train: Vec<PathBuf>,
    pub(super) tune: Vec<PathBuf>,
    pub(super) test: Vec<PathBuf>,
}

/// The configuration and the part that a parquet file is of, by its path in a data set:
/// `CONFIGURATION/train-00000-of-00001.parquet` or `CONFIGURATION/train/0000.parquet`.
pub(crate) fn place(path: &Path) -> Option<(&Path, Part)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".parquet")?;
    let folder = path.parent()?;
    match part(name.split(['-', '.']).next()?) {
        Some(part) => Some((folder, part)),
        None => Some((folder.parent()?, part(folder.file_name()?.to_str()?)?)),
    }
}

fn part(name: &str) -> Option<Part> {
    match name {
        TRAIN => Some(Part::Train),
        TEST => Some(Part::Test),
        name => TUNE.contains(&name).then_some(Part::Tune),
    }
}

impl Shards {
    /// The parquet files of a folder, or of the one folder in it that has some to train on; none where there are
    /// none.
    ///
    /// # Errors
    /// When several folders have some.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>> {
        let entries = WalkDir::new(folder).max_depth(3).follow_links(true).sort_by_file_name();
        // Two folders below lie the parts of a configuration, or classes, of which there may be many files.
        let is_part = |entry: &DirEntry| entry.file_name().to_str().and_then(part).is_some();
        let entries = entries.into_iter().filter_entry(|entry| {
            entry.depth() < 2 || !entry.file_type().is_dir() || is_part(entry)
        });
        // What cannot be read here is found by who lists the folders of classes.
        let paths = entries.flatten().filter(|entry| entry.file_type().is_file());
        let paths = paths.filter_map(|e| e.path().strip_prefix(folder).ok().map(PathBuf::from));
        let near = |path: &Path| place(path).is_some_and(|(root, _)| root.components().count() < 2);
        let paths: Vec<PathBuf> = paths.filter(|path| near(path)).collect();
        let places = || paths.iter().filter_map(|path| Some((place(path)?, path)));
        let training = places().filter(|((_, part), _)| *part == Part::Train);
        let roots: BTreeSet<&Path> = training.map(|((root, _), _)| root).collect();
        let Some(&root) = roots.first() else { return Ok(None) };
        if roots.len() > 1 {
            let names = roots.iter().map(|root| folder.join(root).display().to_string());
            let problem = format!(
                "parquet files to train on in {} folders ({}); give one of them, or take the others away",
                roots.len(),
                names.collect::<Vec<_>>().join(", ")
            );
            return Err(Error::ImageFolder { folder: folder.into(), problem });
        }
        let files = |wanted: Part| {
            let of_part = places().filter(|(place, _)| *place == (root, wanted));
            of_part
                .filter_map(|(_, path)| path.strip_prefix(root).ok().map(PathBuf::from))
                .collect()
        };
        let (train, tune, test) = (files(Part::Train), files(Part::Tune), files(Part::Test));
        let shards = Self { root: folder.join(root), train, tune, test };
        for files in [&shards.train, &shards.tune, &shards.test] {
            shards.check_complete(files)?;
        }
        Ok(Some(shards))
    }

    /// Reads them.
    ///
    /// # Errors
    /// As [`ImageFolder::read`]; without the feature `parquet` always.
    #[cfg(feature = "parquet")]
    pub(super) fn read(&self, name: String, preprocessing: &Preprocessing) -> Result<ImageFolder> {
        super::parquet::read(name, self, preprocessing)
    }

    /// Checks that files whose names count them (`train-00000-of-00002.parquet`) are all there.
    fn check_complete(&self, files: &[PathBuf]) -> Result<()> {
        let (Some(file), names) = (files.first(), files.iter().collect::<BTreeSet<_>>()) else {
            return Ok(());
        };
        let name = file.to_str().unwrap_or_default();
        let counted = name.split_once("-of-").and_then(|(start, rest)| {
            let count: usize = rest.split(['.', '-']).next()?.parse().ok()?;
            let (stem, number) = start.rsplit_once('-')?;
            Some((stem, number.len(), count, rest))
        });
        let Some((stem, digits, count, rest)) = counted else { return Ok(()) };
        // Names that say more behind the count differ from file to file.
        if rest.matches(['.', '-']).count() > 1 {
            return Ok(());
        }
        let all = (0..count).map(|i| PathBuf::from(format!("{stem}-{i:0digits$}-of-{rest}")));
        match all.into_iter().find(|name| !names.contains(name)) {
            None => Ok(()),
            Some(missing) => Err(Error::ImageFolder {
                folder: self.root.clone(),
                problem: format!(
                    "{} is missing, one of {count} files; fetch it",
                    missing.display()
                ),
            }),
        }
    }

    #[cfg(not(feature = "parquet"))]
    pub(super) fn read(&self, _: String, _: &Preprocessing) -> Result<ImageFolder> {
        let first = self.train.first().map_or(Path::new(""), PathBuf::as_path).display();
        let files: usize = [&self.train, &self.tune, &self.test].map(Vec::len).iter().sum();
        let problem = format!(
            "parquet files ({first}, {files} in all) are read with the feature `parquet`, or `hub`, which brings it; \
             build with it"
        );
        Err(Error::ImageFolder { folder: self.root.clone(), problem })
    }
}
