//! Every layer against central differences in f64.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::check::central_differences;
use conditioned_nn::{
    Attention, DropPath, Dropout, GatedGelu, Gelu, LayerNorm, Linear, Mode, PatchEmbed, Precision,
    RmsNorm, Sequence, Store, add_table, attention, causal_attention, cross_entropy, embedding,
    gated_gelu, gelu, gelu_tanh, head_norm, linear, linear_cross_entropy,
};

use crate::{DIFFERENCE_TOLERANCE, uniform, variable};

/// Checks the gradient of <f(x), r> for a fixed random r, with respect to `x` and all parameters.
fn check(store: &Store, x: &Var, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
    let mut variables = vec![x.clone()];
    variables.extend(store.parameters().into_iter().map(|(_, var)| var));
    let cotangent = uniform(f(x)?.dims(), 7)?;
    let worst =
        central_differences(&variables, 64, || (f(x.as_tensor())? * &cotangent)?.sum_all())?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
    Ok(())
}

fn store() -> Store {
    Store::new(5, DType::F64, &Device::Cpu)
}

#[test]
fn linear_layer() -> Result<()> {
    let store = store();
    let layer = linear(store.builder(), 6, 4)?;
    check(&store, &variable(&[2, 3, 6], 1)?, |x| layer.forward(x))
}

#[test]
fn linear_layer_without_bias() -> Result<()> {
    let weight = variable(&[4, 6], 2)?;
    let layer = Linear::new(weight.as_tensor().clone(), None);
    let x = variable(&[2, 3, 6], 1)?;
    let cotangent = uniform(&[2, 3, 4], 7)?;
    let worst = central_differences(&[x.clone(), weight], 64, || {
        (layer.forward(&x)? * &cotangent)?.sum_all()
    })?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
    Ok(())
}

#[test]
fn layer_norm_layer() -> Result<()> {
    let store = store();
    let layer = LayerNorm::new(store.builder(), 6, 1e-6)?;
    check(&store, &variable(&[2, 3, 6], 1)?, |x| layer.forward(x))
}

#[test]
fn gelu_function() -> Result<()> {
    check(&store(), &variable(&[40], 1)?, |x| gelu(&(x * 3.0)?))
}

#[test]
fn gelu_tanh_function() -> Result<()> {
    check(&store(), &variable(&[40], 1)?, |x| gelu_tanh(&(x * 3.0)?))
}

#[test]
fn gated_gelu_function() -> Result<()> {
    check(&store(), &variable(&[3, 5, 6], 1)?, |x| gated_gelu(&(x * 3.0)?))
}

#[test]
fn a_gated_residual_sequence() -> Result<()> {
    let store = store();
    let (vb, mode) = (store.builder(), Mode::train(3, 8));
    let branch = Sequence::residual([
        LayerNorm::new(vb.pp("norm"), 6, 1e-6)?.into(),
        linear(vb.pp("in"), 6, 10)?.into(),
        GatedGelu.into(),
        linear(vb.pp("out"), 5, 6)?.into(),
        Dropout::new(&vb.pp("drop"), 0.3)?.into(),
    ]);
    check(&store, &variable(&[4, 5, 6], 1)?, |x| branch.forward(x, mode))
}

#[test]
fn rms_norm_layer() -> Result<()> {
    let store = store();
    let layer = RmsNorm::new(store.builder(), 6, 1e-6)?;
    check(&store, &variable(&[2, 3, 6], 1)?, |x| layer.forward(x))
}

#[test]
fn causal_attention_function() -> Result<()> {
    check(&store(), &variable(&[2, 5, 24], 1)?, |x| causal_attention(&(x * 2.0)?, 2))?;
    // Two blocks of queries.
    check(&store(), &variable(&[1, 90, 6], 1)?, |x| causal_attention(&(x * 2.0)?, 1))
}

#[test]
fn a_residual_sequence_in_training() -> Result<()> {
    let store = store();
    let vb = store.builder();
    let layers = || -> Result<[Box<dyn conditioned_nn::Layer>; 8]> {
        Ok([
            LayerNorm::new(vb.pp("norm"), 8, 1e-6)?.into(),
            linear(vb.pp("qkv"), 8, 24)?.into(),
            Attention { heads: 2, causal: true }.into(),
            Dropout::new(&vb.pp("drop"), 0.3)?.into(),
            RmsNorm::new(vb.pp("rms"), 8, 1e-6)?.into(),
            Gelu::Tanh.into(),
            linear(vb.pp("proj"), 8, 8)?.into(),
            DropPath::new(&vb.pp("path"), 0.4)?.into(),
        ])
    };
    let (branch, mode) = (Sequence::residual(layers()?), Mode::train(3, 8));
    check(&store, &variable(&[4, 5, 8], 1)?, |x| branch.forward(x, mode))?;
    let plain = Sequence::new(layers()?);
    check(&store, &variable(&[4, 5, 8], 1)?, |x| plain.forward(x, mode))
}

#[test]
fn linear_cross_entropy_and_embedding() -> Result<()> {
    let (table, head) = (variable(&[6, 4], 1)?, variable(&[7, 4], 2)?);
    let ids = Tensor::new(&[[5u32, 0, 5], [2, 2, 1]], &Device::Cpu)?;
    let labels = Tensor::new(&[[6u32, 1, conditioned_nn::loss::IGNORED], [0, 6, 3]], &Device::Cpu)?;
    let worst = central_differences(&[table.clone(), head.clone()], 64, || {
        linear_cross_entropy(&embedding(&ids, &table)?, &head, &labels, Precision::Full)? * 3.0
    })?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
    Ok(())
}

