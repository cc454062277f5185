//! Points of the window and directions between them.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

/// A pixel, or the way from one to another: (row, column).
pub(super) type Point = [i32; 2];

pub(super) fn add([y, x]: Point, [dy, dx]: Point) -> Point {
    [y + dy, x + dx]
}

/// An angle t, measured from the columns to the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direction {
    pub(super) angle: f64,
    sin: f64,
    cos: f64,
}

impl Direction {
    pub(super) fn new(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self { angle, sin, cos }
    }

    /// The opposite direction, with an angle between -pi and pi if this one's is.
    pub(super) fn reversed(self) -> Self {
        Self::new(if self.angle < 0.0 { self.angle + PI } else { self.angle - PI })
    }

    /// `(ceil(y + d sin t), ceil(x + d cos t))`: the pixel at `distance` d from (y, x).
    pub(super) fn step(self, [y, x]: Point, distance: f64) -> Point {
        let whole = |from: i32, part: f64| (f64::from(from) + distance * part).ceil() as i32;
        [whole(y, self.sin), whole(x, self.cos)]
    }
}

/// How likely a path that comes with angle `from` goes on with angle `to`:
/// `max(cos min(c delta, pi/2), 0)²`, delta the angle between both and c the `continuity`.
pub(super) fn turn(from: f64, to: f64, continuity: f64) -> f64 {
    let difference = (to - from).abs();
    let delta = difference.min(TAU - difference);
    (delta * continuity).min(FRAC_PI_2).cos().max(0.0).powi(2)
}

/// The pixels on the circle of `radius` about a pixel, rounded down, each once and in order: one for each
/// `1 / radius` of an angle, so that neighbours on the circle are about a pixel apart.
pub(super) fn circle(radius: f64) -> Vec<Point> {
    let count = (TAU * radius).ceil() as usize;
    let place = |index: usize| {
        let (sin, cos) = (index as f64 / radius).sin_cos();
        [sin, cos].map(|part| (radius * part).floor() as i32)
    };
    let mut places: Vec<Point> = (0..count).map(place).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// The offsets of the pixels of a disc: `dx² + dy² <= radius²`.
pub(super) fn disc(radius: i32) -> Vec<Point> {
    let side = -radius..=radius;
    let square = side.clone().flat_map(|dy| side.clone().map(move |dx| [dy, dx]));
    square.filter(|[dy, dx]| dy * dy + dx * dx <= radius * radius).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_round_up() {
        let step =
            |degrees: f64, distance| Direction::new(degrees.to_radians()).step([10, 20], distance);
        assert_eq!(step(0.0, 2.0), [10, 22]);
        assert_eq!(step(90.0, 2.0), [12, 20]);
        assert_eq!(step(-180.0, 2.0), [10, 18]);
        // 3 sin 200° = -1.03 and 3 cos 200° = -2.82.
        assert_eq!(step(200.0, 3.0), [9, 18]);
        for degrees in -180..180 {
            let direction = Direction::new(f64::from(degrees).to_radians());
            let reversed = direction.reversed();
            assert!((-PI..PI).contains(&reversed.angle), "{degrees}");
            assert!(
                (direction.sin + reversed.sin).abs() + (direction.cos + reversed.cos).abs() < 1e-15
            );
        }
    }

    #[test]
    fn paths_rather_go_straight_on_and_never_back() {
        assert_eq!(turn(0.3, 0.3, 1.0), 1.0);
        assert!((turn(0.0, PI / 3.0, 1.0) - 0.25).abs() < 1e-15);
        assert!((turn(-3.0, 3.0, 1.0) - (TAU - 6.0).cos().powi(2)).abs() < 1e-15);
        assert!((turn(0.0, PI / 6.0, 2.0) - 0.25).abs() < 1e-15);
        assert!(turn(0.0, 3.0, 1.0) < 1e-30 && turn(0.0, 0.0, 5.0) == 1.0);
    }

    #[test]
    fn a_circle_has_the_pixels_of_its_points_wherever_it_lies() {
        // The definition, about every pixel of a window: points on the circle, those outside dropped, cut down to
        // whole numbers, each once and sorted.
        for (radius, size) in [(2.0, 16), (3.0, 32), (4.0, 20)] {
            let offsets = circle(radius);
            for [y, x] in (0..size).flat_map(|y| (0..size).map(move |x| [y, x])) {
                let mut wanted = Vec::new();
                let step = 360.0 / (TAU * radius);
                let mut degrees = 0.0;
                for index in 1.. {
                    let (sin, cos) = f64::to_radians(degrees).sin_cos();
                    let point = [f64::from(y) + radius * sin, f64::from(x) + radius * cos];
                    if point.iter().all(|at| (0.0..f64::from(size)).contains(at)) {
                        wanted.push(point.map(|at| at as i32));
                    }
                    degrees = f64::from(index) * step;
                    if degrees >= 360.0 {
                        break;
                    }
                }
                wanted.sort_unstable();
                wanted.dedup();
                let places = offsets.iter().map(|&offset| add([y, x], offset));
                let inside = |point: &Point| point.iter().all(|at| (0..size).contains(at));
                assert_eq!(places.filter(inside).collect::<Vec<_>>(), wanted, "{y} {x} {radius}");
            }
        }
    }
}
