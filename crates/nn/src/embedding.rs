//! Rows of a table by index.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use crate::device;
use crate::kernel::{self, Real};

/// y_i = row ids_i of the table: ids (...) of u32 and a table (V, C) give (..., C).
///
/// The gradient of the table is written row by row from the rows that occur, in an order that does
/// not depend on threads; candle's optimisers want it dense, so the other rows are zero.
///
/// # Errors
/// When an id is not below V.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (rows, width) = table.dims2()?;
    let indices: Vec<u32> = ids.flatten_all()?.to_dtype(DType::U32)?.to_vec1()?;
    if let Some(id) = indices.iter().find(|&&id| id as usize >= rows) {
        candle_core::bail!("embedding: id {id} with a table of {rows} rows");
    }
    let y = match kernel::serves(table) {
        true => table.contiguous()?.apply_op1(EmbeddingOp { indices })?,
        false => device::rows(table, indices)?,
    };
    y.reshape([ids.dims(), &[width]].concat())
}

struct EmbeddingOp {
    indices: Vec<u32>,
}

impl EmbeddingOp {
    fn gather<T: Real>(&self, table: &[T], width: usize) -> Vec<T> {
        let rows = kernel::rows_per_piece(width);
        kernel::build(self.indices.len() * width, rows * width, |piece, out: &mut [T]| {
            let ids = &self.indices[piece * rows..];
            for (row, &id) in out.chunks_exact_mut(width.max(1)).zip(ids) {
                row.copy_from_slice(&table[id as usize * width..][..width]);
            }
        })
    }

    /// The sum of the rows of `g` with the same id. Each row of the table belongs to one task, which
    /// adds to it in order.
    fn scatter<T: Real>(&self, g: &[T], rows: usize, width: usize) -> Vec<T> {
        let mut places: Vec<(u32, u32)> = self.indices.iter().copied().zip(0..).collect();
        places.sort_unstable();
        let piece_rows = kernel::rows_per_piece(width);
        kernel::build(rows * width, piece_rows * width, |piece, out: &mut [T]| {
            let first = piece * piece_rows;
            let from = places.partition_point(|(id, _)| (*id as usize) < first);
            let within =
                places[from..].iter().take_while(|(id, _)| (*id as usize) < first + piece_rows);
            for &(id, place) in within {
                let row = &mut out[(id as usize - first) * width..][..width];
                kernel::add(row, &g[place as usize * width..][..width]);
            }
        })
    }
}

impl CustomOp1 for EmbeddingOp {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        kernel::dispatch!(table, self.name(), T => {
            let y = self.gather::<T>(kernel::slice(table, layout, self.name())?, width);
            kernel::output(y, (self.indices.len(), width))
        })
    }

    fn bwd(&self, table: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (rows, width) = table.dims2()?;
        let g = g.contiguous()?;
        let reads = kernel::Reads::of([&g]);
        let gradient = match table.dtype() {
            DType::F32 => {
                let gradient = self.scatter::<f32>(reads.slices(self.name())?[0], rows, width);
                Tensor::from_vec(gradient, table.shape(), table.device())?
            }
            _ => {
                let gradient = self.scatter::<f64>(reads.slices(self.name())?[0], rows, width);
                Tensor::from_vec(gradient, table.shape(), table.device())?
            }
        };
        Ok(Some(gradient))
    }
}
