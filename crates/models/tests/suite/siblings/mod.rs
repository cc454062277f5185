//! What acts on weights and on attention, in every family of models: by its definition, with its
//! gradients, resumed and folded.

mod families;

use std::collections::BTreeMap;

use candle_conditioning::{SpectralConditioning, TokenGraying};
use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::bert::{BertConfig, BertInput};
use conditioned_models::bert_heads::BertClassifier;
use conditioned_models::conditioning::{AttentionMethod, ConditioningConfig, Method, WeightMethod};
use conditioned_models::crammed_heads::CrammedBertClassifier;
use conditioned_models::gpt2::Gpt2;
use conditioned_models::hugging_face;
use conditioned_nn::check::central_differences;
use conditioned_nn::{Mode, Store};

use families::{
    DEPTH, FAMILIES, Family, Model, Scales, WIDTH, bert_config, crammed_config, gpt2_config,
    gpt2_ids,
};

use crate::bert::{alone, batch, shake};
use crate::{distance, uniform};

/// Sums of the same numbers in f64 in another order, through two layers.
const SAME_IN_F64: f64 = 1e-11;

/// Central differences in f64 through a whole model, as in `causality`.
const DIFFERENCE_TOLERANCE: f64 = 1e-5;

/// A key bias has an exactly zero gradient, here up to rounding.
const EXEMPT_TOLERANCE: f64 = 1e-13;

/// f32 logits of a model and of its folded or padded twin.
const SAME_IN_F32: f64 = 1e-5;

fn train(step: u64) -> Mode {
    Mode::train(1, step)
}

fn weights() -> [WeightMethod; 3] {
    [
        WeightMethod::Spectral(SpectralConditioning::Identity { lambda: 0.7 }),
        WeightMethod::Spectral(SpectralConditioning::Exact),
        WeightMethod::Weight,
    ]
}

fn of(weights: WeightMethod) -> ConditioningConfig {
    ConditioningConfig { weights, ..Default::default() }
}

fn preconditioned() -> ConditioningConfig {
    ConditioningConfig { attention: AttentionMethod::Preconditioned, ..Default::default() }
}

/// What the tests train: each alone, and all together.
fn configurations() -> Result<Vec<ConditioningConfig>> {
    let together = ConditioningConfig {
        method: Method::pooled_earlier(0.5)?,
        weights: WeightMethod::Spectral(SpectralConditioning::Exact),
        attention: AttentionMethod::Preconditioned,
        ..Default::default()
    };
    Ok(weights().map(of).into_iter().chain([preconditioned(), together]).collect())
}

fn store(dtype: DType) -> Store {
    Store::new(3, dtype, &Device::Cpu)
}

/// A fixed linear functional of the logits.
fn loss(logits: &Tensor) -> Result<Tensor> {
    (logits * uniform(logits.dims(), 7)?.to_dtype(logits.dtype())?)?.sum_all()
}

/// The matrix (C, C) of queries, keys or values of a layer, row by row.
fn matrix(store: &Store, family: &Family, layer: usize, k: usize) -> Result<Vec<f64>> {
    let mut tensors: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
    let mut entries = Vec::new();
    for at in 0..WIDTH * WIDTH {
        let (name, row, column) = (family.place)(layer, k, at / WIDTH, at % WIDTH);
        if !tensors.contains_key(&name) {
            tensors.insert(name.clone(), store.get(&name).unwrap().to_vec2()?);
        }
        entries.push(tensors[&name][row][column]);
    }
    Ok(entries)
}

/// What the definition makes of a matrix whose value before the first step was `first`.
fn mapped(method: WeightMethod, now: &[f64], first: &[f64]) -> Result<Vec<f64>> {
    Ok(match method {
        WeightMethod::None => now.to_vec(),
        WeightMethod::Spectral(SpectralConditioning::Identity { lambda }) => (0..now.len())
            .map(|at| now[at] + if at / WIDTH == at % WIDTH { lambda } else { 0.0 })
            .collect(),
        WeightMethod::Spectral(form @ SpectralConditioning::Exact) => {
            let first = Tensor::from_slice(first, (WIDTH, WIDTH), &Device::Cpu)?;
            let correction = form.correction(&first)?.to_dtype(DType::F32)?;
            let correction: Vec<f64> = correction.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            now.iter().zip(correction).map(|(w, c)| w + c).collect()
        }
        WeightMethod::Weight => now
            .chunks(WIDTH)
            .flat_map(|row| {
                let norm = row.iter().map(|w| w * w).sum::<f64>().sqrt();
                row.iter().map(move |w| w / norm)
            })
            .collect(),
    })
}

