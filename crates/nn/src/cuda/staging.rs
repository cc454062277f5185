//! Copies from the CPU through page-locked memory.
//!
//! From ordinary memory the host waits until a CUDA device has read it, and so for all the work that the device was given
//! before. From page-locked memory the device reads when its turn comes, and the host goes on. The memory is kept for
//! later copies: an event behind each tells when it has been read. (The event in cudarc's `PinnedHostSlice` is recorded
//! for contexts of several streams alone.)

use std::mem::size_of_val;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, DeviceRepr, PinnedHostSlice};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaDevice, CudaStorage, Device, Result, Shape, Storage, Tensor};

/// What CUDA takes from ordinary memory without waiting, in bytes ("API synchronization behavior" of the driver's
/// reference).
const TAKEN: usize = 1 << 16;

/// Bytes in blocks of one size that the devices may have yet to read, before the host waits for one: page-locked memory
/// is lost to all else.
const UNREAD: usize = 1 << 28;

/// Page-locked memory, and the event behind the last copy from it.
struct Block {
    memory: PinnedHostSlice<u8>,
    read: CudaEvent,
}

/// The blocks that no copy is being written to.
static BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());

impl Block {
    /// A block of this many bytes, rounded up to a power of two, whose last copy has been read.
    fn take(bytes: usize, device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let (context, bytes) = (stream.context(), bytes.next_power_of_two());
        context.bind_to_thread().w()?;
        let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut count, mut oldest, mut free) = (0, None, None);
        for (i, block) in blocks.iter().enumerate() {
            if block.memory.len() == bytes && block.memory.context() == context {
                count += 1;
                oldest.get_or_insert(i);
                if block.read.try_is_complete().w()? {
                    free = Some(i);
                    break;
                }
            }
        }
        if let Some(i) = free.or(oldest.filter(|_| count >= (UNREAD / bytes).clamp(2, 16))) {
            let block = blocks.remove(i);
            block.read.synchronize().w()?;
            return Ok(block);
        }
        // SAFETY: bytes are written before they are copied.
        #[allow(unsafe_code)]
        let memory = unsafe { context.alloc_pinned_with_flags(bytes, 0) }.w()?;
        Ok(Self { memory, read: context.new_event(None).w()? })
    }

    fn put_back(self) {
        BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }
}

/// A tensor of the CPU on a device, without its graph.
pub(crate) fn upload(x: &Tensor, device: &CudaDevice) -> Result<Tensor> {
    let x = x.detach().contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let start = layout.start_offset();
    let (all, shape) = (start..start + x.elem_count(), layout.shape());
    let is_large = x.elem_count() * x.dtype().size_in_bytes() > TAKEN;
    match &*storage {
        Storage::Cpu(CpuStorage::U8(values)) if is_large => copy(&values[all], shape, device),
        Storage::Cpu(CpuStorage::U32(values)) if is_large => copy(&values[all], shape, device),
        Storage::Cpu(CpuStorage::F32(values)) if is_large => copy(&values[all], shape, device),
        // Of what is small, or of another dtype, not more than there is: a part would be copied with all of it.
        _ => x.force_contiguous()?.to_device(&Device::Cuda(device.clone())),
    }
}

#[allow(unsafe_code)]
fn copy<T: CudaDType + DeviceRepr>(
    values: &[T],
    shape: &Shape,
    device: &CudaDevice,
) -> Result<Tensor> {
    let (stream, bytes) = (device.cuda_stream(), size_of_val(values));
    let mut block = Block::take(bytes, device)?;
    // SAFETY: numbers without padding are bytes.
    let values_as_bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), bytes) };
    block.memory.as_mut_slice().w()?[..bytes].copy_from_slice(values_as_bytes);
    // SAFETY: all of it is written by the copy behind, and any bytes that `values` hold are a T.
    let mut out = unsafe { device.alloc::<T>(values.len())? };
    let copied = match unsafe { out.transmute_mut::<u8>(bytes) } {
        Some(mut out) => stream.memcpy_htod(&block.memory.as_slice().w()?[..bytes], &mut out).w(),
        None => candle_core::bail!("upload: {bytes} bytes do not fit"),
    };
    // Also behind a copy that failed: the device may have begun to read.
    block.read.record(&stream).w()?;
    block.put_back();
    copied?;
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(out, device.clone()));
    Ok(Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false))
}
