//! What holds for every model: the smallest preset of each family of the registry, one test for all.
//!
//! A new family is tested here as soon as it stands in the registry; a parameter whose gradient is zero by
//! its nature is named in [`exempt`].

use std::collections::BTreeMap;
use std::ops::Range;

use candle_conditioning::{Conditioner, TAU, condition_number};
use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_models::architecture::{Input, TableStds};
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::network::Network;
use conditioned_models::{Architecture, Model};
use conditioned_nn::check::central_differences;
use conditioned_nn::{Among, Mode, Pass, Probe, Store};
use serde_json::Value;

use crate::bert::shake;
use crate::damage::allocated;
use crate::{distance, uniform};

/// Central differences in f64 through a whole model: truncation h^2 = 1e-10 times third derivatives
/// that grow with depth.
const DIFFERENCE_TOLERANCE: f64 = 1e-6;

/// An exempt gradient is exactly zero, here up to the rounding of sums in f64.
const EXEMPT_TOLERANCE: f64 = 1e-13;

/// Tokens Y in f32, 6e-8 of their size off, and kappa(Y) = 2 from above: with a factor of 1000.
const CONDITIONED_TOLERANCE: f64 = 2e-4;

/// From here on kappa in f64 says that tokens are singular.
const SINGULAR: f64 = 1e15;

/// Values through one product in f64, of numbers of a few units.
const VALUES_TOLERANCE: f64 = 1e-12;

/// Counting the parameters of the largest preset, whose weights have 6 GiB, allocates less than this.
const COUNTED_IN: usize = 64 << 20;

pub(crate) const TRAIN: Mode = Mode::train(1, 3);

/// The smallest preset of each family, with drop path where it has one.
pub(crate) fn families() -> Result<Vec<(&'static str, Network)>> {
    let mut smallest: Vec<(&'static str, Network)> = Vec::new();
    for (_, mut network) in Network::presets() {
        network.set_drop_path(0.2).ok();
        let name = network.family().name;
        match smallest.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) if network.parameter_count()? < known.parameter_count()? => {
                *known = network;
            }
            Some(_) => {}
            None => smallest.push((name, network)),
        }
    }
    Ok(smallest)
}

/// The entries of a parameter whose gradient is zero: a key bias adds the same to every score of a row, and
/// softmax does not see it.
fn exempt(family: &str, parameter: &str, len: usize) -> Range<usize> {
    let third = len / 3..2 * len / 3;
    match family {
        "vit" if parameter.ends_with("attn.qkv.bias") => third,
        "gpt2" if parameter.ends_with("attn.c_attn.bias") => third,
        "bert" | "nystromformer" if parameter.ends_with("self.key.bias") => 0..len,
        "swin" if parameter.ends_with("attn.qkv.bias") => third,
        "xcit" if parameter.ends_with("attn.k.bias") => 0..len,
        _ => 0..0,
    }
}

/// A batch: images, or ids whose rows in the token table are among those that central differences sample.
pub(crate) fn batch(network: &Network, samples: usize, dtype: DType) -> Result<Tensor> {
    match network.input() {
        Input::Images { channels, side, .. } => {
            uniform(&[samples, channels, side, side], 91)?.to_dtype(dtype)
        }
        Input::Ids { vocabulary, context } => {
            let length = context.min(7);
            let id = |i: usize| match i % 3 {
                0 => 0,
                1 => (vocabulary / 2) as u32,
                _ => (i * i + 3 * i) as u32 % vocabulary as u32,
            };
            let ids: Vec<u32> = (0..samples * length).map(id).collect();
            Tensor::from_vec(ids, (samples, length), &Device::Cpu)
        }
    }
}

/// A model with every parameter moved off its initial value.
pub(crate) fn setup(network: &Network, dtype: DType) -> Result<(Box<dyn Model>, Store)> {
    let store = Store::new(3, dtype, &Device::Cpu);
    let model = network.build(store.builder())?;
    shake(&store)?;
    Ok((model, store))
}

/// A fixed linear functional of what comes out, of the size of its entries.
pub(crate) fn loss(output: &Tensor) -> Result<Tensor> {
    (output * uniform(output.dims(), 7)?.to_dtype(output.dtype())?)?.mean_all()
}

fn bits(x: &Tensor) -> Result<Vec<u32>> {
    let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}

