//! Layers on a CUDA GPU against the CPU kernels: value and every gradient. Run by
//! `scripts/check_cuda.sh`; on a machine without a GPU these tests are not built.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::{
    Attention, AveragePool, BatchNorm2d, Conv2d, DepthwiseConv2d, DropPath, Dropout, GatedGelu,
    Gelu, HeadNorm, LayerNorm, LayerScale, MergePatches, Mode, NystromAttention, Precision,
    RmsNorm, Sequence, Store, embedding, linear, linear_cross_entropy,
};

use crate::{distance, uniform};

/// f32 on two devices: matrix products of a GPU may round to TF32, 1e-3 per product.
const DEVICE_TOLERANCE: f64 = 5e-3;

/// Below this the largest entry of a gradient is rounding.
const SMALLEST: f64 = 1e-4;

const MODE: Mode = Mode::train(4, 9);

const MIXED: Mode = Mode::Train { seed: 4, step: 9, last: true, precision: Precision::Bf16 };

/// bf16 on two devices: what is rounded to eight bits, 4e-3, may fall to the other side, once in every layer.
const MIXED_TOLERANCE: f64 = 5e-2;

/// A network of every layer on a device: loss and gradients by name.
fn run(device: &Device, mode: Mode) -> Result<Vec<(String, Tensor)>> {
    let store = Store::new(7, DType::F32, device);
    let vb = store.builder();
    let table = vb.get_with_hints((11, 24), "table", conditioned_nn::init::normal(1.0))?;
    let ids: Vec<u32> = (0..30).map(|i| (i * 7) % 11).collect();
    let ids = Tensor::from_vec(ids, (3, 10), device)?;
    let x = embedding(&ids, &table)?;
    let attention = Sequence::residual([
        LayerNorm::new(vb.pp("norm1"), 24, 1e-5)?.into(),
        linear(vb.pp("qkv"), 24, 72)?.into(),
        Attention { heads: 3, causal: true }.into(),
        HeadNorm { heads: 3 }.into(),
        linear(vb.pp("proj"), 24, 24)?.into(),
        Dropout::new(&vb.pp("dropout"), 0.2)?.into(),
    ]);
    let mlp = Sequence::residual([
        RmsNorm::new(vb.pp("norm2"), 24, 1e-5)?.into(),
        linear(vb.pp("fc1"), 24, 96)?.into(),
        Gelu::Erf.into(),
        GatedGelu.into(),
        linear(vb.pp("fc2"), 48, 24)?.into(),
        DropPath::new(&vb.pp("drop_path"), 0.3)?.into(),
    ]);
    let landmarks = Sequence::residual([
        LayerNorm::new(vb.pp("norm3"), 24, 1e-5)?.into(),
        linear(vb.pp("qkv3"), 24, 72)?.into(),
        NystromAttention::new(3, 4).convolution(vb.pp("conv"), 3)?.into(),
    ]);
    let x = landmarks.forward(&x, mode)?;
    let y = mlp.forward(&attention.forward(&x, mode)?, mode)?;
    let y = LayerNorm::new(vb.pp("norm"), 24, 1e-5)?.forward(&y)?;
    let loss = linear_cross_entropy(&y, &table, &ids, mode.precision())?;
    let grads = loss.backward()?;
    let mut out = vec![("loss".to_string(), loss.to_device(&Device::Cpu)?)];
    for (name, var) in store.parameters() {
        let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
        out.push((name, grad.to_device(&Device::Cpu)?));
    }
    Ok(out)
}

#[test]
fn gpu_layers_equal_those_of_the_cpu() -> Result<()> {
    let gpu = Device::new_cuda(0)?;
    for (mode, tolerance) in [(MODE, DEVICE_TOLERANCE), (MIXED, MIXED_TOLERANCE)] {
        for network in [run, run_images] {
            let (gpu, cpu) = (network(&gpu, mode)?, network(&Device::Cpu, mode)?);
            for ((name, got), (_, want)) in gpu.into_iter().zip(cpu) {
                // Relative to the largest entry.
                let size =
                    want.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                let d = distance(&got, &want)? / size.max(SMALLEST);
                assert!(d < tolerance, "{name} in {:?} differs by {d}", mode.precision());
            }
        }
    }
    Ok(())
}

/// Layers of images on a device: result, gradients and buffers by name.
fn run_images(device: &Device, mode: Mode) -> Result<Vec<(String, Tensor)>> {
    let store = Store::new(7, DType::F32, device);
    let vb = store.builder();
    let images = uniform(&[4, 16, 16, 3], 1)?.to_dtype(DType::F32)?.to_device(device)?;
    let stem = Sequence::new([
        Conv2d::new(vb.pp("conv"), 3, 8, 3)?.stride(2).padding(1).into(),
        BatchNorm2d::new(vb.pp("bn"), 8)?.into(),
        Gelu::Erf.into(),
    ]);
    let branch = Sequence::residual([
        DepthwiseConv2d::new(vb.pp("depthwise"), 8, 3)?.into(),
        LayerScale::new(vb.clone(), "gamma", 8, 0.5)?.into(),
    ]);
    let head = Sequence::new([
        MergePatches.into(),
        linear(vb.pp("head"), 32, 5)?.into(),
        AveragePool.into(),
    ]);
    let y = head.forward(&branch.forward(&stem.forward(&images, mode)?, mode)?, mode)?;
    let grads = y.sqr()?.sum_all()?.backward()?;
    let mut out = vec![("y".to_string(), y.to_device(&Device::Cpu)?)];
    for (name, var) in store.parameters() {
        let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
        out.push((name, grad.to_device(&Device::Cpu)?));
    }
    for (name, var) in store.buffers() {
        out.push((name, var.to_device(&Device::Cpu)?));
    }
    Ok(out)
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
        let grads = layer.forward(&x, MODE)?.sqr()?.sum_all()?.backward()?;
        for (name, var) in store.parameters() {
            let norm = grads.get(&var).expect(&name).to_dtype(DType::F32)?.sqr()?.sum_all()?;
            let norm = norm.to_scalar::<f32>()?;
            assert!(norm.is_finite() && norm > 0.0, "{dtype:?} {name}: {norm}");
        }
    }
    Ok(())
}
