//! Copies from the CPU that do not wait for a GPU.

use candle_core::{Device, Result, Tensor};

/// What CUDA takes from ordinary memory without waiting for the work before it, in bytes ("API synchronization behavior"
/// of the CUDA driver's reference).
const PIECE: usize = 1 << 16;

/// A tensor of the CPU on `device`. A copy of more than 64 KB would have the host wait for a GPU, so it goes in pieces.
///
/// # Errors
/// When the device fails.
pub fn upload(x: &Tensor, device: &Device) -> Result<Tensor> {
    let elements = PIECE / x.dtype().size_in_bytes().max(1);
    match device.is_cuda() && x.elem_count() > elements {
        true => in_pieces(x, elements, device),
        false => x.to_device(device),
    }
}

fn in_pieces(x: &Tensor, elements: usize, device: &Device) -> Result<Tensor> {
    let (flat, n) = (x.flatten_all()?, x.elem_count());
    let piece = |start| {
        let piece = flat.narrow(0, start, elements.min(n - start))?;
        // A part of a tensor would be copied with all of it.
        piece.force_contiguous()?.to_device(device)
    };
    let pieces = (0..n).step_by(elements).map(piece).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&pieces, 0)?.reshape(x.shape())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let x =
            Tensor::arange(0u32, 42, &Device::Cpu).unwrap().reshape((6, 7)).unwrap().t().unwrap();
        for elements in [1, 5, 41, 42, 43] {
            let y = in_pieces(&x, elements, &Device::Cpu).unwrap();
            assert_eq!(y.to_vec2::<u32>().unwrap(), x.to_vec2::<u32>().unwrap(), "{elements}");
        }
    }
}
