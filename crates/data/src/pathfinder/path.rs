//! [`Scene`]: where dashes lie. Two paths that grow in turn, then distractors where there is room.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::Pathfinder;
use super::dash::{Brush, Dash};
use super::direction::{Direction, Point, add, circle, disc, turn};
use super::mask::Mask;

/// Trials of a first dash.
const SEED_TRIALS: usize = 3;
/// Draws of the next dash.
const DASH_TRIALS: usize = 3;
/// Trials of a distractor.
const DISTRACTOR_TRIALS: usize = 5;
/// A path ends where the weights of all ways on sum to less.
const LEAST_WEIGHT: f64 = 1e-4;
/// No distractor is tried when a smaller share of the window is free.
const LEAST_FREE: f64 = 0.01;
/// First dashes have angles of whole degrees.
const DEGREES: usize = 360;

/// A direction in which a path may come, with all that follows from it.
struct Heading {
    direction: Direction,
    /// Its dash: along the direction for the first of a path, from the new tip back for all others.
    dash: usize,
    /// The weight of each way on when nothing is in the way.
    turns: Vec<f64>,
}

/// A dash and where it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) at: Point,
    pub(super) dash: usize,
}

/// A path that grows.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) dashes: Vec<Placed>,
    last: Placed,
    pivot: Point,
    heading: usize,
}

impl Path {
    /// Where the path starts.
    pub(super) fn start(&self) -> Point {
        self.dashes.first().unwrap_or(&self.last).at
    }

    /// Where it ends: the tip of its last dash, which runs back from there.
    pub(super) fn end(&self) -> Point {
        self.last.at
    }
}

/// What is in an image but for its markers.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) paths: [Path; 2],
    pub(super) distractors: Vec<Path>,
}

/// Draws layouts; holds what they have in common.
pub(super) struct Scene<'a> {
    pub(super) config: &'a Pathfinder,
    /// Each different dash once.
    pub(super) dashes: Vec<Dash>,
    /// Those of whole degrees from -180 on, then one for each of `ways`.
    headings: Vec<Heading>,
    /// From where a path turns to the tip of its next dash.
    ways: Vec<Point>,
    /// For each dash, where the first path of an image may start with it; nowhere, with most of them.
    starts: Vec<Vec<Point>>,
    /// The pixels next to one, within the margin.
    margin: Vec<Point>,
    empty: Mask,
}

impl<'a> Scene<'a> {
    /// Draws every dash that may occur. `config` is valid.
    pub(super) fn new(config: &'a Pathfinder) -> Self {
        let brush = Brush::new(config);
        let (middle, length) = brush.middle();
        let mut ends: Vec<Point> = Vec::new();
        let mut dash = |direction: Direction| {
            let [y, x] = direction.step(middle, length);
            let end = [y - middle[0], x - middle[1]];
            ends.iter().position(|&known| known == end).unwrap_or_else(|| {
                ends.push(end);
                ends.len() - 1
            })
        };
        let ways = circle((config.paddle_length + config.margin) as f64);
        let degrees = (0..DEGREES).map(|degrees| (degrees as f64 - 180.0).to_radians());
        let degrees = degrees.map(Direction::new).map(|direction| (direction, direction));
        let on = ways.iter().map(|&[dy, dx]| Direction::new(f64::from(dy).atan2(f64::from(dx))));
        let on: Vec<Direction> = on.collect();
        let back = on.iter().map(|&direction| (direction, direction.reversed()));
        let heading = |(direction, drawn): (Direction, Direction)| {
            let turn = |to: &Direction| turn(direction.angle, to.angle, config.continuity);
            Heading { direction, dash: dash(drawn), turns: on.iter().map(turn).collect() }
        };
        let headings = degrees.chain(back).map(heading).collect();
        let dashes: Vec<Dash> = ends.into_iter().map(|end| brush.dash(end)).collect();
        let inner = Mask::new(config.size, 2 * config.seed_distance);
        let starts = dashes.iter().map(|dash| Self::starts(&inner, dash)).collect();
        let margin = disc(config.margin as i32);
        let empty = Mask::new(config.size, config.padding);
        Self { config, dashes, headings, ways, starts, margin, empty }
    }

