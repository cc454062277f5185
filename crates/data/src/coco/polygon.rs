//! Masks of polygons and boxes, to the pixel as pycocotools draws them.

use super::rle::{check_size, mask};
use crate::{Result, Rle};

/// Steps of the grid that corners are rounded to, in a pixel.
const STEPS: i64 = 5;

impl Rle {
    /// The pixels inside any of the polygons, each of corners `[x0, y0, x1, y1, ...]` in pixels from the left upper
    /// corner of the image. What is outside the image is cut off.
    ///
    /// # Errors
    /// When there is none, or one has an odd number of numbers, fewer than three corners, or a number that is not
    /// finite or farther outside than the image is large; or there are no pixels or 2^32 of them.
    pub fn of_polygons(polygons: &[Vec<f64>], height: usize, width: usize) -> Result<Self> {
        check_size(height, width)?;
        if polygons.is_empty() {
            return Err(mask("no polygon; give one, or leave its object out".into()));
        }
        let draw = |polygon: &Vec<f64>| {
            check(polygon, height, width)?;
            Ok(draw(polygon, height, width))
        };
        let mut masks: Vec<Self> = polygons.iter().map(draw).collect::<Result<_>>()?;
        match masks.len() {
            1 => Ok(masks.remove(0)),
            _ => Ok(Self::union_of(height, width, &masks.iter().collect::<Vec<_>>())),
        }
    }

    /// The pixels inside a box: left, top, width and height.
    ///
    /// # Errors
    /// As [`of_polygons`](Self::of_polygons).
    pub fn of_box(
        [left, top, across, down]: [f64; 4],
        height: usize,
        width: usize,
    ) -> Result<Self> {
        let (right, bottom) = (left + across, top + down);
        let corners = vec![left, top, left, bottom, right, bottom, right, top];
        Self::of_polygons(&[corners], height, width)
    }
}

fn check(polygon: &[f64], height: usize, width: usize) -> Result<()> {
    let n = polygon.len();
    let remedy = "write it again, or leave its object out";
    if !n.is_multiple_of(2) {
        return Err(mask(format!("a polygon of {n} numbers, which are no pairs; {remedy}")));
    }
    if n < 6 {
        return Err(mask(format!(
            "a polygon of {} corners, and three are needed; {remedy}",
            n / 2
        )));
    }
    // Its outline is walked step by step.
    let far = height.max(width) as f64;
    let is_near = |i: usize, value: f64| {
        let side = if i.is_multiple_of(2) { width } else { height };
        (-far..=side as f64 + far).contains(&value)
    };
    match polygon.iter().enumerate().find(|&(i, &value)| !is_near(i, value)) {
        Some((i, value)) => Err(mask(format!(
            "number {i} of a polygon is {value}, in an image of {height} x {width} pixels; {remedy}"
        ))),
        None => Ok(()),
    }
}

/// Where the outline crosses the middle of a column of pixels, inside becomes outside from there on.
fn draw(polygon: &[f64], height: usize, width: usize) -> Rle {
    let grid = |value: f64| (STEPS as f64 * value + 0.5) as i64;
    let corners: Vec<[i64; 2]> =
        polygon.chunks_exact(2).map(|corner| [grid(corner[0]), grid(corner[1])]).collect();
    let mut places = Vec::new();
    let mut before: Option<[i64; 2]> = None;
    let mut visit = |[x, y]: [i64; 2]| {
        if let Some([x0, y0]) = before
            && x != x0
        {
            // The step that crosses a middle begins or ends left of it.
            let left = if x < x0 { x } else { x - 1 } - STEPS / 2;
            let column = left / STEPS;
            if left >= 0 && left % STEPS == 0 && (column as usize) < width {
                let row = (y.min(y0) + STEPS / 2).div_euclid(STEPS).clamp(0, height as i64);
                places.push((column as usize * height) as u32 + row as u32);
            }
        }
        before = Some([x, y]);
    };
    for (i, &from) in corners.iter().enumerate() {
        walk(from, corners[(i + 1) % corners.len()], &mut visit);
    }
    places.sort_unstable();
    Rle::of_changes(height, width, places)
}

/// Every point of the grid on the way, in single steps along the axis that it goes farther in.
fn walk(from: [i64; 2], to: [i64; 2], visit: &mut impl FnMut([i64; 2])) {
    let [dx, dy] = [0, 1].map(|axis| (to[axis] - from[axis]).abs());
    let (long, short) = if dx >= dy { (0, 1) } else { (1, 0) };
    let steps = dx.max(dy);
    // Computed from the lower end on, so that it is the same line both ways.
    let flip = from[long] > to[long];
    let (low, high) = if flip { (to, from) } else { (from, to) };
    let slope = match steps {
        0 => 0.0,
        _ => (high[short] - low[short]) as f64 / steps as f64,
    };
    for step in 0..=steps {
        let t = if flip { steps - step } else { step };
        let mut point = [0; 2];
        point[long] = low[long] + t;
        // Towards zero, also below it.
        point[short] = (low[short] as f64 + slope * t as f64 + 0.5) as i64;
        visit(point);
    }
}