pub(crate) fn with(network: &Network, method: Method, placement: Placement) -> Network {
    let mut network = network.clone();
    network.set_conditioning(ConditioningConfig { method, placement, ..Default::default() });
    network
}

const PLACEMENTS: [Placement; 3] =
    [Placement::AfterPosition, Placement::BeforePosition, Placement::AfterNorm];

#[test]
fn every_preset_is_valid_and_counted() -> Result<()> {
    for (name, network) in Network::presets() {
        network.validate()?;
        assert!((1_000..10_000_000_000).contains(&network.parameter_count()?), "{name}");
        assert!(network.macs(16) > 0, "{name}");
        assert_eq!(Network::preset(name).unwrap(), network, "{name} twice");
    }
    let error = Network::preset("resnet-50").unwrap_err().to_string();
    assert!(error.contains("`resnet-50`") && error.contains("vit-8") && error.contains("gpt2"));
    Ok(())
}

#[test]
fn the_count_is_that_of_a_store_and_allocates_no_model() -> Result<()> {
    for (family, network) in families()? {
        let store = Store::new(1, DType::F32, &Device::Cpu);
        network.build(store.builder())?;
        assert_eq!(network.parameter_count()?, store.parameter_count(), "{family}");
    }
    let largest = Network::preset("gpt2-xl").unwrap();
    let mut count = 0;
    let bytes = allocated(&mut || count = largest.parameter_count().unwrap());
    assert_eq!(count, 1_557_611_200);
    assert!(bytes < COUNTED_IN, "{bytes}");
    Ok(())
}

#[test]
fn configurations_survive_json_and_refuse_unknown_keys() -> Result<()> {
    /// Adds a key to the first object that has several.
    fn spoil(value: &mut Value) {
        let fields = value.as_object_mut().unwrap();
        match fields.len() {
            1 => fields.values_mut().for_each(spoil),
            _ => drop(fields.insert("unheard_of".to_string(), Value::Null)),
        }
    }
    for (name, network) in Network::presets() {
        let network = with(&network, Method::pooled_earlier(0.3)?, Placement::AfterPosition);
        let mut json = serde_json::to_value(&network).unwrap();
        assert_eq!(serde_json::from_value::<Network>(json.clone()).unwrap(), network, "{name}");
        spoil(&mut json);
        let error = serde_json::from_value::<Network>(json).unwrap_err().to_string();
        assert!(error.contains("unheard_of"), "{name}: {error}");
    }
    Ok(())
}

#[test]
fn settings_that_a_family_lacks_are_refused_by_its_name() -> Result<()> {
    for (family, mut network) in families()? {
        let named = |result: Result<()>| match result {
            Ok(()) => true,
            Err(error) => {
                assert!(error.to_string().starts_with(&format!("{family}: ")), "{error}");
                false
            }
        };
        let has_tables = network.table_stds() != TableStds::default();
        assert_eq!(named(network.set_table_std(0.5)), has_tables, "{family}");
        let TableStds { words, positions } = network.table_stds();
        assert!([words, positions].into_iter().flatten().all(|std| std == 0.5), "{family}");
        assert_eq!(named(network.set_init_std(0.1)), has_tables, "{family}");
        let images = matches!(network.input(), Input::Images { .. });
        assert_eq!(named(network.set_drop_path(0.1)), images, "{family}");
        assert_eq!(named(network.set_classes(7)), images, "{family}");
        if let Input::Images { classes, .. } = network.input() {
            assert_eq!(classes, 7, "{family}");
        }
        for placement in PLACEMENTS {
            let network = with(&network, Method::pooled_earlier(0.3)?, placement);
            let valid = named(network.validate());
            assert!(valid || placement != Placement::AfterPosition, "{family}");
        }
        let valid = named(with(&network, Method::table(0.3)?, Placement::default()).validate());
        assert_eq!(valid, !images, "{family}: patches are not rows of a table");
    }
    Ok(())
}

