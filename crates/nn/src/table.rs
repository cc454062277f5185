//! Adding a table (of positions) to every sequence of a batch.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::kernel;

/// y_b = x_b + table for every sequence b.
///
/// `x` is (B, N, C), `table` is (1, N, C). The gradient of the table is a sum over the batch,
/// computed as a product with ones: candle's own broadcast takes its slow sum instead.
///
/// # Errors
/// When the table does not have the shape of one sequence.
pub fn add_table(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (_, n, c) = x.dims3()?;
    if table.dims() != [1, n, c] {
        candle_core::bail!(
            "a table {:?} cannot be added to sequences {:?}",
            table.dims(),
            x.dims()
        );
    }
    if !kernel::serves(x) {
        return x.broadcast_add(table);
    }
    x.contiguous()?.apply_op2(&table.contiguous()?, AddTableOp)
}

struct AddTableOp;

impl CustomOp2 for AddTableOp {
    fn name(&self) -> &'static str {
        "add-table"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, self.name(), T => {
            let table: &[T] = kernel::slice(table, table_layout, self.name())?;
            let mut y = kernel::slice::<T>(x, x_layout, self.name())?.to_vec();
            kernel::for_pieces(&mut y, table.len(), |_, y| {
                y.iter_mut().zip(table).for_each(|(y, &t)| *y += t);
            });
            kernel::output(y, x_layout.shape().clone())
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        table: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = x.track_op().then(|| g.clone());
        if !table.track_op() {
            return Ok((dx, None));
        }
        let batch = g.dim(0)?;
        let ones = Tensor::ones((1, batch), g.dtype(), g.device())?;
        let sum = ones.matmul(&g.reshape((batch, table.elem_count()))?)?;
        Ok((dx, Some(sum.reshape(table.shape())?)))
    }
}
