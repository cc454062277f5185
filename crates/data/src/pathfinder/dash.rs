//! [`Dash`]: one stroke of a path, and the room it takes.

use super::direction::{Point, add, disc};
use super::{Pathfinder, lanczos};

/// A dash from its start to one end: what it draws and what it covers, around its start.
#[derive(Debug)]
pub(super) struct Dash {
    /// Brightness of each pixel that is not black, of 255.
    pub(super) image: Vec<(Point, u8)>,
    /// How far each pixel is covered, of 255: the dash made wider by the margin.
    pub(super) mask: Vec<(Point, u8)>,
    /// Where nothing may lie when a path starts with this dash: the pixels that are wholly covered, each one
    /// row and one column further, as in the published generator.
    pub(super) kernel: Vec<Point>,
}

/// Draws dashes of one length at every angle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brush {
    /// Length L, antialiasing a and margin m.
    length: i32,
    antialias: i32,
    margin: i32,
    /// Pixels r around the start that a dash may touch.
    reach: i32,
}

impl Brush {
    pub(super) fn new(config: &Pathfinder) -> Self {
        let [length, antialias, margin] =
            [config.paddle_length, config.antialias, config.margin].map(|pixels| pixels as i32);
        let reach = length + config.thickness.ceil() as i32 + margin;
        Self { length, antialias, margin, reach }
    }

    /// Side of the canvas: `2 r a + 1`.
    fn canvas(self) -> i32 {
        2 * self.reach * self.antialias + 1
    }

    /// The pixel of the canvas in its middle, and the length of a dash on it.
    pub(super) fn middle(self) -> (Point, f64) {
        ([self.reach * self.antialias; 2], f64::from(self.length * self.antialias))
    }

    /// The dash whose end is `end` away from its start on the canvas.
    pub(super) fn dash(self, end: Point) -> Dash {
        let [image, mask] = self.bytes(end);
        let kernel = nonzero(&mask, self.reach).filter(|&(_, byte)| byte == 255);
        // A square of side 2 (L + m) + 1 around its middle.
        let half = self.length + self.margin;
        let kernel = kernel.map(|(place, _)| add(place, [1, 1]));
        let kernel = kernel.filter(|place| place.iter().all(|at| at.abs() <= half)).collect();
        let [image, mask] = [image, mask].map(|bytes| nonzero(&bytes, self.reach).collect());
        Dash { image, mask, kernel }
    }

    /// Image and mask of a dash, (2 r + 1)² bytes each: drawn a times as large and made smaller.
    pub(super) fn bytes(self, end: Point) -> [Vec<u8>; 2] {
        let side = self.canvas();
        let [mut thin, mut wide] = [(); 2].map(|()| vec![0; (side * side) as usize]);
        let index = |[y, x]: Point| (y * side + x) as usize;
        for place in line(end) {
            let place = add(place, self.middle().0);
            thin[index(place)] = 255;
            for offset in disc(self.margin * self.antialias) {
                wide[index(add(place, offset))] = 255;
            }
        }
        let target = (2 * self.reach + 1) as usize;
        [thin, wide].map(|canvas| lanczos::resize(&canvas, side as usize, target))
    }
}

/// The bytes that are not 0, with their places around the middle.
fn nonzero(bytes: &[u8], reach: i32) -> impl Iterator<Item = (Point, u8)> {
    let side = 2 * reach + 1;
    let place = move |index: i32| [index / side - reach, index % side - reach];
    (0..).map(place).zip(bytes.iter().copied()).filter(|&(_, byte)| byte > 0)
}

/// The pixels of Pillow's line of width 1 from (0, 0) to `end`, both included: Bresenham's, whose ties go away from
/// the axis.
fn line([dy, dx]: Point) -> impl Iterator<Item = Point> {
    let steep = dx.abs() <= dy.abs();
    let (long, short) = if steep { (dy.abs(), dx.abs()) } else { (dx.abs(), dy.abs()) };
    let mut error = 2 * short - long;
    let mut across = 0;
    (0..=long).map(move |along| {
        let [y, x] = if steep { [along, across] } else { [across, along] };
        if error >= 0 {
            across += 1;
            error -= 2 * long;
        }
        error += 2 * short;
        [y * dy.signum(), x * dx.signum()]
    })
}

#[cfg(test)]
mod tests {
    use super::super::direction::Direction;
    use super::super::fixture::{self, Dashes};
    use super::*;

    #[test]
    fn dashes_have_the_bytes_of_pillow_and_scipy() {
        let mut compared = 0;
        for Dashes { config, dashes } in fixture::read().dashes {
            let brush = Brush::new(&config);
            for (end, image, mask) in dashes {
                let found = brush.bytes(end);
                let wanted = [image, mask].map(|digits| fixture::bytes(&digits));
                assert_eq!(found, wanted, "{end:?} of {config:?}");
                compared += 1;
            }
        }
        assert!(compared > 60, "{compared}");
    }

    #[test]
    fn dashes_end_where_python_ends_them() {
        for (length, ends) in fixture::read().ends {
            let middle = 2 * length as i32;
            for (degrees, end) in (-180..180).zip(ends) {
                let direction = Direction::new(f64::from(degrees).to_radians());
                let found = direction.step([middle; 2], length);
                assert_eq!(found, add(end, [middle; 2]), "{degrees} degrees");
            }
        }
    }

    #[test]
    fn a_dash_to_the_right_covers_what_is_around_it() {
        let brush = Brush::new(&Pathfinder::hard());
        let dash = brush.dash([0, 4]);
        let columns = |cells: &[(Point, u8)], row| {
            let cells = cells.iter().filter(|(at, _)| at[0] == row);
            cells.map(|&([_, x], _)| x).collect::<Vec<_>>()
        };
        // Half a pixel of brightness along the dash, and a whole pixel of room around it.
        let brightest = dash.image.iter().map(|&(_, byte)| byte).max().unwrap();
        assert!((120..150).contains(&brightest), "{brightest}");
        assert!([0, 1, 2].iter().all(|x| columns(&dash.image, 0).contains(x)));
        assert!(
            [-1, 0, 1]
                .iter()
                .all(|&y| [0, 1, 2].iter().all(|x| columns(&dash.mask, y).contains(x)))
        );
        // One row and one column further, and not beyond the square.
        assert!(dash.kernel.contains(&[1, 1]) && dash.kernel.contains(&[1, 3]));
        assert!(dash.kernel.iter().all(|[y, x]| y.abs() <= 3 && x.abs() <= 3));
    }
}