#[test]
fn every_parameter_has_the_right_gradient() -> Result<()> {
    for (family, network) in families()? {
        let (model, store) = setup(&network, DType::F64)?;
        let input = batch(&network, 3, DType::F64)?;
        let f = || loss(&model.forward(&input, TRAIN.into())?);
        let grads = f()?.backward()?;
        for (name, var) in store.parameters() {
            let grad = grads.get(&var).unwrap_or_else(|| panic!("{family} {name}: no gradient"));
            let values: Vec<f64> = grad.flatten_all()?.to_vec1()?;
            assert!(values.iter().all(|v| v.is_finite()), "{family} {name}: not finite");
            let exempt = exempt(family, &name, values.len());
            let size = |at: &[f64]| at.iter().fold(0f64, |size, v| size.max(v.abs()));
            assert!(
                size(&values[exempt.clone()]) < EXEMPT_TOLERANCE,
                "{family} {name}: not exempt"
            );
            for rest in [&values[..exempt.start], &values[exempt.end..]] {
                assert!(rest.is_empty() || size(rest) > EXEMPT_TOLERANCE, "{family} {name}: zero");
            }
        }
        let variables: Vec<Var> = store.parameters().into_iter().map(|(_, var)| var).collect();
        let worst = central_differences(&variables, 2, f)?;
        let name = &store.parameters()[worst.variable].0;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{family} {name}: {worst:?}");
    }
    Ok(())
}

/// A weight of three matrices that an optimiser took for one would be orthogonalised across them.
#[test]
fn weights_of_queries_keys_and_values_are_known_as_packed() -> Result<()> {
    for (family, network) in families()? {
        let (_, store) = setup(&network, DType::F32)?;
        let mut found = 0;
        for (name, var) in store.parameters() {
            let packed = network.packed_weights();
            let packed = packed.iter().find(|p| name.ends_with(p.names.trim_start_matches('*')));
            let attention = name.contains("attn") || name.contains("attention");
            let triple = |axis: usize| var.dims()[axis] == 3 * var.dims()[1 - axis];
            match packed {
                Some(packed) => assert!(triple(packed.axis), "{family} {name}"),
                None => assert!(
                    !attention || var.rank() != 2 || !(triple(0) || triple(1)),
                    "{family} {name}: three matrices"
                ),
            }
            found += usize::from(packed.is_some());
        }
        let apart = ["bert", "nystromformer"].contains(&family);
        assert_eq!(found > 0, !apart, "{family}: {found}");
    }
    Ok(())
}

#[test]
fn one_and_two_threads_give_the_same_bits() -> Result<()> {
    for (family, network) in families()? {
        let run = |threads: usize| -> Result<Vec<Vec<u32>>> {
            conditioned_threads::with_count(threads, || {
                let (model, store) = setup(&network, DType::F32)?;
                let input = batch(&network, 64, DType::F32)?;
                let output = model.forward(&input, TRAIN.into())?;
                let grads = loss(&output)?.backward()?;
                let parameters = store.parameters();
                let grads = parameters.iter().map(|(_, var)| bits(grads.get(var).unwrap()));
                std::iter::once(bits(&output)).chain(grads).collect()
            })
        };
        assert!(run(1)? == run(2)?, "{family}");
    }
    Ok(())
}

#[test]
fn a_saved_model_reads_back_to_the_same_bits() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (family, network) in families()? {
        let network = with(&network, Method::pooled_earlier(0.3)?, Placement::AfterPosition);
        let (model, store) = setup(&network, DType::F32)?;
        let input = batch(&network, 2, DType::F32)?;
        // A step, so that there is state to save.
        model.forward(&input, TRAIN.into())?;
        store.save(&path, &BTreeMap::new()).unwrap();
        let other = Store::new(8, DType::F32, &Device::Cpu);
        let again = network.build(other.builder())?;
        other.load(&path).unwrap();
        let output = bits(&model.forward(&input, Mode::Eval.into())?)?;
        assert_eq!(bits(&again.forward(&input, Mode::Eval.into())?)?, output, "{family}");
        let frozen = network.build(store.frozen()?)?;
        assert_eq!(bits(&frozen.forward(&input, Mode::Eval.into())?)?, output, "{family} frozen");
    }
    Ok(())
}