#[test]
fn stacked_layers_are_their_outputs_side_by_side() -> Result<()> {
    let vb = store().builder();
    let x = variable(&[2, 3, 6], 1)?;
    let plain = |name| -> Result<Linear> { Ok(Linear::new(vb.get((4, 6), name)?, None)) };
    let families = [
        [linear(vb.pp("a"), 6, 4)?, linear(vb.pp("b"), 6, 5)?],
        [Linear::conv1d(vb.pp("c"), 6, 4, 0.5)?, Linear::conv1d(vb.pp("d"), 6, 5, 0.5)?],
        [plain("e")?, plain("f")?],
    ];
    for layers in &families {
        let stacked = Linear::stacked(layers)?.forward(&x)?;
        let single = [layers[0].forward(&x)?, layers[1].forward(&x)?];
        assert!(crate::distance(&stacked, &Tensor::cat(&single, 2)?)? < crate::F64_TOLERANCE);
    }
    let unlike = [families[0][0].clone(), families[1][0].clone()];
    assert!(Linear::stacked(&unlike).unwrap_err().to_string().contains("different layout"));
    let unlike = [families[0][0].clone(), families[2][0].clone()];
    assert!(Linear::stacked(&unlike).unwrap_err().to_string().contains("different layout"));
    let other = Store::new(6, DType::F64, &Device::Cpu);
    let layers = [linear(other.builder().pp("a"), 6, 4)?, linear(other.builder().pp("b"), 6, 5)?];
    check(&other, &x, |x| Linear::stacked(&layers)?.forward(x))
}

/// The norms are constants for the gradient: it is that of the function in which they stand still.
#[test]
fn head_norm_function() -> Result<()> {
    let (x, heads, cotangent) = (variable(&[2, 5, 12], 1)?, 3, uniform(&[2, 5, 12], 7)?);
    let norms = x.as_tensor().detach().reshape((2, 5, heads, 4))?.sqr()?.sum_keepdim(3)?.sqrt()?;
    let norms = (norms + 1e-8)?.broadcast_as((2, 5, heads, 4))?.reshape((2, 5, 12))?;
    let frozen = || ((x.as_tensor() / &norms)? * &cotangent)?.sum_all();
    let worst = central_differences(std::slice::from_ref(&x), 200, frozen)?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
    let own = (head_norm(&x, heads)? * &cotangent)?.sum_all()?;
    assert!(crate::distance(&own, &frozen()?)? < crate::F64_TOLERANCE);
    let (own, frozen) = (own.backward()?, frozen()?.backward()?);
    let d = crate::distance(own.get(&x).unwrap(), frozen.get(&x).unwrap())?;
    assert!(d < crate::F64_TOLERANCE, "{d:e}");
    Ok(())
}

#[test]
fn attention_function() -> Result<()> {
    check(&store(), &variable(&[2, 5, 24], 1)?, |x| attention(&(x * 2.0)?, 2))
}

#[test]
fn cross_entropy_function() -> Result<()> {
    let targets = candle_nn::ops::softmax(&uniform(&[5, 4], 2)?, 1)?;
    check(&store(), &variable(&[5, 4], 1)?, |x| cross_entropy(x, &targets))
}

#[test]
fn position_table() -> Result<()> {
    let store = store();
    let table =
        store.builder().get_with_hints((1, 3, 4), "pos", conditioned_nn::init::normal(0.5))?;
    check(&store, &variable(&[2, 3, 4], 1)?, |x| add_table(x, &table))
}

#[test]
fn patch_embedding() -> Result<()> {
    let store = store();
    let layer = PatchEmbed::new(store.builder(), 3, 2, 5)?;
    check(&store, &variable(&[2, 3, 4, 6], 1)?, |x| layer.forward(x))
}

#[test]
fn dropout_and_drop_path() -> Result<()> {
    let store = store();
    let mode = Mode::train(3, 8);
    let dropout = Dropout::new(&store.builder().pp("a"), 0.4)?;
    check(&store, &variable(&[4, 3, 5], 1)?, |x| dropout.forward(x, mode))?;
    let path = DropPath::new(&store.builder().pp("b"), 0.5)?;
    check(&store, &variable(&[6, 3, 5], 1)?, |x| path.forward(x, mode))
}

#[test]
fn a_constant_input_gets_no_gradient() -> Result<()> {
    let store = store();
    let layer = linear(store.builder(), 6, 4)?;
    let x = uniform(&[3, 6], 1)?;
    let grads = layer.forward(&x)?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_none());

    let table = variable(&[1, 3, 4], 2)?;
    let x = uniform(&[2, 3, 4], 1)?;
    let grads = add_table(&x, &table)?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_none() && grads.get(&table).is_some());
    Ok(())
}

#[test]
fn the_check_sees_a_wrong_gradient() -> Result<()> {
    // A cut graph: the gradient misses the factor that was detached.
    let x = variable(&[4], 1)?;
    let worst = central_differences(std::slice::from_ref(&x), 4, || (&*x * x.detach())?.sum_all())?;
    assert!(worst.error > 0.1);
    Ok(())
}
