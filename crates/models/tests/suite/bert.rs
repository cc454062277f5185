//! BERT: sizes, gradients, what padding may not change, folding, refusals.

use candle_conditioning::TokenGraying;
use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::Architecture;
use conditioned_models::bert::{Bert, BertConfig, BertInput};
use conditioned_models::bert_heads::{BertClassifier, BertMaskedLm};
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement, PooledPart};
use conditioned_nn::check::central_differences;
use conditioned_nn::{Mode, Store};

use crate::{distance, uniform};

/// Central differences in f64 through a whole model, as in `gradients`.
const DIFFERENCE_TOLERANCE: f64 = 1e-6;

/// The same behind conditioned tables, whose M stretches their weak directions: it falls with h^2 (2e-5,
/// 2e-6, 2e-8 with h = 3e-5, 1e-5, 1e-6), so it is truncation.
const STRETCHED_TOLERANCE: f64 = 1e-5;

/// f64 through two layers.
const F64_TOLERANCE: f64 = 1e-12;

const MODE: Mode = Mode::train(1, 3);

/// Every place of a conditioning.
pub(crate) const PLACEMENTS: [Placement; 3] =
    [Placement::BeforePosition, Placement::AfterPosition, Placement::AfterNorm];

/// Every method.
pub(crate) fn methods() -> Result<[Method; 14]> {
    Ok([
        Method::None,
        Method::factor(3.0)?,
        Method::LearnedMap,
        Method::pooled_part(0.7, PooledPart::Directions { factor: 3.0 })?,
        Method::pooled_part(0.7, PooledPart::Gradient)?,
        Method::pooled_part(0.7, PooledPart::Frozen { steps: 1 })?,
        Method::per_sequence(1.0)?,
        Method::pooled(0.7)?,
        Method::norm_matched(1.0)?,
        Method::pooled_norm_matched(1.0)?,
        Method::Standardised,
        Method::table(0.5)?,
        Method::token_graying(TokenGraying::SVD)?,
        Method::token_graying(TokenGraying::Dct { epsilon: 0.7 })?,
    ])
}

/// The methods whose gradient is that of a function of the parameters, and the mode in which it is: M and
/// f are constants for the gradient, and it takes an evaluation for them to stand still while a parameter
/// is moved. The last is the tolerance of central differences.
pub(crate) fn differentiable() -> Result<[(Method, Mode, f64); 6]> {
    Ok([
        (Method::None, MODE, DIFFERENCE_TOLERANCE),
        (Method::factor(3.0)?, MODE, DIFFERENCE_TOLERANCE),
        (Method::LearnedMap, MODE, DIFFERENCE_TOLERANCE),
        (Method::table(0.5)?, Mode::Eval, STRETCHED_TOLERANCE),
        (Method::pooled_earlier(0.7)?, Mode::Eval, DIFFERENCE_TOLERANCE),
        (Method::pooled_norm_matched(1.0)?, Mode::Eval, DIFFERENCE_TOLERANCE),
    ])
}

fn tiny(method: Method, placement: Placement) -> BertConfig {
    BertConfig {
        vocabulary: 23,
        context: 9,
        width: 12,
        depth: 2,
        heads: 3,
        hidden: 20,
        dropout: 0.1,
        conditioning: ConditioningConfig { method, placement, ..Default::default() },
        ..BertConfig::preset("bert-base-uncased").unwrap()
    }
}

/// Moves every parameter off its initial value.
pub(crate) fn shake(store: &Store) -> Result<()> {
    for (i, (_, var)) in store.parameters().into_iter().enumerate() {
        let noise = (uniform(var.dims(), i as u64)? * 0.3)?.to_dtype(var.dtype())?;
        var.set(&(var.as_tensor().detach() + noise)?)?;
    }
    Ok(())
}

