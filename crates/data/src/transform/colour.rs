//! Changes of colour and sharpness, with the bytes of Pillow 13.
//!
//! Code reference: `ImageEnhance.py`, `ImageOps.py`, `libImaging/{Blend,Convert,Filter}.c` of
//! python-pillow/Pillow, and `solarize_add` of `timm/data/auto_augment.py`. Pillow computes in f32 what is f32
//! here, in the same order, and cuts off fractions.

use image::RgbImage;

/// `f p`: black at factor 0.
pub(crate) fn brightness(image: &mut RgbImage, factor: f32) {
    map(image, |p| blend(0, p, factor));
}

/// `m + f (p - m)`, m the mean grey of the image: that grey at factor 0.
pub(crate) fn contrast(image: &mut RgbImage, factor: f32) {
    let pixels = image.as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    map(image, |p| blend(mean, p, factor));
}

/// `g + f (p - g)`, g the pixel's grey: no colour at factor 0.
pub(crate) fn saturation(image: &mut RgbImage, factor: f32) {
    for pixel in image.as_chunks_mut::<3>().0 {
        let grey = grey(*pixel);
        *pixel = pixel.map(|p| blend(grey, p, factor));
    }
}

/// `s + f (p - s)`, s the smoothed image: that one at factor 0.
///
/// Smoothing is the 3 x 3 mean with a weight of 5 in its middle. The border stays as it is.
pub(crate) fn sharpness(image: &mut RgbImage, factor: f32) {
    const EDGE: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width < 3 || height < 3 {
        return;
    }
    let stride = 3 * width;
    let inner = stride - 6;
    let source = image.to_vec();
    for (y, out) in image.chunks_exact_mut(stride).enumerate().take(height - 1).skip(1) {
        // A row as seen from the left neighbour, the pixel itself, and the right neighbour.
        let views = |y: usize| [0, 3, 6].map(|shift| &source[y * stride + shift..][..inner]);
        let [above, here, below] = [views(y - 1), views(y), views(y + 1)];
        for (i, out) in out[3..3 + inner].iter_mut().enumerate() {
            let line = |[left, own, right]: [&[u8]; 3], middle: f32| {
                f32::from(left[i]) * EDGE + f32::from(own[i]) * middle + f32::from(right[i]) * EDGE
            };
            let smooth = 0.5 + line(below, EDGE) + line(here, MIDDLE) + line(above, EDGE);
            *out = blend(smooth as u8, *out, factor);
        }
    }
}

/// Stretches each channel to 0..=255.
pub(crate) fn autocontrast(image: &mut RgbImage) {
    remap(image, |histogram| {
        let low = histogram.iter().position(|&n| n > 0)?;
        let high = histogram.iter().rposition(|&n| n > 0)?;
        let scale = (high > low).then(|| 255.0 / (high - low) as f64)?;
        let offset = -(low as f64) * scale;
        Some(std::array::from_fn(|p| (p as f64 * scale + offset) as u8))
    });
}

/// Gives each channel about as many pixels of each value.
pub(crate) fn equalize(image: &mut RgbImage) {
    remap(image, |histogram| {
        let brightest = histogram.iter().rfind(|&&n| n > 0)?;
        let step = (histogram.iter().sum::<u32>() - brightest) / 255;
        let mut sum = step / 2;
        (step > 0).then(|| {
            histogram.map(|n| {
                let value = (sum / step).min(255) as u8;
                sum += n;
                value
            })
        })
    });
}

/// `255 - p`.
pub(crate) fn invert(image: &mut RgbImage) {
    map(image, |p| 255 - p);
}

/// Keeps the `bits` most significant bits, 0 to 8.
///
/// 0 bits are black, as in Pillow 12; Pillow 13 refuses them, and timm 1.0.31 stops there at its level 10.
pub(crate) fn posterize(image: &mut RgbImage, bits: u8) {
    let mask = !(0xff_u16 >> bits) as u8;
    map(image, |p| p & mask);
}

/// Inverts what is not below `threshold`, 0 to 256.
pub(crate) fn solarize(image: &mut RgbImage, threshold: u16) {
    map(image, |p| if u16::from(p) < threshold { p } else { 255 - p });
}

/// Adds to what is below 128, to at most 255.
pub(crate) fn solarize_add(image: &mut RgbImage, add: u8) {
    map(image, |p| if p < 128 { p.saturating_add(add) } else { p });
}

/// `a + f (b - a)`, cut off to a byte.
fn blend(a: u8, b: u8, factor: f32) -> u8 {
    let (a, b) = (f32::from(a), f32::from(b));
    (a + factor * (b - a)) as u8
}

/// Luma of ITU-R BT.601 in 16-bit fixed point.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16) as u8
}

fn map(image: &mut RgbImage, f: impl Fn(u8) -> u8) {
    for byte in image.iter_mut() {
        *byte = f(*byte);
    }
}

/// Sends each channel through a table made of its histogram; `None` leaves the channel as it is.
fn remap(image: &mut RgbImage, table: impl Fn([u32; 256]) -> Option<[u8; 256]>) {
    let pixels = image.as_chunks_mut::<3>().0;
    let mut histograms = [[0; 256]; 3];
    for pixel in pixels.iter() {
        for (histogram, &p) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(p)] += 1;
        }
    }
    let unchanged = || std::array::from_fn(|p| p as u8);
    let tables = histograms.map(|histogram| table(histogram).unwrap_or_else(unchanged));
    for pixel in pixels {
        for (table, p) in tables.iter().zip(pixel) {
            *p = table[usize::from(*p)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::fixture::cases;

    #[test]
    fn bytes_are_those_of_pillow() {
        let mut checked = 0;
        for case in cases("colour") {
            let mut image = case.input.clone();
            let value = || case.argument();
            match case.transform() {
                "brightness" => brightness(&mut image, value() as f32),
                "contrast" => contrast(&mut image, value() as f32),
                "saturation" => saturation(&mut image, value() as f32),
                "sharpness" => sharpness(&mut image, value() as f32),
                "autocontrast" => autocontrast(&mut image),
                "equalize" => equalize(&mut image),
                "invert" => invert(&mut image),
                "posterize" => posterize(&mut image, value() as u8),
                "solarize" => solarize(&mut image, value() as u16),
                "solarize_add" => solarize_add(&mut image, value() as u8),
                other => panic!("{other}"),
            }
            assert_eq!(image, case.output, "{}", case.name);
            checked += 1;
        }
        assert_eq!(checked, 24);
    }

    #[test]
    fn no_bits_are_black() {
        let mut image = RgbImage::from_pixel(2, 1, image::Rgb([255, 128, 1]));
        posterize(&mut image, 0);
        assert!(image.iter().all(|&p| p == 0));
    }
}
