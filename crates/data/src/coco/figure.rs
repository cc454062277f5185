//! [`Figure`]: a circle, square, triangle or star, and how much of a pixel it covers.

use rand::Rng;

/// Parts of a pixel along each axis that are looked at where an edge may cross it.
const PARTS: usize = 4;
/// What a whole pixel counts.
pub(super) const WHOLE: u8 = (PARTS * PARTS) as u8;
/// No point of a pixel is farther from its centre: a little more than half a diagonal.
const REACH: f64 = 0.75;

/// The kinds, in the order of their categories.
pub(super) const NAMES: [&str; 4] = ["circle", "square", "triangle", "star"];

/// Directions in which the sides lie, of a figure that points right.
const SQUARE: [[f64; 2]; 4] = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
const TRIANGLE: [[f64; 2]; 3] =
    [[-1.0, 0.0], [0.5, 0.866_025_403_784_438_6], [0.5, -0.866_025_403_784_438_6]];
const STAR: [[f64; 2]; 5] =
    [[1.0, 0.0], [COS_72, SIN_72], [-COS_36, SIN_36], [-COS_36, -SIN_36], [COS_72, -SIN_72]];
const COS_36: f64 = 0.809_016_994_374_947_5;
const SIN_36: f64 = 0.587_785_252_292_473_1;
const COS_72: f64 = 0.309_016_994_374_947_4;
const SIN_72: f64 = 0.951_056_516_295_153_5;

/// A figure at a place, inside a circle around it.
///
/// A point is inside a polygon when it is beyond no side, and inside a star when it is beyond at most one of the
/// five lines that its sides lie on. There is no sine in it, so that the pixels are the same on every machine.
pub(super) struct Figure {
    centre: [f64; 2],
    radius: f64,
    /// Directions of the lines; none for a circle.
    lines: Vec<[f64; 2]>,
    /// Their distance from the centre.
    offset: f64,
    /// Lines that a point inside may be beyond.
    beyond: usize,
}

impl Figure {
    /// A figure of category `kind` that is turned at random.
    pub(super) fn draw(kind: usize, centre: [f64; 2], radius: f64, rng: &mut impl Rng) -> Self {
        let (lines, distance, beyond): (&[[f64; 2]], f64, usize) = match kind {
            0 => (&[], 1.0, 0),
            1 => (&SQUARE, std::f64::consts::FRAC_1_SQRT_2, 0),
            2 => (&TRIANGLE, 0.5, 0),
            _ => (&STAR, COS_72, 1),
        };
        let [c, s] = direction(rng);
        let lines = lines.iter().map(|[x, y]| [c * x - s * y, s * x + c * y]).collect();
        Self { centre, radius, lines, offset: distance * radius, beyond }
    }

    /// First and last pixel that it may cover, along one axis; they may lie outside of the image.
    pub(super) fn range(&self, axis: usize) -> std::ops::RangeInclusive<i64> {
        let [low, high] = [-self.radius, self.radius].map(|reach| self.centre[axis] + reach);
        low.floor() as i64..=high.floor() as i64
    }

    /// How much of pixel (x, y) it covers, of [`WHOLE`].
    pub(super) fn coverage(&self, x: i64, y: i64) -> u8 {
        let corner = [x as f64 - self.centre[0], y as f64 - self.centre[1]];
        let middle = corner.map(|place| place + 0.5);
        if !self.edge_near(middle) {
            return if self.holds(middle) { WHOLE } else { 0 };
        }
        let part = |index: usize| (index as f64 + 0.5) / PARTS as f64;
        let parts = (0..PARTS).flat_map(|i| (0..PARTS).map(move |j| [part(j), part(i)]));
        parts.filter(|[u, v]| self.holds([corner[0] + u, corner[1] + v])).count() as u8
    }

    fn edge_near(&self, point: [f64; 2]) -> bool {
        let near = |distance: f64| (distance - self.offset).abs() < REACH;
        match self.lines[..] {
            [] => near(length(point)),
            _ => self.lines.iter().any(|line| near(along(point, line))),
        }
    }

    fn holds(&self, point: [f64; 2]) -> bool {
        if self.lines.is_empty() {
            return length(point) <= self.offset;
        }
        let beyond = self.lines.iter().filter(|line| along(point, line) > self.offset);
        beyond.count() <= self.beyond
    }
}

fn length([x, y]: [f64; 2]) -> f64 {
    (x * x + y * y).sqrt()
}

fn along([x, y]: [f64; 2], line: &[f64; 2]) -> f64 {
    x * line[0] + y * line[1]
}

/// A uniform direction: that of a uniform point of the disc.
fn direction(rng: &mut impl Rng) -> [f64; 2] {
    loop {
        let point = [(); 2].map(|()| 2.0 * rng.random::<f64>() - 1.0);
        let length = length(point);
        if length > 0.1 && length <= 1.0 {
            return point.map(|x| x / length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Purpose, stream};

    #[test]
    fn areas_are_those_of_geometry() {
        // Of a circle of radius 1 and the square, the triangle and the pentagram in it; five triangles
        // of the centre, a tip and the two inner corners beside it make the last.
        let tan_18 = (std::f64::consts::PI / 10.0).tan();
        let inner = 0.5 * (3.0 - 5_f64.sqrt());
        let star = 5.0 * inner * (std::f64::consts::PI / 5.0).sin();
        assert!((star - 10.0 * tan_18 / (3.0 - tan_18 * tan_18)).abs() < 1e-12);
        let areas = [std::f64::consts::PI, 2.0, 0.75 * 3_f64.sqrt(), star];
        let mut rng = stream(0, 0, 0, Purpose::Shapes);
        for (kind, area) in areas.into_iter().enumerate() {
            for _ in 0..20 {
                let figure = Figure::draw(kind, [50.3, 49.6], 40.0, &mut rng);
                let rows = figure.range(1);
                let sum: f64 = rows
                    .flat_map(|y| figure.range(0).map(move |x| (x, y)))
                    .map(|(x, y)| f64::from(figure.coverage(x, y)))
                    .sum();
                let found = sum / f64::from(WHOLE) / 1600.0;
                // 16 points a pixel, along an edge of some hundred pixels.
                assert!((found - area).abs() < 3e-3 * area, "{}: {found}, {area}", NAMES[kind]);
            }
        }
    }
}
