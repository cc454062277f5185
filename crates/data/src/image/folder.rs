//! [`ImageFolder`]: trees with a folder of images for each class, or the same in parquet files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::{DirEntry, WalkDir};

use super::files::ImageFiles;
use super::preprocessing::Preprocessing;
use super::shards::Shards;
use crate::idx::set_name;
use crate::{Error, Result};

/// Folders of the images to train on, to choose settings on, and to report on.
pub(super) const TRAIN: &str = "train";
pub(super) const TUNE: [&str; 3] = ["val", "valid", "validation"];
pub(super) const TEST: &str = "test";

/// All of them.
const KNOWN: [&str; 5] = [TRAIN, TUNE[0], TUNE[1], TUNE[2], TEST];

/// Other names that parts of a data set have: no class is called so.
const PARTS: [&str; 10] =
    ["train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing", "tests"];

/// Suffixes of files that are taken for images; what they really are is read from their content.
const SUFFIXES: [&str; 12] =
    ["jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "heic", "avif", "jp2"];

/// A tree of images, by the names of its folders.
///
/// ```text
/// FOLDER/train/cat/1.jpg     or, split by seed,     FOLDER/cat/1.jpg
/// FOLDER/val/cat/2.jpg                              FOLDER/dog/2.jpg
/// ```
///
/// Classes are the names of the folders, sorted; their images may lie in folders of their own. Files and
/// folders whose names begin with a dot are passed over, and so are files whose suffix is that of no image.
///
/// Or, with the feature `parquet`, a data set of the Hugging Face hub as its own files are laid out, and as
/// its branch `refs/convert/parquet` is, perhaps in a folder of `FOLDER`:
///
/// ```text
/// FOLDER/train-00000-of-00001.parquet    or    FOLDER/train/0000.parquet
/// FOLDER/test-00000-of-00001.parquet           FOLDER/test/0000.parquet
/// ```
///
/// with the columns `image` (or `img`: the `bytes` of an image file) and `label` (or `labels`, `fine_label`:
/// a number). Classes are those that the files name, else the numbers up to the largest label. All images are
/// read into memory, encoded as they are: this is for sets that fit.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    /// The images of `train`, or all there are.
    pub train: ImageFiles,
    /// The images of `val`, where there is a `test` too.
    pub tune: Option<ImageFiles>,
    /// The images of `test`, or of `val` where there is no `test`; none in a tree that is to be split.
    pub test: Option<ImageFiles>,
    /// Files that were passed over: their suffix is that of no image, or they lie beside the folders of classes.
    pub passed_over: usize,
}

