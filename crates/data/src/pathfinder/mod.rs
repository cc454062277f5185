//! [`Pathfinder`]: images of dashed paths, and the question whether two markers lie on the same one.
//!
//! The task of D. Linsley et al., *Learning long-range spatial dependencies with horizontal gated recurrent
//! units*, NeurIPS 2018, in the size of Y. Tay et al., *Long Range Arena*, ICLR 2021, drawn as
//! drewlinsley/pathfinder did at commit ab9c130 (2019), when pictures were still stretched to 0..255.
//!
//! Two paths of dashes start near each other and grow in turn. The next dash of a path lies on a circle ahead
//! of it, rather straight on, where its surroundings are free; a path that cannot go on ends the attempt, and
//! everything begins anew. Shorter and brighter paths, the distractors, fill what room is left. One marker lies
//! where one of the two paths starts, the other where the same or the other one ends.
//!
//! Oddities of the published generator are kept, because they decide how the images look: what a first dash covers
//! is looked for one row and one column too far, so that only dashes to the upper left can start the first path or a
//! distractor, and most distractors are left out; and distractors may cross the last dash of the first path.

mod dash;
mod direction;
#[cfg(test)]
mod fixture;
mod lanczos;
mod mask;
mod path;
mod picture;
#[cfg(test)]
mod sheet;

use std::ops::Range;

use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::listops::Seen;
use crate::stream::{Purpose, stream};
use crate::{Error, Images, Result};
use path::{Path, Scene};
use picture::Picture;

/// Attempts at an image, after which its configuration counts as impossible. The hardest published one succeeds
/// in 1 of 330.
const ATTEMPTS: usize = 200_000;
/// Further draws in place of an image that is there already.
const REDRAWS: usize = 1000;
/// The longest side of a window, and of the same window before it is made smaller.
const LONGEST: usize = 1024;

/// What the images look like. Lengths are in pixels, brightness is that of the markers.
///
/// With L = `paddle_length`, m = `margin`: a path turns m beyond the tip of its last dash. The tip of the next one lies
/// `L + m` from there, on a pixel that is drawn with weight
///
/// ```text
/// max(cos min(c delta, pi/2), 0)² (1 - D)
/// ```
///
/// - `delta`: the angle by which the path would turn, c = `continuity`;
/// - `D`: how far the most covered pixel within m of the tip is covered, 0 to 1.
///
/// ```
/// use conditioned_data::Pathfinder;
///
/// let images = Pathfinder::small().images(0, 0..8)?;
/// assert_eq!((images.len(), images.classes(), images.white()), (8, 2, 255));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
///
/// Source: the parameters of Long Range Arena's data set builder, over the defaults of drewlinsley/pathfinder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pathfinder {
    /// Side of the window.
    pub size: usize,
    /// Pixels at the border that no dash may cover.
    pub padding: usize,
    /// Dashes of each of the two paths.
    pub contour_length: usize,
    /// Dashes of a distractor.
    pub distractor_length: usize,
    /// Distractors; those that find no room are left out.
    pub distractors: usize,
    /// Distance between the starts of the two paths. The first start is more than twice as far from the border.
    pub seed_distance: usize,
    /// Length of a dash, L.
    pub paddle_length: usize,
    /// Room around a dash, m.
    pub margin: usize,
    /// How many times larger dashes and markers are drawn before they are made smaller.
    pub antialias: usize,
    /// Width of a dash; at most 1 pixel where it is drawn, `antialias` times as wide.
    pub thickness: f64,
    /// Radius of a marker.
    pub radius: f64,
    /// How straight paths are, c: angles are multiplied by it before they are weighed.
    pub continuity: f64,
    /// Brightness of the two paths, as a share of `snake_contrast`.
    pub paddle_contrast: f64,
    /// Brightness of the distractors; a dash is thinner than a pixel and shows about half of it.
    pub snake_contrast: f64,
}

/// An image, its label and what was drawn. Points are (row, column).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathfinderImage {
    /// Brightness from 0 to 255, row by row, size² of them.
    pub pixels: Vec<u8>,
    /// 1 when both markers are on one path, otherwise 0.
    pub label: u32,
    /// The centres of the markers: where one path starts, and where the same or the other one ends.
    pub markers: [[usize; 2]; 2],
    /// Each of the two paths as `contour_length` points: where it starts, then the tip of every further dash.
    pub paths: [Vec<[usize; 2]>; 2],
    /// The same of each distractor.
    pub distractors: Vec<Vec<[usize; 2]>>,
    /// Attempts that it took until both paths had room, this one included.
    pub attempts: usize,
}

impl Pathfinder {
    /// Pathfinder32 with paths of 6 dashes and 10 distractors of 2.
    pub fn easy() -> Self {
        Self::of_32(6)
    }