#[test]
fn input_of_another_shape_is_refused_by_name() -> Result<()> {
    for (family, network) in families()? {
        let (model, _store) = setup(&network, DType::F32)?;
        let wrong: Vec<Tensor> = match network.input() {
            Input::Images { channels, side, .. } => {
                let shapes = [[channels + 1, side, side], [channels, 2 * side, 2 * side]];
                let image = |[c, h, w]: [usize; 3]| uniform(&[2, c, h, w], 1)?.to_dtype(DType::F32);
                shapes.map(image).into_iter().collect::<Result<_>>()?
            }
            Input::Ids { context, .. } => {
                let ids = |shape: &[usize]| Tensor::zeros(shape, DType::U32, &Device::Cpu);
                vec![ids(&[1, context + 1])?, ids(&[3])?]
            }
        };
        for input in wrong {
            for result in
                [model.forward(&input, TRAIN.into()), model.tokens(&input).map(|t| t.plain)]
            {
                let error = result.unwrap_err().to_string();
                assert!(error.starts_with(&format!("{family}: ")), "{family}: {error}");
            }
        }
    }
    Ok(())
}

#[test]
fn no_conditioning_changes_nothing() -> Result<()> {
    for (family, network) in families()? {
        let (plain, store) = setup(&network, DType::F32)?;
        let input = batch(&network, 3, DType::F32)?;
        let tokens = plain.tokens(&input)?;
        assert_eq!(bits(&tokens.plain)?, bits(&tokens.conditioned)?, "{family}");
        for mode in [Mode::Eval, TRAIN] {
            let output = bits(&plain.forward(&input, mode.into())?)?;
            for (method, placement) in [Method::None, Method::pooled_earlier(0.0)?]
                .into_iter()
                .flat_map(|m| PLACEMENTS.map(|p| (m, p)))
            {
                let other = with(&network, method, placement);
                if other.validate().is_err() {
                    continue;
                }
                let other = other.build(store.builder())?;
                let found = bits(&other.forward(&input, mode.into())?)?;
                assert_eq!(found, output, "{family} {method:?} {placement:?} {mode:?}");
            }
        }
    }
    Ok(())
}

/// At every place that the family has.
#[test]
fn tokens_are_conditioned_where_the_configuration_says() -> Result<()> {
    for (family, network) in families()? {
        let input = batch(&network, 3, DType::F32)?;
        for placement in PLACEMENTS {
            let pooled = with(&network, Method::pooled_earlier(0.3)?, placement);
            if pooled.validate().is_err() {
                continue;
            }
            let (model, store) = setup(&pooled, DType::F32)?;
            let what = format!("{family} {placement:?}");
            // Without statistics the tokens of a model of images stay as they are.
            model.forward(&input, TRAIN.into())?;
            let plain = network.build(store.frozen()?)?.forward(&input, Mode::Eval.into())?;
            let own = model.forward(&input, Mode::Eval.into())?;
            assert!(distance(&own, &plain)? > 0.0, "{what}: no effect");
            let tokens = model.tokens(&input)?;
            assert_eq!(tokens.plain.rank(), 3, "{what}");
            assert_eq!(tokens.plain.dims(), tokens.conditioned.dims(), "{what}");
            assert!(distance(&tokens.conditioned, &tokens.plain)? > 0.0, "{what}");
            let state =
                store.buffers().into_iter().filter(|(name, _)| name.contains("conditioner."));
            assert_eq!(state.count(), 2, "{what}");
        }
        // A causal model refuses the literal method, and a layer norm may follow the place.
        if matches!(network.input(), Input::Images { .. }) {
            let literal = with(&network, Method::per_sequence(1.0)?, Placement::AfterPosition);
            let tokens = literal.fresh_tokens(1, &input)?;
            let wanted = Conditioner::default().forward(&tokens.plain)?;
            assert_eq!(bits(&tokens.conditioned)?, bits(&wanted)?, "{family}");
        }
    }
    Ok(())
}

#[test]
fn recalibration_takes_the_statistics_of_other_batches_or_their_error() -> Result<()> {
    for (family, network) in families()? {
        let pooled = with(&network, Method::pooled_earlier(0.3)?, Placement::AfterPosition);
        let (model, store) = setup(&pooled, DType::F32)?;
        let (input, other) = (batch(&network, 3, DType::F32)?, batch(&network, 5, DType::F32)?);
        model.forward(&input, TRAIN.into())?;
        let frozen = pooled.build(store.frozen()?)?;
        let before = bits(&frozen.forward(&input, Mode::Eval.into())?)?;
        frozen.recalibrate([Ok::<_, candle_core::Error>(other)])?;
        assert_ne!(bits(&frozen.forward(&input, Mode::Eval.into())?)?, before, "{family}");
        assert_eq!(bits(&model.forward(&input, Mode::Eval.into())?)?, before, "{family}: training");
        let failed = frozen.recalibrate([Err(candle_core::Error::Msg("no data".into()))]);
        assert_eq!(failed.unwrap_err().to_string(), "no data");
        let plain = network.build(store.frozen()?)?;
        plain.recalibrate(std::iter::from_fn(|| -> Option<Result<Tensor>> {
            panic!("{family}: a batch was taken for nothing")
        }))?;
    }
    Ok(())
}

