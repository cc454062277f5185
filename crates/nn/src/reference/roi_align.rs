//! The definition of [`crate::roi_align`](fn@crate::roi_align).

use candle_core::{DType, Device, Result, Tensor};

use crate::roi_align::{Grid, Roi, grids, neighbours};

/// Means of bilinear samples in the cells of every box, (B, H, W, C) -> (R, size, size, C), sample by sample; see
/// [`crate::roi_align`](fn@crate::roi_align).
///
/// # Errors
/// As there.
pub fn roi_align(
    features: &Tensor,
    rois: &[Roi],
    size: usize,
    spatial_scale: f64,
    sampling_ratio: usize,
) -> Result<Tensor> {
    let grids = grids(features, rois, size, spatial_scale, sampling_ratio)?;
    let (images, height, width, c) = features.dims4()?;
    // Gradients of many boxes are not summed in half precision.
    let wide = match features.dtype() {
        DType::F16 | DType::BF16 => features.to_dtype(DType::F32)?,
        _ => features.clone(),
    };
    let pixels = wide.reshape((images * height * width, c))?;
    let pooled = |grid: &Grid| {
        let cells = cells(grid, size, height, width);
        // Cells with less samples inside get pixels of weight 0, and so has a box outside a gradient.
        let most = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let filled = |cell: &Vec<(u32, f64)>| {
            cell.iter().copied().chain(std::iter::repeat((0, 0.0))).take(most).collect::<Vec<_>>()
        };
        let (places, weights): (Vec<u32>, Vec<f64>) = cells.iter().flat_map(filled).unzip();
        let places = Tensor::from_vec(places, size * size * most, wide.device())?;
        let weights = Tensor::from_vec(weights, (size * size, most, 1), &Device::Cpu)?;
        // Metal has no f64.
        let weights = weights.to_dtype(wide.dtype())?.to_device(wide.device())?;
        let neighbours = pixels.index_select(&places, 0)?.reshape((size * size, most, c))?;
        let weighted = neighbours.broadcast_mul(&weights)?;
        weighted.sum(1)?.reshape((size, size, c))
    };
    let pooled = grids.iter().map(pooled).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&pooled, 0)?.to_dtype(features.dtype())
}

/// Every pixel that the samples of a cell lie between, with its weight in the mean, cell by cell.
fn cells(grid: &Grid, size: usize, height: usize, width: usize) -> Vec<Vec<(u32, f64)>> {
    let count = grid.rows.count() * grid.columns.count();
    let cell = |i: usize| {
        let mut pixels = Vec::new();
        for y in grid.rows.inside(i / size, height) {
            for x in grid.columns.inside(i % size, width) {
                for (row, above) in neighbours(y, height) {
                    for (column, left) in neighbours(x, width) {
                        let place = (grid.image * height + row) * width + column;
                        pixels.push((place as u32, above * left / count));
                    }
                }
            }
        }
        pixels
    };
    (0..size * size).map(cell).collect()
}
