//! The parts of the pooled method, each against what it is a part of.

use candle_conditioning::{Pooled, PooledConfig, Source};
use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::conditioning::{Method, PooledPart};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::{Architecture, Model};
use conditioned_nn::{Mode, Store};

use crate::causality::batch;
use crate::{distance, uniform};

/// The same sums in f64 in another order.
const SAME_IN_F64: f64 = 1e-12;

const STRENGTH: f64 = 0.7;

/// A model whose head is no token table, so that the tables' gradient is that of the tokens.
fn model(method: Method) -> Result<(Gpt2, Store)> {
    let config = Gpt2Config {
        vocabulary: 11,
        context: 9,
        width: 12,
        depth: 1,
        heads: 3,
        tie_word_embeddings: false,
        conditioning: method.into(),
        ..Gpt2Config::preset("gpt2").unwrap()
    };
    let store = Store::new(3, DType::F64, &Device::Cpu);
    let model = Gpt2::new(&config, store.builder())?;
    for (i, name) in ["wte.weight", "wpe.weight"].iter().enumerate() {
        let var = store.get(name).unwrap();
        var.set(&uniform(var.dims(), i as u64)?)?;
    }
    Ok((model, store))
}

fn mode(step: u64) -> Mode {
    Mode::train(1, step)
}

/// Loss, and the gradients of both tables, of the step `step`.
fn step(model: &Gpt2, store: &Store, step: u64) -> Result<(f64, [Tensor; 2])> {
    let (ids, targets) = batch()?;
    let loss = model.loss(&ids, &targets, mode(step))?;
    let grads = loss.backward()?;
    let of = |name: &str| grads.get(&store.get(name).unwrap()).unwrap().clone();
    Ok((loss.to_scalar()?, [of("wte.weight"), of("wpe.weight")]))
}

/// M of the first step: that of the tables.
fn first_map(store: &Store) -> Result<Tensor> {
    let config =
        PooledConfig { strength: STRENGTH, source: Source::Earlier, ..PooledConfig::default() };
    let pooled = Pooled::new(config, 12, &Device::Cpu)?;
    let [words, positions] = ["wte.weight", "wpe.weight"].map(|name| store.get(name).unwrap());
    pooled.start_from_tables(&[words.as_tensor(), positions.as_tensor()])?;
    Ok(pooled.fold()?)
}

#[test]
fn the_gradient_alone_is_multiplied_by_m() -> Result<()> {
    let (plain, plain_store) = model(Method::None)?;
    let (part, store) = model(Method::pooled_part(STRENGTH, PooledPart::Gradient)?)?;
    let map = first_map(&store)?;
    let (loss, gradients) = step(&plain, &plain_store, 0)?;
    let (loss_of_part, of_part) = step(&part, &store, 0)?;
    assert_eq!(loss, loss_of_part);
    for (gradient, of_part) in gradients.iter().zip(of_part) {
        let wanted = gradient.matmul(&map)?;
        assert!(distance(&of_part, &wanted)? < SAME_IN_F64);
        assert!(distance(gradient, &wanted)? > 1e-3, "M does nothing");
    }
    let (ids, _) = batch()?;
    let tokens = part.tokens(&ids)?;
    assert_eq!(distance(&tokens.plain, &tokens.conditioned)?, 0.0);
    Ok(())
}

#[test]
fn directions_have_the_scale_of_the_factor() -> Result<()> {
    let part = PooledPart::Directions { factor: 3.0 };
    let (part, store) = model(Method::pooled_part(1.0, part)?)?;
    let (pooled, _) = model(Method::pooled_earlier(1.0)?)?;
    let (ids, _) = batch()?;
    // The tables' Gram matrix is what M is made of: over their rows the norm is that of f X.
    let norm = |x: &Tensor, rows: f64| -> Result<f64> {
        Ok(x.sqr()?.sum_all()?.to_scalar::<f64>()? / rows)
    };
    let [words, positions] = ["wte.weight", "wpe.weight"].map(|name| store.get(name).unwrap());
    let plain = norm(words.as_tensor(), 11.0)? + norm(positions.as_tensor(), 9.0)?;
    let (words, positions) = part.folded_tables()?;
    let scaled = norm(&words, 11.0)? + norm(&positions, 9.0)?;
    assert!((scaled / plain - 9.0).abs() < SAME_IN_F64, "{scaled} {plain}");
    // And the directions are those of the pooled method.
    let (ours, theirs) = (part.tokens(&ids)?.conditioned, pooled.tokens(&ids)?.conditioned);
    let ratio = (ours / theirs)?.flatten_all()?;
    let spread = ratio.max(0)?.to_scalar::<f64>()? - ratio.min(0)?.to_scalar::<f64>()?;
    assert!(spread.abs() < 1e-9, "{spread}");
    Ok(())
}

#[test]
fn a_frozen_gram_follows_as_long_as_it_is_told() -> Result<()> {
    let (part, store) = model(Method::pooled_part(STRENGTH, PooledPart::Frozen { steps: 2 })?)?;
    let (pooled, whole) = model(Method::pooled_earlier(STRENGTH)?)?;
    let gram = |store: &Store| -> Result<Vec<f64>> {
        store.get("conditioner.running_gram").unwrap().flatten_all()?.to_vec1()
    };
    let mut frozen = Vec::new();
    for number in 0..4 {
        let (loss, gradients) = step(&part, &store, number)?;
        let (of_pooled, wanted) = step(&pooled, &whole, number)?;
        if number < 2 {
            assert_eq!((loss, gram(&store)?), (of_pooled, gram(&whole)?));
            frozen = gram(&store)?;
        } else {
            assert_eq!(gram(&store)?, frozen, "step {number}");
            assert_ne!(gram(&store)?, gram(&whole)?, "step {number}");
        }
        // M acts on the gradient whether G moves or not.
        assert!(distance(&gradients[0], &wanted[0])? < 0.1, "step {number}");
    }
    let dynamic: &dyn Model = &part;
    dynamic.recalibrate([candle_core::Result::Ok(batch()?.0)])?;
    assert_eq!(gram(&store)?, frozen);
    Ok(())
}

#[test]
fn a_learned_map_begins_as_none_and_is_trained() -> Result<()> {
    let (plain, plain_store) = model(Method::None)?;
    let (learned, store) = model(Method::LearnedMap)?;
    assert_eq!(step(&plain, &plain_store, 0)?.0, step(&learned, &store, 0)?.0);
    let weight = store.get("conditioner.map.weight").unwrap();
    assert!(store.parameters().iter().any(|(name, _)| name == "conditioner.map.weight"));
    let (ids, targets) = batch()?;
    let grads = learned.loss(&ids, &targets, mode(0))?.backward()?;
    assert!(grads.get(&weight).unwrap().sqr()?.sum_all()?.to_scalar::<f64>()? > 0.0);
    Ok(())
}
