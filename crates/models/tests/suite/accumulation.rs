//! Statistics of tokens when an optimiser step has several micro-batches.

use candle_conditioning::{Pooled, PooledConfig, Source};
use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::bert::{BertConfig, BertInput};
use conditioned_models::bert_heads::BertClassifier;
use conditioned_models::conditioning::Method;
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_models::{Architecture, Model};
use conditioned_nn::{Mode, Precision, Store};

use crate::bert::{alone, batch, shake};
use crate::{distance, uniform};

/// Sums of the same numbers in f64 in another order.
const SAME_IN_F64: f64 = 1e-13;

/// The methods that keep statistics.
fn methods() -> Result<[Method; 4]> {
    Ok([
        Method::pooled_earlier(0.7)?,
        Method::pooled(0.7)?,
        Method::pooled_norm_matched(1.0)?,
        Method::Standardised,
    ])
}

fn train(step: u64, last: bool) -> Mode {
    Mode::Train { seed: 1, step, last, precision: Precision::Full }
}

/// The state of the conditioning, by name order.
fn state(store: &Store) -> Result<Vec<Vec<f64>>> {
    store.buffers().iter().map(|(_, var)| var.flatten_all()?.to_vec1()).collect()
}

fn bert(method: Method) -> Result<(BertClassifier, Store)> {
    let config = BertConfig {
        vocabulary: 23,
        context: 9,
        width: 12,
        depth: 1,
        heads: 3,
        hidden: 20,
        conditioning: method.into(),
        ..BertConfig::preset("bert-base-uncased").unwrap()
    };
    let store = Store::new(3, DType::F64, &Device::Cpu);
    let model = BertClassifier::new(&config, 3, store.builder())?;
    shake(&store)?;
    Ok((model, store))
}

/// Sequences `from..` of the batch, with its padding.
fn rest(input: &BertInput, from: usize) -> Result<BertInput> {
    let count = input.ids.dim(0)? - from;
    let cut = |x: &Tensor| x.narrow(0, from, count);
    let mask = cut(&input.padding.as_ref().unwrap().mask(&Device::Cpu)?)?;
    BertInput::padded(cut(&input.ids)?, cut(&input.types)?, &mask)
}

fn run(model: &BertClassifier, input: &BertInput, mode: Mode) -> Result<()> {
    let labels = Tensor::zeros(input.ids.dim(0)?, DType::U32, &Device::Cpu)?;
    model.loss(input, &labels, mode).map(|_| ())
}

/// Two steps with padding: the micro-batches hold 7 + 6 real tokens, so a mean of means would differ.
#[test]
fn the_micro_batches_of_a_step_move_the_average_once_by_all_their_tokens() -> Result<()> {
    let input = batch()?;
    for method in methods()? {
        let ((whole, one), (parts, two)) = (bert(method)?, bert(method)?);
        for step in 0..2 {
            run(&whole, &input, train(step, true))?;
            if step == 0 {
                // The tables come first, with the first micro-batch.
                run(&parts, &input, train(0, true))?;
                assert_eq!(state(&one)?, state(&two)?, "{method:?}");
                continue;
            }
            let before = state(&two)?;
            run(&parts, &alone(&input, 0)?, train(step, false))?;
            assert_eq!(state(&two)?, before, "{method:?}: it moved within a step");
            // Another process may have those between.
            run(&parts, &rest(&input, 1)?, train(step + 3, true))?;
            assert_ne!(state(&two)?, before, "{method:?}: it did not move");
        }
        for ((name, a), (_, b)) in one.buffers().iter().zip(&two.buffers()) {
            let d = distance(b.as_tensor(), a.as_tensor())?;
            assert!(d < SAME_IN_F64, "{method:?} {name}: {d:e}");
        }
    }
    Ok(())
}

/// A step that was broken off leaves nothing behind for the one that takes its place.
#[test]
fn what_a_broken_step_collected_is_dropped() -> Result<()> {
    let input = batch()?;
    for method in methods()? {
        let ((broken, one), (whole, two)) = (bert(method)?, bert(method)?);
        for (model, steps) in [(&broken, &[false, false][..]), (&whole, &[])] {
            run(model, &input, train(0, true))?;
            for (step, &last) in steps.iter().enumerate() {
                run(model, &alone(&input, 1)?, train(1 + step as u64, last))?;
            }
            run(model, &input, train(1, false))?;
            run(model, &alone(&input, 2)?, train(2, true))?;
        }
        assert_eq!(state(&one)?, state(&two)?, "{method:?}");
    }
    Ok(())
}

/// All micro-batches of a step see the M of earlier steps: the loss of the second does not depend on the
/// first.
#[test]
fn the_micro_batches_of_a_step_share_m() -> Result<()> {
    let ids = Tensor::new(&[[3u32, 1, 4, 1, 5], [9, 2, 6, 5, 3]], &Device::Cpu)?;
    let config = |method: Method| Gpt2Config {
        vocabulary: 11,
        context: 9,
        width: 12,
        depth: 1,
        heads: 3,
        conditioning: method.into(),
        ..Gpt2Config::preset("gpt2").unwrap()
    };
    for method in [Method::pooled_earlier(0.7)?, Method::pooled_norm_matched(1.0)?] {
        let logits = |first: Option<(u64, bool)>| -> Result<Vec<f64>> {
            let store = Store::new(3, DType::F64, &Device::Cpu);
            let model = Gpt2::new(&config(method), store.builder())?;
            shake(&store)?;
            model.logits(&ids, train(0, true))?;
            if let Some((step, last)) = first {
                model.logits(&ids.narrow(0, 0, 1)?, train(step, last))?;
            }
            model.logits(&ids.narrow(0, 1, 1)?, train(2, true))?.flatten_all()?.to_vec1()
        };
        assert_eq!(logits(None)?, logits(Some((1, false)))?, "{method:?}");
        assert_ne!(logits(None)?, logits(Some((1, true)))?, "{method:?}: a step moves M");
    }
    Ok(())
}

/// One micro-batch a step: the state has the bits of `Pooled::observe` of the same tokens.
#[test]
fn one_micro_batch_a_step_is_one_observation() -> Result<()> {
    for source in [Source::Current, Source::Earlier] {
        let pooled = PooledConfig { source, ..Default::default() };
        let config = VitConfig {
            conditioning: Method::Pooled(pooled).into(),
            ..VitConfig::preset("vit-8").unwrap()
        };
        let store = Store::new(1, DType::F32, &Device::Cpu);
        let vit = Vit::new(&config, store.builder())?;
        let oracle = Pooled::new(pooled, config.width, &Device::Cpu)?;
        for step in 0..3 {
            let images = uniform(&[4, 1, 8, 8], step)?.to_dtype(DType::F32)?;
            oracle.observe(&vit.tokens(&images)?.plain)?;
            vit.forward(&images, train(step, true).into())?;
            for (name, tensor) in oracle.named_tensors() {
                let var: Var = store.get(&format!("conditioner.{name}")).unwrap();
                let bits = |x: &Tensor| x.flatten_all()?.to_vec1::<f64>();
                assert_eq!(bits(var.as_tensor())?, bits(&tensor)?, "{source:?} {name}");
            }
        }
    }
    Ok(())
}
