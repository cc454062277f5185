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
        let mut bytes = [0; ID];
        if rank == 0 {
            bytes =
                Id::new().map_err(|error| failed(error.0))?.internal().map(c_char::cast_unsigned);
        }
        share(&mut bytes);
        let id = Id::uninit(bytes.map(u8::cast_signed));
        let comm = Comm::from_rank(device.cuda_stream(), rank, size, id);
        Ok(Self(comm.map_err(|error| failed(error.0))?))
    }

    /// The sum over all processes of each of these tensors, f32 on this GPU: one message, and no wait of the host.
    ///
    /// # Errors
    /// When NCCL fails.
    pub(crate) fn sum(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let flat = tensors
            .iter()
            .map(|tensor| tensor.flatten_all())
            .collect::<candle_core::Result<Vec<_>>>()?;
        if flat.is_empty() {
            return Ok(Vec::new());
        }
        // A copy: gradients may share their memory, and one tensor alone would be handed on.
        let all = Tensor::cat(&flat, 0)?.copy()?;
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
