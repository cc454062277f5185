//! [`CocoSet`]: images with objects, of a JSON file of annotations and a folder of image files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::json::Document;
use super::read::{Broken, images, instances, read_json};
use super::{Category, Example, Examples, Instance};
use crate::idx::set_name;
use crate::{Error, Result};

/// Images with objects, which stay encoded in their files until they are asked for.
///
/// ```no_run
/// use std::path::Path;
/// use conditioned_data::CocoSet;
///
/// let folder = Path::new("coco");
/// let json = folder.join("annotations/instances_val2017.json");
/// let set = CocoSet::read(&json, &folder.join("val2017"), None, false)?;
/// for (i, image) in set.images().iter().enumerate().take(3) {
///     println!("{}: {} objects", image.file.display(), image.instances.len());
///     assert_eq!(set.pixels(i)?.len(), image.height * image.width * 3);
/// }
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CocoSet {
    name: String,
    json: PathBuf,
    folder: PathBuf,
    categories: Arc<[Category]>,
    /// Shared with subsets: the annotations of COCO fill gigabytes.
    images: Vec<Arc<CocoImage>>,
    broken: usize,
}

/// An image with its objects.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoImage {
    /// The id of the image.
    pub id: u64,
    /// Its file, as a path from the folder of the set.
    pub file: PathBuf,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Its objects, in the order of the file.
    pub instances: Vec<Instance>,
}

