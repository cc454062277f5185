//! Networks of every layer, to be run on two devices.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::cuda::{AdamWStep, adamw};
use conditioned_nn::{
    Attention, AveragePool, BatchNorm2d, Conv2d, DepthwiseConv2d, DropPath, Dropout, GatedGelu,
    Gelu, HeadNorm, LayerNorm, LayerScale, MergePatches, Mode, NystromAttention, Padding,
    Precision, RmsNorm, Sequence, Store, embedding, linear, linear_cross_entropy, reference,
};

use crate::{F32_TOLERANCE, distance, uniform};

/// Below this the largest entry of a gradient is rounding.
const SMALLEST: f64 = 1e-4;

/// A training pass.
pub(crate) const FULL: Mode = Mode::train(4, 9);

/// bf16 against f32: eight bits, 4e-3, through a dozen layers (up to 4.1e-2 was seen).
pub(crate) const MIXED_TOLERANCE: f64 = 6e-2;

/// The same pass in mixed precision.
pub(crate) const MIXED: Mode =
    Mode::Train { seed: 4, step: 9, last: true, precision: Precision::Bf16 };

/// What a network on a device gives: loss, gradients and buffers by name.
pub(crate) type Found = Vec<(String, Tensor)>;

/// Asserts that two runs of a network agree, each tensor relative to its largest entry.
pub(crate) fn assert_near(got: &Found, want: &Found, tolerance: f64) -> Result<()> {
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let size = want.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let d = distance(got, want)? / size.max(SMALLEST);
        assert!(d < tolerance, "{name} differs by {d}");
    }
    Ok(())
}

/// One rounding to bf16, and what it moves in a few operations after it.
pub(crate) const BF16_TOLERANCE: f64 = 1.5e-2;

/// Attention of packed tokens [B, N, H, D], padded where there are lengths.
pub(crate) struct Packed<'a> {
    pub(crate) sizes: [usize; 4],
    pub(crate) causal: bool,
    pub(crate) lengths: &'a [usize],
}

/// y and the gradient of sum(y w) for fixed w in `dtype`, by what a device has or, in f64, by the definition.
pub(crate) fn packed_attention(device: &Device, dtype: DType, case: &Packed<'_>) -> Result<Found> {
    let Packed { sizes: [b, n, h, d], causal, lengths } = *case;
    // Both sides begin with the same rounded numbers.
    let qkv = (uniform(&[b, n, 3 * h * d], 1)? * 3.0)?.to_dtype(DType::BF16)?.to_dtype(dtype)?;
    let w = uniform(&[b, n, h * d], 77)?.to_dtype(DType::BF16)?.to_dtype(dtype)?;
    let qkv = Var::from_tensor(&qkv.to_device(device)?)?;
    let y = match dtype {
        _ if !lengths.is_empty() => {
            let row = |&length: &usize| (0..n).map(move |i| u8::from(i < length));
            let mask = lengths.iter().flat_map(row).collect();
            let padding = Padding::of(&Tensor::from_vec(mask, (b, n), &Device::Cpu)?)?;
            conditioned_nn::device::padded_attention(&qkv, h, causal, &padding)?
        }
        DType::F64 => reference::attention(&qkv, h, causal)?,
        _ => conditioned_nn::device::attention(&qkv, h, causal)?,
    };
    let grads = (&y * w.to_device(device)?)?.sum_all()?.backward()?;
    let host = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
    let gradient = host(grads.get(&qkv).expect("a gradient"))?;
    Ok(vec![("y".to_string(), host(&y)?), ("gradient".to_string(), gradient)])
}

/// Sizes that end within a tile of 64 tokens, causal tiles of which some see nothing of each other, and tiles of padding.
pub(crate) const TILES: [Packed<'_>; 6] = [
    Packed { sizes: [2, 70, 1, 32], causal: false, lengths: &[] },
    Packed { sizes: [1, 130, 1, 64], causal: false, lengths: &[] },
    Packed { sizes: [1, 130, 2, 64], causal: true, lengths: &[] },
    Packed { sizes: [3, 5, 2, 32], causal: true, lengths: &[] },
    Packed { sizes: [3, 130, 1, 64], causal: false, lengths: &[130, 1, 64] },
    Packed { sizes: [2, 70, 2, 32], causal: true, lengths: &[65, 30] },
];

