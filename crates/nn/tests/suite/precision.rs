//! Mixed precision against f64: near in value and gradient, with everything in f32 that stays in f32.

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_nn::{
    Attention, AveragePool, BatchNorm2d, ChannelAttention, Conv2d, ConvTranspose2d,
    CrossCovarianceAttention, DepthwiseConv2d, DropPath, Dropout, GatedGelu, Gelu, HeadNorm,
    LayerNorm, LayerScale, MergePatches, Mode, NystromAttention, Padding, Pass, Precision, RmsNorm,
    Sequence, Store, WindowAttention, backward, linear, linear_cross_entropy,
};

use crate::{distance, uniform};

/// Relative distance of two vectors: eight bits, 4e-3, at each of a dozen operations one after the other.
const BF16_TOLERANCE: f64 = 4e-2;

const FULL: Mode = Mode::train(2, 5);
const MIXED: Mode = Mode::Train { seed: 2, step: 5, last: true, precision: Precision::Bf16 };

/// ||a - b|| / ||b||.
fn relative(a: &Tensor, b: &Tensor) -> Result<f64> {
    let [a, b] = [a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?];
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f64>().map(f64::sqrt);
    Ok(norm(&(a - &b)?)? / norm(&b)?)
}

/// Result, gradient of x and gradients of the parameters of a network, by name.
fn run(
    network: fn(&Store) -> Result<Sequence>,
    x: &Tensor,
    pass: Pass<'_>,
) -> Result<Vec<(String, Tensor)>> {
    let store = Store::new(1, x.dtype(), &Device::Cpu);
    let network = network(&store)?;
    let x = Var::from_tensor(x)?;
    let y = network.forward(&x, pass)?;
    let cotangent = uniform(y.dims(), 99)?.to_dtype(y.dtype())?;
    let grads = backward((&y * cotangent)?.sum_all()?)?;
    let mut out = vec![("y".to_string(), y), ("dx".into(), grads.get(&x).expect("dx").clone())];
    for (name, var) in store.parameters() {
        out.push((name.clone(), grads.get(&var).expect(&name).clone()));
    }
    Ok(out)
}

/// Compares mixed precision over f32 parameters with f64.
fn compare(
    network: fn(&Store) -> Result<Sequence>,
    shape: &[usize],
    padding: Option<&Padding>,
) -> Result<()> {
    let x = uniform(shape, 3)?;
    let exact = run(network, &x, Pass::from(FULL).padded(padding))?;
    let mixed = run(network, &x.to_dtype(DType::F32)?, Pass::from(MIXED).padded(padding))?;
    let mut rounded = false;
    for ((name, got), (_, want)) in mixed.iter().zip(&exact) {
        assert_eq!(got.dtype(), DType::F32, "{name}");
        let d = relative(got, want)?;
        assert!(d < BF16_TOLERANCE, "{name} differs by {d}");
        // f32 would be at 1e-6.
        rounded |= d > 1e-4;
    }
    assert!(rounded, "nothing was rounded to bf16");
    Ok(())
}

#[test]
fn a_transformer_is_near_the_one_in_f64() -> Result<()> {
    let network = |store: &Store| {
        let vb = store.builder();
        Ok(Sequence::chain([
            Sequence::residual([
                LayerNorm::new(vb.pp("norm1"), 24, 1e-6)?.into(),
                linear(vb.pp("qkv"), 24, 72)?.into(),
                Attention { heads: 3, causal: true }.into(),
                HeadNorm { heads: 3 }.into(),
                linear(vb.pp("proj"), 24, 24)?.into(),
                LayerScale::new(vb.pp("scale"), "gamma", 24, 0.5)?.into(),
            ]),
            Sequence::residual([
                RmsNorm::new(vb.pp("norm2"), 24, 1e-6)?.into(),
                linear(vb.pp("fc1"), 24, 96)?.into(),
                Gelu::Erf.into(),
                GatedGelu.into(),
                linear(vb.pp("fc2"), 48, 24)?.into(),
            ]),
        ]))
    };
    compare(network, &[3, 10, 24], None)?;
    let mask = [[1u8; 10], [1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]];
    compare(network, &[3, 10, 24], Some(&Padding::of(&Tensor::new(&mask, &Device::Cpu)?)?))
}

