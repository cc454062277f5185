//! Tokens times one matrix, on the host: in f32 for tokens in f32, else in f64.

use candle_core::{CpuStorage, Tensor};
use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::blocks::Layout;
use crate::host::{each_block, map_blocks, map_single_rows};

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
    match map_single_rows(x, &layout, |X, Y| set_product(Y, X, single.as_ref()))? {
        Some(values) => Ok(values),
        None => map_blocks([name], [x], &layout, |[x]| {
            let mut out = vec![0.0; x.values().len()];
            set_product(&mut out, x.values(), M.as_ref());
            Ok(out)
        }),
    }
}

/// Checks that the real rows of x: (..., N, d) are finite.
pub(crate) fn check_finite(name: &'static str, x: &Tensor, mask: Option<&Tensor>) -> Result<()> {
    each_block(name, x, &Layout::rows(x, mask, BLOCK)?, |_| Ok(()))?;
    Ok(())
}

/// Sets Y to X M, row by row.
fn set_product<T: ComplexField>(Y: &mut [T], X: &[T], M: MatRef<'_, T>) {
    let d = M.nrows();
    let rows = X.len() / d.max(1);
    let X = MatRef::from_row_major_slice(X, rows, d);
    let Y = MatMut::from_row_major_slice_mut(Y, rows, d);
    matmul(Y, Accum::Replace, X, M, T::one_impl(), Par::Seq);
}