    /// Pathfinder32 with paths of 9 dashes and 6 distractors of 3.
    pub fn intermediate() -> Self {
        Self::of_32(9)
    }

    /// Pathfinder32 with paths of 14 dashes and 5 distractors of 4: the one of Long Range Arena's table.
    pub fn hard() -> Self {
        Self::of_32(14)
    }

    /// 14 x 14 pixels with paths of 3 dashes and no distractor: our own, for a network that trains in half a minute.
    ///
    /// Of 30,000 such images three in ten are there twice; [`SequenceSource`](crate::SequenceSource) draws those again.
    pub fn small() -> Self {
        let (size, contour_length, seed_distance) = (14, 3, 3);
        Self { size, contour_length, seed_distance, distractors: 0, radius: 1.0, ..Self::easy() }
    }

    fn of_32(contour_length: usize) -> Self {
        let distractor_length = contour_length / 3;
        Self {
            size: 32,
            padding: 1,
            contour_length,
            distractor_length,
            distractors: 20 / distractor_length,
            seed_distance: 7,
            paddle_length: 2,
            margin: 1,
            antialias: 2,
            thickness: 0.5,
            radius: 1.5,
            continuity: 1.0,
            paddle_contrast: 0.75,
            snake_contrast: 2.0,
        }
    }

    /// Checks that images can be drawn, though perhaps none will ever succeed.
    ///
    /// # Errors
    /// When a field is out of its range: the field, and what to set.
    pub fn validate(&self) -> Result<()> {
        let whole = |field, value: usize, range: Range<usize>, remedy: &str| {
            let expected = format!("expected {} to {}{remedy}", range.start, range.end - 1);
            if range.contains(&value) { Ok(()) } else { Err(Error::config(field, value, expected)) }
        };
        whole("antialias", self.antialias, 1..17, "")?;
        whole("size", self.size, 8..LONGEST / self.antialias + 1, " with this antialias")?;
        whole("padding", self.padding, 1..self.size / 2, " in a window of this size")?;
        whole("contour_length", self.contour_length, 2..self.size * self.size, "")?;
        whole("distractor_length", self.distractor_length, 1..self.size * self.size, "")?;
        let most = " in a window of this size: the first path starts more than twice as far from its border";
        whole("seed_distance", self.seed_distance, 1..self.size.div_ceil(4), most)?;
        whole("paddle_length", self.paddle_length, 1..self.size / 2, " in a window of this size")?;
        whole("margin", self.margin, 0..self.size / 4, " in a window of this size")?;
        let number = |field, value: f64, most: f64| {
            let expected = format!("expected a number above 0, at most {most}");
            let valid = value > 0.0 && value <= most;
            if valid { Ok(()) } else { Err(Error::config(field, value, expected)) }
        };
        // Wider lines than 1 pixel are polygons in Pillow.
        number("thickness", self.thickness, 1.0 / self.antialias as f64)?;
        number("radius", self.radius, self.size as f64)?;
        number("continuity", self.continuity, 1e3)?;
        number("paddle_contrast", self.paddle_contrast, 1e3)?;
        number("snake_contrast", self.snake_contrast, 1e3)
    }

    /// Image number `index` of `seed`: a function of the configuration and these two alone.
    ///
    /// All dashes are drawn first, which takes longer than the rest: [`Self::images`] does so once for many.
    ///
    /// # Errors
    /// When the configuration is not valid, or its paths find no room in 200,000 attempts.
    pub fn image(&self, seed: u64, index: usize) -> Result<PathfinderImage> {
        self.validate()?;
        self.draw(&self.scene()?, seed, index, 0)
    }

    /// Images `range` of `seed` in that order, the same for any number of threads: 1 channel, 2 classes, white = 255.
    ///
    /// The set is named "Pathfinder32" when the configuration is a published one.
    ///
    /// # Errors
    /// When the configuration is not valid, its paths find no room in 200,000 attempts, or the images would not fit
    /// in memory.
    pub fn images(&self, seed: u64, range: Range<usize>) -> Result<Images> {
        self.validate()?;
        let area = self.size * self.size;
        let bytes = range.len().checked_mul(area).filter(|&bytes| isize::try_from(bytes).is_ok());
        let too_many = || Error::config("range", format!("{range:?}"), "expected fewer images");
        let mut pixels = vec![0; bytes.ok_or_else(too_many)?];
        let mut labels = vec![0; range.len()];
        let scene = self.scene()?;
        let targets = pixels.par_chunks_exact_mut(area).zip(&mut labels);
        targets.zip(range).try_for_each(|((pixels, label), index)| {
            let image = self.draw(&scene, seed, index, 0)?;
            pixels.copy_from_slice(&image.pixels);
            *label = image.label;
            Ok::<_, Error>(())
        })?;
        Images::new(self.name(), [1, self.size, self.size], 2, 255, pixels, labels)
    }

