//! [`Shapes`]: generated images of coloured shapes, with their masks.

use std::ops::Range;

use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::example::past_end;
use super::figure::{Figure, NAMES, WHOLE};
use super::{Category, Example, Examples, Instance, Rle};
use crate::stream::{Purpose, stream};
use crate::{Error, Result};

/// One image of so many has no object.
const EMPTY: u32 = 32;
/// Draws of an object, after which the image is full and goes without it.
const TRIES: usize = 50;
/// Pixels of every object that can be seen at least, and its part of all its pixels: one of so many.
const LEAST_PIXELS: usize = 12;
const LEAST_PART: usize = 4;
/// Difference to what lies behind it, in the channel where it is largest, that nine of ten pixels of an object have.
const CONTRAST: u8 = 48;
/// Ranges of the settings.
const SIDES: [usize; 2] = [32, 1024];
const MOST_OBJECTS: usize = 100;

/// Images of S x S pixels with circles, squares, triangles and five-pointed stars before a noisy, uneven ground.
///
/// Colour, place and turn of an object are random, so that its outline alone tells its category. The circle around it
/// has a uniform diameter of S / 4 to S / 2. Later objects hide earlier ones, and a mask is of the pixels that are
/// seen and at least half covered. Of every object 12 pixels and a quarter of all are seen, nine tenths of them
/// in another colour than what lies behind. One image of 32 has no object; an image may have fewer than were drawn when
/// there is no room.
///
/// ```
/// use conditioned_data::{Examples, Shapes};
///
/// let images = Shapes::default().images(0, 0..100)?;
/// assert_eq!(images.categories().len(), 4);
/// let example = images.example(7)?;
/// assert_eq!((example.height, example.width, example.pixels.len()), (64, 64, 64 * 64 * 3));
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shapes {
    /// Side of the images in pixels, S.
    pub side: usize,
    /// The least and the largest number of objects in an image, as likely as those between them.
    pub objects: [usize; 2],
}

impl Default for Shapes {
    /// 64 x 64 pixels, one to six objects.
    fn default() -> Self {
        Self { side: 64, objects: [1, 6] }
    }
}

impl Shapes {
    /// Checks that images can be drawn.
    ///
    /// # Errors
    /// When a field is out of its range: the field, and what to set.
    pub fn validate(&self) -> Result<()> {
        let ([least, most], [fewest, objects]) = (SIDES, self.objects);
        if !(least..=most).contains(&self.side) {
            return Err(Error::config("side", self.side, format!("expected {least} to {most}")));
        }
        if fewest > objects || objects > MOST_OBJECTS {
            let expected = format!("expected two numbers, rising, at most {MOST_OBJECTS}");
            return Err(Error::config("objects", format!("{:?}", self.objects), expected));
        }
        Ok(())
    }

    /// Images `range` of `seed`, which are drawn when they are asked for.
    ///
    /// # Errors
    /// When a setting is out of its range, or the range so far out that the ids of its annotations would not be numbers
    /// of 64 bits.
    pub fn images(&self, seed: u64, range: Range<usize>) -> Result<ShapeImages> {
        self.validate()?;
        if (range.end as u64).checked_mul(MOST_OBJECTS as u64).is_none() {
            let expected = format!("expected at most {}", u64::MAX / MOST_OBJECTS as u64);
            return Err(Error::config("range.end", range.end, expected));
        }
        let categories = (1..).zip(NAMES).map(|(id, name)| Category { id, name: name.into() });
        Ok(ShapeImages { shapes: *self, seed, range, categories: categories.collect() })
    }

    /// Image number `index` of `seed`: a function of the settings and these two alone.
    ///
    /// The id of the image is `index`; no two annotations of a seed have the same id.
    fn draw(&self, seed: u64, index: usize) -> Example {
        let mut rng = stream(seed, 0, index, Purpose::Shapes);
        let [fewest, most] = self.objects;
        let empty = rng.random_ratio(1, EMPTY);
        let objects = if empty { 0 } else { rng.random_range(fewest as u32..=most as u32) };
        let mut canvas = Canvas::new(self.side, &mut rng);
        for _ in 0..objects {
            let kind = rng.random_range(0..NAMES.len() as u32) as usize;
            (0..TRIES).find(|_| canvas.add(kind, &mut rng));
        }
        canvas.example(index as u64)
    }
}

/// A range of the images of [`Shapes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeImages {
    shapes: Shapes,
    seed: u64,
    range: Range<usize>,
    categories: Vec<Category>,
}

impl Examples for ShapeImages {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn categories(&self) -> &[Category] {
        &self.categories
    }

    fn example(&self, index: usize) -> Result<Example> {
        if index >= self.range.len() {
            return Err(past_end("shapes", index, self.range.len()));
        }
        Ok(self.shapes.draw(self.seed, self.range.start + index))
    }
}

/// What an object covers and shows.
struct Object {
    kind: usize,
    /// Its pixels, those outside of the image and those hidden included.
    all: usize,
    seen: usize,
}

impl Object {
    fn shows(&self, seen: usize) -> bool {
        seen >= LEAST_PIXELS && seen * LEAST_PART >= self.all
    }
}

/// An image that is being drawn.
struct Canvas {
    side: usize,
    pixels: Vec<[u8; 3]>,
    /// The object in front, by its number.
    front: Vec<Option<usize>>,
    objects: Vec<Object>,
}