/// The model whose weights were mapped by hand, entry by entry, computes the same: before the first step,
/// and after the weights have moved, when the C of exact Spectral Conditioning has not.
#[test]
fn weights_that_are_mapped_by_hand_give_the_same_model() -> Result<()> {
    for (family, method) in FAMILIES.iter().flat_map(|f| weights().map(|m| (f, m))) {
        let what = format!("{} {method:?}", family.name);
        let (own, other) = (store(DType::F64), store(DType::F64));
        let model = (family.build)(of(method), &own)?;
        let plain = (family.build)(ConditioningConfig::default(), &other)?;
        shake(&own)?;
        let layers = || (0..DEPTH).flat_map(|layer| (0..3).map(move |k| (layer, k)));
        let first = layers()
            .map(|(layer, k)| matrix(&own, family, layer, k))
            .collect::<Result<Vec<_>>>()?;
        for moved in [false, true] {
            if moved {
                (model.logits)(train(0))?;
                shake(&own)?;
            }
            for (name, var) in own.parameters() {
                other.get(&name).unwrap().set(&var.as_tensor().detach())?;
            }
            for ((layer, k), first) in layers().zip(&first) {
                let entries = mapped(method, &matrix(&own, family, layer, k)?, first)?;
                for (at, entry) in entries.into_iter().enumerate() {
                    let (name, row, column) = (family.place)(layer, k, at / WIDTH, at % WIDTH);
                    let var = other.get(&name).unwrap();
                    let mut values: Vec<Vec<f64>> = var.to_vec2()?;
                    values[row][column] = entry;
                    var.set(&Tensor::new(values, &Device::Cpu)?)?;
                }
            }
            let d = distance(&(model.logits)(Mode::Eval)?, &(plain.logits)(Mode::Eval)?)?;
            assert!(d < SAME_IN_F64, "{what}, moved {moved}: {d:e}");
        }
    }
    Ok(())
}

/// No parameter is without gradient, and none has a zero one but key biases.
fn check_no_gradient_is_zero(store: &Store, loss: &Tensor, what: &str) -> Result<()> {
    let grads = loss.backward()?;
    for (name, var) in store.parameters() {
        let grad = grads.get(&var).unwrap_or_else(|| panic!("{what}: {name} has no gradient"));
        let values: Vec<f64> = grad.flatten_all()?.to_vec1()?;
        let zero = |values: &[f64]| values.iter().all(|v| v.abs() < EXEMPT_TOLERANCE);
        assert!(values.iter().all(|v| v.is_finite()), "{what}: {name} is not finite");
        if name.ends_with("qkv.bias") || name.ends_with("c_attn.bias") {
            let c = values.len() / 3;
            assert!(zero(&values[c..2 * c]), "{what}: {name}: the key bias is exempt");
            assert!(!zero(&values[..c]) && !zero(&values[2 * c..]), "{what}: {name} is zero");
        } else {
            assert_eq!(zero(&values), name.ends_with("key.bias"), "{what}: {name}");
        }
    }
    Ok(())
}

#[test]
fn every_parameter_behind_mapped_weights_has_the_right_gradient() -> Result<()> {
    for (family, method) in FAMILIES.iter().flat_map(|f| weights().map(|m| (f, m))) {
        let what = format!("{} {method:?}", family.name);
        let store = store(DType::F64);
        let model = (family.build)(of(method), &store)?;
        shake(&store)?;
        check_no_gradient_is_zero(&store, &loss(&(model.logits)(train(0))?)?, &what)?;
        // The training pass has fixed C, so that it stands still while a weight is moved.
        let variables: Vec<Var> = store.parameters().into_iter().map(|(_, var)| var).collect();
        let worst = central_differences(&variables, 4, || loss(&(model.logits)(Mode::Eval)?))?;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{what}: {worst:?}");
    }
    Ok(())
}