    /// Where a path may start with `dash`.
    ///
    /// The published generator takes a window as full when what a dash covers would lie wholly outside around one of
    /// the window's pixels: there, the maximum over no pixel at all is below 0. Because it looks one row and one column
    /// too far, only dashes to the upper left pass, one in twelve. This is kept, for it decides how images look.
    fn starts(mask: &Mask, dash: &Dash) -> Vec<Point> {
        if mask.misses(&dash.kernel) { Vec::new() } else { mask.starts(&dash.kernel) }
    }

    /// Whether there is any first dash for which there is room.
    pub(super) fn has_starts(&self) -> bool {
        self.starts.iter().any(|starts| !starts.is_empty())
    }

    /// The layout of the first attempt of at most `attempts` that succeeds, and the number of attempts.
    pub(super) fn layout(&self, attempts: usize, rng: &mut impl Rng) -> Option<(Layout, usize)> {
        let mut mask = self.empty.clone();
        (1..=attempts).find_map(|attempt| {
            mask.reset(&self.empty);
            let paths = self.paths(&mut mask, rng)?;
            let count = 0..self.config.distractors;
            let distractors = count.filter_map(|_| self.distractor(&mut mask, rng)).collect();
            Some((Layout { paths, distractors }, attempt))
        })
    }

    /// Two paths that grow in turn, or `None` when one of them cannot go on.
    fn paths(&self, mask: &mut Mask, rng: &mut impl Rng) -> Option<[Path; 2]> {
        let mut paths = self.seeds(rng)?;
        for _ in 1..self.config.contour_length {
            for path in &mut paths {
                self.extend(path, mask, rng)?;
            }
        }
        // The last dash of the first path stays out, as in the published generator.
        self.cover(&paths[1].last, mask);
        Some(paths)
    }

    /// The first dashes of both paths: one in the middle of the window, one `seed_distance` away from it.
    fn seeds(&self, rng: &mut impl Rng) -> Option<[Path; 2]> {
        let first = self.seed(rng, |dash| &self.starts[dash])?;
        let [y, x] = first.start();
        let distance = self.config.seed_distance as f64;
        let near =
            |from: i32, part: f64| (f64::from(from) + distance * part).round_ties_even() as i32;
        let second = (0..SEED_TRIALS).find_map(|_| {
            let heading = rng.random_range(0..DEGREES);
            let degrees: u16 = rng.random_range(0..DEGREES as u16);
            let (sin, cos) = f64::from(degrees).to_radians().sin_cos();
            self.begin([near(y, sin), near(x, cos)], heading)
        });
        Some([first, second?])
    }

    /// A first dash at a random angle, at one of the places that there are for it; none ends the trials.
    fn seed<P: AsRef<[Point]>>(
        &self,
        rng: &mut impl Rng,
        starts: impl Fn(usize) -> P,
    ) -> Option<Path> {
        for _ in 0..SEED_TRIALS {
            let heading = rng.random_range(0..DEGREES);
            let start = *starts(self.headings[heading].dash).as_ref().choose(rng)?;
            if let Some(path) = self.begin(start, heading) {
                return Some(path);
            }
        }
        None
    }

    /// A path of one dash, unless it leaves the window.
    fn begin(&self, tail: Point, heading: usize) -> Option<Path> {
        let Heading { direction, dash, .. } = self.headings[heading];
        let [length, margin] =
            [self.config.paddle_length, self.config.margin].map(|pixels| pixels as f64);
        let head = direction.step(tail, length);
        let pivot = direction.reversed().step(head, length + margin);
        let inside = [tail, head, pivot].iter().all(|&point| self.empty.index(point).is_some());
        let last = Placed { at: tail, dash };
        inside.then(|| Path { dashes: vec![last], last, pivot, heading })
    }

