//! Resizing with antialiasing, as Pillow does it.

use std::cell::RefCell;
use std::error::Error;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::transform::rect::Rect;

/// How pixels between pixels are found; the kernels of Pillow, which grow with the factor when an image is made
/// smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// A triangle of radius 1.
    Bilinear,
    /// Keys' cubic of radius 2 with a = -0.5.
    Bicubic,
    /// A windowed sinc of radius 3.
    Lanczos,
}

thread_local! {
    /// Keeps its buffers.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// The part `rect` of an image, brought to `height` and `width`: what is outside of it plays no part.
///
/// # Errors
/// When the part is not in the image, or either has no pixels.
pub(crate) fn resize(
    image: &RgbImage,
    rect: Rect,
    [height, width]: [u32; 2],
    interpolation: Interpolation,
) -> Result<RgbImage, String> {
    let Rect { top, left, height: rows, width: columns } = rect;
    let [left, top, columns, rows] = [left, top, columns, rows].map(|side| side as u32);
    let filter = match interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
        Interpolation::Lanczos => FilterType::Lanczos3,
    };
    // Rows first, then columns, as Pillow has it: each pass rounds to bytes and cuts off at black and white, so
    // that their order shows at edges.
    let both = || {
        let rows_done = pass(image, [left, top, columns, rows], [rows, width], filter)?;
        pass(&rows_done, [0, 0, width, rows], [height, width], filter)
    };
    both().map_err(|e| format!("cannot be resized to {height} x {width}: {e}"))
}

/// Resizes the part [left, top, width, height] of an image in one direction.
///
/// One function for both, with the type of the pixel given: the library's code is compiled anew for every type.
fn pass(
    image: &RgbImage,
    [left, top, columns, rows]: [u32; 4],
    [height, width]: [u32; 2],
    filter: FilterType,
) -> Result<RgbImage, Box<dyn Error>> {
    let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.as_raw())?;
    let part = TypedCroppedImage::from_ref(&source, left, top, columns, rows)?;
    let mut target = RgbImage::new(width, height);
    let mut view = TypedImage::<U8x3>::from_buffer(width, height, &mut target)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    RESIZER.with_borrow_mut(|resizer| resizer.resize_typed(&part, &mut view, &options))?;
    Ok(target)
}
