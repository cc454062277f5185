//! [`ImageFiles`]: labelled images that stay encoded until a batch needs them.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;

use super::decode::{check_header, decode, read_header};
use super::preprocessing::Preprocessing;
use crate::{Error, Result};

/// A labelled set of image files of any size, which a [`Loader`](crate::Loader) decodes when it makes a batch.
///
/// The files stay on disk; those that came in the rows of parquet files are all in memory, encoded as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFiles {
    name: String,
    /// The folder that the paths of the files begin in.
    root: PathBuf,
    classes: Arc<[String]>,
    /// Paths in `root`; of rows of parquet files with the number of the row.
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    /// The content of each file, where it came in a row of a parquet file.
    contents: Option<Vec<Arc<[u8]>>>,
    preprocessing: Preprocessing,
}

/// A file that is no image, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) file: PathBuf,
    pub(crate) problem: String,
}

impl ImageFiles {
    /// `files` are paths in `root` with the number of their class.
    pub(super) fn new(
        name: String,
        root: &Path,
        classes: Arc<[String]>,
        files: Vec<(PathBuf, u32)>,
        preprocessing: Preprocessing,
    ) -> Self {
        let (files, labels) = files.into_iter().unzip();
        Self { name, root: root.into(), classes, files, labels, contents: None, preprocessing }
    }

    /// `files` name rows of parquet files in `root`, each with the number of its class and its image.
    #[cfg(feature = "parquet")]
    pub(super) fn in_memory(
        name: String,
        root: &Path,
        classes: Arc<[String]>,
        files: Vec<PathBuf>,
        labels: Vec<u32>,
        contents: Vec<Arc<[u8]>>,
        preprocessing: Preprocessing,
    ) -> Self {
        let (root, contents) = (root.into(), Some(contents));
        Self { name, root, classes, files, labels, contents, preprocessing }
    }

    /// Name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of images, N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The names of the classes, in the order of their numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The class of each image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The files, as paths from the folder of the set; rows of parquet files as `FILE row N`, from 1.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// How the images are prepared.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// One image, decoded.
    ///
    /// # Errors
    /// When the file cannot be read or decoded: it is named.
    pub(crate) fn picture(&self, index: usize) -> Result<RgbImage> {
        let path = self.path(index)?;
        decode(&self.content(index)?).map_err(|problem| Error::picture(path, problem))
    }

    /// One image as the network takes it, without augmentation.
    ///
    /// # Errors
    /// When the file cannot be read or decoded: it is named.
    pub(crate) fn prepared(&self, index: usize) -> Result<RgbImage> {
        let problem = |problem| Error::picture(self.root.join(&self.files[index]), problem);
        self.preprocessing.apply(&self.picture(index)?).map_err(problem)
    }

    /// The images at `indices`, in that order; an index may come more than once.
    ///
    /// # Errors
    /// When an index is past the end.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        for &index in indices {
            self.path(index)?;
        }
        Ok(self.select(indices))
    }

    fn select(&self, indices: &[usize]) -> Self {
        let contents = self.contents.as_ref();
        Self {
            name: self.name.clone(),
            root: self.root.clone(),
            classes: self.classes.clone(),
            files: indices.iter().map(|&index| self.files[index].clone()).collect(),
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
            contents: contents.map(|all| indices.iter().map(|&i| all[i].clone()).collect()),
            preprocessing: self.preprocessing.clone(),
        }
    }

    fn path(&self, index: usize) -> Result<PathBuf> {
        let file = self.files.get(index).ok_or_else(|| Error::Images {
            name: self.name.clone(),
            problem: format!("index {index} is past the end of {} images", self.len()),
        })?;
        Ok(self.root.join(file))
    }

    /// The content of one of the files.
    fn content(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        match &self.contents {
            Some(contents) => Ok(Cow::Borrowed(&contents[index])),
            None => {
                let path = self.full_path(&self.files[index]);
                fs::read(&path).map(Cow::Owned).map_err(Error::io(&path))
            }
        }
    }

    /// Height and width of an image by its header, or why it has none.
    fn header(&self, index: usize) -> Result<std::result::Result<[u32; 2], String>> {
        if let Some(contents) = &self.contents {
            return Ok(check_header(&contents[index]));
        }
        let path = self.full_path(&self.files[index]);
        fs::File::open(&path).and_then(read_header).map_err(Error::io(&path))
    }

    /// The files that are no images, by their headers, or, `whole`, by decoding all of them.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn broken(&self, whole: bool) -> Result<Vec<Broken>> {
        let check = |index: usize| {
            let size = match whole {
                true => decode(&self.content(index)?).map(|image| [image.height(), image.width()]),
                false => self.header(index)?,
            };
            let found = size.and_then(|size| self.preprocessing.target(size));
            Ok(found.err().map(|problem| Broken { file: self.files[index].clone(), problem }))
        };
        let found: Result<Vec<Option<Broken>>> =
            (0..self.len()).into_par_iter().map(check).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// The full path of one of the files.
    pub(crate) fn full_path(&self, file: &Path) -> PathBuf {
        self.root.join(file)
    }

    /// The path of one of the files from a folder that holds them all.
    pub(crate) fn path_in(&self, folder: &Path, file: &Path) -> PathBuf {
        let path = self.full_path(file);
        path.strip_prefix(folder).map(Path::to_path_buf).unwrap_or(path)
    }

    /// The set without some files, which are sorted paths from `folder`.
    pub(crate) fn without(&self, folder: &Path, broken: &[PathBuf]) -> Self {
        let is_whole = |index: &usize| {
            let path = || self.path_in(folder, &self.files[*index]);
            broken.is_empty() || broken.binary_search(&path()).is_err()
        };
        self.select(&(0..self.len()).filter(is_whole).collect::<Vec<_>>())
    }

    /// BLAKE3 of names of classes, labels and the content of the files, in order.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn hash(&self) -> Result<String> {
        let content = |index| Ok(*blake3::hash(&self.content(index)?).as_bytes());
        let contents: Result<Vec<[u8; 32]>> =
            (0..self.len()).into_par_iter().map(content).collect();
        Ok(self.hash_with(contents?.into_iter()))
    }

    /// BLAKE3 of names of classes, labels, names and lengths of the files: what can be compared without reading
    /// them all. Of files in memory it is their [`hash`](Self::hash).
    ///
    /// # Errors
    /// When a file is not there.
    pub(crate) fn listing_hash(&self) -> Result<String> {
        if self.contents.is_some() {
            return self.hash();
        }
        let listed = |file: &PathBuf| {
            let path = self.root.join(file);
            let length = fs::metadata(&path).map_err(Error::io(&path))?.len();
            let mut hasher = blake3::Hasher::new();
            hasher.update(&length.to_le_bytes()).update(file.as_os_str().as_encoded_bytes());
            Ok(*hasher.finalize().as_bytes())
        };
        let listed: Result<Vec<[u8; 32]>> = self.files.par_iter().map(listed).collect();
        Ok(self.hash_with(listed?.into_iter()))
    }

    fn hash_with(&self, files: impl Iterator<Item = [u8; 32]>) -> String {
        let mut hasher = blake3::Hasher::new();
        for class in &*self.classes {
            hasher.update(&(class.len() as u64).to_le_bytes()).update(class.as_bytes());
        }
        for (label, file) in self.labels.iter().zip(files) {
            hasher.update(&label.to_le_bytes()).update(&file);
        }
        hasher.finalize().to_hex().to_string()
    }
}
