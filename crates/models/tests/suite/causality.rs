//! Conditioned tokens in a causal model: who may enter, who leaks, what folds.

use candle_conditioning::{Pooled, PooledConfig, SpectralConditioning, TokenGraying};
use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::conditioning::{
    AttentionMethod, ConditioningConfig, Method, Placement, PooledPart, WeightMethod,
};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::{Architecture, Model};
use conditioned_nn::check::central_differences;
use conditioned_nn::{Mode, Store};

use crate::{distance, uniform};

/// Central differences in f64 through a whole model: truncation h^2 = 1e-10 times third derivatives,
/// larger than in `gradients` because M stretches the weak directions of the tables.
const DIFFERENCE_TOLERANCE: f64 = 1e-5;

/// A key bias has an exactly zero gradient, here up to rounding.
const EXEMPT_TOLERANCE: f64 = 1e-14;

/// Rounding in f64 of the same sums in another order.
const SAME_IN_F64: f64 = 1e-11;

/// The full window and the prefix alone differ by rounding in f32: the oracle of the leak gap.
const SAME_IN_F32: f32 = 1e-5;

const TRAIN: Mode = Mode::train(1, 3);

const PLACEMENTS: [Placement; 2] = [Placement::AfterPosition, Placement::BeforePosition];

fn tiny(conditioning: ConditioningConfig, allow_future_leak: bool) -> Gpt2Config {
    Gpt2Config {
        vocabulary: 11,
        context: 9,
        width: 12,
        depth: 2,
        heads: 3,
        dropout: 0.1,
        conditioning,
        allow_future_leak,
        ..Gpt2Config::preset("gpt2").unwrap()
    }
}

/// A model as it is before its first step, and its store; its tables are large enough that a leak
/// shows.
fn setup(config: &Gpt2Config, dtype: DType) -> Result<(Gpt2, Store)> {
    let store = Store::new(3, dtype, &Device::Cpu);
    let model = Gpt2::new(config, store.builder())?;
    for (i, (_, var)) in store.parameters().into_iter().enumerate() {
        let noise = (uniform(var.dims(), i as u64)? * 0.3)?.to_dtype(dtype)?;
        var.set(&(var.as_tensor().detach() + noise)?)?;
    }
    Ok((model, store))
}

/// Seven tokens of two sequences, and what follows each.
pub(crate) fn batch() -> Result<(Tensor, Tensor)> {
    let tokens: Vec<u32> = (0..16).map(|i| (i * i + 3 * i) % 11).collect();
    let tokens = Tensor::from_vec(tokens, (2, 8), &Device::Cpu)?;
    Ok((tokens.narrow(1, 0, 7)?, tokens.narrow(1, 1, 7)?))
}

/// Every causal method, at both placements.
fn causal() -> Result<Vec<ConditioningConfig>> {
    let methods = [
        Method::None,
        Method::factor(3.0)?,
        Method::LearnedMap,
        Method::pooled_part(0.7, PooledPart::Directions { factor: 3.0 })?,
        Method::pooled_part(0.7, PooledPart::Gradient)?,
        Method::pooled_part(0.7, PooledPart::Frozen { steps: 2 })?,
        Method::pooled_earlier(0.3)?,
        Method::pooled_earlier(1.0)?,
        Method::pooled_norm_matched(0.5)?,
        Method::table(0.5)?,
    ];
    let both = methods.iter().flat_map(|&method| {
        PLACEMENTS.map(|placement| ConditioningConfig { method, placement, ..Default::default() })
    });
    Ok(both.chain(weights()).collect())
}

/// What is done to weights.
fn weights() -> [ConditioningConfig; 3] {
    let forms = [SpectralConditioning::Identity { lambda: 0.5 }, SpectralConditioning::Exact];
    let methods =
        [WeightMethod::Spectral(forms[0]), WeightMethod::Spectral(forms[1]), WeightMethod::Weight];
    methods.map(|weights| ConditioningConfig { weights, ..Default::default() })
}