#[test]
fn layers_of_images_are_near_those_in_f64() -> Result<()> {
    let stem = |store: &Store| {
        let vb = store.builder();
        Ok(Sequence::new([
            Conv2d::without_bias(vb.pp("conv"), 8, 16, 3)?.padding(1).into(),
            BatchNorm2d::new(vb.pp("bn"), 16)?.into(),
            Gelu::Tanh.into(),
            DepthwiseConv2d::new(vb.pp("depthwise"), 16, 3)?.into(),
            ConvTranspose2d::new(vb.pp("up"), 16, 8, 2)?.into(),
        ]))
    };
    let windows = |store: &Store| {
        let vb = store.builder();
        Ok(Sequence::residual([
            linear(vb.pp("qkv"), 8, 24)?.into(),
            WindowAttention::shifted(&vb.pp("attn"), 2, 2, 1)?.into(),
        ]))
    };
    let channels = |store: &Store| {
        let vb = store.builder();
        Ok(Sequence::residual([
            linear(vb.pp("qkv"), 8, 24)?.into(),
            CrossCovarianceAttention::new(&vb.pp("attn"), 2)?.into(),
        ]))
    };
    for network in [stem, windows, channels] {
        compare(network, &[3, 4, 4, 8], None)?;
    }
    Ok(())
}

#[test]
fn landmarks_are_near_those_in_f64() -> Result<()> {
    let network = |store: &Store| {
        let vb = store.builder();
        Ok(Sequence::residual([
            linear(vb.pp("qkv"), 12, 36)?.into(),
            NystromAttention::new(2, 3).convolution(vb.pp("conv"), 3)?.into(),
        ]))
    };
    compare(network, &[2, 9, 12], None)
}

/// Every entry is the one that comes of rounding factors, product and sum, and of nothing else.
#[test]
fn a_product_is_rounded_where_it_should_be() -> Result<()> {
    let store = Store::new(1, DType::F32, &Device::Cpu);
    let layer = linear(store.builder(), 40, 7)?;
    let x = uniform(&[50, 40], 1)?.to_dtype(DType::F32)?;
    let y = Sequence::new([layer.into()]).forward(&x, MIXED)?;
    assert_eq!(y.dtype(), DType::F32);
    let rounded = |tensor: &Tensor| tensor.to_dtype(DType::BF16)?.to_dtype(DType::F64);
    let parameter = |name: &str| rounded(&store.get(name).expect(name).as_detached_tensor());
    let product = rounded(&x)?.matmul(&parameter("weight")?.t()?)?;
    let expected = rounded(&rounded(&product)?.broadcast_add(&parameter("bias")?)?)?;
    let same = y.to_dtype(DType::F64)?.eq(&expected)?.to_dtype(DType::F32)?;
    let share = same.mean_all()?.to_scalar::<f32>()?;
    // f32 and f64 sums round to two sides now and then.
    assert!(share > 0.98, "{share}");
    Ok(())
}

/// A sum of a thousand probabilities in bf16 would stand still long before one.
#[test]
fn probabilities_of_long_sequences_add_up_to_one() -> Result<()> {
    let (n, d) = (1024, 8);
    let qk = (uniform(&[1, n, 2 * d], 4)? * 0.1)?;
    let ones = Tensor::ones((1, n, d), DType::F64, &Device::Cpu)?;
    let qkv = Tensor::cat(&[&qk, &ones], 2)?.to_dtype(DType::BF16)?;
    let y = Sequence::new([Attention { heads: 1, causal: false }.into()]).forward(&qkv, MIXED)?;
    assert!(distance(&y, &ones)? < 1e-2);
    Ok(())
}

#[test]
fn layers_without_products_are_near_those_in_f64() -> Result<()> {
    let network = |store: &Store| {
        let vb = store.builder();
        Ok(Sequence::new([
            linear(vb.pp("qkv"), 8, 24)?.into(),
            ChannelAttention { heads: 2 }.into(),
            DropPath::new(&vb.pp("path"), 0.3)?.into(),
            Dropout::new(&vb.pp("drop"), 0.1)?.into(),
            MergePatches.into(),
            linear(vb.pp("head"), 32, 6)?.into(),
            AveragePool.into(),
        ]))
    };
    compare(network, &[6, 4, 4, 8], None)
}

