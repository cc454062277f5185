//! GPT-2: sizes, gradients, refusals. What it must not see is the subject of `causality`.

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::Architecture;
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_nn::check::central_differences;
use conditioned_nn::{Mode, Store};

use crate::uniform;

/// Central differences in f64 through a whole model, as in `gradients`.
const DIFFERENCE_TOLERANCE: f64 = 1e-6;

/// A key bias has an exactly zero gradient, here up to rounding.
const EXEMPT_TOLERANCE: f64 = 1e-14;

fn tiny() -> Gpt2Config {
    Gpt2Config {
        vocabulary: 11,
        context: 9,
        width: 12,
        depth: 2,
        heads: 3,
        dropout: 0.1,
        ..Gpt2Config::preset("gpt2").unwrap()
    }
}

/// A model with every parameter moved off its initial value.
fn setup(dtype: DType) -> Result<(Gpt2, Store)> {
    let store = Store::new(3, dtype, &Device::Cpu);
    let model = Gpt2::new(&tiny(), store.builder())?;
    for (i, (_, var)) in store.parameters().into_iter().enumerate() {
        let noise = (uniform(var.dims(), i as u64)? * 0.3)?.to_dtype(dtype)?;
        var.set(&(var.as_tensor().detach() + noise)?)?;
    }
    Ok((model, store))
}

/// Seven tokens of two sequences, and what follows each.
fn batch() -> Result<(Tensor, Tensor)> {
    let tokens: Vec<u32> = (0..16).map(|i| (i * i + 3 * i) % 11).collect();
    let tokens = Tensor::from_vec(tokens, (2, 8), &Device::Cpu)?;
    Ok((tokens.narrow(1, 0, 7)?, tokens.narrow(1, 1, 7)?))
}

const MODE: Mode = Mode::train(1, 3);

#[test]
fn presets_have_the_published_sizes() {
    let published = [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ];
    for (name, parameters) in published {
        assert_eq!(Gpt2Config::preset(name).unwrap().parameter_count().unwrap(), parameters);
    }
}

#[test]
fn every_parameter_has_the_right_gradient() -> Result<()> {
    let (model, store) = setup(DType::F64)?;
    let (ids, targets) = batch()?;
    let variables: Vec<Var> = store.parameters().into_iter().map(|(_, var)| var).collect();
    let worst = central_differences(&variables, 12, || model.loss(&ids, &targets, MODE))?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
    let grads = model.loss(&ids, &targets, MODE)?.backward()?;
    for (name, var) in store.parameters() {
        let values: Vec<f64> = grads.get(&var).expect(&name).flatten_all()?.to_vec1()?;
        let zero = |values: &[f64]| values.iter().all(|v| v.abs() < EXEMPT_TOLERANCE);
        if name.ends_with("attn.c_attn.bias") {
            let c = values.len() / 3;
            assert!(zero(&values[c..2 * c]), "{name}: the key bias is exempt");
        } else {
            assert!(!zero(&values), "{name}: all zero");
        }
    }
    Ok(())
}

#[test]
fn wrong_input_is_named() {
    let (model, _store) = setup(DType::F32).unwrap();
    let ids = |length: usize, id: u32| Tensor::full(id, (1, length), &Device::Cpu).unwrap();
    let message = |ids: Tensor| model.logits(&ids, Mode::Eval).unwrap_err().to_string();
    assert!(
        message(ids(10, 0))
            .contains("10 tokens is longer than the position table, which ends at 9")
    );
    assert!(message(ids(3, 11)).contains("id 11 with a table of 11 rows"));
    let config = Gpt2Config { heads: 5, ..tiny() };
    let store = Store::new(0, DType::F32, &Device::Cpu);
    let error = Gpt2::new(&config, store.builder()).unwrap_err().to_string();
    assert!(error.contains("5 heads do not divide width 12"), "{error}");
    let unknown = Gpt2Config::preset("gpt3").unwrap_err().to_string();
    assert!(unknown.contains("gpt3") && unknown.contains("gpt2-medium"), "{unknown}");
}
