//! Layers of channels-last images, fused against their definitions.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::VarBuilder;
use conditioned_nn::check::central_differences;
use conditioned_nn::{
    AveragePool, BatchNorm2d, Conv2d, ConvTranspose2d, DepthwiseConv2d, DropPath, Gelu, LayerScale,
    MaxPool2d, MergePatches, Mode, Relu, Sequence, Store, average_pool, reference,
    upsample_nearest,
};
use proptest::prelude::*;

use crate::{
    DIFFERENCE_TOLERANCE, F32_TOLERANCE, F64_TOLERANCE, agree, distance, uniform, variable,
};

const TRAIN: Mode = Mode::train(3, 8);

/// PyTorch's default, as in the layer.
const EPSILON: f64 = 1e-5;

fn conv(v: &[Tensor], stride: usize, padding: usize) -> Conv2d {
    Conv2d::from_tensors(v[1].clone(), v.get(2).cloned()).stride(stride).padding(padding)
}

/// A batch normalisation over weight and bias with fresh buffers.
fn norm(weight: &Tensor, bias: &Tensor) -> Result<BatchNorm2d> {
    let (width, dtype) = (weight.dims1()?, weight.dtype());
    let mean = Var::zeros(width, dtype, &Device::Cpu)?.into_inner();
    let var = Var::ones(width, dtype, &Device::Cpu)?.into_inner();
    Ok(BatchNorm2d::from_tensors(weight.clone(), bias.clone(), mean, var))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    // Images from the size of the taps on, windows that end before the image does, and padding
    // wider than the taps.
    #[test]
    fn conv2d_equals_its_definition(
        b in 1usize..4, h in 0usize..12, w in 0usize..12, i in 1usize..7, o in 1usize..20,
        k in 1usize..6, stride in 1usize..5, padding in 0usize..5, bias in any::<bool>(),
    ) {
        let x = variable(&[b, h + k, w + k, i], 1).unwrap();
        let mut variables = vec![x, variable(&[o, i, k, k], 2).unwrap()];
        if bias {
            variables.push(variable(&[o], 3).unwrap());
        }
        agree(
            &variables,
            |v| conv(v, stride, padding).forward(&v[0]),
            |v| reference::conv2d(&v[0], &v[1], v.get(2), stride, padding),
        ).unwrap();
    }

    #[test]
    fn conv_transpose2d_equals_its_definition(
        b in 1usize..4, h in 1usize..9, w in 1usize..9, i in 1usize..7, o in 1usize..9, k in 1usize..4,
    ) {
        let shapes: [&[usize]; 3] = [&[b, h, w, i], &[i, o, k, k], &[o]];
        let variables: Vec<_> = shapes.iter().zip(1..).map(|(s, seed)| variable(s, seed).unwrap()).collect();
        agree(
            &variables,
            |v| ConvTranspose2d::from_tensors(v[1].clone(), v[2].clone()).forward(&v[0]),
            |v| reference::conv_transpose2d(&v[0], &v[1], &v[2]),
        ).unwrap();
    }

    // Windows that overlap, touch, and leave gaps.
    #[test]
    fn pooling_and_upsampling_equal_their_definitions(
        b in 1usize..4, h in 0usize..9, w in 0usize..9, c in 1usize..7, size in 1usize..4,
        stride in 1usize..5, to in prop::array::uniform2(1usize..20),
    ) {
        let x = variable(&[b, h + size, w + size, c], 1).unwrap();
        agree(
            std::slice::from_ref(&x),
            |v| MaxPool2d { size, stride }.forward(&v[0]),
            |v| reference::max_pool2d(&v[0], size, stride),
        ).unwrap();
        // Equal pixels, of which one has the gradient.
        let x = Var::from_tensor(&(x.as_tensor() * 3.0).unwrap().round().unwrap()).unwrap();
        agree(
            std::slice::from_ref(&x),
            |v| MaxPool2d { size, stride }.forward(&v[0]),
            |v| reference::max_pool2d(&v[0], size, stride),
        ).unwrap();
        agree(
            std::slice::from_ref(&x),
            |v| upsample_nearest(&v[0], to[0], to[1]),
            |v| reference::upsample_nearest(&v[0], to[0], to[1]),
        ).unwrap();
        agree(std::slice::from_ref(&x), |v| Relu.forward(&v[0]), |v| reference::relu(&v[0])).unwrap();
    }

    // Up to several pieces of rows.
    #[test]
    fn batch_norm_equals_its_definition(
        b in 2usize..5, h in 2usize..40, w in 2usize..40, c in 1usize..40, train in any::<bool>(),
    ) {
        let x = variable(&[b, h, w, c], 1).unwrap();
        let (weight, bias) = (variable(&[c], 2).unwrap(), variable(&[c], 3).unwrap());
        let (mean, var) = (uniform(&[c], 4).unwrap(), (uniform(&[c], 5).unwrap() + 1.5).unwrap());
        agree(
            &[x, weight, bias],
            |v| match train {
                true => norm(&v[1], &v[2])?.forward(&v[0], TRAIN),
                false => {
                    let wide = |t: &Tensor| t.to_dtype(v[0].dtype());
                    BatchNorm2d::from_tensors(v[1].clone(), v[2].clone(), wide(&mean)?, wide(&var)?)
                        .forward(&v[0], Mode::Eval)
                }
            },
            |v| match train {
                true => Ok(reference::batch_norm(&v[0], &v[1], &v[2], EPSILON)?.0),
                false => reference::batch_norm_by(&v[0], &mean, &var, &v[1], &v[2], EPSILON),
            },
        ).unwrap();
    }

    #[test]
    fn layer_scale_equals_its_definition(b in 1usize..4, n in 1usize..300, c in 1usize..70) {
        agree(
            &[variable(&[b, n, c], 1).unwrap(), variable(&[c], 2).unwrap()],
            |v| LayerScale::from_tensor(v[1].clone()).forward(&v[0]),
            |v| reference::layer_scale(&v[0], &v[1]),
        ).unwrap();
    }

    #[test]
    fn merge_patches_equals_its_definition(
        b in 1usize..4, h in 1usize..8, w in 1usize..8, c in 1usize..40,
    ) {
        let x = variable(&[b, 2 * h, 2 * w, c], 1).unwrap();
        agree(&[x], |v| MergePatches.forward(&v[0]), |v| reference::merge_patches(&v[0])).unwrap();
    }

    #[test]
    fn average_pool_equals_its_definition(
        b in 1usize..4, h in 1usize..20, w in 1usize..20, c in 1usize..40,
    ) {
        let x = variable(&[b, h, w, c], 1).unwrap();
        agree(&[x], |v| average_pool(&v[0]), |v| reference::average_pool(&v[0])).unwrap();
    }
}