/// Preconditioned attention against the network in plain operations, and its gradients against those of
/// the function in which the norms stand still, which central differences confirm.
#[test]
fn preconditioned_attention_is_its_definition_and_so_are_its_gradients() -> Result<()> {
    for family in &FAMILIES {
        let store = store(DType::F64);
        let model = (family.build)(preconditioned(), &store)?;
        shake(&store)?;
        let scales = Scales::default();
        let by_hand = || (family.by_hand)(&store, &(model.tokens)()?, &scales);
        let wanted = by_hand()?;
        for mode in [Mode::Eval, train(0)] {
            let d = distance(&(model.logits)(mode)?, &wanted)?;
            assert!(d < SAME_IN_F64, "{} {mode:?}: {d:e}", family.name);
        }
        let own = loss(&(model.logits)(train(0))?)?;
        check_no_gradient_is_zero(&store, &own, family.name)?;
        let (own, frozen) = (own.backward()?, loss(&by_hand()?)?.backward()?);
        for (name, var) in store.parameters() {
            let d = distance(own.get(&var).expect(&name), frozen.get(&var).expect(&name))?;
            assert!(d < SAME_IN_F64, "{} {name}: {d:e}", family.name);
        }
        let variables: Vec<Var> = store.parameters().into_iter().map(|(_, var)| var).collect();
        let worst = central_differences(&variables, 4, || loss(&by_hand()?))?;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{}: {worst:?}", family.name);
    }
    Ok(())
}

/// Padding gets zeros from attention and stays out of every row's norm.
#[test]
fn preconditioned_attention_leaves_padding_out() -> Result<()> {
    let (input, labels) = (batch()?, Tensor::new(&[0u32, 2, 1], &Device::Cpu)?);
    let (one, two) = (store(DType::F32), store(DType::F32));
    let bert = BertClassifier::new(&bert_config(preconditioned()), 3, one.builder())?;
    let crammed = CrammedBertClassifier::new(&crammed_config(preconditioned()), 3, two.builder())?;
    shake(&one)?;
    shake(&two)?;
    let logits = |input: &BertInput| -> Result<[Tensor; 2]> {
        Ok([bert.logits(input, Mode::Eval)?, crammed.logits(input, Mode::Eval)?])
    };
    let padded = logits(&input)?;
    for i in 0..3 {
        for (own, padded) in logits(&alone(&input, i)?)?.iter().zip(&padded) {
            let d = distance(own, &padded.narrow(0, i, 1)?)?;
            assert!(d < SAME_IN_F32, "sequence {i}: {d:e}");
        }
    }
    let losses = [bert.loss(&input, &labels, train(0))?, crammed.loss(&input, &labels, train(0))?];
    for (store, loss) in [one, two].iter().zip(losses) {
        let grads = loss.backward()?;
        for (name, var) in store.parameters() {
            let sum = grads.get(&var).expect(&name).abs()?.sum_all()?.to_scalar::<f32>()?;
            assert!(sum.is_finite(), "{name}: {sum}");
        }
    }
    Ok(())
}

/// One step of plain descent.
fn step(store: &Store, model: &Model, number: u64) -> Result<()> {
    let grads = loss(&(model.logits)(train(number))?)?.backward()?;
    for (name, var) in store.parameters() {
        let step = (grads.get(&var).expect(&name) * 1e-3)?;
        var.set(&(var.as_tensor().detach() - step)?)?;
    }
    Ok(())
}

fn bits(store: &Store) -> Result<Vec<(String, Vec<u64>)>> {
    let bits = |var: &Var| -> Result<Vec<u64>> {
        let values: Vec<f64> = var.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        Ok(values.into_iter().map(f64::to_bits).collect())
    };
    store.tensors().into_iter().map(|(name, var)| Ok((name, bits(&var)?))).collect()
}

#[test]
fn a_saved_model_goes_on_with_the_same_bits() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    for family in &FAMILIES {
        for conditioning in configurations()? {
            let what = format!("{} {conditioning:?}", family.name);
            let path = folder.path().join("model.safetensors");
            let first = store(DType::F32);
            let model = (family.build)(conditioning, &first)?;
            (0..2).try_for_each(|number| step(&first, &model, number))?;
            first.save(&path, &BTreeMap::new()).unwrap();
            // Another seed: all that counts must come from the file.
            let second = Store::new(8, DType::F32, &Device::Cpu);
            let again = (family.build)(conditioning, &second)?;
            second.load(&path).unwrap();
            for (store, model) in [(&first, &model), (&second, &again)] {
                step(store, model, 2)?;
            }
            assert_eq!(bits(&first)?, bits(&second)?, "{what}");
            // A frozen copy evaluates with the same C.
            let d = distance(&(model.logits)(Mode::Eval)?, &(again.logits)(Mode::Eval)?)?;
            assert_eq!(d, 0.0, "{what}");
        }
    }
    Ok(())
}