#[test]
fn a_probe_sees_every_layer_and_changes_nothing() -> Result<()> {
    for (family, network) in families()? {
        let (model, _store) = setup(&network, DType::F32)?;
        let input = batch(&network, 2, DType::F32)?;
        let probe = Probe::default();
        let probed = bits(&model.forward(&input, Pass::probed(&probe))?)?;
        assert_eq!(bits(&model.forward(&input, Mode::Eval.into())?)?, probed, "{family}");
        let seen = probe.take();
        assert!(seen.layers.len() > 1, "{family}: attention out of sight");
        assert!(seen.conditioning.is_some(), "{family}: its tokens are out of sight");
    }
    Ok(())
}

/// The literal method brings kappa of every sequence below (1 + t) / t; a probe shows it before and after.
#[test]
fn a_probe_shows_what_conditioning_did_to_the_tokens() -> Result<()> {
    let mut shown = 0;
    for (family, network) in families()? {
        let input = batch(&network, 3, DType::F32)?;
        for (method, placement) in [Method::None, Method::per_sequence(1.0)?]
            .into_iter()
            .flat_map(|method| PLACEMENTS.map(|placement| (method, placement)))
        {
            let network = with(&network, method, placement);
            if network.validate().is_err() {
                continue;
            }
            let (model, _store) = setup(&network, DType::F32)?;
            let what = format!("{family} {method:?} {placement:?}");
            let [before, after] = model.probe(&input)?.conditioning.expect(&what);
            assert_eq!(before.rank(), 3, "{what}");
            if method == Method::None {
                assert_eq!(bits(&before)?, bits(&after)?, "{what}");
                continue;
            }
            let kappas = |x: &Tensor| condition_number(x)?.to_vec1::<f64>();
            for (before, after) in kappas(&before)?.into_iter().zip(kappas(&after)?) {
                let bound = match before {
                    _ if before * TAU < 1.0 => 2.0 + CONDITIONED_TOLERANCE,
                    // Directions that f32 does not resolve are lifted in part,
                    _ if before < SINGULAR => before,
                    // and where one is missing, kappa is rounding before and after.
                    _ => f64::INFINITY,
                };
                assert!(after < bound, "{what}: kappa {before} became {after}");
            }
            shown += 1;
        }
    }
    assert!(shown >= 8, "{shown} families and places");
    Ok(())
}

/// Of every layer that sums over all tokens V = X W_V + b: what is left of V is the same for every token.
#[test]
fn a_probe_shows_what_the_values_of_every_layer_are_made_of() -> Result<()> {
    for (family, network) in families()? {
        let (model, _store) = setup(&network, DType::F64)?;
        let seen = model.probe(&batch(&network, 2, DType::F64)?)?;
        let mut weights = 0;
        for (i, layer) in seen.layers.iter().enumerate() {
            let among_tokens = layer.heads.among == Among::Tokens;
            let Some(w_v) = &layer.value_weight else {
                // The class attention of XCiT has one query for all tokens.
                assert!(!among_tokens || family == "xcit", "{family} layer {}", i + 1);
                continue;
            };
            assert!(among_tokens, "{family} layer {}", i + 1);
            let (b, n, c) = layer.input.dims3()?;
            let values = layer.heads.values.transpose(1, 2)?.reshape((b, n, c))?;
            let bias = (values - layer.input.broadcast_matmul(w_v)?)?;
            let first = bias.narrow(0, 0, 1)?.narrow(1, 0, 1)?.broadcast_as((b, n, c))?;
            assert!(distance(&bias, &first)? < VALUES_TOLERANCE, "{family} layer {}", i + 1);
            weights += 1;
        }
        let transformer = !["swin", "xcit", "davit"].contains(&family);
        assert_eq!(weights > 0, transformer, "{family}");
    }
    Ok(())
}