impl Canvas {
    /// The ground: a colour in each corner, mixed between them, and grey noise.
    fn new(side: usize, rng: &mut ChaCha8Rng) -> Self {
        let ground = [(); 3].map(|()| rng.random_range(40..216_i32));
        let corners = [(); 4].map(|()| ground.map(|x| x + rng.random_range(-40..=40)));
        let noise = rng.random_range(0..=10_i32);
        let mut bytes = vec![0; side * side];
        rng.fill_bytes(&mut bytes);
        let last = side as i32 - 1;
        let mix = |a: i32, b: i32, at: i32| a * (last - at) + b * at;
        let colour = |(byte, (y, x)): (u8, (i32, i32))| {
            let grey = i32::from(byte) * (2 * noise + 1) / 256 - noise;
            let channel = |c: usize| {
                let [a, b, d, e] = corners.map(|corner| corner[c]);
                let mixed = mix(mix(a, b, x), mix(d, e, x), y) / (last * last);
                (mixed + grey).clamp(0, 255) as u8
            };
            [channel(0), channel(1), channel(2)]
        };
        let places = (0..=last).flat_map(|y| (0..=last).map(move |x| (y, x)));
        let pixels = bytes.into_iter().zip(places).map(colour).collect();
        Self { side, pixels, front: vec![None; side * side], objects: Vec::new() }
    }

    /// Draws an object and says so, unless it or one that it hides could not be seen.
    fn add(&mut self, kind: usize, rng: &mut ChaCha8Rng) -> bool {
        let side = self.side as f64;
        let centre = [(); 2].map(|()| side * rng.random::<f64>());
        let radius = side * (1.0 + rng.random::<f64>()) / 8.0;
        let figure = Figure::draw(kind, centre, radius, rng);
        let colour = [(); 3].map(|()| rng.random::<u8>());
        let mut object = Object { kind, all: 0, seen: 0 };
        let (mut covered, mut alike) = (Vec::new(), 0);
        let mut left: Vec<usize> = self.objects.iter().map(|object| object.seen).collect();
        let inside = 0..self.side as i64;
        for y in figure.range(1) {
            for x in figure.range(0) {
                let coverage = figure.coverage(x, y);
                let own = coverage >= WHOLE / 2;
                object.all += usize::from(own);
                if coverage == 0 || !inside.contains(&y) || !inside.contains(&x) {
                    continue;
                }
                let at = y as usize * self.side + x as usize;
                covered.push((at, coverage));
                if own {
                    object.seen += 1;
                    alike += usize::from(close(self.pixels[at], colour));
                    if let Some(hidden) = self.front[at] {
                        left[hidden] -= 1;
                    }
                }
            }
        }
        let others = self.objects.iter().zip(&left).all(|(other, &seen)| other.shows(seen));
        if !object.shows(object.seen) || !others || 10 * alike > object.seen {
            return false;
        }
        for (at, coverage) in covered {
            self.pixels[at] = blend(self.pixels[at], colour, coverage);
            if coverage >= WHOLE / 2 {
                self.front[at] = Some(self.objects.len());
            }
        }
        self.objects.iter_mut().zip(left).for_each(|(object, seen)| object.seen = seen);
        self.objects.push(object);
        true
    }

    fn example(self, id: u64) -> Example {
        let side = self.side;
        let instance = |(number, object): (usize, &Object)| {
            let mask: Vec<bool> = self.front.iter().map(|&front| front == Some(number)).collect();
            Instance {
                id: id * MOST_OBJECTS as u64 + number as u64 + 1,
                category: object.kind,
                bbox: tight(&mask, side),
                mask: Rle::of_mask(&mask, side, side),
                area: object.seen as f64,
                crowd: false,
            }
        };
        let instances = self.objects.iter().enumerate().map(instance).collect();
        let pixels = self.pixels.into_flattened();
        Example { id, height: side, width: side, pixels, instances }
    }
}

fn close(a: [u8; 3], b: [u8; 3]) -> bool {
    a.into_iter().zip(b).all(|(a, b)| a.abs_diff(b) < CONTRAST)
}

/// The colour of a pixel of which `coverage` of [`WHOLE`] is covered.
fn blend(ground: [u8; 3], colour: [u8; 3], coverage: u8) -> [u8; 3] {
    let [part, whole] = [coverage, WHOLE].map(u16::from);
    std::array::from_fn(|c| {
        let [below, above] = [ground[c], colour[c]].map(u16::from);
        ((below * (whole - part) + above * part + whole / 2) / whole) as u8
    })
}

/// The smallest box around a mask of some pixels: left, top, width, height.
fn tight(mask: &[bool], side: usize) -> [f64; 4] {
    let ([mut left, mut top], [mut right, mut bottom]) = ([side; 2], [0; 2]);
    for at in (0..mask.len()).filter(|&at| mask[at]) {
        let (y, x) = (at / side, at % side);
        (left, top) = (left.min(x), top.min(y));
        (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
    }
    [left, top, right - left, bottom - top].map(|x| x as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_every_object_is_seen_also_below_later_ones() {
        let mut hidden = 0;
        for seed in 0..200 {
            let mut rng = stream(seed, 0, 0, Purpose::Shapes);
            let mut canvas = Canvas::new(64, &mut rng);
            for number in 0..60 {
                canvas.add(number % NAMES.len(), &mut rng);
            }
            assert!(canvas.objects.len() > 4, "{} objects", canvas.objects.len());
            for (number, object) in canvas.objects.iter().enumerate() {
                let seen = canvas.front.iter().filter(|&&front| front == Some(number)).count();
                assert_eq!(object.seen, seen);
                assert!(seen >= 12 && 4 * seen >= object.all, "{seen} of {}", object.all);
                hidden += usize::from(2 * seen < object.all);
            }
        }
        // Objects do lie in front of one another and across the border.
        assert!(hidden > 200, "{hidden} are more than half hidden");
    }
}