/// Three sequences of 7, 4 and 2 real tokens.
pub(crate) fn batch() -> Result<BertInput> {
    let row = |i: usize, length: usize| {
        (0..7).map(move |j| if j < length { (3 + 5 * i + j * j) as u32 % 23 } else { 0 })
    };
    let lengths = [7, 4, 2];
    let ids: Vec<u32> = (0..3).flat_map(|i| row(i, lengths[i])).collect();
    let mask: Vec<u8> =
        lengths.iter().flat_map(|&n| (0..7).map(move |j| u8::from(j < n))).collect();
    let types: Vec<u32> =
        mask.iter().enumerate().map(|(j, &m)| u32::from(m == 1 && j % 7 > 2)).collect();
    let tensor = |values| Tensor::from_vec(values, (3, 7), &Device::Cpu);
    BertInput::padded(tensor(ids)?, tensor(types)?, &Tensor::from_vec(mask, (3, 7), &Device::Cpu)?)
}

/// Sequence `i` of the batch without its padding.
pub(crate) fn alone(input: &BertInput, i: usize) -> Result<BertInput> {
    let length = input.padding.as_ref().unwrap().lengths()[i];
    let cut = |x: &Tensor| x.narrow(0, i, 1)?.narrow(1, 0, length);
    Ok(BertInput { ids: cut(&input.ids)?, types: cut(&input.types)?, padding: None })
}

#[test]
fn presets_have_the_published_sizes() {
    let pooler = |c: &BertConfig| (c.width + 1) * c.width;
    for (name, parameters) in [
        ("bert-base-uncased", 109_482_240),
        ("bert-large-uncased", 335_141_888),
        ("minilm-l6", 22_713_216),
    ] {
        let config = BertConfig::preset(name).unwrap();
        assert_eq!(config.parameter_count().unwrap() + pooler(&config), parameters, "{name}");
    }
}

#[test]
fn every_parameter_has_the_right_gradient() -> Result<()> {
    let input = batch()?;
    for (method, mode, tolerance) in differentiable()? {
        let config = tiny(method, Placement::AfterPosition);
        let store = Store::new(3, DType::F64, &Device::Cpu);
        let classifier = BertClassifier::new(&config, 3, store.builder())?;
        shake(&store)?;
        let labels = Tensor::new(&[0u32, 2, 1], &Device::Cpu)?;
        classifier.loss(&input, &labels, MODE)?;
        let variables: Vec<Var> = store.parameters().into_iter().map(|(_, var)| var).collect();
        let worst = central_differences(&variables, 4, || classifier.loss(&input, &labels, mode))?;
        assert!(worst.error < tolerance, "{method:?}: {worst:?}");

        let store = Store::new(3, DType::F64, &Device::Cpu);
        let masked = BertMaskedLm::new(&config, store.builder())?;
        shake(&store)?;
        let positions = Tensor::new(&[[0u32, 6], [3, 1], [1, 1]], &Device::Cpu)?;
        let targets = Tensor::new(&[[3u32, 22], [0, 5], [8, 8]], &Device::Cpu)?;
        masked.loss(&input, &positions, &targets, MODE)?;
        let variables: Vec<Var> = store.parameters().into_iter().map(|(_, var)| var).collect();
        let worst =
            central_differences(&variables, 4, || masked.loss(&input, &positions, &targets, mode))?;
        assert!(worst.error < tolerance, "{method:?}: {worst:?}");
    }
    Ok(())
}

