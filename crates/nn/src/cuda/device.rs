//! The name of a CUDA device, and how it takes and gives back memory.

use candle_core::{Device, Result};

/// Lets a CUDA device keep the memory of tensors that are dropped, for the next ones; others are left as they are.
///
/// By default the driver gives it back to the system whenever the host waits for the device, so that every training step
/// maps its gigabytes anew. The events that cudarc makes with each tensor are left out too where there is one stream, for which
/// it would not record them.
///
/// # Errors
/// When the driver refuses.
pub fn keep_memory(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => keep(cuda),
        _ => Ok(()),
    }
}

/// The name of a CUDA device, such as `NVIDIA H200`; `None` for others, and where its driver does not tell.
pub fn name(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.cuda_stream().context().name().ok(),
        _ => None,
    }
}

#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
fn keep(cuda: &candle_core::CudaDevice) -> Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
    use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;

    let stream = cuda.cuda_stream();
    let context = stream.context();
    if !context.is_in_multi_stream_mode() {
        // SAFETY: with one stream no event was ever recorded, and the stream orders all work.
        unsafe { cuda.disable_event_tracking() };
    }
    if !context.has_async_alloc() {
        return Ok(());
    }
    context.bind_to_thread().w()?;
    let mut threshold = u64::MAX;
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is that of the context, and this attribute is a u64.
    unsafe {
        let pool = device::get_default_mem_pool(context.cu_device()).w()?;
        mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()).w()
    }
}
