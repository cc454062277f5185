//! Shear, translation and rotation, with the bytes of Pillow 13.
//!
//! Code reference: `Image.rotate` and `libImaging/Geometry.c` of python-pillow/Pillow, which compute in f64 and
//! cut off fractions, and `timm/data/auto_augment.py`.

use image::RgbImage;

/// The colour of what comes from outside: the mean of ImageNet, as timm fills.
pub(crate) const FILL: [u8; 3] = [124, 116, 104];

/// How a colour between pixels is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    Bilinear,
    Bicubic,
}

/// Row y moves to the left by `factor` (y + 1/2).
pub(crate) fn shear_x(image: &mut RgbImage, factor: f64, filter: Filter) {
    transform(image, [1.0, factor, 0.0, 0.0, 1.0, 0.0], filter);
}

/// Column x moves up by `factor` (x + 1/2).
pub(crate) fn shear_y(image: &mut RgbImage, factor: f64, filter: Filter) {
    transform(image, [1.0, 0.0, 0.0, factor, 1.0, 0.0], filter);
}

/// Moves to the left by a share of the width.
pub(crate) fn translate_x(image: &mut RgbImage, share: f64, filter: Filter) {
    let pixels = share * f64::from(image.width());
    transform(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0], filter);
}

/// Moves up by a share of the height.
pub(crate) fn translate_y(image: &mut RgbImage, share: f64, filter: Filter) {
    let pixels = share * f64::from(image.height());
    transform(image, [1.0, 0.0, 0.0, 0.0, 1.0, pixels], filter);
}

/// Turns counter-clockwise around the centre.
pub(crate) fn rotate(image: &mut RgbImage, degrees: f64, filter: Filter) {
    // Pillow rounds to 15 digits after the point.
    let round = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let (cos, sin) = (round(angle.cos()), round(angle.sin()));
    let (x, y) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
    let (right, down) = (cos * -x + sin * -y + x, -sin * -x + cos * -y + y);
    transform(image, [cos, sin, right, -sin, cos, down], filter);
}

/// Gives each pixel, at its centre (x, y), the colour at (a x + b y + c, d x + e y + f) in the old image.
fn transform(image: &mut RgbImage, [a, b, c, d, e, f]: [f64; 6], filter: Filter) {
    let source = image.clone();
    let (width, height) = (f64::from(source.width()), f64::from(source.height()));
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        let (x, y) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
        let (x, y) = (a * x + b * y + c, d * x + e * y + f);
        let inside = x >= 0.0 && x < width && y >= 0.0 && y < height;
        pixel.0 = match filter {
            _ if !inside => FILL,
            Filter::Bilinear => interpolate(&source, x - 0.5, y - 0.5, linear),
            Filter::Bicubic => interpolate(&source, x - 0.5, y - 0.5, cubic),
        };
    }
}

/// The colour at (x, y), by `curve` along N rows of N pixels around it and then across them.
///
/// The edge is repeated outwards.
fn interpolate<const N: usize>(
    source: &RgbImage,
    x: f64,
    y: f64,
    curve: impl Fn([f64; N], f64) -> f64,
) -> [u8; 3] {
    let (width, height) = (source.width() as i32, source.height() as i32);
    let (left, top) = (floor(x), floor(y));
    let near = |first: i32, length: i32| -> [usize; N] {
        let first = first + 1 - N as i32 / 2;
        std::array::from_fn(|i| (first + i as i32).clamp(0, length - 1) as usize)
    };
    let curve = |points: [[f64; 3]; N], t| {
        std::array::from_fn(|channel| curve(points.map(|point| point[channel]), t))
    };
    let (pixels, columns) = (source.as_chunks::<3>().0, near(left, width));
    let along = near(top, height).map(|row| {
        let row = &pixels[row * width as usize..][..width as usize];
        curve(columns.map(|column| row[column].map(f64::from)), x - f64::from(left))
    });
    curve(along, y - f64::from(top)).map(|value| value as u8)
}

/// The largest integer not above `x`, without the call that `f64::floor` is.
fn floor(x: f64) -> i32 {
    let cut = x as i32;
    cut - i32::from(f64::from(cut) > x)
}

fn linear([a, b]: [f64; 2], t: f64) -> f64 {
    a + (b - a) * t
}

/// Cubic convolution with the slope -1 at distance 1.
///
/// R. Keys, *Cubic Convolution Interpolation for Digital Image Processing*, IEEE Trans. ASSP 29(6), 1981.
fn cubic([a, b, c, d]: [f64; 4], t: f64) -> f64 {
    let slope = -a + c;
    let square = 2.0 * (a - b) + c - d;
    let cube = -a + b - c + d;
    b + t * (slope + t * (square + t * cube))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::fixture::cases;

    #[test]
    fn bytes_are_those_of_pillow() {
        let mut checked = 0;
        for case in cases("affine") {
            let mut image = case.input.clone();
            let filter = match case.filter() {
                "bilinear" => Filter::Bilinear,
                "bicubic" => Filter::Bicubic,
                other => panic!("{other}"),
            };
            match case.transform() {
                "shear_x" => shear_x(&mut image, case.argument(), filter),
                "shear_y" => shear_y(&mut image, case.argument(), filter),
                "translate_x" => translate_x(&mut image, case.argument(), filter),
                "translate_y" => translate_y(&mut image, case.argument(), filter),
                "rotate" => rotate(&mut image, case.argument(), filter),
                other => panic!("{other}"),
            }
            assert_eq!(image, case.output, "{}", case.name);
            checked += 1;
        }
        assert_eq!(checked, 20);
    }
}
