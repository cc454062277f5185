//! Crammed BERT: sizes, gradients, what padding may not change, folding, refusals.

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::Architecture;
use conditioned_models::bert::BertInput;
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::crammed_bert::{CrammedBert, CrammedBertConfig};
use conditioned_models::crammed_heads::{CrammedBertClassifier, CrammedBertMaskedLm};
use conditioned_nn::check::central_differences;
use conditioned_nn::{Mode, Store};

use crate::bert::{PLACEMENTS, alone, batch, differentiable, methods, shake};
use crate::distance;

/// Central differences in f64 through a whole model, as in `gradients`.
const DIFFERENCE_TOLERANCE: f64 = 1e-6;

/// f64 through two layers.
const F64_TOLERANCE: f64 = 1e-12;

const MODE: Mode = Mode::train(1, 3);

/// Every preset, shrunk so that central differences take no minutes.
fn registry() -> impl Iterator<Item = CrammedBertConfig> {
    CrammedBertConfig::presets().into_iter().map(|(_, preset)| CrammedBertConfig {
        vocabulary: 23,
        context: 9,
        width: 2 * preset.heads,
        depth: 2,
        hidden: 8 * preset.heads,
        ..preset
    })
}

fn tiny(method: Method, placement: Placement) -> CrammedBertConfig {
    CrammedBertConfig {
        vocabulary: 23,
        context: 9,
        width: 12,
        depth: 2,
        heads: 3,
        hidden: 20,
        conditioning: ConditioningConfig { method, placement, ..Default::default() },
        ..CrammedBertConfig::preset("crammed-bert").unwrap()
    }
}

fn store(dtype: DType) -> Store {
    Store::new(3, dtype, &Device::Cpu)
}

fn classifier(config: &CrammedBertConfig, store: &Store) -> Result<CrammedBertClassifier> {
    let model = CrammedBertClassifier::new(config, 3, store.builder())?;
    shake(store)?;
    Ok(model)
}

fn labels() -> Result<Tensor> {
    Tensor::new(&[0u32, 2, 1], &Device::Cpu)
}

#[test]
fn presets_have_the_published_sizes() -> Result<()> {
    let published = CrammedBertConfig::preset("crammed-bert").unwrap();
    // 119 M; its 16 layers of 5.9 M are a little more than the 12 of BERT-base.
    assert_eq!(published.parameter_count()?, 119_589_889);
    let products = 4 * 768 * 768 + 768 * 3072 + 1536 * 768;
    assert_eq!(published.macs(128), 16 * 128 * (products + 2 * 128 * 768));
    assert!(
        CrammedBertConfig::preset("crammed").unwrap_err().to_string().contains("crammed-4x128")
    );
    Ok(())
}

#[test]
fn the_parameters_start_as_in_the_reference() -> Result<()> {
    let published = CrammedBertConfig::preset("crammed-4x128").unwrap();
    assert_eq!((published.table_std, published.linear_std), (0.02, 0.02));
    // Two other deviations, to tell them apart; heads keep the published one.
    let config = CrammedBertConfig { depth: 1, table_std: 0.1, linear_std: 0.05, ..published };
    let store = store(DType::F64);
    CrammedBertClassifier::new(&config, 2, store.builder())?;
    for (name, var) in store.parameters() {
        let values: Vec<f64> = var.flatten_all()?.to_vec1()?;
        let constant = |value: f64| values.iter().all(|v| *v == value);
        if name.ends_with("scale_factor") {
            assert!(constant(128f64.powf(-0.5)), "{name}");
        } else if name.contains("norm") && name.ends_with("weight") {
            assert!(constant(1.0), "{name}");
        } else if name.ends_with("bias") {
            assert!(constant(0.0), "{name}");
        } else {
            // The root mean square of n draws has a relative deviation of 1 / sqrt(2 n); four of it.
            let n = values.len() as f64;
            let std = (values.iter().map(|v| v * v).sum::<f64>() / n).sqrt();
            let want = match () {
                () if name.contains("word_embedding") => 0.1,
                () if name.contains("layers") => 0.05,
                () => 0.02,
            };
            assert!((std / want - 1.0).abs() < 4.0 / (2.0 * n).sqrt(), "{name}: {std}");
        }
    }
    Ok(())
}

