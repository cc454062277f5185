//! The same bits for any number of threads, and random streams that depend on nothing ambient.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::{
    Attention, AveragePool, BatchNorm2d, Conv2d, ConvTranspose2d, DepthwiseConv2d, DropPath,
    Dropout, GatedGelu, Gelu, LayerNorm, LayerScale, MaxPool2d, MergePatches, Mode,
    NystromAttention, Precision, Relu, RmsNorm, Sequence, Store, attention, embedding, gelu,
    linear, linear_cross_entropy, softmax, upsample_nearest,
};

use crate::uniform;

/// Output and gradients of a small network on enough rows for several parallel pieces.
fn run() -> Result<Vec<Vec<f32>>> {
    let store = Store::new(11, DType::F32, &Device::Cpu);
    let vb = store.builder();
    let (norm, qkv) = (LayerNorm::new(vb.pp("n"), 48, 1e-6)?, linear(vb.pp("qkv"), 48, 144)?);
    let dropout = Dropout::new(&vb.pp("drop"), 0.3)?;
    let x = uniform(&[9, 65, 48], 2)?.to_dtype(DType::F32)?;
    let y = attention(&qkv.forward(&norm.forward(&x)?)?, 3)?;
    let y = dropout.forward(&gelu(&y)?, Mode::train(1, 2))?;
    let grads = y.sqr()?.sum_all()?.backward()?;
    let mut out = vec![y.flatten_all()?.to_vec1()?];
    for (name, var) in store.parameters() {
        out.push(grads.get(&var).expect(&name).flatten_all()?.to_vec1()?);
    }
    Ok(out)
}

/// Loss and gradients of a small language model with every op that [`run`] does not have.
fn language_model() -> Result<Vec<Vec<f32>>> {
    let store = Store::new(12, DType::F32, &Device::Cpu);
    let vb = store.builder();
    let table = vb.get_with_hints((3000, 48), "table", conditioned_nn::init::normal(0.5))?;
    let branch = Sequence::residual([
        RmsNorm::new(vb.pp("rms"), 48, 1e-6)?.into(),
        linear(vb.pp("qkv"), 48, 144)?.into(),
        Attention { heads: 3, causal: true }.into(),
        Gelu::Tanh.into(),
        linear(vb.pp("in"), 48, 96)?.into(),
        GatedGelu.into(),
        linear(vb.pp("proj"), 48, 48)?.into(),
        DropPath::new(&vb.pp("path"), 0.2)?.into(),
    ]);
    let image = DepthwiseConv2d::new(vb.pp("c2"), 48, 3)?;
    let landmarks = NystromAttention::new(3, 16).convolution(vb.pp("c1"), 9)?;
    let landmarks = Sequence::new([linear(vb.pp("qkv1"), 48, 144)?.into(), landmarks.into()]);
    let (ids, labels) = (
        Tensor::from_iter((0..9 * 200u32).map(|i| i * i % 3000), &Device::Cpu)?
            .reshape((9, 200))?,
        Tensor::from_iter((0..9 * 200u32).map(|i| i * 7 % 3000), &Device::Cpu)?,
    );
    let x = branch.forward(&embedding(&ids, &table)?, Mode::train(1, 2))?;
    let x = image.forward(&x.reshape((9, 10, 20, 48))?)?;
    let x = landmarks.forward(&x.reshape((9, 200, 48))?, Mode::Eval)?;
    let mask = (uniform(&[48], 3)? + 0.5)?.ge(0.0)?;
    let loss =
        linear_cross_entropy(&softmax(&x, 3.0, Some(&mask))?, &table, &labels, Precision::Full)?;
    let grads = loss.backward()?;
    let mut out = vec![loss.flatten_all()?.to_vec1()?];
    for (name, var) in store.parameters() {
        out.push(grads.get(&var).expect(&name).flatten_all()?.to_vec1()?);
    }
    Ok(out)
}