/// The C of exact Spectral Conditioning is no parameter, waits for the first training pass, and is then
/// that of the weights that this pass finds.
#[test]
fn exact_spectral_conditioning_is_a_buffer_of_the_first_step() -> Result<()> {
    let method = WeightMethod::Spectral(SpectralConditioning::Exact);
    for family in &FAMILIES {
        let store = store(DType::F32);
        let model = (family.build)(of(method), &store)?;
        shake(&store)?;
        let values = |store: &Store| -> Result<Vec<f32>> {
            let buffers = store.buffers();
            assert!(buffers.iter().all(|(name, var)| {
                name.ends_with(".spectral_conditioning") && var.dtype() == DType::F32
            }));
            assert!(!buffers.is_empty(), "{}", family.name);
            buffers.iter().try_fold(Vec::new(), |mut all, (_, var)| {
                all.extend(var.flatten_all()?.to_vec1::<f32>()?);
                Ok(all)
            })
        };
        let fresh = (model.logits)(Mode::Eval)?;
        assert!(values(&store)?.iter().all(|c| *c == 0.0), "{}: an evaluation wrote", family.name);
        (model.logits)(train(0))?;
        let fixed = values(&store)?;
        assert!(fixed.iter().any(|c| *c != 0.0));
        assert_eq!(distance(&(model.logits)(Mode::Eval)?, &fresh)?, 0.0, "{}", family.name);
        step(&store, &model, 1)?;
        (model.logits)(train(2))?;
        assert_eq!(values(&store)?, fixed, "{}: C moved", family.name);
        let plain = Store::new(3, DType::F32, &Device::Cpu);
        (family.build)(ConditioningConfig::default(), &plain)?;
        assert_eq!(store.parameter_count(), plain.parameter_count());
    }
    Ok(())
}

