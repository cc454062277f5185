//! Tokens times one matrix, in f64 on the host.

use candle_core::{CpuStorage, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, Par};

use crate::Result;
use crate::blocks::Layout;
use crate::host::map_blocks;

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
    map_blocks([name], [x], &layout, |[x]| {
        let X = x.matrix();
        let mut out = vec![0.0; X.nrows() * X.ncols()];
        let Y = MatMut::from_row_major_slice_mut(&mut out, X.nrows(), X.ncols());
        matmul(Y, Accum::Replace, X, M, 1.0, Par::Seq);
        Ok(out)
    })
}