#[test]
fn every_parameter_has_the_right_gradient() -> Result<()> {
    let input = batch()?;
    let still = differentiable()?
        .map(|(method, mode, tolerance)| (method, Placement::AfterPosition, mode, tolerance));
    // Standardisation differentiates through its statistics.
    let through =
        PLACEMENTS.map(|placement| (Method::Standardised, placement, MODE, DIFFERENCE_TOLERANCE));
    let attached = [&still[..], &through[..]].concat();
    let positions = Tensor::new(&[[0u32, 6], [3, 1], [1, 1]], &Device::Cpu)?;
    let targets = Tensor::new(&[[3u32, 22], [0, 5], [8, 8]], &Device::Cpu)?;
    for preset in registry() {
        for &(method, placement, mode, tolerance) in &attached {
            let conditioning = ConditioningConfig { method, placement, ..Default::default() };
            let config = CrammedBertConfig { conditioning, ..preset.clone() };
            let check = |store: &Store, loss: &dyn Fn() -> Result<Tensor>| -> Result<()> {
                let variables: Vec<Var> = store.parameters().into_iter().map(|(_, v)| v).collect();
                let worst = central_differences(&variables, 4, loss)?;
                assert!(worst.error < tolerance, "{method:?} {placement:?}: {worst:?}");
                Ok(())
            };
            let parameters = store(DType::F64);
            let model = classifier(&config, &parameters)?;
            model.loss(&input, &labels()?, MODE)?;
            check(&parameters, &|| model.loss(&input, &labels()?, mode))?;
            let parameters = store(DType::F64);
            let model = CrammedBertMaskedLm::new(&config, parameters.builder())?;
            shake(&parameters)?;
            model.loss(&input, &positions, &targets, MODE)?;
            check(&parameters, &|| model.loss(&input, &positions, &targets, mode))?;
        }
    }
    Ok(())
}

#[test]
fn no_gradient_is_missing_under_any_method() -> Result<()> {
    let input = batch()?;
    for method in methods()? {
        for placement in PLACEMENTS {
            let store = store(DType::F64);
            let model = classifier(&tiny(method, placement), &store)?;
            for step in 0..2 {
                let mode = Mode::train(1, step);
                let grads = model.loss(&input, &labels()?, mode)?.backward()?;
                for (name, var) in store.parameters() {
                    let what = format!("{method:?} {placement:?} {name}");
                    let sum = grads.get(&var).expect(&what).abs()?.sum_all()?.to_scalar::<f64>()?;
                    assert!(sum.is_finite() && sum > 0.0, "{what}: {sum}");
                }
            }
        }
    }
    Ok(())
}

/// What a model makes of a sequence is bit for bit what it makes of it without padding and batch.
#[test]
fn tokens_depend_on_neither_padding_nor_batch() -> Result<()> {
    let input = batch()?;
    for method in methods()? {
        for placement in PLACEMENTS {
            let store = store(DType::F32);
            let model = classifier(&tiny(method, placement), &store)?;
            model.loss(&input, &labels()?, MODE)?;
            let tokens = model.bert().real_tokens(&input)?.conditioned;
            let logits = model.logits(&input, Mode::Eval)?;
            let mut first = 0;
            for (i, &length) in input.padding.as_ref().unwrap().lengths().iter().enumerate() {
                let alone = alone(&input, i)?;
                let own = model.bert().real_tokens(&alone)?.conditioned;
                let in_batch = tokens.narrow(0, first, length)?;
                first += length;
                let bits = |x: &Tensor| -> Result<Vec<u32>> {
                    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
                };
                assert_eq!(bits(&own)?, bits(&in_batch)?, "{method:?} {placement:?} sequence {i}");
                let own = model.logits(&alone, Mode::Eval)?;
                assert_eq!(
                    bits(&own)?,
                    bits(&logits.narrow(0, i, 1)?)?,
                    "{method:?} {placement:?}"
                );
            }
        }
    }
    Ok(())
}

/// Another id at a place of padding, and other types anywhere, change nothing.
#[test]
fn padding_and_types_take_no_part_in_training() -> Result<()> {
    let input = batch()?;
    let mask = input.padding.as_ref().unwrap().mask(&Device::Cpu)?;
    let noise = Tensor::full(17u32, (3, 7), &Device::Cpu)?;
    let ids = mask.where_cond(&input.ids, &noise)?;
    let other = BertInput { ids, types: noise, padding: input.padding.clone() };
    for method in methods()? {
        for placement in PLACEMENTS {
            let run = |input: &BertInput| -> Result<Vec<Tensor>> {
                let store = store(DType::F64);
                let model = classifier(&tiny(method, placement), &store)?;
                let mut all = Vec::new();
                for step in 0..2 {
                    let mode = Mode::train(1, step);
                    all.push(model.loss(input, &labels()?, mode)?.detach());
                }
                all.extend(store.buffers().into_iter().map(|(_, var)| var.as_detached_tensor()));
                Ok(all)
            };
            for (a, b) in run(&input)?.iter().zip(&run(&other)?) {
                assert!(distance(a, b)? == 0.0, "{method:?} {placement:?}");
            }
        }
    }
    Ok(())
}