    /// As [`Pathfinder::images`], none of those that were seen, which they then are too.
    pub(crate) fn unseen(&self, seed: u64, range: Range<usize>, seen: &mut Seen) -> Result<Images> {
        let images = self.images(seed, range.clone())?;
        let scene = self.scene()?;
        let (mut pixels, mut labels) = (images.pixels().to_vec(), images.labels().to_vec());
        // In the order of the indices, so that which of two equal ones stays does not depend on threads.
        let area = self.size * self.size;
        for ((index, pixels), label) in range.zip(pixels.chunks_exact_mut(area)).zip(&mut labels) {
            let mut again = 0;
            while !seen.insert(&pixels.iter().copied().map(u16::from).collect::<Vec<_>>()) {
                again += 1;
                if again > REDRAWS {
                    let expected = format!(
                        "{REDRAWS} draws in the place of image {index} were all there already; ask for fewer \
                         images, or set a larger window"
                    );
                    return Err(Error::config("size", self.size, expected));
                }
                let image = self.draw(&scene, seed, index, again)?;
                pixels.copy_from_slice(&image.pixels);
                *label = image.label;
            }
        }
        Images::new(self.name(), [1, self.size, self.size], 2, 255, pixels, labels)
    }

    fn scene(&self) -> Result<Scene<'_>> {
        let scene = Scene::new(self);
        if scene.has_starts() {
            return Ok(scene);
        }
        let expected = format!(
            "no dash of this length can be the first of a path in a window of {0} x {0} pixels with a margin of {1}; \
             set 2 and a margin of 1, as Long Range Arena has them, or a smaller seed_distance",
            self.size, self.margin
        );
        Err(Error::config("paddle_length", self.paddle_length, expected))
    }

    /// Image number `index`, or, `again` above 0, another in its place.
    fn draw(
        &self,
        scene: &Scene<'_>,
        seed: u64,
        index: usize,
        again: usize,
    ) -> Result<PathfinderImage> {
        let mut rng = stream(seed, again, index, Purpose::Pathfinder);
        let (layout, attempts) = scene.layout(ATTEMPTS, &mut rng).ok_or_else(|| {
            let size = self.size;
            let expected = format!(
                "two such paths found no room in {ATTEMPTS} attempts in a window of {size} x {size} pixels; \
                 set fewer dashes, a larger window or shorter dashes"
            );
            Error::config("contour_length", self.contour_length, expected)
        })?;
        let label = rng.random_range(0..2_u32);
        let start = rng.random_range(0..2);
        let end = if label == 1 { start } else { 1 - start };
        let markers = [layout.paths[start].start(), layout.paths[end].end()];
        let pixels = Picture::of(scene, &layout, markers).stretch();
        let points = |path: &Path| path.dashes.iter().map(|dash| whole(dash.at)).collect();
        Ok(PathfinderImage {
            pixels,
            label,
            markers: markers.map(whole),
            paths: layout.paths.each_ref().map(points),
            distractors: layout.distractors.iter().map(points).collect(),
            attempts,
        })
    }

    fn name(&self) -> String {
        if [Self::easy(), Self::intermediate(), Self::hard()].contains(self) {
            return "Pathfinder32".to_string();
        }
        format!("generated Pathfinder {0}x{0}", self.size)
    }
}

/// A point inside the window.
fn whole(point: direction::Point) -> [usize; 2] {
    point.map(|at| at as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The brightest pixel before stretching, in Python to three decimals: a marker, or one of few kinds of dashes of
    /// brightness 2.
    const BRIGHTEST: [f64; 5] = [1.0, 1.043, 1.059, 1.067, 1.153];

    #[test]
    fn the_brightest_pixels_are_those_of_the_published_generator() {
        let mut found = [0; BRIGHTEST.len()];
        for config in [Pathfinder::easy(), Pathfinder::hard()] {
            let scene = Scene::new(&config);
            for index in 0..150 {
                let mut rng = stream(0, 0, index, Purpose::Pathfinder);
                let (layout, _) = scene.layout(ATTEMPTS, &mut rng).unwrap();
                let markers = layout.paths.each_ref().map(Path::start);
                let brightest = Picture::of(&scene, &layout, markers).brightest();
                let known = BRIGHTEST.iter().position(|known| (known - brightest).abs() < 5e-4);
                found[known.unwrap_or_else(|| panic!("{brightest}"))] += 1;
            }
        }
        assert!(found[4] > 0 && found.iter().filter(|&&n| n > 0).count() >= 3, "{found:?}");
    }
}