/// A network of every layer on a device: loss and gradients by name.
pub(crate) fn layers(device: &Device, mode: Mode) -> Result<Found> {
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
    // Heads of 32: in bf16 on CUDA those of the kernel in tiles.
    let tiles = Sequence::residual([
        linear(vb.pp("qkv4"), 24, 192)?.into(),
        Attention { heads: 2, causal: false }.into(),
        linear(vb.pp("proj4"), 64, 24)?.into(),
    ]);
    let x = tiles.forward(&landmarks.forward(&x, mode)?, mode)?;
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

/// Layers of images on a device: result, gradients and buffers by name.
pub(crate) fn images(device: &Device, mode: Mode) -> Result<Found> {
    let store = Store::new(7, DType::F32, device);
    let vb = store.builder();
    let images = uniform(&[4, 16, 16, 3], 1)?.to_dtype(DType::F32)?.to_device(device)?;
    let stem = Sequence::new([
        Conv2d::new(vb.pp("conv"), 3, 8, 3)?.stride(2).padding(1).into(),
        // Right behind a bias, batch normalisation would leave it no gradient but rounding.
        Gelu::Erf.into(),
        BatchNorm2d::new(vb.pp("bn"), 8)?.into(),
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

/// Tokens and their gradients behind dropout by elements and by samples, for some probabilities.
pub(crate) fn masks(device: &Device, mode: Mode) -> Result<Vec<Tensor>> {
    let vb = Store::new(0, DType::F32, device).builder().pp("layer");
    let mut found = Vec::new();
    for p in [0.1, 1.0 / 3.0, 0.9] {
        let x = uniform(&[8, 5, 37], 1)?.to_dtype(DType::F32)?.to_device(device)?;
        let x = Var::from_tensor(&x)?;
        let (dropout, path) = (Dropout::new(&vb, p)?, DropPath::new(&vb, p)?);
        for y in [dropout.forward(&x, mode)?, path.forward(&x, mode)?] {
            let grads = y.sqr()?.sum_all()?.backward()?;
            found.extend([y, grads.get(&x).expect("a gradient").clone()]);
        }
    }
    found.into_iter().map(|x| x.to_device(&Device::Cpu)).collect()
}

/// That one step of AdamW by kernels on a device is its formula; an error where no kernel serves it.
pub(crate) fn adamw_is_its_formula(device: &Device) -> Result<()> {
    let step = AdamWStep {
        s: 0.7,
        a1: 0.1,
        b2: 0.95,
        a2: 0.05,
        decay: 0.99,
        rate: 0.1,
        root: 0.2,
        eps: 1e-8,
    };
    let of = |seed: u64| uniform(&[5, 61], seed)?.to_dtype(DType::F32)?.to_device(device);
    let (theta, g) = (Var::from_tensor(&of(1)?)?, of(2)?);
    let (m, v) = (of(3)?.copy()?, of(4)?.sqr()?);
    let wide = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
    let (theta0, m0, v0) = (wide(theta.as_tensor())?, wide(&m)?, wide(&v)?);
    if !adamw(&theta, (&m, &v), &g, &step)? {
        candle_core::bail!("no kernel");
    }
    let g = (wide(&g)? * step.s)?;
    let m1 = (&m0 + ((&g - &m0)? * step.a1)?)?;
    let v1 = ((&v0 * step.b2)? + (g.sqr()? * step.a2)?)?;
    let along = (m1.div(&((v1.sqrt()? / step.root)? + step.eps)?)? * step.rate)?;
    let theta1 = ((theta0 * step.decay)? - along)?;
    for (got, want) in [(&m, m1), (&v, v1), (theta.as_tensor(), theta1)] {
        assert!(distance(&wide(got)?, &want)? < F32_TOLERANCE);
    }
    Ok(())
}