/// An evaluation before the first step takes what the first step then stores, and stores nothing.
#[test]
fn evaluating_and_folding_a_fresh_model_change_no_state() -> Result<()> {
    let input = batch()?;
    for placement in [Placement::BeforePosition, Placement::AfterPosition] {
        let store = store(DType::F32);
        let config =
            CrammedBertConfig { dropout: 0.0, ..tiny(Method::pooled_earlier(0.7)?, placement) };
        let model = classifier(&config, &store)?;
        let evaluated = model.loss(&input, &labels()?, Mode::Eval)?.to_scalar::<f32>()?;
        assert_eq!(model.bert().folded_words().is_ok(), config.folds());
        for (name, var) in store.buffers() {
            let values: Vec<f64> = var.flatten_all()?.to_vec1()?;
            assert!(values.iter().all(|v| *v == 0.0), "{placement:?}: {name}");
        }
        let trained = model.loss(&input, &labels()?, MODE)?.to_scalar::<f32>()?;
        assert_eq!(evaluated, trained, "{placement:?}");
    }
    Ok(())
}

#[test]
fn a_hidden_state_is_the_same_wherever_it_is_read() -> Result<()> {
    let (input, store) = (batch()?, store(DType::F64));
    let model = classifier(&tiny(Method::None, Placement::AfterPosition), &store)?;
    let hidden = model.bert().hidden(&input, Mode::Eval)?;
    let positions = Tensor::new(&[[6u32, 0], [2, 3], [1, 1]], &Device::Cpu)?;
    let read = model.bert().hidden_at(&input, &positions, Mode::Eval)?;
    let index = positions.unsqueeze(2)?.broadcast_as((3, 2, 12))?.contiguous()?;
    assert!(distance(&read, &hidden.gather(&index, 1)?)? < F64_TOLERANCE);
    Ok(())
}

#[test]
fn a_folded_word_table_makes_a_plain_model_of_a_conditioned_one() -> Result<()> {
    let input = batch()?;
    for method in methods()? {
        for placement in PLACEMENTS {
            let config = tiny(method, placement);
            let store = store(DType::F64);
            let model = classifier(&config, &store)?;
            model.loss(&input, &labels()?, MODE)?;
            let words = model.bert().folded_words();
            if !config.folds() {
                assert!(words.unwrap_err().to_string().contains("fold"), "{method:?}");
                continue;
            }
            let conditioned = model.logits(&input, Mode::Eval)?;
            let plain = tiny(Method::None, Placement::AfterPosition);
            let model = CrammedBertClassifier::new(&plain, 3, store.builder())?;
            let table = store.get("encoder.embedding.word_embedding.weight").unwrap();
            table.set(&words?.copy()?)?;
            let d = distance(&model.logits(&input, Mode::Eval)?, &conditioned)?;
            assert!(d < F64_TOLERANCE, "{method:?} {placement:?}: {d:e}");
        }
    }
    let (pooled, table) = (Method::pooled(0.7)?, Method::table(0.5)?);
    assert_eq!(PLACEMENTS.map(|place| tiny(pooled, place).folds()), [true, false, false]);
    assert_eq!(PLACEMENTS.map(|place| tiny(table, place).folds()), [true; 3]);
    let per_sequence = Method::per_sequence(1.0)?;
    assert_eq!(PLACEMENTS.map(|place| tiny(per_sequence, place).folds()), [false; 3]);
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() -> Result<()> {
    let config = tiny(Method::None, Placement::AfterPosition);
    let parameters = store(DType::F32);
    let model = CrammedBertClassifier::new(&config, 2, parameters.builder())?;
    let says = |result: Result<Tensor>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let long = BertInput::new(Tensor::ones((1, 10), DType::U32, &Device::Cpu)?)?;
    says(model.logits(&long, Mode::Eval), "10 tokens is longer than the context of 9");
    let foreign = BertInput::new(Tensor::full(23u32, (1, 3), &Device::Cpu)?)?;
    says(model.logits(&foreign, Mode::Eval), "id 23");
    let far = Tensor::new(&[[7u32], [0], [0]], &Device::Cpu)?;
    says(model.bert().hidden_at(&batch()?, &far, Mode::Eval), "position 7");
    let refused = |bad: CrammedBertConfig, text: &str| {
        let error = CrammedBert::new(&bad, store(DType::F32).builder()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(CrammedBertConfig { heads: 5, ..config.clone() }, "5 heads");
    refused(CrammedBertConfig { width: 15, ..config.clone() }, "width 15 must be even");
    refused(CrammedBertConfig { hidden: 21, ..config.clone() }, "hidden 21 must be even");
    refused(CrammedBertConfig { depth: 0, ..config.clone() }, "depth must be at least 1");
    refused(CrammedBertConfig { table_std: f64::NAN, ..config.clone() }, "table_std");
    refused(CrammedBertConfig { linear_std: -1.0, ..config.clone() }, "linear_std");
    let none = CrammedBertClassifier::new(&config, 0, parameters.builder());
    assert!(none.unwrap_err().to_string().contains("at least one class"));

    let mut json = serde_json::to_value(&config).unwrap();
    assert_eq!(serde_json::from_value::<CrammedBertConfig>(json.clone()).unwrap(), config);
    json["types"] = 2.into();
    let error = serde_json::from_value::<CrammedBertConfig>(json).unwrap_err().to_string();
    assert!(error.contains("unknown field `types`"), "{error}");
    Ok(())
}