/// Several pieces of pixels, several groups of sums, and more columns than a piece of sums.
#[test]
fn large_convolutions_equal_their_definition() -> Result<()> {
    for (side, inputs, outputs, taps, stride, padding) in
        [(41, 3, 8, 3, 2, 1), (30, 3, 6, 7, 4, 3), (28, 40, 48, 3, 1, 1), (9, 64, 64, 3, 2, 1)]
    {
        let (x, g) = (variable(&[5, side, side, inputs], 1)?, outputs);
        let (w, b) = (variable(&[g, inputs, taps, taps], 2)?, variable(&[g], 3)?);
        let inputs = [x.as_tensor().clone(), w.as_tensor().clone(), b.as_tensor().clone()];
        let y = conv(&inputs, stride, padding).forward(&x)?;
        let expected = reference::conv2d(&x, &w, Some(&b), stride, padding)?;
        let relative = |a: &Tensor, b: &Tensor| -> Result<f64> {
            Ok(distance(a, b)? / b.abs()?.max_all()?.to_scalar::<f64>()?.max(1.0))
        };
        assert!(relative(&y, &expected)? < F64_TOLERANCE);
        let cotangent = uniform(y.dims(), 99)?;
        let got = (&y * &cotangent)?.sum_all()?.backward()?;
        let want = (&expected * &cotangent)?.sum_all()?.backward()?;
        for var in [&x, &w, &b] {
            let d = relative(got.get(var).expect("a gradient"), want.get(var).expect("one"))?;
            assert!(d < F64_TOLERANCE, "{d:e}");
        }
    }
    Ok(())
}

