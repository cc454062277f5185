//! Folders of Hugging Face: what transformers wrote is read in every layout and computes the same;
//! what is written here, transformers reads.
//!
//! `fixture/` is written by `make_fixture.py`, `written.safetensors` by `check_written.py`.

mod errors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_conditioning::SpectralConditioning;
use candle_core::{DType, Device, Tensor};
use conditioned_models::Architecture;
use conditioned_models::conditioning::{Method, WeightMethod};
use conditioned_models::generate::{Sampling, generate};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::hugging_face::gpt2::{export, read_config, read_weights, write};
use conditioned_models::perplexity::mean_nll;
use conditioned_nn::store::load_tensors;
use conditioned_nn::{Mode, Store, StoreError};

use crate::{distance, learn_map, uniform};

/// f32 against transformers' f64, relative to the larger of 1 and the value.
const LOGIT_TOLERANCE: f64 = 2e-5;

/// Mean negative log-likelihood of f32 against f64, in nats.
const NLL_TOLERANCE: f64 = 1e-5;

/// Probabilities, both in f64.
const PROBABILITY_TOLERANCE: f64 = 1e-12;

/// A folded model against the conditioned one, both f32, relative to the largest logit.
const FOLD_TOLERANCE: f64 = 1e-5;

const LAYOUTS: [&str; 5] = ["safetensors", "base", "sharded", "bin", "bin_sharded"];

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/hugging_face")
}

fn fixture(layout: &str) -> PathBuf {
    here().join("fixture").join(layout)
}

