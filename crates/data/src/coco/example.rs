//! [`Example`]: an image with its objects, and [`Examples`]: where they come from.

use std::fmt::Debug;

use image::RgbImage;

use super::{Category, Instance};
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
}

impl Example {
    /// Its image and its objects, checked: they fit together, and there are `categories` of them.
    pub(crate) fn parts(self, categories: usize) -> Result<(RgbImage, Vec<Instance>)> {
        let Self { id, height, width, pixels, instances } = self;
        let fail = |problem| Error::Images { name: format!("image {id}"), problem };
        for instance in &instances {
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
        let found = pixels.len();
        let size = height.checked_mul(width).and_then(|area| area.checked_mul(3));
        let image = match (u32::try_from(height), u32::try_from(width)) {
            (Ok(rows @ 1..), Ok(columns @ 1..)) if size == Some(found) => {
                RgbImage::from_raw(columns, rows, pixels)
            }
            _ => None,
        };
        let problem = || {
            format!(
                "{found} bytes, expected an image of {height}x{width} pixels of 3, at least one"
            )
        };
        Ok((image.ok_or_else(|| fail(problem()))?, instances))
    }
}
