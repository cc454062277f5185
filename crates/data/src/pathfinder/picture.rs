//! From a layout to pixels.

use super::Pathfinder;
use super::dash::Dash;
use super::direction::{Point, add};
use super::lanczos;
use super::path::{Layout, Placed, Scene};

/// Brightness of each pixel before it is stretched to bytes, row by row.
pub(super) struct Picture {
    size: i32,
    pixels: Vec<f64>,
}

impl Picture {
    /// All paths, distractors and markers of an image.
    pub(super) fn of(scene: &Scene<'_>, layout: &Layout, markers: [Point; 2]) -> Self {
        let config = scene.config;
        let mut picture = Self::black(config.size);
        let paths = layout.paths.iter().map(|path| (path, config.paddle_contrast));
        let distractors = layout.distractors.iter().map(|path| (path, 1.0));
        for (path, contrast) in paths.chain(distractors) {
            for &Placed { at, dash } in &path.dashes {
                picture.dash(at, &scene.dashes[dash], contrast * config.snake_contrast);
            }
        }
        for marker in markers {
            picture.marker(marker, config);
        }
        picture
    }

    fn black(size: usize) -> Self {
        Self { size: size as i32, pixels: vec![0.0; size * size] }
    }

    /// Where dashes cross, the brighter one is seen. They are kept in 32 bits, as in the published generator: with
    /// markers as the brightest pixels, 1.5 times a byte is often half way between two bytes.
    fn dash(&mut self, at: Point, dash: &Dash, contrast: f64) {
        for &(offset, byte) in &dash.image {
            let [y, x] = add(at, offset);
            if (0..self.size).contains(&y) && (0..self.size).contains(&x) {
                let value = (f64::from(byte) / 255.0 * contrast) as f32;
                self.light((y * self.size + x) as usize, f64::from(value));
            }
        }
    }

    /// A disc of brightness 1, drawn larger and made smaller as the dashes are.
    fn marker(&mut self, centre: Point, config: &Pathfinder) {
        let (size, scale) = (config.size, config.antialias);
        let radius = config.radius * scale as f64;
        let [y, x] = centre.map(|at| f64::from(at) * scale as f64);
        let side = size * scale;
        let byte = |index: usize| {
            let [row, column] = [index / side, index % side].map(|at| at as f64);
            if (row - y).hypot(column - x) <= radius { 255 } else { 0 }
        };
        let canvas: Vec<u8> = (0..side * side).map(byte).collect();
        for (index, byte) in lanczos::resize(&canvas, side, size).into_iter().enumerate() {
            self.light(index, f64::from(byte) / 255.0);
        }
    }

    fn light(&mut self, index: usize, value: f64) {
        self.pixels[index] = self.pixels[index].max(value);
    }

    /// The pixels as bytes: the darkest becomes 0, the brightest 255, halves are rounded up.
    pub(super) fn stretch(&self) -> Vec<u8> {
        let darkest = self.pixels.iter().copied().fold(f64::INFINITY, f64::min);
        let range = self.brightest() - darkest;
        let scale = if range > 0.0 { 255.0 / range } else { 0.0 };
        self.pixels.iter().map(|value| ((value - darkest) * scale + 0.5) as u8).collect()
    }

    pub(super) fn brightest(&self) -> f64 {
        self.pixels.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Drawn};
    use super::*;
    use crate::pathfinder::dash::Brush;

    #[test]
    fn bytes_are_stretched_between_the_darkest_and_the_brightest() {
        let picture = |pixels: &[f64]| Picture { size: 2, pixels: pixels.to_vec() };
        assert_eq!(picture(&[1.0, 2.0, 3.0, 1.5]).stretch(), [0, 128, 255, 64]);
        assert_eq!(picture(&[0.7; 4]).stretch(), [0; 4]);
    }

    #[test]
    fn whole_images_have_the_bytes_of_python() {
        let images = fixture::read().images;
        assert_eq!(images.len(), 4);
        for (index, Drawn { config, dashes, markers, pixels }) in images.into_iter().enumerate() {
            let brush = Brush::new(&config);
            let mut picture = Picture::black(config.size);
            for (at, end, contrast) in dashes {
                picture.dash(at, &brush.dash(end), contrast);
            }
            markers.into_iter().for_each(|marker| picture.marker(marker, &config));
            assert_eq!(picture.stretch(), fixture::bytes(&pixels), "image {index}");
        }
    }
}
