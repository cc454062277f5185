//! Sums over the GPUs of several processes, by NCCL.

use std::ffi::c_char;

use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, DType, InplaceOp1, Layout, Tensor};

use crate::error::{Result, TrainError};

/// Bytes by which the processes find each other.
pub(crate) const ID: usize = 128;

/// One GPU of each process, all of which call [`Gpus::sum`] in the same order.
#[derive(Debug)]
pub(crate) struct Gpus(Comm);

impl Gpus {
    /// Joins the GPUs of `size` processes; this is number `rank`. `share` gives every process the bytes of process 0.
    ///
    /// # Errors
    /// When NCCL cannot join them.
    pub(crate) fn join(
        device: &CudaDevice,
        rank: usize,
        size: usize,
        share: impl FnOnce(&mut [u8; ID]),
    ) -> Result<Self> {
        let own = if rank == 0 { Some(Id::new()) } else { None };
        let mut bytes = [0; ID];
        if let Some(Ok(id)) = &own {
            bytes = id.internal().map(|c| c.to_ne_bytes()[0]);
        }
        // Shared even where there is none: the others wait for it.
        share(&mut bytes);
        if let Some(Err(error)) = own {
            return Err(failed(error.0));
        }
        if bytes == [0; ID] {
            return Err(failed("process 0 could not begin"));
        }
        let id = Id::uninit(bytes.map(|byte| c_char::from_ne_bytes([byte])));
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().map_err(failed)?;
        let comm = Comm::from_rank(stream, rank, size, id);
        Ok(Self(comm.map_err(|error| failed(error.0))?))
    }

    /// The sum over all processes of each of these tensors, f32 on this GPU: one message, and no wait of the host.
    ///
    /// # Errors
    /// When NCCL fails.
    pub(crate) fn sum(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let flat: Vec<Tensor> = tensors
            .iter()
            .map(|tensor| tensor.flatten_all())
            .collect::<candle_core::Result<_>>()?;
        // Memory of its own, from its first element on: gradients may be views, and share theirs.
        let all = match flat.as_slice() {
            [] => return Ok(Vec::new()),
            [one] => one.force_contiguous()?,
            several => Tensor::cat(several, 0)?,
        };
        all.inplace_op1(self)?;
        let mut at = 0;
        let mut sums = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            sums.push(all.narrow(0, at, tensor.elem_count())?.reshape(tensor.shape())?);
            at += tensor.elem_count();
        }
        Ok(sums)
    }
}

impl Drop for Gpus {
    /// Ends what is under way: to drop the rest aborts it.
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.0.stream().synchronize();
    }
}

/// Whether NCCL sums such a tensor.
pub(crate) fn serves(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && tensor.dtype() == DType::F32
}

impl InplaceOp1 for Gpus {
    fn name(&self) -> &'static str {
        "nccl-sum"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("nccl: a tensor on the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> candle_core::Result<()> {
        let sum = self.0.all_reduce_in_place(storage.as_cuda_slice_mut::<f32>()?, &ReduceOp::Sum);
        sum.map_err(|error| candle_core::Error::msg(format!("nccl: {:?}", error.0)))?;
        Ok(())
    }
}

fn failed(error: impl std::fmt::Debug) -> TrainError {
    TrainError::Collective { reason: format!("NCCL: {error:?}") }
}