/// Gradients and buffers of a small network of images.
fn image_model() -> Result<Vec<Vec<f32>>> {
    let store = Store::new(13, DType::F32, &Device::Cpu);
    let (vb, mode) = (store.builder(), Mode::train(1, 2));
    let images = Var::from_tensor(&uniform(&[5, 41, 41, 3], 2)?.to_dtype(DType::F32)?)?;
    let stem = Sequence::new([
        Conv2d::new(vb.pp("stem"), 3, 16, 3)?.stride(2).padding(1).into(),
        BatchNorm2d::new(vb.pp("bn1"), 16)?.into(),
        Gelu::Erf.into(),
        Conv2d::without_bias(vb.pp("conv"), 16, 24, 4)?.padding(1).into(),
    ]);
    let branch = Sequence::residual([
        DepthwiseConv2d::new(vb.pp("depthwise"), 24, 3)?.into(),
        BatchNorm2d::new(vb.pp("bn2"), 24)?.into(),
        LayerScale::new(vb.clone(), "gamma", 24, 0.3)?.into(),
    ]);
    let pyramid = Sequence::new([
        ConvTranspose2d::new(vb.pp("larger"), 24, 24, 2)?.into(),
        Relu.into(),
        MaxPool2d { size: 3, stride: 2 }.into(),
    ]);
    let head = Sequence::new([
        MergePatches.into(),
        linear(vb.pp("head"), 96, 5)?.into(),
        AveragePool.into(),
    ]);
    let x = branch.forward(&stem.forward(&images, mode)?, mode)?;
    let x = upsample_nearest(&pyramid.forward(&x, mode)?, 30, 24)?;
    let y = head.forward(&x, mode)?;
    let grads = y.sqr()?.sum_all()?.backward()?;
    let mut out = vec![y.flatten_all()?.to_vec1()?];
    out.push(grads.get(&images).expect("images").flatten_all()?.to_vec1()?);
    for (name, var) in store.parameters() {
        out.push(grads.get(&var).expect(&name).flatten_all()?.to_vec1()?);
    }
    for (_, var) in store.buffers() {
        out.push(var.to_vec1()?);
    }
    Ok(out)
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for network in [run, language_model, image_model] {
        let on = |threads: usize| conditioned_threads::with_count(threads, || network().unwrap());
        let one = on(1);
        for threads in [2, 3, 8] {
            assert_eq!(one, on(threads), "{threads} threads");
        }
    }
}

fn mask(p: f64, path: &str, seed: u64, step: u64, n: usize) -> Result<Vec<f32>> {
    let vb = Store::new(0, DType::F32, &Device::Cpu).builder().pp(path);
    let ones = Tensor::ones(n, DType::F32, &Device::Cpu)?;
    Dropout::new(&vb, p)?.forward(&ones, Mode::train(seed, step))?.to_vec1()
}

#[test]
fn masks_differ_by_seed_step_and_layer_and_repeat() -> Result<()> {
    let base = mask(0.5, "a", 1, 1, 1000)?;
    assert_eq!(base, mask(0.5, "a", 1, 1, 1000)?);
    for other in
        [mask(0.5, "b", 1, 1, 1000)?, mask(0.5, "a", 2, 1, 1000)?, mask(0.5, "a", 1, 2, 1000)?]
    {
        let equal = base.iter().zip(&other).filter(|(a, b)| a == b).count();
        // Independent fair coins agree in 500 +- 16 of 1000 places.
        assert!((400..600).contains(&equal), "{equal} of 1000 agree");
    }
    Ok(())
}

#[test]
fn dropout_keeps_the_stated_share_and_the_mean() -> Result<()> {
    let mask = mask(0.25, "a", 1, 1, 100_000)?;
    let kept = mask.iter().filter(|v| **v != 0.0).count() as f64 / 1e5;
    // Standard error 0.0014; six of them.
    assert!((kept - 0.75).abs() < 0.009, "kept {kept}");
    assert!(mask.iter().all(|&v| v == 0.0 || (v - 1.0 / 0.75).abs() < 1e-6));
    Ok(())
}

#[test]
fn drop_path_drops_whole_samples_and_nothing_in_evaluation() -> Result<()> {
    let vb = Store::new(0, DType::F32, &Device::Cpu).builder().pp("p");
    let path = DropPath::new(&vb, 0.5)?;
    let x = Tensor::ones((64, 3, 2), DType::F32, &Device::Cpu)?;
    let y: Vec<Vec<Vec<f32>>> = path.forward(&x, Mode::train(4, 0))?.to_vec3()?;
    for sample in &y {
        let first = sample[0][0];
        assert!(sample.iter().flatten().all(|&v| v == first));
    }
    let dropped = y.iter().filter(|s| s[0][0] == 0.0).count();
    assert!((16..48).contains(&dropped), "{dropped} of 64 dropped");
    assert_eq!(path.forward(&x, Mode::Eval)?.to_vec3::<f32>()?, x.to_vec3::<f32>()?);
    Ok(())
}

#[test]
fn a_probability_of_one_is_refused() {
    let vb = Store::new(0, DType::F32, &Device::Cpu).builder().pp("p");
    let message = Dropout::new(&vb, 1.0).unwrap_err().to_string();
    assert!(message.contains("not in [0, 1)"), "{message}");
}