/// What divides the output of attention: its gradient is not that of the function, see `siblings`.
fn preconditioned() -> ConditioningConfig {
    ConditioningConfig { attention: AttentionMethod::Preconditioned, ..Default::default() }
}

/// Every method that is refused, at both placements.
fn leaking() -> Result<Vec<ConditioningConfig>> {
    let methods = [
        Method::per_sequence(1.0)?,
        Method::norm_matched(1.0)?,
        Method::pooled(0.3)?,
        Method::Standardised,
        Method::token_graying(TokenGraying::SVD)?,
        Method::token_graying(TokenGraying::DCT)?,
    ];
    let both = methods.iter().flat_map(|&method| {
        PLACEMENTS.map(|placement| ConditioningConfig { method, placement, ..Default::default() })
    });
    Ok(both.collect())
}

/// Whether logits before position t move when token t does, for some t.
///
/// Each forward is that of a model of its own, at its first step: what a training forward leaves
/// in running averages is for later steps.
fn leaks(config: &Gpt2Config, mode: Mode) -> Result<bool> {
    let logits = |ids: &Tensor| -> Result<Vec<Vec<Vec<f32>>>> {
        setup(config, DType::F32)?.0.logits(ids, mode)?.to_vec3()
    };
    let (ids, _) = batch()?;
    let before = logits(&ids)?;
    let mut leaks = false;
    for t in 0..7 {
        let mut changed: Vec<Vec<u32>> = ids.to_vec2()?;
        changed[1][t] = (changed[1][t] + 1) % 11;
        let after = logits(&Tensor::new(changed, &Device::Cpu)?)?;
        assert_ne!(before[1][t], after[1][t], "token {t} has no effect at all");
        leaks |= before[1][..t] != after[1][..t] || before[0] != after[0];
    }
    Ok(leaks)
}

#[test]
fn causal_methods_do_not_leak_from_the_first_step_on() -> Result<()> {
    for conditioning in causal()?.into_iter().chain([preconditioned()]) {
        for mode in [Mode::Eval, TRAIN] {
            assert!(!leaks(&tiny(conditioning, false), mode)?, "{conditioning:?} {mode:?}");
        }
    }
    Ok(())
}

#[test]
fn the_literal_method_leaks_in_both_modes_and_the_others_in_training() -> Result<()> {
    for conditioning in leaking()? {
        let config = tiny(conditioning, true);
        assert!(leaks(&config, TRAIN)?, "{conditioning:?} in training");
        let own = matches!(
            conditioning.method,
            Method::PerSequence(_) | Method::NormMatched(_) | Method::TokenGraying(_)
        );
        assert_eq!(leaks(&config, Mode::Eval)?, own, "{conditioning:?} in evaluation");
    }
    Ok(())
}

/// After some steps, too: the loss inside a window is that after the prefix alone, but for the
/// literal method.
#[test]
fn the_prefix_oracle_finds_the_leak() -> Result<()> {
    let gap = |conditioning: ConditioningConfig| -> Result<f32> {
        let (model, _store) = setup(&tiny(conditioning, true), DType::F32)?;
        let (ids, targets) = batch()?;
        for _ in 0..3 {
            model.loss(&ids, &targets, TRAIN)?;
        }
        let inside = model.logits(&ids, Mode::Eval)?;
        let mut gap = 0f32;
        for t in 1..7 {
            let alone = model.logits(&ids.narrow(1, 0, t)?, Mode::Eval)?.narrow(1, t - 1, 1)?;
            let difference = (inside.narrow(1, t - 1, 1)? - alone)?.abs()?.flatten_all()?;
            gap = gap.max(difference.max(0)?.to_scalar()?);
        }
        Ok(gap)
    };
    for conditioning in causal()?.into_iter().chain([preconditioned()]) {
        assert!(gap(conditioning)? < SAME_IN_F32, "{conditioning:?}");
    }
    assert!(gap(Method::per_sequence(1.0)?.into())? > 100.0 * SAME_IN_F32);
    Ok(())
}