impl CocoSet {
    /// Reads annotations, and looks for the image files in `folder`, of which none is opened.
    ///
    /// Images and categories are in the order of their ids. With `split` only the images whose key `split` has this
    /// value are read, for files that hold several parts; entries of the others are not looked at. With `skip_broken`
    /// entries that are wrong are left out and counted rather than an error, and so are images that cannot be
    /// decoded: all are decoded once to find them.
    ///
    /// # Errors
    /// When a file cannot be read or is not of this format, two categories have the same id, there is no category, or
    /// no image is left. When an image is not in the folder, not of a sane size or comes twice. When an annotation
    /// comes twice, is of an unknown image or category, its box has a side below 0 or is outside the image, or its
    /// segmentation is missing or no mask of the image. Names file and id. One whose box has a side of 0 is left out with a
    /// warning: COCO's own training set has two.
    ///
    /// Source: the format of COCO (cocodataset.org/#format-data): polygons, or runs as a list or a compressed
    /// string.
    pub fn read(
        json: &Path,
        folder: &Path,
        split: Option<&str>,
        skip_broken: bool,
    ) -> Result<Self> {
        let text = read_json(json)?;
        let fail = |problem: String| Error::Coco { path: json.into(), problem };
        let document: Document<'_> = serde_json::from_str(&text).map_err(|e| {
            fail(match e.is_eof() {
                true => format!("cut short ({e}); fetch it again"),
                false => format!("no annotations of COCO ({e}); give another file, or mend it"),
            })
        })?;
        if !folder.is_dir() {
            let problem = format!(
                "no such folder; give the one that the file names of {} begin in",
                json.display()
            );
            return Err(Error::Coco { path: folder.into(), problem });
        }
        let mut categories = document.categories;
        categories.sort_by_key(|category| category.id);
        if categories.is_empty() {
            return Err(fail("no category; name one at least in `categories`".into()));
        }
        if let Some([a, b]) = categories.array_windows().find(|[a, b]| a.id == b.id) {
            let Category { id, name } = a;
            let problem = format!("{name:?} and {:?} are both category {id}", b.name);
            return Err(fail(format!("{problem}; give one another id")));
        }
        let mut broken = Broken::new(json, skip_broken);
        let (mut images, others) = images(&document.images, folder, split, &mut broken)?;
        instances(&document.annotations, &categories, &mut images, &others, &mut broken)?;
        images.sort_by_key(|image| image.id);
        let mut set = Self {
            name: set_name(folder),
            json: json.into(),
            folder: folder.into(),
            categories: categories.into(),
            images: images.into_iter().map(Arc::new).collect(),
            broken: 0,
        };
        if skip_broken {
            set.leave_out_undecodable(&mut broken)?;
        }
        if set.is_empty() {
            return Err(fail(broken.nothing_left(split)));
        }
        broken.warn();
        set.broken = broken.count();
        Ok(set)
    }

    fn leave_out_undecodable(&mut self, broken: &mut Broken<'_>) -> Result<()> {
        let decoded = (0..self.len()).into_par_iter().map(|i| self.pixels(i).err());
        let errors: Vec<Option<Error>> = decoded.collect();
        let mut images = Vec::with_capacity(self.len());
        for (image, error) in std::mem::take(&mut self.images).into_iter().zip(errors) {
            match error {
                None => images.push(image),
                Some(error) => broken.add(error.to_string())?,
            }
        }
        self.images = images;
        Ok(())
    }

    /// Name of the set: that of the folder of its images.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The categories, in the order of their ids.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// The images, in the order of their ids.
    pub fn images(&self) -> &[Arc<CocoImage>] {
        &self.images
    }

    /// The objects of each image with its id, as [`score_detections`](crate::score_detections) takes them.
    pub fn truth(&self) -> Vec<(u64, &[Instance])> {
        self.images.iter().map(|image| (image.id, &*image.instances)).collect()
    }

    /// Entries that were left out: images, and annotations of images that were not.
    pub fn broken(&self) -> usize {
        self.broken
    }

    /// The pixels of one image, (H, W, 3) in RGB.
    ///
    /// # Errors
    /// When the index is past the end, or the file cannot be read or decoded or is of another size than the
    /// annotations say: names both files.
    pub fn pixels(&self, index: usize) -> Result<Vec<u8>> {
        let image = self.images.get(index).ok_or_else(|| self.past_the_end(index))?;
        let path = self.folder.join(&image.file);
        let Example { height, width, pixels, .. } = Example::read(&path, image.id)?;
        if [height, width] != [image.height, image.width] {
            let problem = format!(
                "image {} is {} x {} pixels (height, width), and {} upright {height} x {width}; is it another image \
                 under that name?",
                image.id,
                image.height,
                image.width,
                path.display()
            );
            return Err(Error::Coco { path: self.json.clone(), problem });
        }
        Ok(pixels)
    }

    /// The images at `indices`, in that order; an index may come more than once. They are shared and not copied.
    ///
    /// # Errors
    /// When an index is past the end.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let image = |&index: &usize| {
            self.images.get(index).cloned().ok_or_else(|| self.past_the_end(index))
        };
        let images = indices.iter().map(image).collect::<Result<_>>()?;
        Ok(Self {
            name: self.name.clone(),
            json: self.json.clone(),
            folder: self.folder.clone(),
            categories: self.categories.clone(),
            images,
            broken: self.broken,
        })
    }

    fn past_the_end(&self, index: usize) -> Error {
        let problem = format!("index {index} is past the end of {} images", self.len());
        Error::Images { name: self.name.clone(), problem }
    }

    /// BLAKE3 of categories, images, objects and the content of the image files, in order.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hash(&self) -> Result<String> {
        self.hash_with(|path| {
            let bytes = fs::read(path).map_err(Error::io(path))?;
            Ok(blake3::hash(&bytes))
        })
    }

    /// BLAKE3 of categories, images, objects, and names and lengths of the image files: what can be compared without
    /// reading them all.
    ///
    /// # Errors
    /// When a file is not there.
    pub fn listing_hash(&self) -> Result<String> {
        self.hash_with(|path| {
            let length = fs::metadata(path).map_err(Error::io(path))?.len();
            let name = path.strip_prefix(&self.folder).unwrap_or(path).as_os_str();
            let mut hasher = blake3::Hasher::new();
            hasher.update(&length.to_le_bytes()).update(name.as_encoded_bytes());
            Ok(hasher.finalize())
        })
    }

    fn hash_with(&self, file: impl Fn(&Path) -> Result<blake3::Hash> + Sync) -> Result<String> {
        let hash = |image: &Arc<CocoImage>| -> Result<blake3::Hash> {
            let mut hasher = blake3::Hasher::new();
            hasher.update(file(&self.folder.join(&image.file))?.as_bytes());
            for number in [image.id, image.height as u64, image.width as u64] {
                hasher.update(&number.to_le_bytes());
            }
            for Instance { id, category, bbox, mask, area, crowd } in &image.instances {
                let counts = mask.counts();
                for number in [*id, *category as u64, u64::from(*crowd), counts.len() as u64] {
                    hasher.update(&number.to_le_bytes());
                }
                for number in bbox.iter().chain([area]) {
                    hasher.update(&number.to_le_bytes());
                }
                for count in counts {
                    hasher.update(&count.to_le_bytes());
                }
            }
            Ok(hasher.finalize())
        };
        let images: Result<Vec<blake3::Hash>> = self.images.par_iter().map(hash).collect();
        let mut hasher = blake3::Hasher::new();
        for Category { id, name } in &*self.categories {
            hasher.update(&id.to_le_bytes()).update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
        }
        for image in images? {
            hasher.update(image.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

impl Examples for CocoSet {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn categories(&self) -> &[Category] {
        &self.categories
    }

    fn example(&self, index: usize) -> Result<Example> {
        let pixels = self.pixels(index)?;
        let CocoImage { id, height, width, instances, .. } = &*self.images[index];
        Ok(Example {
            id: *id,
            height: *height,
            width: *width,
            pixels,
            instances: instances.clone(),
        })
    }

    /// No file is opened for them.
    fn objects(&self, index: usize) -> Result<(u64, Vec<Instance>)> {
        let image = self.images.get(index).ok_or_else(|| self.past_the_end(index))?;
        Ok((image.id, image.instances.clone()))
    }
}
