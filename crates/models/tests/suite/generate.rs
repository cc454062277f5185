//! Generation: the cache against whole sequences, filters, stopping, seeds, refusals.

use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::generate::{Sampling, generate};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_nn::{Mode, Store};
use proptest::prelude::*;

use crate::{distance, uniform};

/// Cached against uncached logits: the same products in other blocks, of f64 and f32. Conditioning
/// amplifies roundings of f32 (1.5e-5 seen).
const CACHE_TOLERANCE: [(DType, f64); 2] = [(DType::F64, 1e-13), (DType::F32, 1e-4)];

fn tiny(method: Method) -> Gpt2Config {
    Gpt2Config {
        vocabulary: 13,
        context: 11,
        width: 12,
        depth: 2,
        heads: 3,
        conditioning: method.into(),
        ..Gpt2Config::preset("gpt2").unwrap()
    }
}

fn model(config: &Gpt2Config, dtype: DType) -> Result<Gpt2> {
    let store = Store::new(3, dtype, &Device::Cpu);
    Gpt2::new(config, store.builder())?;
    for (i, (_, var)) in store.parameters().into_iter().enumerate() {
        let noise = (uniform(var.dims(), i as u64)? * 0.5)?.to_dtype(dtype)?;
        var.set(&(var.as_tensor().detach() + noise)?)?;
    }
    Gpt2::new(config, store.builder())
}