/// candle's own convolution sees (B, I, H, W).
#[test]
fn values_are_those_of_candles_convolution() -> Result<()> {
    let (x, w) = (uniform(&[2, 9, 8, 3], 1)?, uniform(&[5, 3, 3, 3], 2)?);
    let images = x.permute((0, 3, 1, 2))?.contiguous()?;
    let expected = images.conv2d(&w, 1, 2, 1, 1)?.permute((0, 2, 3, 1))?;
    let y = conv(&[x.clone(), w], 2, 1).forward(&x)?;
    assert!(distance(&y, &expected)? < F64_TOLERANCE);
    Ok(())
}

/// Every layer in one residual branch, in f64.
fn branch(store: &Store) -> Result<Sequence> {
    let vb = store.builder();
    Ok(Sequence::residual([
        DepthwiseConv2d::new(vb.pp("conv1"), 6, 3)?.into(),
        Gelu::Erf.into(),
        BatchNorm2d::new(vb.pp("bn"), 6)?.into(),
        Conv2d::new(vb.pp("conv2"), 6, 6, 3)?.padding(1).into(),
        LayerScale::new(vb.pp("scale"), "gamma", 6, 0.7)?.into(),
        DropPath::new(&vb.pp("path"), 0.3)?.into(),
    ]))
}

#[test]
fn gradients_equal_central_differences() -> Result<()> {
    for mode in [TRAIN, Mode::Eval] {
        let store = Store::new(5, DType::F64, &Device::Cpu);
        let branch = branch(&store)?;
        let reduce = Sequence::new([
            MergePatches.into(),
            Conv2d::without_bias(store.builder().pp("reduce"), 24, 5, 2)?
                .stride(2)
                .padding(1)
                .into(),
            AveragePool.into(),
        ]);
        let x = variable(&[3, 4, 6, 6], 1)?;
        let mut variables = vec![x.clone()];
        variables.extend(store.parameters().into_iter().map(|(_, var)| var));
        let cotangent = uniform(&[3, 5], 7)?;
        let worst = central_differences(&variables, 48, || {
            let y = reduce.forward(&branch.forward(&x, mode)?, mode)?;
            (y * &cotangent)?.sum_all()
        })?;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{mode:?}: {worst:?}");
    }
    Ok(())
}

#[test]
fn images_without_gradient_get_none_and_the_weight_gets_the_same() -> Result<()> {
    let (x, w) = (variable(&[2, 6, 6, 3], 1)?, variable(&[4, 3, 3, 3], 2)?);
    let layer = Conv2d::from_tensors(w.as_tensor().clone(), None).stride(2).padding(1);
    let all = layer.forward(&x)?.sqr()?.sum_all()?.backward()?;
    let images = x.as_tensor().detach();
    let some = layer.forward(&images)?.sqr()?.sum_all()?.backward()?;
    assert!(some.get(&images).is_none());
    let d = distance(some.get(&w).expect("a gradient"), all.get(&w).expect("a gradient"))?;
    assert_eq!(d, 0.0);
    Ok(())
}

/// Once per forward, whatever stands around the layer and whether backward runs; the values are
/// 0.9 old + 0.1 new with the unbiased variance.
#[test]
fn running_statistics_move_once_per_forward() -> Result<()> {
    for dtype in [DType::F64, DType::F32] {
        let store = Store::new(5, dtype, &Device::Cpu);
        let vb = store.builder();
        let bn = Sequence::residual([
            BatchNorm2d::new(vb.pp("bn"), 6)?.into(),
            LayerScale::new(vb.pp("scale"), "gamma", 6, 0.7)?.into(),
            DropPath::new(&vb.pp("path"), 0.3)?.into(),
            LayerScale::new(vb.clone(), "gamma2", 6, 0.3)?.into(),
        ]);
        let x = variable(&[3, 4, 5, 6], 1)?;
        let rows = x.reshape((60, 6))?;
        let mean = rows.mean(0)?;
        let var = (rows.broadcast_sub(&mean)?.sqr()?.sum(0)? / 59.0)?;
        let buffer = |name: &str| store.get(name).unwrap().as_tensor().to_dtype(DType::F64);
        let x = Var::from_tensor(&x.to_dtype(dtype)?)?;
        let tolerance = if dtype == DType::F64 { F64_TOLERANCE } else { F32_TOLERANCE };
        for step in 1..4 {
            bn.forward(&x, TRAIN)?.sqr()?.sum_all()?.backward()?;
            let kept = 0.9f64.powi(step);
            assert!(distance(&buffer("bn.running_mean")?, &(&mean * (1.0 - kept))?)? < tolerance);
            let want = ((&var * (1.0 - kept))? + kept)?;
            assert!(distance(&buffer("bn.running_var")?, &want)? < tolerance);
            assert_eq!(store.get("bn.running_var").unwrap().dtype(), dtype);
        }
        let before = buffer("bn.running_mean")?;
        bn.forward(&x, Mode::Eval)?.sqr()?.sum_all()?.backward()?;
        BatchNorm2d::new(vb.pp("bn"), 6)?.frozen().forward(&x, TRAIN)?;
        assert_eq!(distance(&before, &buffer("bn.running_mean")?)?, 0.0);
    }
    Ok(())
}