#[test]
fn configurations_are_read_and_written_and_the_old_ones_as_before() {
    let write = |config: &ConditioningConfig| serde_json::to_string(config).unwrap();
    let read = |json: &str| serde_json::from_str::<ConditioningConfig>(json);
    let plain = ConditioningConfig::default();
    assert_eq!(write(&plain), r#"{"method":"none","placement":"after-position"}"#);
    assert_eq!(read("{}").unwrap(), plain);
    assert!(plain.is_plain());
    let full = ConditioningConfig {
        method: Method::token_graying(TokenGraying::SVD).unwrap(),
        ramp_steps: 3,
        weights: WeightMethod::Spectral(SpectralConditioning::default()),
        attention: AttentionMethod::Preconditioned,
        ..plain
    };
    assert_eq!(
        write(&full),
        concat!(
            r#"{"method":{"token-graying":{"svd":{"epsilon":0.6}}},"placement":"after-position","#,
            r#""ramp_steps":3,"weights":{"spectral":{"identity":{"lambda":10.0}}},"#,
            r#""attention":"preconditioned"}"#
        )
    );
    for config in [full, of(WeightMethod::Weight), of(weights()[1]), preconditioned()] {
        assert_eq!(read(&write(&config)).unwrap(), config);
        assert!(!config.is_plain());
    }
    assert!(read(r#"{"weights":"whitened"}"#).unwrap_err().to_string().contains("whitened"));
}

#[test]
fn numbers_out_of_range_are_refused() {
    let refused = |conditioning: ConditioningConfig, text: &str| {
        for family in &FAMILIES {
            let error = (family.build)(conditioning, &store(DType::F32)).err().unwrap();
            assert!(error.to_string().contains(text), "{}: {error}", family.name);
        }
    };
    for lambda in [-1.0, f64::NAN, f64::INFINITY] {
        let form = SpectralConditioning::Identity { lambda };
        refused(of(WeightMethod::Spectral(form)), "finite lambda");
    }
    let graying = TokenGraying::Dct { epsilon: 1.5 };
    refused(Method::TokenGraying(graying).into(), "epsilon is 1.5");
    assert!(Method::token_graying(graying).unwrap_err().to_string().contains("epsilon is 1.5"));
}

/// What is done to weights folds into them, for transformers too; preconditioned attention does not.
#[test]
fn weights_fold_and_preconditioned_attention_does_not() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let input = batch()?;
    for method in weights() {
        for token in [Method::None, Method::table(0.5)?] {
            let conditioning = ConditioningConfig { method: token, ..of(method) };
            let what = format!("{conditioning:?}");
            let (config, store) = (gpt2_config(conditioning), store(DType::F32));
            let model = Gpt2::new(&config, store.builder())?;
            shake(&store)?;
            let ours = model.logits(&gpt2_ids()?, train(0))?;
            let path = folder.path().join("gpt2");
            hugging_face::gpt2::export(&path, &config, &store, None).unwrap();
            let plain = hugging_face::gpt2::read_config(&path).unwrap();
            assert!(plain.conditioning.is_plain());
            assert_eq!(plain.tie_word_embeddings, token == Method::None);
            let other = Store::new(9, DType::F32, &Device::Cpu);
            hugging_face::gpt2::read_weights(&path, &plain, &other).unwrap();
            let folded = Gpt2::new(&plain, other.builder())?.logits(&gpt2_ids()?, Mode::Eval)?;
            assert!(distance(&folded, &ours)? < SAME_IN_F32, "{what}");

            // As it is, with its state.
            let path = folder.path().join("gpt2-own");
            hugging_face::gpt2::write(&path, &config, &store, None).unwrap();
            let read = hugging_face::gpt2::read_config(&path).unwrap();
            assert_eq!(read.conditioning, conditioning);
            let other = Store::new(9, DType::F32, &Device::Cpu);
            hugging_face::gpt2::read_weights(&path, &read, &other).unwrap();
            let again = Gpt2::new(&read, other.builder())?.logits(&gpt2_ids()?, Mode::Eval)?;
            let here = model.logits(&gpt2_ids()?, Mode::Eval)?;
            assert_eq!(distance(&again, &here)?, 0.0, "{what}");

            let (config, store) = (bert_config(conditioning), self::store(DType::F32));
            let model = BertClassifier::new(&config, 3, store.builder())?;
            shake(&store)?;
            let ours = model.logits(&input, train(0))?;
            let labels = ["a", "b", "c"].map(String::from).to_vec();
            let head = hugging_face::bert::Head::Classes(labels);
            let path = folder.path().join("bert");
            assert!(config.folds());
            hugging_face::bert::export(&path, &config, &head, &store).unwrap();
            let plain = hugging_face::bert::read_config(&path).unwrap();
            assert!(plain.conditioning.is_plain());
            let plain = BertConfig { dropout: 0.0, ..plain };
            let other = Store::new(9, DType::F32, &Device::Cpu);
            let folded = BertClassifier::new(&plain, 3, other.builder())?;
            hugging_face::bert::read_weights(&path, &other).unwrap();
            assert!(distance(&folded.logits(&input, Mode::Eval)?, &ours)? < SAME_IN_F32, "{what}");

            let (config, store) = (crammed_config(conditioning), self::store(DType::F64));
            let model = CrammedBertClassifier::new(&config, 3, store.builder())?;
            shake(&store)?;
            let ours = model.logits(&input, train(0))?;
            assert!(config.folds());
            let words = model.bert().folded_words()?.copy()?;
            let folded = model.bert().folded_weights()?;
            assert_eq!(folded.len(), DEPTH);
            for (name, weight) in folded {
                store.get(&name).unwrap().set(&weight.copy()?)?;
            }
            store.get("encoder.embedding.word_embedding.weight").unwrap().set(&words)?;
            let plain = crammed_config(ConditioningConfig::default());
            let plain = CrammedBertClassifier::new(&plain, 3, store.builder())?;
            assert!(distance(&plain.logits(&input, Mode::Eval)?, &ours)? < SAME_IN_F64, "{what}");
        }
    }
    let store = store(DType::F32);
    let config = gpt2_config(preconditioned());
    Gpt2::new(&config, store.builder())?;
    let error = hugging_face::gpt2::export(folder.path(), &config, &store, None).unwrap_err();
    assert!(error.to_string().contains("no weight can fold in"), "{error}");
    let (config, store) = (bert_config(preconditioned()), self::store(DType::F32));
    BertClassifier::new(&config, 3, store.builder())?;
    let head = hugging_face::bert::Head::Classes(["a", "b", "c"].map(String::from).to_vec());
    let error = hugging_face::bert::export(folder.path(), &config, &head, &store).unwrap_err();
    assert!(error.to_string().contains("no weight can fold in"), "{error}");
    assert!(!config.folds() && !crammed_config(preconditioned()).folds());
    Ok(())
}
