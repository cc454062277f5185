//! Inputs at the edge: no rows, one row, half precision.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::{
    Attention, BatchNorm2d, Conv2d, DepthwiseConv2d, DropPath, Dropout, Gelu, Layer, LayerNorm,
    LayerScale, MergePatches, Mode, NystromAttention, Precision, RmsNorm, Sequence, Store,
    add_table, attention, average_pool, causal_attention, embedding, gated_gelu, gelu, gelu_tanh,
    linear, linear_cross_entropy, padded_attention, softmax,
};

use crate::{HALF_TOLERANCE, distance, uniform};

const TRAIN: Mode = Mode::train(2, 5);

type Op = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// A branch with every kind of layer, of width 12.
fn branch(store: &Store) -> Result<Sequence> {
    let vb = store.builder();
    Ok(Sequence::residual([
        LayerNorm::new(vb.pp("norm"), 12, 1e-6)?.into(),
        linear(vb.pp("qkv"), 12, 36)?.into(),
        Attention { heads: 2, causal: false }.into(),
        Gelu::Tanh.into(),
        RmsNorm::new(vb.pp("rms"), 12, 1e-6)?.into(),
        linear(vb.pp("proj"), 12, 12)?.into(),
        Dropout::new(&vb.pp("drop"), 0.2)?.into(),
        DropPath::new(&vb.pp("path"), 0.3)?.into(),
    ]))
}

fn apply(x: &Tensor, layer: impl Into<Box<dyn Layer>>) -> Result<Tensor> {
    Sequence::new([layer.into()]).forward(x, Mode::Eval)
}

/// x (B, 6, 12) as images (B, 2, 3, 12).
fn grid(x: &Tensor) -> Result<Tensor> {
    x.reshape((x.dim(0)?, 2, 3, 12))
}

/// Every op as a function of x (B, 6, 12).
fn ops(store: &Store) -> Result<Vec<(&'static str, Op)>> {
    let vb = store.builder();
    let (norm, rms) = (LayerNorm::new(vb.pp("n"), 12, 1e-6)?, RmsNorm::new(vb.pp("r"), 12, 1e-6)?);
    let (layer, branch) = (linear(vb.pp("l"), 12, 5)?, branch(store)?);
    let table = vb.get_with_hints((1, 6, 12), "table", conditioned_nn::init::normal(0.5))?;
    let image = DepthwiseConv2d::new(vb.pp("c2"), 12, 3)?;
    let landmarks = NystromAttention::new(2, 3).convolution(vb.pp("c1"), 5)?;
    let conv = Conv2d::new(vb.pp("c"), 12, 12, 3)?.padding(1);
    let (norm2d, scale) =
        (BatchNorm2d::new(vb.pp("b"), 12)?, LayerScale::new(vb.pp("s"), "gamma", 12, 0.5)?);
    let mask = uniform(&[12], 3)?.ge(0.0)?;
    Ok(vec![
        ("layer-norm", Box::new(move |x| norm.forward(x))),
        ("rms-norm", Box::new(move |x| rms.forward(x))),
        ("linear", Box::new(move |x| layer.forward(x))),
        ("gelu", Box::new(gelu)),
        ("gelu-tanh", Box::new(gelu_tanh)),
        ("gated-gelu", Box::new(gated_gelu)),
        ("attention", Box::new(|x| attention(x, 2))),
        ("causal attention", Box::new(|x| causal_attention(x, 2))),
        ("softmax", Box::new(|x| softmax(x, 0.5, None))),
        ("masked softmax", Box::new(move |x| softmax(x, 0.5, Some(&mask)))),
        ("add-table", Box::new(move |x| add_table(x, &table))),
        ("depthwise 2d", Box::new(move |x| grid(x)?.apply(&image)?.flatten(1, 2))),
        ("conv2d", Box::new(move |x| grid(x)?.apply(&conv)?.flatten(1, 2))),
        ("batch-norm", Box::new(move |x| norm2d.forward(x, Mode::Eval))),
        ("layer-scale", Box::new(move |x| scale.forward(x))),
        ("nystrom-attention", Box::new(move |x| apply(x, landmarks.clone()))),
        ("sequence", Box::new(move |x| branch.forward(x, TRAIN))),
    ])
}