/// Statistics of f32 values far from zero, whose squares would lose the variance.
#[test]
fn statistics_far_from_zero_are_accurate() -> Result<()> {
    let x = (uniform(&[4, 50, 50, 3], 1)? + 1000.0)?.to_dtype(DType::F32)?;
    let (one, zero) =
        (Tensor::ones(3, DType::F32, &Device::Cpu)?, Tensor::zeros(3, DType::F32, &Device::Cpu)?);
    let y = norm(&one, &zero)?.forward(&x, TRAIN)?;
    let wide = |t: &Tensor| t.to_dtype(DType::F64);
    let (want, _, _) = reference::batch_norm(&wide(&x)?, &wide(&one)?, &wide(&zero)?, EPSILON)?;
    // The mean, rounded to f32, is 3e-5 off.
    assert!(distance(&y, &want)? < 2e-4);
    Ok(())
}

#[test]
fn frozen_tensors_are_not_trained() -> Result<()> {
    let store = Store::new(5, DType::F32, &Device::Cpu);
    BatchNorm2d::new(store.builder(), 3)?;
    let x = uniform(&[2, 2, 2, 3], 1)?.to_dtype(DType::F32)?;
    let tensors = store.tensors().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    let fixed = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let layer = BatchNorm2d::new(fixed, 3)?;
    let message = layer.forward(&x, TRAIN).unwrap_err().to_string();
    assert!(message.contains("running_mean") && message.contains("cannot be written"), "{message}");
    layer.forward(&x, Mode::Eval)?;
    layer.frozen().forward(&x, TRAIN)?;
    // A frozen view has buffers of its own, which may be calibrated anew.
    BatchNorm2d::new(store.frozen()?, 3)?.forward(&x, TRAIN)?;
    let mean = store.get("running_mean").unwrap();
    assert_eq!(mean.abs()?.sum_all()?.to_scalar::<f32>()?, 0.0);
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_named() -> Result<()> {
    let x = uniform(&[2, 5, 4, 3], 1)?;
    let refused = |result: Result<Tensor>, words: [&str; 2]| {
        let message = result.unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    let w = uniform(&[4, 3, 3, 3], 2)?;
    let flat = x.reshape((2, 20, 3))?;
    let plain = Conv2d::from_tensors(w.clone(), None);
    refused(plain.forward(&flat), ["conv2d", "[2, 20, 3]"]);
    refused(plain.forward(&x.narrow(3, 0, 2)?), ["conv2d", "[2, 5, 4, 2]"]);
    refused(plain.forward(&x.narrow(1, 0, 2)?), ["conv2d", "[2, 2, 4, 3]"]);
    refused(plain.stride(0).forward(&x), ["conv2d", "stride 0"]);
    let wrong = Conv2d::from_tensors(w, Some(uniform(&[3], 2)?));
    refused(wrong.forward(&x), ["conv2d", "Some([3])"]);
    refused(MergePatches.forward(&x), ["merge-patches", "5 x 4"]);
    refused(MergePatches.forward(&flat), ["merge-patches", "[2, 20, 3]"]);
    refused(average_pool(&x.get(0)?.get(0)?), ["average-pool", "[4, 3]"]);
    refused(LayerScale::from_tensor(uniform(&[4], 1)?).forward(&x), ["layer-scale", "[4]"]);
    let (one, two) = (uniform(&[3], 1)?, uniform(&[2], 1)?);
    refused(norm(&one, &two)?.forward(&x, Mode::Eval), ["batch-norm", "[2]"]);
    let single = x.narrow(0, 0, 1)?.narrow(1, 0, 1)?.narrow(2, 0, 1)?;
    refused(norm(&one, &one)?.forward(&single, TRAIN), ["batch-norm", "no variance"]);
    Ok(())
}
