//! [`Images`]: a labelled set of images in memory.

use crate::{Error, Result};

/// A labelled set of images of one size, with pixels as bytes in the layout (N, C, H, W).
///
/// N counts images, C channels, H rows and W columns; W runs fastest. A byte `p` stands for the
/// brightness `p / white`, from 0 to 1.
///
/// ```
/// use conditioned_data::Images;
///
/// // One grey image of 2 rows and 3 columns, of class 1 of 2.
/// let images = Images::new("demo", [1, 2, 3], 2, 255, vec![0, 51, 102, 153, 204, 255], vec![1])?;
/// assert_eq!((images.len(), images.shape()), (1, [1, 2, 3]));
/// assert_eq!(images.image(0), Some(&[0, 51, 102, 153, 204, 255][..]));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    name: String,
    shape: [usize; 3],
    classes: usize,
    white: u8,
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Images {
    /// Makes a set from pixels in (N, C, H, W) and N labels below `classes`; `shape` is [C, H, W].
    ///
    /// # Errors
    /// When an image has no pixels, `white` is 0, a pixel exceeds `white`, a label is not below
    /// `classes`, or the number of pixels is not N * C * H * W.
    pub fn new(
        name: impl Into<String>,
        shape: [usize; 3],
        classes: usize,
        white: u8,
        pixels: Vec<u8>,
        labels: Vec<u32>,
    ) -> Result<Self> {
        let images = Self { name: name.into(), shape, classes, white, pixels, labels };
        match images.problem() {
            Some(problem) => Err(Error::Images { name: images.name, problem }),
            None => Ok(images),
        }
    }

    fn problem(&self) -> Option<String> {
        let [c, h, w] = self.shape;
        let n = self.labels.len();
        let expected =
            c.checked_mul(h).and_then(|x| x.checked_mul(w)).and_then(|x| x.checked_mul(n));
        if c == 0 || h == 0 || w == 0 {
            return Some(format!("images of {c}x{h}x{w} have no pixels"));
        }
        if expected != Some(self.pixels.len()) {
            let found = self.pixels.len();
            return Some(format!("{found} pixels, expected {n} images of {c}x{h}x{w}"));
        }
        if self.white == 0 {
            return Some("white is 0, expected the largest pixel value".into());
        }
        if let Some(i) = self.pixels.iter().position(|&p| p > self.white) {
            let (image, pixel) = (i / self.size(), self.pixels[i]);
            return Some(format!("pixel {pixel} in image {image} is above white = {}", self.white));
        }
        let bad = self.labels.iter().position(|&label| label as usize >= self.classes)?;
        let (label, classes) = (self.labels[bad], self.classes);
        Some(format!("label {label} of image {bad} is out of range for {classes} classes"))
    }

    /// Name of the data set, the same for every subset of it.
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

    /// Channels, height and width, [C, H, W].
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of classes; labels run from 0 to `classes - 1`.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The byte that stands for brightness 1: 16 for the digits, 255 for most files.
    pub fn white(&self) -> u8 {
        self.white
    }

    /// All pixels, in (N, C, H, W).
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The label of each image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Pixels of one image, in (C, H, W), or `None` past the end.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        self.pixels.chunks_exact(self.size()).nth(index)
    }

    /// The images at `indices`, in that order; an index may come more than once.
    ///
    /// # Errors
    /// When an index is past the end.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let mut pixels = Vec::with_capacity(indices.len() * self.size());
        let mut labels = Vec::with_capacity(indices.len());
        for &index in indices {
            let image = self.image(index).ok_or_else(|| Error::Images {
                name: self.name.clone(),
                problem: format!("index {index} is past the end of {} images", self.len()),
            })?;
            pixels.extend_from_slice(image);
            labels.push(self.labels[index]);
        }
        Ok(Self { name: self.name.clone(), pixels, labels, ..*self })
    }

    /// The first `n` images.
    ///
    /// # Errors
    /// When there are fewer than `n`.
    pub fn take(&self, n: usize) -> Result<Self> {
        self.subset(&(0..n).collect::<Vec<_>>())
    }

    /// BLAKE3 hash of sizes, labels and pixels as 64 hexadecimal digits; the name plays no part.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let [c, h, w] = self.shape;
        for size in [self.len(), c, h, w, self.classes, usize::from(self.white)] {
            hasher.update(&(size as u64).to_le_bytes());
        }
        for label in &self.labels {
            hasher.update(&label.to_le_bytes());
        }
        hasher.update(&self.pixels);
        hasher.finalize().to_hex().to_string()
    }

    /// Pixels of one image, C * H * W.
    pub(crate) fn size(&self) -> usize {
        self.shape.iter().product()
    }
}
