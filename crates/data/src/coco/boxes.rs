//! Boxes: left, top, width and height in pixels.

/// |A and B| / |A or B| with A this box and B the true one; of a crowd |A and B| / |A|. 0 where they have nothing in
/// common.
///
/// Source: `bbIou` of `maskApi.c` of pycocotools.
pub fn box_iou(a: [f64; 4], truth: [f64; 4], crowd: bool) -> f64 {
    let common = |axis: usize| {
        let end = (a[axis + 2] + a[axis]).min(truth[axis + 2] + truth[axis]);
        end - a[axis].max(truth[axis])
    };
    let (width, height) = (common(0), common(1));
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let (both, area) = (width * height, a[2] * a[3]);
    both / if crowd { area } else { area + truth[2] * truth[3] - both }
}