#[test]
fn cached_logits_equal_those_of_whole_sequences() -> Result<()> {
    let methods = [
        Method::None,
        Method::pooled_earlier(0.5)?,
        Method::pooled_norm_matched(0.5)?,
        Method::table(0.5)?,
    ];
    for (dtype, tolerance) in CACHE_TOLERANCE {
        for method in methods {
            for placement in [Placement::AfterPosition, Placement::BeforePosition] {
                let conditioning = ConditioningConfig { method, placement, ..Default::default() };
                let model = model(&Gpt2Config { conditioning, ..tiny(method) }, dtype)?;
                let ids: Vec<u32> = (0..22).map(|i| (i * i + 5 * i + 2) % 13).collect();
                let ids = Tensor::from_vec(ids, (2, 11), &Device::Cpu)?;
                let whole = model.logits(&ids, Mode::Eval)?;
                for pieces in [vec![1; 11], vec![4, 1, 1, 3, 2], vec![10, 1]] {
                    let mut cache = model.cache();
                    for count in pieces {
                        let first = cache.len();
                        let next = model.next_logits(&ids.narrow(1, first, count)?, &mut cache)?;
                        let last = first + count - 1;
                        assert_eq!(cache.len(), last + 1);
                        let d = distance(&next, &whole.narrow(1, last, 1)?.squeeze(1)?)?;
                        assert!(d < tolerance, "{dtype:?} {method:?} token {last}: {d:e}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn generation_stops_where_it_should() -> Result<()> {
    let model = model(&tiny(Method::None), DType::F32)?;
    let greedy = generate(&model, &[1, 2, 3], &Sampling::greedy())?;
    assert_eq!(greedy.len(), 8, "the end of the context");
    let few = Sampling { max_new_tokens: 4, ..Sampling::greedy() };
    assert_eq!(generate(&model, &[1, 2, 3], &few)?, greedy[..4]);
    let stop = Sampling { stop: vec![7, greedy[2]], ..Sampling::greedy() };
    let first = greedy.iter().position(|&token| token == greedy[2]).unwrap();
    assert_eq!(
        generate(&model, &[1, 2, 3], &stop)?,
        greedy[..=first],
        "the stop token is the last"
    );
    assert!(generate(&model, &[0; 11], &Sampling::greedy())?.is_empty());
    Ok(())
}

#[test]
fn what_cannot_be_generated_is_named() -> Result<()> {
    let plain = model(&tiny(Method::None), DType::F32)?;
    let message = |prompt: &[u32], sampling: Sampling| {
        generate(&plain, prompt, &sampling).unwrap_err().to_string()
    };
    let default = Sampling::default;
    let long = message(&[0; 12], default());
    assert!(long.contains("12 tokens is longer than the context of 11"), "{long}");
    assert!(message(&[], default()).contains("the prompt is empty"));
    assert!(message(&[13], default()).contains("id 13 with a table of 13 rows"));
    for (sampling, name) in [
        (Sampling { temperature: -1.0, ..default() }, "temperature -1"),
        (Sampling { temperature: f64::NAN, ..default() }, "temperature NaN"),
        (Sampling { top_k: Some(0), ..default() }, "top_k 0"),
        (Sampling { top_p: Some(0.0), ..default() }, "top_p 0"),
        (Sampling { top_p: Some(1.1), ..default() }, "top_p 1.1"),
        (Sampling { vocabulary: Some(0), ..default() }, "a vocabulary of 0"),
    ] {
        let error = message(&[1], sampling);
        assert!(error.contains(name), "{error}");
    }
    let error = default().probabilities(&[0.0, f64::NAN]).unwrap_err().to_string();
    assert!(error.contains("token 1 is NaN"), "{error}");
    Ok(())
}

#[test]
fn the_literal_method_generates_from_whole_sequences() -> Result<()> {
    let leaky = Gpt2Config { allow_future_leak: true, ..tiny(Method::per_sequence(1.0)?) };
    let model = model(&leaky, DType::F32)?;
    let mut ids = vec![1, 2];
    let new = generate(&model, &ids, &Sampling::greedy())?;
    for token in new {
        let x = Tensor::new(ids.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
        let logits = model.logits(&x, Mode::Eval)?.squeeze(0)?.get(ids.len() - 1)?;
        assert_eq!(logits.argmax(0)?.to_scalar::<u32>()?, token);
        ids.push(token);
    }
    assert_eq!(ids.len(), leaky.context);
    let ids = Tensor::new(&[[1u32]], &Device::Cpu)?;
    let error = model.next_logits(&ids, &mut model.cache()).unwrap_err().to_string();
    assert!(error.contains("not causal"), "{error}");
    assert!(generate(&model, &[], &Sampling::greedy()).is_err());
    Ok(())
}

#[test]
fn rows_without_a_token_are_not_drawn() -> Result<()> {
    let logits = [0.0, 2.0, 1.0, 9.0, 9.0];
    let of =
        |sampling: Sampling| Sampling { vocabulary: Some(3), ..sampling }.probabilities(&logits);
    assert_eq!(of(Sampling::greedy())?, [0.0, 1.0, 0.0, 0.0, 0.0]);
    let wanted = Sampling::default().probabilities(&logits[..3])?;
    assert_eq!(of(Sampling::default())?, [&wanted[..], &[0.0, 0.0]].concat());
    Ok(())
}

#[test]
fn draws_follow_the_probabilities() -> Result<()> {
    let config = tiny(Method::None);
    let model = model(&config, DType::F32)?;
    let draws = 4000;
    let mut counts = vec![0.0; config.vocabulary];
    let sampling = Sampling { temperature: 3.0, max_new_tokens: 1, ..Sampling::default() };
    for seed in 0..draws {
        counts[generate(&model, &[5], &Sampling { seed, ..sampling.clone() })?[0] as usize] += 1.0;
    }
    let logits = model.logits(&Tensor::new(&[[5u32]], &Device::Cpu)?, Mode::Eval)?;
    let logits = logits.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
    for (count, p) in counts.into_iter().zip(sampling.probabilities(&logits)?) {
        // Five standard errors of a frequency.
        let error = 5.0 * (p * (1.0 - p) / draws as f64).sqrt() + 1e-9;
        assert!((count / draws as f64 - p).abs() < error, "{count} of {draws} for {p}");
    }
    Ok(())
}

fn samplings() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0.0), 0.01..3.0];
    let top_k = proptest::option::of(1usize..20);
    let top_p = proptest::option::of(0.01..=1.0);
    let stop = proptest::collection::vec(0u32..13, 0..3);
    (temperature, top_k, top_p, any::<u64>(), 0usize..15, stop).prop_map(
        |(temperature, top_k, top_p, seed, max_new_tokens, stop)| Sampling {
            temperature,
            top_k,
            top_p,
            vocabulary: None,
            seed,
            max_new_tokens,
            stop,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn filters_keep_what_they_say(
        logits in proptest::collection::vec((-40i32..40).prop_map(|v| f64::from(v) * 0.25), 1..40),
        sampling in samplings(),
    ) {
        let p = sampling.probabilities(&logits).unwrap();
        prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let kept: Vec<usize> = (0..p.len()).filter(|&i| p[i] > 0.0).collect();
        let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(kept.iter().any(|&i| logits[i] == best));
        // Nothing is kept that is less likely than something that is dropped.
        let least = kept.iter().map(|&i| logits[i]).fold(f64::INFINITY, f64::min);
        let dropped = (0..p.len()).filter(|&i| p[i] == 0.0);
        prop_assert!(dropped.map(|i| logits[i]).all(|logit| logit <= least));
        if sampling.temperature == 0.0 {
            prop_assert_eq!(kept.len(), 1);
        } else if let Some(k) = sampling.top_k {
            let above = kept.iter().filter(|&&i| logits[i] > least).count();
            prop_assert!(above < k, "fewer than k are above the least kept");
        }
        // Without top-p, k tokens are left, unless the vocabulary or exp underflows first.
        if let (Some(k), None, true) = (sampling.top_k, sampling.top_p, sampling.temperature > 0.1) {
            prop_assert!(kept.len() >= k.min(logits.len()));
        }
    }

    #[test]
    fn generation_is_a_function_of_prompt_and_settings(
        prompt in proptest::collection::vec(0u32..13, 1..=11),
        sampling in samplings(),
    ) {
        let model = model(&tiny(Method::None), DType::F32).unwrap();
        let new = generate(&model, &prompt, &sampling).unwrap();
        prop_assert_eq!(&new, &generate(&model, &prompt, &sampling).unwrap());
        let room = (11 - prompt.len()).min(sampling.max_new_tokens);
        let stopped = new.last().is_some_and(|token| sampling.stop.contains(token));
        prop_assert!(new.len() == room || stopped && new.len() < room);
        let before = &new[..new.len() - usize::from(stopped)];
        prop_assert!(before.iter().all(|&token| token < 13 && !sampling.stop.contains(&token)));
        // Every token is possible after a whole pass over those before.
        let mut ids = prompt.clone();
        for &token in &new {
            let x = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let logits = model.logits(&x, Mode::Eval).unwrap();
            let last = logits.narrow(1, ids.len() - 1, 1).unwrap().flatten_all().unwrap();
            let logits: Vec<f64> = last.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            prop_assert!(sampling.probabilities(&logits).unwrap()[token as usize] > 0.0);
            ids.push(token);
        }
    }
}
