//! Layers on a CUDA GPU against the CPU kernels: value and every gradient. Run by
//! `scripts/check_cuda.sh`; on a machine without a GPU these tests are not built.

use candle_core::{DType, Device, Result, Var};
use conditioned_nn::{LayerNorm, Sequence, Store, linear, upload};

use crate::networks::{
    BF16_TOLERANCE, FULL, MIXED, MIXED_TOLERANCE, TILES, adamw_is_its_formula, assert_near, images,
    layers, masks, packed_attention,
};
use crate::{distance, uniform};

/// f32 on two devices: matrix products of a GPU may round to TF32, 1e-3 per product.
const DEVICE_TOLERANCE: f64 = 5e-3;

#[test]
fn gpu_layers_equal_those_of_the_cpu() -> Result<()> {
    let gpu = Device::new_cuda(0)?;
    for (mode, tolerance) in [(FULL, DEVICE_TOLERANCE), (MIXED, MIXED_TOLERANCE)] {
        for network in [layers, images] {
            // In f32 on the CPU, whatever the GPU multiplies in.
            let (gpu, cpu) = (network(&gpu, mode)?, network(&Device::Cpu, FULL)?);
            assert_near(&gpu, &cpu, tolerance)?;
        }
    }
    Ok(())
}

/// Bit for bit, whoever draws them.
#[test]
fn gpu_masks_equal_those_of_the_cpu() -> Result<()> {
    let got = masks(&Device::new_cuda(0)?, FULL)?;
    for (got, want) in got.iter().zip(&masks(&Device::Cpu, FULL)?) {
        assert_eq!(distance(got, want)?, 0.0);
    }
    Ok(())
}

/// The kernel without a matrix of scores, on tensor cores.
#[test]
fn gpu_attention_in_tiles_equals_its_definition() -> Result<()> {
    let gpu = Device::new_cuda(0)?;
    for case in &TILES {
        let got = packed_attention(&gpu, DType::BF16, case)?;
        let want = packed_attention(&Device::Cpu, DType::F64, case)?;
        assert_near(&got, &want, BF16_TOLERANCE)?;
    }
    Ok(())
}

#[test]
fn gpu_adamw_equals_its_formula() -> Result<()> {
    adamw_is_its_formula(&Device::new_cuda(0)?)
}

/// More copies of each size than may wait, of whole tensors and of parts, none of them read before all are given.
#[test]
fn gpu_copies_hold_what_was_copied() -> Result<()> {
    const SIZES: [(usize, DType); 4] =
        [(3, DType::F32), (401, DType::F32), (900, DType::U32), (3000, DType::U8)];
    let gpu = Device::new_cuda(0)?;
    let mut copies = Vec::new();
    for (seed, (rows, dtype)) in SIZES.into_iter().cycle().take(120).enumerate() {
        let x = uniform(&[2 * rows, 128], seed as u64)?.affine(100.0, 100.0)?.to_dtype(dtype)?;
        for x in [x.narrow(0, rows / 2, rows)?, x.t()?] {
            copies.push((upload(&x, &gpu)?, x));
        }
    }
    for (copy, x) in copies {
        assert_eq!(distance(&copy.to_device(&Device::Cpu)?, &x)?, 0.0, "{:?}", x.shape());
    }
    Ok(())
}

#[test]
fn gpu_half_precision_trains() -> Result<()> {
    let gpu = Device::new_cuda(0)?;
    for dtype in [DType::F16, DType::BF16] {
        let x = Var::from_tensor(&uniform(&[2, 5, 24], 1)?.to_dtype(dtype)?.to_device(&gpu)?)?;
        let store = Store::new(7, dtype, &gpu);
        let layer = Sequence::residual([
            LayerNorm::new(store.builder().pp("norm"), 24, 1e-5)?.into(),
            linear(store.builder().pp("fc"), 24, 24)?.into(),
        ]);
        let grads = layer.forward(&x, FULL)?.sqr()?.sum_all()?.backward()?;
        for (name, var) in store.parameters() {
            let norm = grads.get(&var).expect(&name).to_dtype(DType::F32)?.sqr()?.sum_all()?;
            let norm = norm.to_scalar::<f32>()?;
            assert!(norm.is_finite() && norm > 0.0, "{dtype:?} {name}: {norm}");
        }
    }
    Ok(())
}