#[test]
fn a_leaking_method_is_refused_with_its_reason_unless_asked_for() -> Result<()> {
    for conditioning in leaking()? {
        let error = tiny(conditioning, false).validate().unwrap_err().to_string();
        for part in ["gpt2: this method is not causal", "`earlier`", "allow_future_leak"] {
            assert!(error.contains(part), "{error}");
        }
        tiny(conditioning, true).validate()?;
    }
    Ok(())
}

/// Every parameter has its gradient with every causal method: exact where the conditioning is a
/// constant of the step, which it is for pooled statistics of earlier steps.
#[test]
fn gradients_are_right_behind_every_causal_method() -> Result<()> {
    for conditioning in causal()? {
        let config = tiny(conditioning, false);
        let (model, store) = setup(&config, DType::F64)?;
        let (ids, targets) = batch()?;
        let grads = model.loss(&ids, &targets, TRAIN)?.backward()?;
        for (name, var) in store.parameters() {
            let values: Vec<f64> = grads.get(&var).expect(&name).flatten_all()?.to_vec1()?;
            let zero = |values: &[f64]| values.iter().all(|v| v.abs() < EXEMPT_TOLERANCE);
            if name.ends_with("attn.c_attn.bias") {
                let c = values.len() / 3;
                assert!(zero(&values[c..2 * c]), "{conditioning:?} {name}: the key bias is exempt");
            } else {
                assert!(!zero(&values), "{conditioning:?} {name}: all zero");
            }
        }
        // In evaluation M stands still while a parameter is moved.
        let variables: Vec<Var> = store.parameters().into_iter().map(|(_, var)| var).collect();
        let loss = || model.loss(&ids, &targets, Mode::Eval);
        let worst = central_differences(&variables, 6, loss)?;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{conditioning:?}: {worst:?}");
    }
    Ok(())
}

#[test]
fn the_first_step_uses_the_gram_of_the_tables_and_later_ones_the_average() -> Result<()> {
    let conditioning = ConditioningConfig::from(Method::pooled_earlier(0.3)?);
    let (model, store) = setup(&tiny(conditioning, false), DType::F64)?;
    let (ids, targets) = batch()?;
    model.loss(&ids, &targets, TRAIN)?;
    let wte = store.get("wte.weight").unwrap().as_tensor().detach();
    let wpe = store.get("wpe.weight").unwrap().as_tensor().detach();
    let gram = |x: &Tensor| -> Result<Tensor> { x.t()?.matmul(x)? / x.dim(0)? as f64 };
    let start = (gram(&wte)? + gram(&wpe)?)?;
    // One observation of the batch at momentum 0.1 follows the first forward.
    let x = model.tokens(&ids)?.plain.flatten_to(1)?;
    let wanted = ((start * 0.9)? + (gram(&x)? * 0.1)?)?;
    let found = store.get("conditioner.running_gram").unwrap();
    assert!(distance(found.as_tensor(), &wanted)? < SAME_IN_F64);
    let weight: f64 = store.get("conditioner.running_weight").unwrap().to_scalar()?;
    assert_eq!(weight, 2.0);
    Ok(())
}