#[test]
fn no_gradient_is_missing_under_any_method() -> Result<()> {
    let (input, labels) = (batch()?, Tensor::new(&[0u32, 2, 1], &Device::Cpu)?);
    for method in methods()? {
        for placement in PLACEMENTS {
            let store = Store::new(3, DType::F64, &Device::Cpu);
            let model = BertClassifier::new(&tiny(method, placement), 3, store.builder())?;
            shake(&store)?;
            for step in 0..2 {
                let grads = model.loss(&input, &labels, Mode::train(1, step))?.backward()?;
                for (name, var) in store.parameters() {
                    let what = format!("{method:?} {placement:?} {name}");
                    let grad = grads.get(&var).expect(&what);
                    let sum = grad.abs()?.sum_all()?.to_scalar::<f64>()?;
                    let exempt = name.ends_with("key.bias");
                    assert!(sum.is_finite() && (exempt || sum > 0.0), "{what}: {sum}");
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
            let store = Store::new(5, DType::F32, &Device::Cpu);
            let model = BertClassifier::new(&tiny(method, placement), 3, store.builder())?;
            shake(&store)?;
            model.loss(&input, &Tensor::new(&[0u32, 2, 1], &Device::Cpu)?, MODE)?;
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

/// Another id at a place of padding changes no statistic of any method.
#[test]
fn padding_takes_no_part_in_training() -> Result<()> {
    let (input, labels) = (batch()?, Tensor::new(&[0u32, 2, 1], &Device::Cpu)?);
    let mask = input.padding.as_ref().unwrap().mask(&Device::Cpu)?;
    let noise = Tensor::full(17u32, (3, 7), &Device::Cpu)?;
    let other = BertInput { ids: mask.where_cond(&input.ids, &noise)?, ..input.clone() };
    for method in methods()? {
        for placement in PLACEMENTS {
            let run = |input: &BertInput| -> Result<Vec<Tensor>> {
                let store = Store::new(3, DType::F64, &Device::Cpu);
                let model = BertClassifier::new(&tiny(method, placement), 3, store.builder())?;
                shake(&store)?;
                let mut all = Vec::new();
                for step in 0..2 {
                    all.push(model.loss(input, &labels, Mode::train(1, step))?.detach());
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

#[test]
fn a_ramp_goes_from_plain_to_conditioned_tokens_in_equal_parts() -> Result<()> {
    let (input, labels) = (batch()?, Tensor::new(&[0u32, 2, 1], &Device::Cpu)?);
    // Without dropout, layers and types of its own the loss depends on the tokens alone.
    let loss = |ramp_steps, method: Method, mode| -> Result<f64> {
        let mut config = tiny(method, Placement::AfterNorm);
        (config.conditioning.ramp_steps, config.dropout) = (ramp_steps, 0.0);
        let store = Store::new(3, DType::F64, &Device::Cpu);
        let model = BertClassifier::new(&config, 3, store.builder())?;
        shake(&store)?;
        model.loss(&input, &labels, mode)?.to_scalar()
    };
    let train = |step| Mode::train(1, step);
    for (ramp_steps, step, t) in [(4, 0, 0.25), (4, 1, 0.5), (4, 3, 1.0), (4, 9, 1.0), (0, 0, 1.0)]
    {
        let ramped = loss(ramp_steps, Method::per_sequence(1.0)?, train(step))?;
        let fixed = loss(0, Method::per_sequence(t)?, train(step))?;
        assert!((ramped - fixed).abs() < F64_TOLERANCE, "step {step} of {ramp_steps}");
    }
    let evaluated = loss(4, Method::per_sequence(1.0)?, Mode::Eval)?;
    let full = loss(0, Method::per_sequence(1.0)?, Mode::Eval)?;
    assert!((evaluated - full).abs() < F64_TOLERANCE, "an evaluation is at full strength");

    let mut config = tiny(Method::table(1.0)?, Placement::BeforePosition);
    config.conditioning.ramp_steps = 2;
    let store = Store::new(0, DType::F32, &Device::Cpu);
    let error = Bert::new(&config, store.builder()).unwrap_err().to_string();
    assert!(error.contains("no ramp"), "{error}");
    Ok(())
}

/// An evaluation before the first step takes what the first step then stores, and stores nothing.
#[test]
fn evaluating_and_folding_a_fresh_model_change_no_state() -> Result<()> {
    let (input, labels) = (batch()?, Tensor::new(&[0u32, 2, 1], &Device::Cpu)?);
    for method in [Method::pooled_earlier(0.7)?, Method::pooled_norm_matched(1.0)?] {
        for placement in [Placement::BeforePosition, Placement::AfterPosition] {
            let store = Store::new(3, DType::F32, &Device::Cpu);
            let config = BertConfig { dropout: 0.0, ..tiny(method, placement) };
            let model = BertClassifier::new(&config, 3, store.builder())?;
            shake(&store)?;
            let evaluated = model.loss(&input, &labels, Mode::Eval)?.to_scalar::<f32>()?;
            model.bert().folded_tables()?;
            model.bert().real_tokens(&input)?;
            for (name, var) in store.buffers() {
                let values: Vec<f64> = var.flatten_all()?.to_vec1()?;
                assert!(values.iter().all(|v| *v == 0.0), "{method:?} {placement:?}: {name}");
            }
            let trained = model.loss(&input, &labels, MODE)?.to_scalar::<f32>()?;
            assert_eq!(evaluated, trained, "{method:?} {placement:?}");
            let weight = store.get("bert.conditioner.running_weight").unwrap();
            assert_eq!(weight.to_scalar::<f64>()?, 2.0, "the tables and the batch");
        }
    }
    Ok(())
}

#[test]
fn folded_tables_make_a_plain_model_of_a_conditioned_one() -> Result<()> {
    let input = batch()?;
    for method in methods()? {
        for placement in PLACEMENTS {
            let store = Store::new(3, DType::F64, &Device::Cpu);
            let model = BertClassifier::new(&tiny(method, placement), 3, store.builder())?;
            shake(&store)?;
            model.loss(&input, &Tensor::new(&[0u32, 2, 1], &Device::Cpu)?, MODE)?;
            let folds = method == Method::None
                || placement != Placement::AfterNorm
                    && !matches!(
                        method,
                        Method::PerSequence(_)
                            | Method::NormMatched(_)
                            | Method::Standardised
                            | Method::TokenGraying(_)
                    );
            assert_eq!(tiny(method, placement).folds(), folds);
            let tables = model.bert().folded_tables();
            if !folds {
                assert!(tables.unwrap_err().to_string().contains("fold"), "{method:?}");
                continue;
            }
            let conditioned = model.logits(&input, Mode::Eval)?;
            let plain = tiny(Method::None, Placement::AfterPosition);
            let model = BertClassifier::new(&plain, 3, store.builder())?;
            let names = ["word_embeddings", "position_embeddings", "token_type_embeddings"];
            for (name, table) in names.into_iter().zip(tables?) {
                store
                    .get(&format!("bert.embeddings.{name}.weight"))
                    .unwrap()
                    .set(&table.copy()?)?;
            }
            let d = distance(&model.logits(&input, Mode::Eval)?, &conditioned)?;
            assert!(d < F64_TOLERANCE, "{method:?} {placement:?}: {d:e}");
        }
    }
    Ok(())
}

#[test]
fn bad_input_is_refused_with_a_reason() -> Result<()> {
    let config = tiny(Method::None, Placement::AfterPosition);
    let store = Store::new(0, DType::F32, &Device::Cpu);
    let model = BertClassifier::new(&config, 2, store.builder())?;
    let says = |result: Result<Tensor>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let long = BertInput::new(Tensor::ones((1, 10), DType::U32, &Device::Cpu)?)?;
    says(model.logits(&long, Mode::Eval), "position table, which ends at 9");
    let foreign = BertInput::new(Tensor::full(23u32, (1, 3), &Device::Cpu)?)?;
    says(model.logits(&foreign, Mode::Eval), "id 23");
    let labels = Tensor::new(&[0f32, 1., 2.], &Device::Cpu)?;
    says(model.loss(&batch()?, &labels, Mode::Eval), "F32");
    let ids = Tensor::ones((1, 3), DType::U32, &Device::Cpu)?;
    for mask in [[0u8, 1, 1], [0, 0, 0], [1, 0, 1]] {
        let mask = Tensor::new(&[mask], &Device::Cpu)?;
        let error = BertInput::padded(ids.clone(), ids.clone(), &mask).unwrap_err().to_string();
        assert!(error.contains("real tokens"), "{error}");
    }
    let far = Tensor::new(&[[7u32], [0], [0]], &Device::Cpu)?;
    says(model.bert().hidden_at(&batch()?, &far, Mode::Eval), "position 7");
    let bad = BertConfig { heads: 5, ..config };
    says(Bert::new(&bad, store.builder()).map(|_| ids), "5 heads");
    Ok(())
}
