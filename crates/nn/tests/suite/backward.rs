//! Chains of sequences, and the backward pass that frees as it goes: the bits of the plain ways.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use conditioned_nn::{
    Attention, Dropout, Gelu, LayerNorm, LayerScale, Linear, Mode, Sequence, Store, backward,
    linear,
};

use crate::{distance, uniform, variable};

const TRAIN: Mode = Mode::train(3, 5);

/// Sequences of 8 -> 8 -> 8 -> 12 channels: cheap layers at their ends, and one without layers in an evaluation.
fn sequences(vb: &VarBuilder) -> Result<Vec<Sequence>> {
    Ok(vec![
        Sequence::residual([
            LayerNorm::new(vb.pp("norm"), 8, 1e-6)?.into(),
            linear(vb.pp("qkv"), 8, 24)?.into(),
            Attention { heads: 2, causal: false }.into(),
            linear(vb.pp("proj"), 8, 8)?.into(),
            LayerScale::new(vb.clone(), "gamma", 8, 0.5)?.into(),
            Dropout::new(&vb.pp("drop"), 0.2)?.into(),
        ]),
        Sequence::new([Dropout::new(&vb.pp("alone"), 0.2)?.into()]),
        Sequence::residual([linear(vb.pp("fc"), 8, 8)?.into(), Gelu::Erf.into()]),
        Sequence::new([linear(vb.pp("wide"), 8, 12)?.into()]),
        Sequence::residual([
            LayerNorm::new(vb.pp("last"), 12, 1e-6)?.into(),
            linear(vb.pp("out"), 12, 12)?.into(),
        ]),
    ])
}

/// The elements of every gradient, by name.
fn gradients(grads: &GradStore, vars: &[(String, Var)]) -> Result<Vec<(String, Vec<f64>)>> {
    let of = |(name, var): &(String, Var)| {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        Ok((name.clone(), grad.flatten_all()?.to_vec1()?))
    };
    vars.iter().map(of).collect()
}

#[test]
fn a_chain_has_the_bits_of_its_sequences_one_by_one() -> Result<()> {
    for mode in [Mode::Eval, TRAIN] {
        let store = Store::new(0, DType::F64, &Device::Cpu);
        let sequences = sequences(&store.builder())?;
        let x = variable(&[3, 7, 8], 1)?;
        let cotangent = uniform(&[3, 7, 12], 2)?;
        let mut vars = store.parameters();
        vars.push(("x".to_string(), x.clone()));
        let all_of = |y: Tensor| -> Result<_> {
            let grads = (&y * &cotangent)?.sum_all()?.backward()?;
            Ok((y.flatten_all()?.to_vec1::<f64>()?, gradients(&grads, &vars)?))
        };
        let chain = Sequence::chain(sequences.clone()).forward(&x, mode)?;
        let mut one_by_one = x.as_tensor().clone();
        for sequence in &sequences {
            one_by_one = sequence.forward(&one_by_one, mode)?;
        }
        assert_eq!(all_of(chain)?, all_of(one_by_one)?, "{mode:?}");
    }
    Ok(())
}

#[test]
fn a_residual_without_layers_doubles_what_enters_it() -> Result<()> {
    let store = Store::new(0, DType::F64, &Device::Cpu);
    let layer = linear(store.builder(), 4, 4)?;
    let x = uniform(&[2, 3, 4], 1)?;
    let ends = Sequence::new([layer.into()]);
    let chain = Sequence::chain([ends.clone(), Sequence::residual([]), ends.clone()]);
    let doubled = (ends.forward(&x, Mode::Eval)? * 2.0)?;
    let expected = ends.forward(&doubled, Mode::Eval)?;
    let y = chain.forward(&x, Mode::Eval)?;
    assert_eq!(y.to_vec3::<f64>()?, expected.to_vec3::<f64>()?);
    assert_eq!(Sequence::chain([]).forward(&x, TRAIN)?.to_vec3::<f64>()?, x.to_vec3::<f64>()?);
    Ok(())
}