/// Before the first step an evaluation takes the Gram matrix of the tables, to the bit, follows them
/// when they change, and leaves the state of the store as it was.
#[test]
fn evaluating_and_folding_a_fresh_model_change_no_state() -> Result<()> {
    let (ids, _) = batch()?;
    let methods = [Method::pooled_earlier(0.3)?, Method::pooled_norm_matched(0.5)?];
    for (method, placement) in methods.into_iter().flat_map(|m| PLACEMENTS.map(|p| (m, p))) {
        let conditioning = ConditioningConfig { method, placement, ..Default::default() };
        let (model, store) = setup(&tiny(conditioning, false), DType::F32)?;
        for seed in [20, 21] {
            let read = |model: &Gpt2| -> Result<[Vec<f32>; 5]> {
                let (wte, wpe) = model.folded_tables()?;
                let last = model.next_logits(&ids, &mut model.cache())?;
                let (tokens, logits) =
                    (model.tokens(&ids)?.conditioned, model.logits(&ids, Mode::Eval)?);
                let bits = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
                Ok([bits(logits)?, bits(tokens)?, bits(last)?, bits(wte)?, bits(wpe)?])
            };
            let fresh = read(&model)?;
            for (name, var) in store.buffers() {
                let values: Vec<f64> = var.flatten_all()?.to_vec1()?;
                assert!(values.iter().all(|v| *v == 0.0), "{conditioning:?}: {name} was written");
            }
            // The same weights over state that was started before.
            let (started, other) = setup(&tiny(conditioning, false), DType::F32)?;
            for (name, var) in store.parameters() {
                other.get(&name).unwrap().set(&var.as_tensor().detach())?;
            }
            let names: &[&str] = match placement {
                Placement::BeforePosition => &["wte.weight"],
                _ => &["wte.weight", "wpe.weight"],
            };
            let tables: Vec<Var> = names.iter().map(|name| store.get(name).unwrap()).collect();
            let tables: Vec<&Tensor> = tables.iter().map(Var::as_tensor).collect();
            let pooled = Pooled::new(PooledConfig::default(), 12, &Device::Cpu)?;
            pooled.start_from_tables(&tables)?;
            for (name, tensor) in pooled.named_tensors() {
                other.get(&format!("conditioner.{name}")).unwrap().set(&tensor.detach())?;
            }
            assert_eq!(fresh, read(&started)?, "{conditioning:?}");
            let wte = store.get("wte.weight").unwrap();
            wte.set(&uniform(wte.dims(), seed)?.to_dtype(DType::F32)?)?;
        }
    }
    Ok(())
}

#[test]
fn folded_tables_make_a_plain_model_of_a_conditioned_one() -> Result<()> {
    for conditioning in causal()? {
        let (model, store) = setup(&tiny(conditioning, false), DType::F64)?;
        let (ids, targets) = batch()?;
        model.loss(&ids, &targets, TRAIN)?;
        let model = Gpt2::new(&tiny(conditioning, false), store.frozen()?)?;
        let (wte, wpe) = model.folded_tables()?;

        let config =
            Gpt2Config { tie_word_embeddings: false, ..tiny(ConditioningConfig::default(), false) };
        let plain_store = Store::new(0, DType::F64, &Device::Cpu);
        let plain = Gpt2::new(&config, plain_store.builder())?;
        for (name, var) in plain_store.parameters() {
            match name.as_str() {
                "wte.weight" => var.set(&wte)?,
                "wpe.weight" => var.set(&wpe)?,
                "lm_head.weight" => var.set(&model.head().detach())?,
                _ => var.set(&store.get(&name).unwrap().as_tensor().detach())?,
            }
        }
        for (name, weight) in model.folded_weights()? {
            plain_store.get(&name).unwrap().set(&weight.detach().copy()?)?;
        }
        let d = distance(&plain.logits(&ids, Mode::Eval)?, &model.logits(&ids, Mode::Eval)?)?;
        assert!(d < SAME_IN_F64, "{conditioning:?}: {d}");
    }
    let (literal, _store) = setup(&tiny(Method::per_sequence(1.0)?.into(), true), DType::F64)?;
    let error = literal.folded_tables().unwrap_err().to_string();
    assert!(error.contains("cannot be folded"), "{error}");
    Ok(())
}

/// A training step moves W, and the M of the next one is that of the new W: a resumed run, which
/// has W alone, goes on with the same bits.
#[test]
fn conditioned_tables_follow_their_weights() -> Result<()> {
    let config = tiny(Method::table(0.5)?.into(), false);
    let (model, store) = setup(&config, DType::F32)?;
    let (ids, targets) = batch()?;
    let loss = |model: &Gpt2| model.loss(&ids, &targets, TRAIN)?.to_scalar::<f32>();
    let before = loss(&model)?;
    let wte = store.get("wte.weight").unwrap();
    wte.set(&(wte.as_tensor().detach() + uniform(&[11, 12], 5)?.to_dtype(DType::F32)?)?)?;
    let after = loss(&model)?;
    assert_ne!(before, after);
    assert_eq!(after, loss(&Gpt2::new(&config, store.builder())?)?);
    Ok(())
}
