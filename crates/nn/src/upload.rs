//! Copies from the CPU that do not wait for a GPU.

use candle_core::{Device, Result, Tensor};

/// A tensor of the CPU on `device`, without its graph. To a CUDA device the host does not wait for the work before.
///
/// # Errors
/// When the device fails.
pub fn upload(x: &Tensor, device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let (Device::Cpu, Device::Cuda(cuda)) = (x.device(), device) {
        return crate::cuda::staging::upload(x, cuda);
    }
    x.detach().to_device(device)
}