impl ImageFolder {
    /// Lists the image files of a folder, of which none is opened, or reads its parquet files.
    ///
    /// # Errors
    /// When the folder cannot be read, has no classes or a single one, a class has no images, or a class of
    /// `val` or `test` is none of `train`. When a parquet file cannot be read or has no such columns, or a row
    /// has no image or no label of a class: names file and row.
    pub fn read(folder: &Path, preprocessing: &Preprocessing) -> Result<Self> {
        preprocessing.check()?;
        if let Some(shards) = Shards::find(folder)? {
            return shards.read(name(folder), preprocessing);
        }
        let fail = |problem: String| Error::ImageFolder { folder: folder.into(), problem };
        let name = set_name(folder);
        let part =
            |names: &[&'static str]| names.iter().copied().find(|name| folder.join(name).is_dir());
        let root = match part(&[TRAIN]) {
            Some(train) => folder.join(train),
            None => folder.to_path_buf(),
        };
        let mut passed_over = 0;
        let classes = list(&root, &[], &mut passed_over)?;
        let is_part = |name: &&String| PARTS.iter().any(|part| name.eq_ignore_ascii_case(part));
        if root == folder
            && let Some(name) = classes.keys().find(is_part)
        {
            return Err(fail(format!(
                "the folder {name:?} reads like a part of the data and not like a class: call the images to train on \
                 `{TRAIN}`, and those to report on `val` or `{TEST}`"
            )));
        }
        if root != folder {
            let beside = list(folder, &KNOWN, &mut 0)?;
            if let Some((name, _)) = beside.iter().find(|(_, files)| !files.is_empty()) {
                return Err(fail(format!(
                    "the folder {name:?} with images stands beside `{TRAIN}`: call it `val` or `{TEST}` if it is to \
                     report on, or take it away; if `{TRAIN}` is a class, give it another name"
                )));
            }
        }
        if classes.is_empty() {
            return Err(fail(
                "no folder of images in it: a folder for each class is needed, with images in it (CLASS/1.jpg, or \
                 train/CLASS/1.jpg and val/CLASS/2.jpg), parquet files (train-00000-of-00001.parquet or \
                 train/0000.parquet), or the files of CIFAR or of MNIST"
                    .into(),
            ));
        }
        if let Some((class, _)) = classes.iter().find(|(_, files)| files.is_empty()) {
            return Err(fail(format!(
                "class {class:?} has no image ({} are looked for): put some there, or take its folder away",
                SUFFIXES.join(", ")
            )));
        }
        if let [class] = classes.keys().collect::<Vec<_>>()[..] {
            return Err(fail(format!(
                "one class alone, {class:?}: there is nothing to tell apart; a folder for each class is needed"
            )));
        }
        let names: Arc<[String]> = classes.keys().cloned().collect();
        let set = |root: &Path, classes: BTreeMap<String, Vec<PathBuf>>| {
            let mut files = Vec::new();
            for (class, paths) in classes {
                let label = names.binary_search(&class).map_err(|_| class)?;
                files.extend(paths.into_iter().map(|path| (path, label as u32)));
            }
            Ok(ImageFiles::new(name.clone(), root, names.clone(), files, preprocessing.clone()))
        };
        let mut other = |part: Option<&'static str>| -> Result<Option<ImageFiles>> {
            let Some(part) = part.filter(|_| root != folder) else { return Ok(None) };
            let root = folder.join(part);
            let unknown = |class: String| {
                let known = names.join(", ");
                fail(format!("class {class:?} of {part} is none of {TRAIN}, which has {known}"))
            };
            let files = set(&root, list(&root, &[], &mut passed_over)?).map_err(unknown)?;
            match files.is_empty() {
                true => Err(fail(format!("{part} has no images: put some there, or take it away"))),
                false => Ok(Some(files)),
            }
        };
        let (tune, test) = match (part(&TUNE), part(&[TEST])) {
            (tune, test @ Some(_)) => (other(tune)?, other(test)?),
            (tune, None) => (None, other(tune)?),
        };
        let train = set(&root, classes).map_err(fail)?;
        Ok(Self { train, tune, test, passed_over })
    }
}

/// The id of a data set in the cache of the hub, or the folder's own name.
fn name(folder: &Path) -> String {
    let of_hub = |path: &Path| {
        Some(path.file_name()?.to_str()?.strip_prefix("datasets--")?.replace("--", "/"))
    };
    folder.ancestors().find_map(of_hub).unwrap_or_else(|| set_name(folder))
}

/// The images of each class, as paths in `root`, sorted, without the folders `left_out`, which are not entered. Counts
/// files of other suffixes.
fn list(
    root: &Path,
    left_out: &[&str],
    passed_over: &mut usize,
) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut classes: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let walk = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    let visible = |name: &OsStr| !name.as_encoded_bytes().starts_with(b".");
    let is_left_out = |name: &OsStr| left_out.iter().any(|left_out| name == *left_out);
    let enters = |entry: &DirEntry| match entry.depth() {
        0 => true,
        1 => visible(entry.file_name()) && !is_left_out(entry.file_name()),
        _ => visible(entry.file_name()),
    };
    for entry in walk.filter_entry(enters) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(root).to_path_buf();
            Error::Io { path, reason: e.into() }
        })?;
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let class = |path: &Path| {
            let name = path.iter().next().unwrap_or_default();
            name.to_str().map(str::to_string).ok_or_else(|| Error::ImageFolder {
                folder: root.into(),
                problem: format!("the name of {name:?} is not UTF-8; rename it"),
            })
        };
        if entry.file_type().is_dir() && entry.depth() == 1 {
            classes.entry(class(path)?).or_default();
        } else if entry.file_type().is_file() {
            match is_image(path) && entry.depth() > 1 {
                true => classes.entry(class(path)?).or_default().push(path.into()),
                false => *passed_over += 1,
            }
        }
    }
    Ok(classes)
}

fn is_image(path: &Path) -> bool {
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    SUFFIXES.iter().any(|known| suffix.eq_ignore_ascii_case(known))
}