/// Parameters in f64 are as good as in f32.
#[test]
fn parameters_may_be_in_f64() -> Result<()> {
    let network = |store: &Store| {
        let vb = store.builder();
        Ok(Sequence::chain([
            Sequence::residual([
                linear(vb.pp("a"), 8, 24)?.into(),
                WindowAttention::shifted(&vb.pp("windows"), 2, 2, 1)?.into(),
            ]),
            Sequence::residual([
                linear(vb.pp("b"), 8, 24)?.into(),
                CrossCovarianceAttention::new(&vb.pp("channels"), 2)?.into(),
            ]),
        ]))
    };
    let x = uniform(&[2, 4, 4, 8], 3)?;
    let (mixed, exact) = (run(network, &x, MIXED.into())?, run(network, &x, FULL.into())?);
    for ((name, got), (_, want)) in mixed.iter().zip(&exact) {
        assert_eq!(got.dtype(), DType::F64, "{name}");
        assert!(relative(got, want)? < BF16_TOLERANCE, "{name}");
    }
    Ok(())
}

#[test]
fn the_residual_stream_is_not_rounded() -> Result<()> {
    let store = Store::new(1, DType::F32, &Device::Cpu);
    let vb = store.builder();
    let branch = Sequence::residual([
        linear(vb.pp("fc"), 8, 8)?.into(),
        LayerScale::new(vb.pp("scale"), "gamma", 8, 0.0)?.into(),
    ]);
    let x = uniform(&[2, 3, 8], 1)?.to_dtype(DType::F32)?;
    assert_eq!(distance(&branch.forward(&x, MIXED)?, &x)?, 0.0);
    Ok(())
}

/// A sum of ones in bf16 stands still at 256.
#[test]
fn the_gradient_of_a_bias_counts_all_rows() -> Result<()> {
    let store = Store::new(1, DType::F32, &Device::Cpu);
    let layer = Sequence::new([linear(store.builder(), 4, 3)?.into()]);
    let x = uniform(&[3000, 4], 1)?.to_dtype(DType::F32)?;
    let grads = backward(layer.forward(&x, MIXED)?.sum_all()?)?;
    let bias =
        grads.get(&store.get("bias").expect("a bias")).expect("a gradient").to_vec1::<f32>()?;
    assert!(bias.iter().all(|b| (b / 3000.0 - 1.0).abs() < 4e-3), "{bias:?}");
    Ok(())
}

#[test]
fn a_large_head_is_near_the_one_in_f64() -> Result<()> {
    let labels = Tensor::new(&[0u32, 12, 3, u32::MAX, 7, 1], &Device::Cpu)?;
    let of = |dtype: DType, precision: Precision| {
        let x = Var::from_tensor(&uniform(&[6, 20], 1)?.to_dtype(dtype)?)?;
        let weight = Var::from_tensor(&uniform(&[13, 20], 2)?.to_dtype(dtype)?)?;
        let loss = linear_cross_entropy(&x, &weight, &labels, precision)?;
        assert_eq!(loss.dtype(), dtype);
        let grads = backward(loss.clone())?;
        let grad = |var: &Var| grads.get(var).expect("a gradient").clone();
        Ok::<_, candle_core::Error>([loss, grad(&x), grad(&weight)])
    };
    let (mixed, exact) = (of(DType::F32, Precision::Bf16)?, of(DType::F64, Precision::Full)?);
    for (got, want) in mixed.iter().zip(&exact) {
        assert_eq!(got.dtype(), DType::F32);
        assert!(relative(got, want)? < BF16_TOLERANCE, "{got} {want}");
    }
    Ok(())
}

#[test]
fn evaluations_are_in_full_precision() {
    assert_eq!(Mode::Eval.precision(), Precision::Full);
    assert_eq!(MIXED.precision(), Precision::Bf16);
}