/// A loss whose parameters are used once, twice, by a sequence and by candle, and through another tensor.
fn loss(store: &Store, x: &Var) -> Result<Tensor> {
    let vb = store.builder();
    let (once, twice) = (linear(vb.pp("once"), 6, 6)?, linear(vb.pp("twice"), 6, 6)?);
    let weight = vb.get((6, 6), "scaled")?;
    let scaled = Linear::new((&weight * 2.0)?, None);
    let first = Sequence::residual([once.into(), twice.clone().into()]);
    let second = Sequence::residual([scaled.into(), Gelu::Tanh.into(), twice.clone().into()]);
    let y = second.forward(&first.forward(x, TRAIN)?, TRAIN)?;
    y.sqr()?.sum_all()? + twice.weight().sqr()?.sum_all()?
}

#[test]
fn backward_has_the_gradients_of_candle() -> Result<()> {
    let store = Store::new(0, DType::F64, &Device::Cpu);
    let x = variable(&[2, 5, 6], 1)?;
    let plain = loss(&store, &x)?.backward()?;
    let once = backward(loss(&store, &x)?)?;
    let mut vars = store.parameters();
    vars.push(("x".to_string(), x));
    let (plain, once) = (gradients(&plain, &vars)?, gradients(&once, &vars)?);
    for ((name, plain), (_, once)) in plain.iter().zip(&once) {
        for (a, b) in plain.iter().zip(once) {
            // Three terms may be added in another order.
            assert!((a - b).abs() <= 1e-14 * a.abs().max(1.0), "{name}: {a} and {b}");
        }
    }
    Ok(())
}

#[test]
fn a_freed_graph_says_so_and_disturbs_no_other() -> Result<()> {
    let store = Store::new(0, DType::F64, &Device::Cpu);
    let x = variable(&[2, 5, 6], 1)?;
    let first = loss(&store, &x)?;
    backward(first.clone())?;
    for error in [backward(first.clone()).err(), first.backward().err()] {
        let message = error.expect("an error").to_string();
        assert!(message.contains("run the forward pass again"), "{message}");
    }
    let other = loss(&store, &x)?;
    assert!(other.backward().is_ok() && other.backward().is_ok());
    Ok(())
}

#[test]
fn a_chain_whose_lower_part_is_frozen_has_the_gradients_of_the_rest() -> Result<()> {
    let store = Store::new(0, DType::F64, &Device::Cpu);
    let learning = sequences(&store.builder())?;
    let frozen = sequences(&store.frozen()?)?;
    let x = uniform(&[3, 7, 8], 1)?;
    let loss = |chain: Vec<Sequence>| Sequence::chain(chain).forward(&x, TRAIN)?.sqr()?.sum_all();
    let all = loss(learning.clone())?.backward()?;
    for kept in 0..learning.len() {
        let chain = [&frozen[..kept], &learning[kept..]].concat();
        for grads in [loss(chain.clone())?.backward()?, backward(loss(chain)?)?] {
            let mut found = 0;
            for (name, var) in store.parameters() {
                let Some(grad) = grads.get(&var) else { continue };
                let expected = all.get(&var).expect("a gradient");
                assert_eq!(distance(grad, expected)?, 0.0, "{name}, {kept} frozen");
                found += 1;
            }
            assert_eq!(found, [15, 8, 8, 6, 4][kept], "{kept} frozen");
        }
    }
    Ok(())
}

/// An op whose backward panics.
struct Panics;

impl CustomOp1 for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F64(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_in_a_backward_pass_disturbs_no_later_one() -> Result<()> {
    let store = Store::new(0, DType::F64, &Device::Cpu);
    let x = variable(&[2, 5, 6], 1)?;
    let broken = x.apply_op1(Panics)?;
    let pass = std::panic::AssertUnwindSafe(|| backward(broken));
    assert!(std::panic::catch_unwind(pass).is_err());
    let grads = loss(&store, &x)?.backward()?;
    assert!(store.parameters().iter().all(|(_, var)| grads.get(var).is_some()));
    Ok(())
}
