//! A launch as an operation of candle.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor,
};

use super::Launch;

/// The name of every launch in candle's errors.
pub(super) const NAME: &str = "cuda-kernel";

/// A launch with a backward: from the inputs, y and g to the gradient of each input.
pub(super) struct Op<const N: usize, B> {
    pub(super) launch: Launch,
    pub(super) backward: B,
}

impl Launch {
    /// The result for one to three contiguous inputs, without a backward.
    pub(super) fn run(self, inputs: &[&Tensor]) -> Result<Tensor> {
        match *inputs {
            [a] => a.apply_op1_no_bwd(&Op { launch: self, backward: nothing }),
            [a, b] => a.apply_op2_no_bwd(b, &Op { launch: self, backward: nothing }),
            [a, b, c] => a.apply_op3_no_bwd(b, c, &Op { launch: self, backward: nothing }),
            _ => candle_core::bail!("{}: {} inputs", self.kernel, inputs.len()),
        }
    }
}

fn nothing<const N: usize>(_: [&Tensor; N], _: &Tensor, _: &Tensor) -> Result<[Option<Tensor>; N]> {
    Ok([const { None }; N])
}

impl<B> CustomOp1 for Op<1, B>
where
    B: Fn([&Tensor; 1], &Tensor, &Tensor) -> Result<[Option<Tensor>; 1]> + Send + Sync,
{
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout) -> Result<(CpuStorage, Shape)> {
        self.launch.on_host(&[(a, la)])
    }

    fn cuda_fwd(&self, a: &CudaStorage, la: &Layout) -> Result<(CudaStorage, Shape)> {
        self.launch.on_cuda(&[(a, la)])
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let [da] = (self.backward)([a], y, g)?;
        Ok(da)
    }
}

impl<B> CustomOp2 for Op<2, B>
where
    B: Fn([&Tensor; 2], &Tensor, &Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync,
{
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.launch.on_host(&[(a, la), (b, lb)])
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.launch.on_cuda(&[(a, la), (b, lb)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = (self.backward)([a, b], y, g)?;
        Ok((da, db))
    }
}

impl<B> CustomOp3 for Op<3, B>
where
    B: Fn([&Tensor; 3], &Tensor, &Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync,
{
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.launch.on_host(&[(a, la), (b, lb), (c, lc)])
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
        c: &CudaStorage,
        lc: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.launch.on_cuda(&[(a, la), (b, lb), (c, lc)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = (self.backward)([a, b, c], y, g)?;
        Ok((da, db, dc))
    }
}
