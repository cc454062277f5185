//! [`Example`]: an image with its objects, and [`Examples`]: where they come from, such as an [`ExampleSet`].

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use image::RgbImage;

use super::{Category, Instance};
use crate::image::decode::decode;
use crate::{Error, Result};

/// An image with the objects in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The id of the image.
    pub id: u64,
    /// Rows, H.
    pub height: usize,
    /// Columns, W.
    pub width: usize,
    /// Red, green and blue of each pixel from 0 to 255, row by row: (H, W, 3).
    pub pixels: Vec<u8>,
    /// Its objects, perhaps none.
    pub instances: Vec<Instance>,
}

/// Images with objects, by index: what a [`DetectionLoader`](crate::DetectionLoader) makes batches of.
pub trait Examples: Debug + Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The categories that [`Instance::category`] counts.
    fn categories(&self) -> &[Category];

    /// Image number `index`, below [`len`](Self::len): the same whenever it is asked for.
    ///
    /// # Errors
    /// When it cannot be read.
    fn example(&self, index: usize) -> Result<Example>;

    /// The id of image number `index` and its objects, by which detections are scored.
    ///
    /// # Errors
    /// As [`example`](Self::example).
    fn objects(&self, index: usize) -> Result<(u64, Vec<Instance>)> {
        let Example { id, instances, .. } = self.example(index)?;
        Ok((id, instances))
    }
}

/// Images with objects in memory.
///
/// ```
/// use conditioned_data::{Category, Example, ExampleSet, Examples};
///
/// let grey = Example { id: 1, height: 2, width: 3, pixels: vec![128; 18], instances: vec![] };
/// let images = ExampleSet::new(vec![grey], vec![Category { id: 1, name: "cell".into() }])?;
/// assert_eq!((images.len(), images.example(0)?.id), (1, 1));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ExampleSet {
    examples: Vec<Example>,
    categories: Vec<Category>,
}

impl ExampleSet {
    /// These images, whose objects are of these categories.
    ///
    /// # Errors
    /// When an image has no pixels or another number than its size says, or one of its objects has a category past
    /// the end, a mask of another size or a box that is not finite: the image, the object, and what was expected.
    pub fn new(examples: Vec<Example>, categories: Vec<Category>) -> Result<Self> {
        examples.iter().try_for_each(|example| example.check(categories.len()))?;
        Ok(Self { examples, categories })
    }
}

impl Examples for ExampleSet {
    fn len(&self) -> usize {
        self.examples.len()
    }

    fn categories(&self) -> &[Category] {
        &self.categories
    }

    fn example(&self, index: usize) -> Result<Example> {
        let example = self.examples.get(index).cloned();
        example.ok_or_else(|| past_end("examples", index, self.examples.len()))
    }
}

/// An index that is none of `len` images.
pub(super) fn past_end(name: &str, index: usize, len: usize) -> Error {
    let problem = format!("index {index} is past the end of {len} images");
    Error::Images { name: name.into(), problem }
}

impl Example {
    /// The image in a JPEG, PNG or WebP file, upright and in RGB, without objects.
    ///
    /// # Errors
    /// When the file cannot be read or is no such image.
    pub fn read(path: &Path, id: u64) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let picture = decode(&bytes).map_err(|problem| Error::picture(path.into(), problem))?;
        let [height, width] = [picture.height(), picture.width()].map(|side| side as usize);
        Ok(Self { id, height, width, pixels: picture.into_raw(), instances: Vec::new() })
    }

    /// Checks that image and objects fit together, with `categories` kinds of objects.
    fn check(&self, categories: usize) -> Result<()> {
        let Self { id, height, width, pixels, instances } = self;
        let (height, width) = (*height, *width);
        let fail = |problem| Error::Images { name: format!("image {id}"), problem };
        let found = pixels.len();
        let area = height.checked_mul(width).and_then(|area| area.checked_mul(3));
        let sides = [height, width].iter().all(|&side| side > 0 && u32::try_from(side).is_ok());
        if !sides || area != Some(found) {
            let expected = format!("an image of {height}x{width} pixels of 3, at least one");
            return Err(fail(format!("{found} bytes, expected {expected}")));
        }
        for instance in instances {
            let Instance { id, category, bbox, mask, .. } = instance;
            if *category >= categories {
                let problem =
                    format!("object {id}: category {category} of {categories}, from 0 on");
                return Err(fail(problem));
            }
            if mask.size() != [height, width] {
                let [rows, columns] = mask.size();
                let problem =
                    format!("object {id}: a mask of {rows}x{columns}, expected {height}x{width}");
                return Err(fail(problem));
            }
            if !bbox.iter().all(|number| number.is_finite()) {
                return Err(fail(format!("object {id}: box {bbox:?}, expected finite numbers")));
            }
        }
        Ok(())
    }

    /// Its image and its objects, checked.
    pub(crate) fn parts(self, categories: usize) -> Result<(RgbImage, Vec<Instance>)> {
        self.check(categories)?;
        let Self { id, height, width, pixels, instances } = self;
        let image = RgbImage::from_raw(width as u32, height as u32, pixels);
        let problem = || format!("too few bytes for {height}x{width} pixels");
        let fail = || Error::Images { name: format!("image {id}"), problem: problem() };
        Ok((image.ok_or_else(fail)?, instances))
    }
}