    /// One dash more, whose tip is ahead, and from there back; `None` where there is no room.
    fn extend(&self, path: &mut Path, mask: &mut Mask, rng: &mut impl Rng) -> Option<()> {
        let Heading { direction, turns, .. } = &self.headings[path.heading];
        let stride = self.config.paddle_length + 2 * self.config.margin;
        let pivot = direction.step(path.pivot, stride as f64);
        let mut total = 0.0;
        let mut weigh = |(&way, turn): (&Point, &f64)| {
            let at = add(pivot, way);
            if mask.index(at).is_some() {
                total += turn * f64::from(255 - mask.most(at, &self.margin)) / 255.0;
            }
            total
        };
        let sums: Vec<f64> = self.ways.iter().zip(turns).map(&mut weigh).collect();
        if total < LEAST_WEIGHT {
            return None;
        }
        for _ in 0..DASH_TRIALS {
            // Above 0 and at most the total: the way has a weight.
            let drawn = total * (1.0 - rng.random::<f64>());
            let way = sums.partition_point(|&sum| sum < drawn);
            let heading = DEGREES + way;
            let next = Placed { at: add(pivot, self.ways[way]), dash: self.headings[heading].dash };
            if mask.admits(next.at, &self.dashes[next.dash].mask) {
                self.cover(&path.last, mask);
                path.dashes.push(next);
                (path.last, path.pivot, path.heading) = (next, pivot, heading);
                return Some(());
            }
        }
        None
    }

    /// A distractor, or `None` and the same mask when there is no room for it.
    fn distractor(&self, mask: &mut Mask, rng: &mut impl Rng) -> Option<Path> {
        (0..DISTRACTOR_TRIALS).find_map(|_| {
            let mut own = mask.clone();
            if mask.free() < LEAST_FREE {
                return None;
            }
            let mut path = self.seed(rng, |dash| Self::starts(mask, &self.dashes[dash]))?;
            for _ in 1..self.config.distractor_length {
                self.extend(&mut path, &mut own, rng)?;
            }
            self.cover(&path.last, &mut own);
            *mask = own;
            Some(path)
        })
    }

    fn cover(&self, Placed { at, dash }: &Placed, mask: &mut Mask) {
        mask.cover(*at, &self.dashes[*dash].mask);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, prop_assume, proptest};

    use super::super::picture::Picture;
    use super::*;
    use crate::stream::{Purpose, stream};

    /// The published generator in Python: the whole degrees with which the first path of a window of 32 pixels can
    /// start, and at how many pixels in all.
    const STARTING: std::ops::RangeInclusive<i32> = -150..=-121;
    const STARTS: usize = 234;

    #[test]
    fn the_first_path_starts_where_it_does_in_python() {
        let config = Pathfinder::hard();
        let scene = Scene::new(&config);
        let mut starts: Vec<Point> = Vec::new();
        for heading in &scene.headings[..DEGREES] {
            let degrees = heading.direction.angle.to_degrees().round() as i32;
            let own = &scene.starts[heading.dash];
            assert_eq!(own.is_empty(), !STARTING.contains(&degrees), "{degrees}");
            starts.extend(own);
        }
        assert_eq!(starts.len(), STARTS);
        // In the middle: 14 pixels from each border, where the dash has room one row and one column further.
        assert!(starts.iter().flatten().all(|at| (12..19).contains(at)), "{starts:?}");
    }

    proptest! {
        #[test]
        fn whatever_is_valid_is_drawn_or_given_up(
            [size, contour_length, distractors, seed_distance] in [8_usize..40, 2..6, 0..4, 1..5],
            [padding, paddle_length, margin, antialias] in [1_usize..4, 1..5, 0..3, 1..4],
            [thickness, radius, continuity] in [0.1..1.0, 0.1..5.0, 0.1..3.0],
            seed: u64,
        ) {
            let config = Pathfinder {
                size, padding, contour_length, distractors, seed_distance, paddle_length, margin, antialias,
                thickness, radius, continuity, ..Pathfinder::easy()
            };
            prop_assume!(config.validate().is_ok());
            let scene = Scene::new(&config);
            let mut rng = stream(seed, 0, 0, Purpose::Pathfinder);
            if let Some((layout, attempts)) = scene.layout(30, &mut rng) {
                prop_assert!((1..=30).contains(&attempts));
                prop_assert!(layout.distractors.len() <= distractors);
                for path in &layout.paths {
                    prop_assert_eq!(path.dashes.len(), contour_length);
                }
                let markers = layout.paths.each_ref().map(Path::end);
                let pixels = Picture::of(&scene, &layout, markers).stretch();
                prop_assert_eq!(pixels.len(), size * size);
                prop_assert!(pixels.contains(&0) && pixels.contains(&255));
            }
        }
    }
}