#[test]
fn an_empty_batch_has_an_empty_result() -> Result<()> {
    let store = Store::new(1, DType::F32, &Device::Cpu);
    let x = Var::zeros((0, 6, 12), DType::F32, &Device::Cpu)?;
    for (name, op) in ops(&store)? {
        let y = op(&x).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(y.dims()[..2], [0, 6], "{name}");
        let grads = y.sum_all()?.backward().unwrap_or_else(|error| panic!("{name}: {error}"));
        for (parameter, var) in store.parameters() {
            if let Some(gradient) = grads.get(&var) {
                let size = gradient.abs()?.sum_all()?.to_scalar::<f32>()?;
                assert_eq!(size, 0.0, "{name}: {parameter}");
            }
        }
    }
    let images = Tensor::zeros((0, 4, 6, 3), DType::F32, &Device::Cpu)?;
    assert_eq!(MergePatches.forward(&images)?.dims(), [0, 2, 3, 12]);
    assert_eq!(average_pool(&images)?.dims(), [0, 3]);
    let norm = BatchNorm2d::new(store.builder().pp("empty"), 3)?;
    assert_eq!(norm.forward(&images, TRAIN)?.dims(), [0, 4, 6, 3]);
    let ids = Tensor::zeros((0, 6), DType::U32, &Device::Cpu)?;
    let table = Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
    assert_eq!(embedding(&ids, &table)?.dims(), [0, 6, 4]);
    let padding = conditioned_nn::Padding::of(&Tensor::ones((2, 3), DType::U8, &Device::Cpu)?)?;
    let other = padded_attention(&uniform(&[2, 4, 12], 1)?, 2, &padding).unwrap_err().to_string();
    assert!(other.contains("2 sequences of 3 tokens"), "{other}");
    let message = linear_cross_entropy(&x, &uniform(&[3, 12], 1)?, &ids, Precision::Full)
        .unwrap_err()
        .to_string();
    assert!(message.contains("none of 0 rows has a label"), "{message}");
    Ok(())
}

#[test]
fn a_batch_of_one_is_the_first_of_a_larger_one() -> Result<()> {
    let store = Store::new(1, DType::F64, &Device::Cpu);
    let x = uniform(&[3, 6, 12], 1)?;
    for (name, op) in ops(&store)? {
        let (one, all) = (op(&x.narrow(0, 0, 1)?)?, op(&x)?.narrow(0, 0, 1)?);
        // The masks of a sequence are drawn by position, so they are the same.
        assert!(distance(&one, &all)? < crate::F64_TOLERANCE, "{name}");
    }
    Ok(())
}

#[test]
fn half_precision_takes_the_definition_with_gradients() -> Result<()> {
    let exact = Store::new(1, DType::F64, &Device::Cpu);
    let x = uniform(&[2, 6, 12], 1)?;
    let expected = ops(&exact)?.into_iter().map(|(_, op)| op(&x)).collect::<Result<Vec<_>>>()?;
    for dtype in [DType::F16, DType::BF16] {
        // The values of parameters do not depend on the dtype, up to rounding.
        let store = Store::new(1, dtype, &Device::Cpu);
        let x = Var::from_tensor(&x.to_dtype(dtype)?)?;
        for ((name, op), expected) in ops(&store)?.into_iter().zip(&expected) {
            let y = op(&x).unwrap_or_else(|error| panic!("{name} in {dtype:?}: {error}"));
            assert_eq!(y.dtype(), dtype, "{name}");
            let d = distance(&y, expected)?;
            assert!(d < HALF_TOLERANCE, "{name} in {dtype:?} differs by {d}");
            let grads = y.sqr()?.sum_all()?.backward()?;
            let gradient = grads.get(&x).expect(name).to_dtype(DType::F32)?;
            let finite = gradient.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| v.is_finite());
            assert!(finite, "{name} in {dtype:?}");
        }
    }
    Ok(())
}