fn expected() -> BTreeMap<String, Tensor> {
    load_tensors(&fixture("expected.safetensors"), &Device::Cpu).unwrap()
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    tensor.to_dtype(DType::U32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn open(folder: &Path) -> Result<(Gpt2Config, Store), StoreError> {
    let config = read_config(folder)?;
    let store = Store::new(7, DType::F32, &Device::Cpu);
    read_weights(folder, &config, &store)?;
    Ok((config, store))
}

fn logits(config: &Gpt2Config, store: &Store, ids: &Tensor) -> Tensor {
    let ids = ids.to_dtype(DType::U32).unwrap();
    Gpt2::new(config, store.builder()).unwrap().logits(&ids, Mode::Eval).unwrap()
}

/// The largest difference over the largest value.
fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let max = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    f64::from(max((a - b).unwrap()) / max(b.clone()))
}

#[test]
fn every_layout_computes_what_transformers_does() {
    let expected = expected();
    for layout in LAYOUTS {
        let (config, store) = open(&fixture(layout)).unwrap();
        assert_eq!((config.width, config.context, config.dropout), (8, 32, 0.1));
        assert_eq!(store.parameter_count(), config.parameter_count().unwrap());
        let d = distance(&logits(&config, &store, &expected["ids"]), &expected["logits"]).unwrap();
        assert!(d < LOGIT_TOLERANCE, "{layout}: {d:e}");
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let expected = expected();
    let (config, store) = open(&fixture("safetensors")).unwrap();
    let model = Gpt2::new(&config, store.frozen().unwrap()).unwrap();
    for i in 0..3 {
        let prompt = ids(&expected[&format!("prompt.{i}")]);
        let new = generate(&model, &prompt, &Sampling::greedy()).unwrap();
        assert_eq!(new, ids(&expected[&format!("greedy.{i}")]));
    }
}

#[test]
fn filters_are_those_of_transformers() {
    let expected = expected();
    let rows: Vec<Vec<f64>> = expected["sampling.logits"].to_vec2().unwrap();
    let settings: Vec<Vec<f64>> = expected["sampling.settings"].to_vec2().unwrap();
    let wanted: Vec<Vec<Vec<f64>>> = expected["sampling.probabilities"].to_vec3().unwrap();
    for (setting, wanted) in settings.iter().zip(wanted) {
        let sampling = Sampling {
            temperature: setting[0],
            top_k: Some(setting[1] as usize).filter(|&k| k > 0),
            top_p: Some(setting[2]),
            ..Sampling::default()
        };
        for (logits, wanted) in rows.iter().zip(wanted) {
            let found = sampling.probabilities(logits).unwrap();
            for (found, wanted) in found.into_iter().zip(wanted) {
                assert!((found - wanted).abs() < PROBABILITY_TOLERANCE, "{sampling:?}");
            }
        }
    }
}

#[test]
fn perplexity_is_that_of_the_recipe() {
    let expected = expected();
    let (config, store) = open(&fixture("safetensors")).unwrap();
    let model = Gpt2::new(&config, store.frozen().unwrap()).unwrap();
    let text = ids(&expected["text"]);
    let mut checked = 0;
    for (name, wanted) in expected.iter().filter(|(name, _)| name.starts_with("nll.")) {
        let numbers: Vec<usize> = name.split('.').skip(1).map(|n| n.parse().unwrap()).collect();
        let found = mean_nll(&model, &text, numbers[0], numbers[1]).unwrap();
        let difference = (found - wanted.to_scalar::<f64>().unwrap()).abs();
        assert!(difference < NLL_TOLERANCE, "{name}: {difference:e}");
        checked += 1;
    }
    assert_eq!(checked, 5);
    // One window over all is the loss.
    let whole = Tensor::new(&text[..33], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let (x, y) = (whole.narrow(1, 0, 32).unwrap(), whole.narrow(1, 1, 32).unwrap());
    let loss = model.loss(&x, &y, Mode::Eval).unwrap().to_scalar::<f32>().unwrap();
    assert_eq!(mean_nll(&model, &text[..33], 33, 1).unwrap(), f64::from(loss));
    for (text, window, stride, message) in [
        (&text[..1], 8, 4, "give at least 2"),
        (&text[..], 8, 0, "stride 0"),
        (&text[..], 8, 8, "stride 8"),
        (&text[..], 34, 4, "does not fit into the context of 32"),
    ] {
        let error = mean_nll(&model, text, window, stride).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn what_was_read_trains_and_is_written_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new/model");
    let (config, store) = open(&fixture("base")).unwrap();
    let ids = expected()["ids"].to_dtype(DType::U32).unwrap();
    let (x, y) = (ids.narrow(1, 0, 31).unwrap(), ids.narrow(1, 1, 31).unwrap());
    let model = Gpt2::new(&config, store.builder()).unwrap();
    let loss = |mode| model.loss(&x, &y, mode).unwrap();
    let before = loss(Mode::Eval).to_scalar::<f32>().unwrap();
    let gradients = loss(Mode::train(0, 0)).backward().unwrap();
    for (name, var) in store.parameters() {
        let step = (gradients.get(&var).expect(&name) * 0.01).unwrap();
        var.set(&(var.as_tensor().detach() - step).unwrap()).unwrap();
    }
    assert!(loss(Mode::Eval).to_scalar::<f32>().unwrap() < before);
    write(&folder, &config, &store, Some(0)).unwrap();
    let (again, reread) = open(&folder).unwrap();
    assert_eq!(config, again);
    for ((name, a), (_, b)) in store.tensors().into_iter().zip(reread.tensors()) {
        assert_eq!(distance(&a, &b).unwrap(), 0.0, "{name}");
    }
    let files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
}

#[test]
fn state_of_conditioning_is_restored_and_absent_from_published_folders() {
    let folder = tempfile::tempdir().unwrap();
    let plain = read_config(&fixture("base")).unwrap();
    let mut config =
        Gpt2Config { conditioning: Method::pooled_earlier(0.3).unwrap().into(), ..plain };
    config.conditioning.ramp_steps = 5;
    let store = Store::new(7, DType::F32, &Device::Cpu);
    read_weights(&fixture("base"), &config, &store).unwrap();
    let weight = || store.get("conditioner.running_weight").unwrap().to_scalar::<f64>().unwrap();
    assert_eq!(weight(), 0.0, "nothing observed");
    let tokens = expected()["ids"].to_dtype(DType::U32).unwrap();
    let model = Gpt2::new(&config, store.builder()).unwrap();
    model.logits(&tokens, Mode::train(0, 0)).unwrap();
    assert!(weight() > 0.0);
    write(folder.path(), &config, &store, None).unwrap();
    let (again, reread) = open(folder.path()).unwrap();
    // It has been trained, and its ramp does not begin again.
    config.conditioning.ramp_steps = 0;
    assert_eq!(config, again);
    for ((name, a), (_, b)) in store.tensors().into_iter().zip(reread.tensors()) {
        assert_eq!((a.dtype(), distance(&a, &b).unwrap()), (b.dtype(), 0.0), "{name}");
    }
    // A plain model does not take it in silence.
    let plain = Gpt2Config { conditioning: Method::None.into(), ..config };
    let store = Store::new(7, DType::F32, &Device::Cpu);
    let error = read_weights(folder.path(), &plain, &store).unwrap_err().to_string();
    assert!(error.contains("unexpected conditioner.running_gram"), "{error}");
}

#[test]
fn a_learned_map_starts_from_a_published_folder_and_folds() {
    let folder = tempfile::tempdir().unwrap();
    let plain = read_config(&fixture("base")).unwrap();
    let config = Gpt2Config { conditioning: Method::LearnedMap.into(), ..plain };
    let store = Store::new(7, DType::F32, &Device::Cpu);
    read_weights(&fixture("base"), &config, &store).unwrap();
    learn_map(&store);
    let ids = &expected()["ids"];
    let ours = logits(&config, &store, ids);

    export(folder.path(), &config, &store, None).unwrap();
    let (plain, reread) = open(folder.path()).unwrap();
    let there = relative(&logits(&plain, &reread, ids), &ours);
    assert!(there < FOLD_TOLERANCE, "{there:e}");

    write(folder.path(), &config, &store, None).unwrap();
    let (again, reread) = open(folder.path()).unwrap();
    assert_eq!(distance(&logits(&again, &reread, ids), &ours).unwrap(), 0.0);

    // What is done to weights may be new where the map is not.
    let mut both = config.clone();
    both.conditioning.weights = WeightMethod::Spectral(SpectralConditioning::Exact);
    let store = Store::new(7, DType::F32, &Device::Cpu);
    read_weights(folder.path(), &both, &store).unwrap();
    let (map, read) = (reread.get("conditioner.map.weight"), store.get("conditioner.map.weight"));
    assert_eq!(distance(&map.unwrap(), &read.unwrap()).unwrap(), 0.0);
}

/// The models that `check_written.py` loads in transformers, by the names of their folders.
fn written() -> Vec<(&'static str, Gpt2Config)> {
    let tiny = Gpt2Config {
        vocabulary: 31,
        context: 16,
        width: 8,
        depth: 2,
        heads: 2,
        ..Gpt2Config::preset("gpt2").unwrap()
    };
    let conditioned = |method: candle_core::Result<Method>| Gpt2Config {
        conditioning: method.unwrap().into(),
        ..tiny.clone()
    };
    vec![
        ("plain", tiny.clone()),
        ("untied", Gpt2Config { tie_word_embeddings: false, ..tiny.clone() }),
        ("pooled", conditioned(Method::pooled_earlier(0.3))),
        ("norm-matched", conditioned(Method::pooled_norm_matched(0.3))),
        ("table", conditioned(Method::table(0.3))),
    ]
}

/// With `WRITTEN` set, the folders stay there, each with the ids and the logits computed here.
#[test]
fn what_is_written_computes_the_same_here_and_in_transformers() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("WRITTEN").map(PathBuf::from);
    let recorded = load_tensors(&here().join("written.safetensors"), &Device::Cpu);
    let ids: Vec<u32> = (0..48).map(|i| (i * i + 7 * i + 3) % 31).collect();
    let ids = Tensor::from_vec(ids, (3, 16), &Device::Cpu).unwrap();
    for (name, config) in written() {
        let store = Store::new(5, DType::F32, &Device::Cpu);
        let model = Gpt2::new(&config, store.builder()).unwrap();
        for (i, (_, var)) in store.parameters().into_iter().enumerate() {
            let noise = uniform(var.dims(), i as u64).unwrap().to_dtype(DType::F32).unwrap();
            var.set(&(noise * 0.5).unwrap()).unwrap();
        }
        model.logits(&ids, Mode::train(0, 0)).unwrap();
        let ours = logits(&config, &store, &ids);
        let folder = root.as_deref().unwrap_or(temporary.path()).join(name);
        export(&folder, &config, &store, None).unwrap();
        let (plain, reread) = open(&folder).unwrap();
        assert_eq!(plain.conditioning.method, Method::None);
        let here = relative(&logits(&plain, &reread, &ids), &ours);
        assert!(here < FOLD_TOLERANCE, "{name}: read here, {here:e}");
        if root.is_some() {
            let tensors = [("ids".to_string(), ids.clone()), ("logits".to_string(), ours)];
            let path = folder.join("expected.safetensors");
            conditioned_nn::store::save_tensors(&path, tensors, &BTreeMap::new()).unwrap();
        } else {
            let there = relative(&ours, &recorded.as_ref().unwrap()[name]);
            assert!(there < FOLD_TOLERANCE, "{name}: transformers, {there:e}");
        }
    }
}
