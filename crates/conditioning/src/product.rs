//! Tokens times one matrix, on the host: in f32 for tokens of at most that precision, else in f64.

use candle_core::{CpuStorage, Tensor};
use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::blocks::Layout;
use crate::host::{each_block, map_single_blocks};

/// Tokens multiplied by one thread at a time.
const BLOCK: usize = 256;

/// Y = X M for x: (..., N, d) and M: (d, d); rows of padding keep their bits.
pub(crate) fn product(
    name: &'static str,
    x: &Tensor,
    mask: Option<&Tensor>,
    M: &Mat<f64>,
) -> Result<CpuStorage> {
    let layout = Layout::rows(x, mask, BLOCK)?;
    let single = Mat::from_fn(M.nrows(), M.ncols(), |i, j| M[(i, j)] as f32);
    map_single_blocks([name], [x], &layout, Some(|X: &[f32]| times(X, single.as_ref())), |[x]| {
        Ok(times(x.values(), M.as_ref()))
    })
}

/// Checks that the real rows of x: (..., N, d) are finite.
pub(crate) fn check_finite(name: &'static str, x: &Tensor, mask: Option<&Tensor>) -> Result<()> {
    each_block(name, x, &Layout::rows(x, mask, BLOCK)?, |_| Ok(()))?;
    Ok(())
}

/// The entries of X M, row by row, of those of X.
fn times<T: ComplexField>(X: &[T], M: MatRef<'_, T>) -> Vec<T> {
    let d = M.nrows();
    let mut out = vec![T::zero_impl(); X.len()];
    let rows = X.len() / d.max(1);
    let X = MatRef::from_row_major_slice(X, rows, d);
    let Y = MatMut::from_row_major_slice_mut(&mut out, rows, d);
    matmul(Y, Accum::Replace, X, M, T::one_impl(), Par::Seq);
    out
}
