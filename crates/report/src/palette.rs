//! Colours and marks that stay apart for the colour-blind and in print.

use plotters::prelude::*;

/// Colours that stay apart for the colour-blind (Okabe & Ito 2008).
pub(crate) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// Shades of the scale of heat maps.
pub(crate) const SHADES: usize = 64;

/// Text that is no data.
pub(crate) const GREY: RGBColor = RGBColor(105, 105, 105);
/// Lines at ticks.
pub(crate) const LIGHT: RGBColor = RGBColor(225, 225, 225);

/// The shape of a mark: eight, so that with seven colours the first 56 pairs differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
    Wedge,
    Cross,
    Plus,
    Ring,
}

/// The shapes, in the order of the groups.
const SHAPES: [Shape; 8] = [
    Shape::Circle,
    Shape::Triangle,
    Shape::Square,
    Shape::Cross,
    Shape::Diamond,
    Shape::Ring,
    Shape::Wedge,
    Shape::Plus,
];

/// How what stands at a place among the names of a figure looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Look {
    pub(crate) colour: RGBColor,
    /// For lines: the colours begin again.
    pub(crate) dashed: bool,
    /// For marks.
    pub(crate) shape: Shape,
}

/// The look of the name at `place`.
pub(crate) fn look(place: usize) -> Look {
    let dashed = place / COLOURS.len() % 2 == 1;
    Look { colour: COLOURS[place % COLOURS.len()], dashed, shape: SHAPES[place % SHAPES.len()] }
}

/// The shade of a share of the scale, 0 to 1 (viridis: its lightness rises evenly, so that it prints in grey).
pub(crate) fn shade(share: f64) -> (usize, RGBColor) {
    let last = (SHADES - 1) as f64;
    let level = (share.clamp(0.0, 1.0) * last).round();
    (level as usize, ViridisRGB::get_color(level / last))
}

/// A colour as in HTML.
pub(crate) fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

impl Shape {
    /// Its outline about 0 for a radius of 1; none of a circle and a ring.
    pub(crate) fn outline(self) -> Vec<(f64, f64)> {
        let cross = |turn: f64| {
            let (arm, wide) = (1.15, 0.34);
            let quarter = [(wide, -arm), (wide, -wide), (arm, -wide)];
            let corner = |k: u32, (x, y): (f64, f64)| {
                let (sin, cos) = (f64::from(k) * std::f64::consts::FRAC_PI_2 + turn).sin_cos();
                (x * cos - y * sin, x * sin + y * cos)
            };
            (0..4).flat_map(|k| quarter.map(|at| corner(k, at))).collect()
        };
        match self {
            Self::Circle | Self::Ring => Vec::new(),
            Self::Square => vec![(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            Self::Triangle => vec![(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
            Self::Wedge => vec![(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
            Self::Diamond => vec![(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)],
            Self::Cross => cross(std::f64::consts::FRAC_PI_4),
            Self::Plus => cross(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shades_rise_in_lightness_and_the_looks_differ() {
        let lightness = |i: usize| {
            let RGBColor(r, g, b) = shade(i as f64 / (SHADES - 1) as f64).1;
            0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b)
        };
        assert!((1..SHADES).all(|i| lightness(i) > lightness(i - 1)));
        for i in 0..56 {
            assert!(
                (0..i).all(|j| (look(i).colour, look(i).shape) != (look(j).colour, look(j).shape))
            );
        }
        assert!((0..14).all(|i| {
            (0..i).all(|j| (look(i).colour, look(i).dashed) != (look(j).colour, look(j).dashed))
        }));
    }
}
