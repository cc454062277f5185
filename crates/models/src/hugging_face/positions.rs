//! Position tables of ViTs for images of another size, resized as transformers does it
//! (`interpolate_pos_encoding`).

use candle_core::{DType, Result, Tensor};

/// The constant a of the cubic kernel in PyTorch.
const A: f64 = -0.75;

/// The table (1, S + m m, C) of a grid of m x m patches behind S `special` tokens, for a grid of n x n:
/// (1, S + n n, C). Rows of special tokens stay; each channel of the grid is resized as
///
/// ```text
/// Y = R T R^T,   R (n, m) = bicubic(m, n)
/// ```
///
/// PyTorch's `interpolate(mode="bicubic", align_corners=False)`: without antialiasing, and beyond its edge the
/// grid goes on as at its edge.
///
/// # Errors
/// When the table has another shape.
pub(super) fn resize(table: &Tensor, special: usize, m: usize, n: usize) -> Result<Tensor> {
    let (_, rows, c) = table.dims3()?;
    if rows != special + m * m {
        candle_core::bail!("{rows} positions; a grid of {m} x {m} has {}", special + m * m);
    }
    let weights = Tensor::from_vec(bicubic(m, n), (n, m), table.device())?;
    // (m, k, C) -> (k, n, C): resizes the first side and swaps it with the second.
    let side = |grid: Tensor| {
        let k = grid.dim(1)?;
        let grid = weights.matmul(&grid.reshape((m, k * c))?)?;
        grid.reshape((n, k, c))?.transpose(0, 1)?.contiguous()
    };
    let grid = table.narrow(1, special, m * m)?.to_dtype(DType::F64)?.reshape((m, m, c))?;
    let grid = side(side(grid)?)?.reshape((1, n * n, c))?.to_dtype(table.dtype())?;
    Tensor::cat(&[&table.narrow(1, 0, special)?, &grid], 1)
}

/// The matrix (n, m) that resizes m samples to n: in a row the weights of the four samples around a point.
fn bicubic(m: usize, n: usize) -> Vec<f64> {
    let mut weights = vec![0.0; n * m];
    for (i, row) in weights.chunks_mut(m.max(1)).enumerate() {
        let point = (i as f64 + 0.5) * m as f64 / n as f64 - 0.5;
        let first = point.floor() as isize - 1;
        for sample in first..first + 4 {
            let inside = sample.clamp(0, m as isize - 1) as usize;
            row[inside] += kernel(point - sample as f64);
        }
    }
    weights
}

/// The cubic convolution kernel at a distance of at most 2.
fn kernel(distance: f64) -> f64 {
    let x = distance.abs();
    match x <= 1.0 {
        true => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        false => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
    }
}
