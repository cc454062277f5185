//! Resizing with antialiasing, as Pillow does it.

use std::cell::RefCell;

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
    let fail = |e: &dyn std::fmt::Display| format!("cannot be resized to {height} x {width}: {e}");
    // With the type of the pixel given: otherwise the code for every type would be compiled into this crate.
    let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.as_raw())
        .map_err(|e| fail(&e))?;
    let Rect { top, left, height: rows, width: columns } = rect;
    let [left, top, columns, rows] = [left, top, columns, rows].map(|side| side as u32);
    let part =
        TypedCroppedImage::from_ref(&source, left, top, columns, rows).map_err(|e| fail(&e))?;
    let filter = match interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
        Interpolation::Lanczos => FilterType::Lanczos3,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    // Rows first, then columns, as Pillow has it: each pass rounds to bytes and cuts off at black and white, so
    // that their order shows at edges.
    let mut rows_done = TypedImage::<U8x3>::new(width, rows);
    let mut target = RgbImage::new(width, height);
    let mut view =
        TypedImage::<U8x3>::from_buffer(width, height, &mut target).map_err(|e| fail(&e))?;
    RESIZER
        .with_borrow_mut(|resizer| {
            resizer.resize_typed(&part, &mut rows_done, &options)?;
            resizer.resize_typed(&rows_done, &mut view, &options)
        })
        .map_err(|e| fail(&e))?;
    Ok(target)
}
