//! Boxes, their overlap, and their coding relative to other boxes.

/// A box (x1, y1, x2, y2) in pixels: x1 <= x2, y1 <= y2, and the area is (x2 - x1)(y2 - y1).
pub type Corners = [f64; 4];

/// Deviations of the offsets that the box head predicts (Girshick 2015, as mmdetection has them): its outputs are
/// offsets divided by these.
pub(crate) const HEAD_STDS: [f64; 4] = [0.1, 0.1, 0.2, 0.2];

/// Those of the region proposal network.
pub(crate) const ANCHOR_STDS: [f64; 4] = [1.0; 4];

/// The largest growth of a side by its logarithm, so that no offset overflows: 1000 pixels from 16.
const MOST_GROWTH: f64 = 4.135_166_556_742_356;

/// (x2 - x1)(y2 - y1).
pub(crate) fn area([x1, y1, x2, y2]: Corners) -> f64 {
    (x2 - x1) * (y2 - y1)
}

/// Intersection over union; 0 of boxes without area.
pub(crate) fn iou(a: Corners, b: Corners) -> f64 {
    let side = |low: usize| (a[low + 2].min(b[low + 2]) - a[low].max(b[low])).max(0.0);
    let both = side(0) * side(1);
    match area(a) + area(b) - both {
        union if union > 0.0 => both / union,
        _ => 0.0,
    }
}

/// The part of a box inside an image of `height` x `width`.
pub(crate) fn clipped([x1, y1, x2, y2]: Corners, [height, width]: [usize; 2]) -> Corners {
    let (h, w) = (height as f64, width as f64);
    [x1.clamp(0.0, w), y1.clamp(0.0, h), x2.clamp(0.0, w), y2.clamp(0.0, h)]
}

/// Centre and sides.
fn centred([x1, y1, x2, y2]: Corners) -> [f64; 4] {
    [(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1]
}

/// The offsets that take `from` to `to`, divided by `stds`:
///
/// ```text
/// ((x_to - x_from) / w_from, (y_to - y_from) / h_from, ln(w_to / w_from), ln(h_to / h_from))
/// ```
///
/// x, y are centres, w, h sides, all positive (Girshick et al. 2014, "Rich feature hierarchies", appendix C).
pub(crate) fn encode(from: Corners, to: Corners, stds: [f64; 4]) -> [f64; 4] {
    let ([x, y, w, h], [to_x, to_y, to_w, to_h]) = (centred(from), centred(to));
    let offsets = [(to_x - x) / w, (to_y - y) / h, (to_w / w).ln(), (to_h / h).ln()];
    std::array::from_fn(|i| offsets[i] / stds[i])
}

/// The box that `offsets` take `from` to: the inverse of [`encode`], with logarithms of at most ln(1000 / 16).
pub(crate) fn decode(from: Corners, offsets: [f64; 4], stds: [f64; 4]) -> Corners {
    let [x, y, w, h] = centred(from);
    let [dx, dy, dw, dh]: [f64; 4] = std::array::from_fn(|i| offsets[i] * stds[i]);
    let grown = |side: f64, by: f64| side * by.clamp(-MOST_GROWTH, MOST_GROWTH).exp() / 2.0;
    let (x, y) = (x + dx * w, y + dy * h);
    let (w, h) = (grown(w, dw), grown(h, dh));
    [x - w, y - h, x + w, y + h]
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;

    /// Roundings of f64 through a logarithm and its inverse, of boxes of some hundred pixels.
    const ROUNDING: f64 = 1e-9;

    proptest! {
        #[test]
        fn decoding_undoes_encoding(
            x in proptest::array::uniform4(0.0..300.0_f64), y in proptest::array::uniform4(5.0..300.0_f64),
        ) {
            let [from, to] = [0, 2].map(|i| [x[i], x[i + 1], x[i] + y[i], x[i + 1] + y[i + 1]]);
            for stds in [ANCHOR_STDS, HEAD_STDS] {
                let again = decode(from, encode(from, to, stds), stds);
                prop_assert!(again.iter().zip(to).all(|(a, b)| (a - b).abs() < ROUNDING));
            }
        }

        #[test]
        fn overlap_is_that_of_counted_pixels(
            a in proptest::array::uniform4(0u8..12), b in proptest::array::uniform4(0u8..12),
        ) {
            let corners = |[x, y, w, h]: [u8; 4]| [x, y, x + w, y + h].map(f64::from);
            let inside = |[x, y, w, h]: [u8; 4], i: u8, j: u8| {
                (x..x + w).contains(&i) && (y..y + h).contains(&j)
            };
            let (mut both, mut either) = (0, 0);
            for (i, j) in (0..24).flat_map(|i| (0..24).map(move |j| (i, j))) {
                both += i32::from(inside(a, i, j) && inside(b, i, j));
                either += i32::from(inside(a, i, j) || inside(b, i, j));
            }
            let wanted = if either == 0 { 0.0 } else { f64::from(both) / f64::from(either) };
            prop_assert!((iou(corners(a), corners(b)) - wanted).abs() < ROUNDING);
        }
    }
}
