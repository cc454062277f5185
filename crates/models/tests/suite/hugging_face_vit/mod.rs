//! ViTs in folders of transformers and timm: what they wrote is read and computes the same, gradients too; what
//! is written here, transformers reads.
//!
//! `fixture/` is written by `make_fixture.py`, which says what it holds; `written.safetensors` by
//! `check_written.py`.

mod errors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use conditioned_models::Model;
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement, WeightMethod};
use conditioned_models::hugging_face::Loaded;
use conditioned_models::hugging_face::vit::{
    export, read_classes, read_config, read_encoder, read_weights, write,
};
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_nn::store::{load_tensors, save_tensors};
use conditioned_nn::{Mode, Store, cross_entropy};

use crate::{distance, uniform};

/// f64 against PyTorch's f64: roundings of 1e-16 through two blocks.
const F64_TOLERANCE: f64 = 1e-12;

/// f32: roundings of 6e-8 through the same, relative to the larger of 1 and the value.
const F32_TOLERANCE: f64 = 2e-5;

/// A resized table in f32 against PyTorch's, whose weights of samples are f32 too.
const TABLE_TOLERANCE: f64 = 1e-6;

/// A folded model against the conditioned one, both f32, relative to the larger of 1 and the value.
const FOLD_TOLERANCE: f64 = 2e-5;

const TRAIN: Mode = Mode::train(0, 0);

/// The labels of every folder.
const CLASSES: [&str; 5] = ["ant", "bee", "cat", "dog", "eel"];

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/hugging_face_vit")
}

fn fixture(name: &str) -> PathBuf {
    here().join("fixture").join(name)
}

/// What the model in a folder of the fixture computes.
fn expected(name: &str) -> BTreeMap<String, Tensor> {
    load_tensors(&fixture(&format!("{name}.safetensors")), &Device::Cpu).unwrap()
}

fn store(dtype: DType) -> Store {
    Store::new(7, dtype, &Device::Cpu)
}

/// The model in a folder, as `change` makes its configuration.
fn open(folder: &Path, dtype: DType, change: impl Fn(&mut VitConfig)) -> (Vit, Store, Loaded) {
    let mut config = read_config(folder).unwrap();
    change(&mut config);
    let store = store(dtype);
    let loaded = read_weights(folder, &config, &store).unwrap();
    (Vit::new(&config, store.builder()).unwrap(), store, loaded)
}

fn classes() -> Vec<String> {
    CLASSES.map(str::to_string).to_vec()
}

#[test]
fn folders_compute_what_transformers_and_timm_do() {
    for (name, eps, distilled) in
        [("vit", 1e-3, false), ("deit", 1e-12, true), ("timm", 1e-6, false)]
    {
        let config = read_config(&fixture(name)).unwrap();
        assert_eq!((config.eps, config.distilled, config.classes), (eps, distilled, 5), "{name}");
        assert_eq!((config.width, config.mlp_ratio, config.image_size), (16, 2, 32), "{name}");
        assert_eq!(read_classes(&fixture(name)).unwrap(), CLASSES, "{name}");
        let expected = expected(name);
        for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
            let close = |what: &str, got: &Tensor| {
                let d = distance(got, &expected[what]).unwrap();
                assert!(d < tolerance, "{name} {dtype:?}: {what} differs by {d:e}");
            };
            let (model, store, loaded) = open(&fixture(name), dtype, |_| ());
            assert!(loaded.fresh.is_empty() && loaded.unused.is_empty(), "{name}: {loaded:?}");
            let images = expected["images"].to_dtype(dtype).unwrap();
            close("logits", &model.forward(&images, Mode::Eval.into()).unwrap());
            let logits = model.forward(&images, TRAIN.into()).unwrap();
            close("logits", &logits);
            let loss =
                cross_entropy(&logits, &expected["targets"].to_dtype(dtype).unwrap()).unwrap();
            close("loss", &loss);
            let gradients = loss.backward().unwrap();
            let parameters = store.parameters();
            let wanted = expected.keys().filter(|key| key.starts_with("gradient/")).count();
            assert_eq!(parameters.len(), wanted, "{name}");
            for (parameter, var) in parameters {
                let gradient = gradients.get(&var).expect(&parameter);
                close(&format!("gradient/{parameter}"), gradient);
            }
        }
    }
}

#[test]
fn images_of_other_sizes_take_the_table_of_interpolate_pos_encoding() {
    for name in ["vit", "deit"] {
        let expected = expected(name);
        for (key, wanted) in expected.iter().filter(|(key, _)| key.starts_with("positions")) {
            let (kind, side) = key.split_once('/').unwrap();
            let (dtype, tolerance) = match kind {
                "positions" => (DType::F64, F64_TOLERANCE),
                _ => (DType::F32, TABLE_TOLERANCE),
            };
            let image_size: usize = side.parse().unwrap();
            let (model, store, _) =
                open(&fixture(name), dtype, |config| config.image_size = image_size);
            let table = store.get("pos_embed").unwrap();
            let d = distance(&table, wanted).unwrap();
            assert!(d < tolerance, "{name}: {key} differs by {d:e}");
            if dtype == DType::F64
                && let Some(images) = expected.get(&format!("images/{side}"))
            {
                let images = images.to_dtype(dtype).unwrap();
                let logits = model.forward(&images, Mode::Eval.into()).unwrap();
                let d = distance(&logits, &expected[&format!("logits/{side}")]).unwrap();
                assert!(d < tolerance, "{name}: logits/{side} differ by {d:e}");
            }
        }
        assert_eq!(expected.keys().filter(|key| key.starts_with("positions")).count(), 10);
    }
}

#[test]
fn every_layout_holds_the_same_weights() {
    let (_, wanted, _) = open(&fixture("vit"), DType::F32, |_| ());
    for (layout, fresh, unused) in [
        ("sharded", &[][..], &[][..]),
        ("base", &["head.bias", "head.weight"], &["pooler.dense.bias", "pooler.dense.weight"]),
    ] {
        let (_, store, loaded) = open(&fixture(layout), DType::F32, |_| ());
        assert_eq!((&*loaded.fresh, &*loaded.unused), (&*strings(fresh), &*strings(unused)));
        for (name, tensor) in wanted.tensors() {
            if !loaded.fresh.contains(&name) {
                let found = store.get(&name).unwrap();
                assert_eq!(distance(&found, &tensor).unwrap(), 0.0, "{layout}: {name}");
            }
        }
    }
    let (_, wanted, _) = open(&fixture("timm"), DType::F32, |_| ());
    let (_, store, _) = open(&fixture("channels_last"), DType::F32, |_| ());
    for (name, tensor) in wanted.tensors() {
        let found = store.get(&name).unwrap();
        assert_eq!(distance(&found, &tensor).unwrap(), 0.0, "channels_last: {name}");
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn for_a_new_task_heads_are_new() {
    for (name, heads) in
        [("vit", &["classifier"][..]), ("deit", &["cls_classifier", "distillation_classifier"])]
    {
        let mut config = read_config(&fixture(name)).unwrap();
        config.classes = 3;
        let error = read_weights(&fixture(name), &config, &store(DType::F32)).unwrap_err();
        let wanted = format!("`{}.bias` has shape [5], the model wants [3]", heads[0]);
        assert!(error.to_string().contains(&wanted), "{error}");
        let store = store(DType::F32);
        let loaded = read_encoder(&fixture(name), &config, &store).unwrap();
        let unused: Vec<String> = heads
            .iter()
            .flat_map(|head| ["bias", "weight"].map(|end| format!("{head}.{end}")))
            .collect();
        assert_eq!(loaded.unused, unused);
        let fresh = ["head.bias", "head.weight", "head_dist.bias", "head_dist.weight"];
        assert_eq!(loaded.fresh, strings(&fresh[..unused.len()]));
        assert_eq!(store.get("head.weight").unwrap().dims(), [3, 16]);
    }
}

#[test]
fn published_folders_of_timm_have_sizes_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let read = |json: serde_json::Value| {
        std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
        (read_config(folder.path()).unwrap(), read_classes(folder.path()).unwrap())
    };
    let preset =
        |name: &str| <VitConfig as conditioned_models::Architecture>::preset(name).unwrap();
    let (config, classes) = read(serde_json::json!({
        "architecture": "deit_base_distilled_patch16_224",
        "num_classes": 1000,
        "global_pool": "token",
        "pretrained_cfg": { "input_size": [3, 224, 224], "fixed_input_size": true, "mean": [0.5] },
    }));
    assert_eq!(config, preset("deit_base_distilled_patch16_224"));
    assert!(classes.is_empty());
    let (config, _) = read(serde_json::json!({
        "architecture": "vit_small_patch32_384",
        "pretrained_cfg": { "num_classes": 21843 },
    }));
    let small = preset("vit_small_patch16_224");
    let wanted = VitConfig { patch_size: 32, image_size: 384, classes: 21843, ..small.clone() };
    assert_eq!(config, wanted);
    // As files once were, with labels by their numbers.
    let labels: BTreeMap<String, String> =
        (0..11).map(|id| (id.to_string(), format!("n{id}"))).collect();
    let (config, classes) = read(serde_json::json!({
        "architecture": "vit_small_patch16_224",
        "num_classes": 11,
        "input_size": [1, 96, 96],
        "labels": labels,
    }));
    assert_eq!(config, VitConfig { image_size: 96, channels: 1, classes: 11, ..small.clone() });
    assert_eq!((classes.len(), &*classes[2], &*classes[10]), (11, "n2", "n10"));
    // Without a head.
    let json = serde_json::json!({ "architecture": "vit_small_patch16_224", "num_classes": 0 });
    assert_eq!(read(json).0, VitConfig { classes: 1, ..small.clone() });
    for name in ["vit_small_patch16_224.augreg_in21k", "vit_small_patch16_224_in21k"] {
        assert_eq!(read(serde_json::json!({ "architecture": name })).0, small, "{name}");
    }
    // Those of MIIL have no biases of queries, keys and values.
    let name = "vit_small_patch16_224_miil";
    let json = serde_json::json!({ "architecture": name }).to_string();
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    assert!(read_config(folder.path()).unwrap_err().to_string().contains(name));
}

#[test]
fn an_encoder_saved_without_labels_has_one_class() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read(fixture("base").join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["id2label"] = serde_json::json!({});
    std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
    assert_eq!(read_config(folder.path()).unwrap().classes, 1);
    assert!(read_classes(folder.path()).unwrap().is_empty());
}

/// Name, folder that the weights come from, and conditioning of what is written for transformers.
fn written() -> [(&'static str, &'static str, ConditioningConfig); 5] {
    let pooled = |placement| ConditioningConfig {
        method: Method::pooled(0.7).unwrap(),
        placement,
        ..Default::default()
    };
    [
        ("vit", "vit", ConditioningConfig::default()),
        ("vit-pooled", "vit", pooled(Placement::AfterPosition)),
        ("vit-pooled-before", "timm", pooled(Placement::BeforePosition)),
        ("deit", "deit", ConditioningConfig::default()),
        (
            "deit-pooled-weight",
            "deit",
            ConditioningConfig {
                weights: WeightMethod::Weight,
                ..pooled(Placement::AfterPosition)
            },
        ),
    ]
}

/// With `WRITTEN` set, the folders stay there, each with the logits computed here.
#[test]
fn vit_folders_for_transformers() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("WRITTEN").map(PathBuf::from);
    let recorded = load_tensors(&here().join("written.safetensors"), &Device::Cpu);
    for (name, source, conditioning) in written() {
        let images = &expected(source)["images"];
        let mut config = read_config(&fixture(source)).unwrap();
        config.conditioning = conditioning;
        let store = store(DType::F32);
        read_weights(&fixture(source), &config, &store).unwrap();
        // A step of training, so that there are statistics.
        Vit::new(&config, store.builder()).unwrap().forward(images, TRAIN.into()).unwrap();
        let model = Vit::new(&config, store.frozen().unwrap()).unwrap();
        let ours = model.forward(images, Mode::Eval.into()).unwrap();
        let folder = root.as_deref().unwrap_or(temporary.path()).join(name);
        export(&folder, &config, &classes(), &store).unwrap();
        if root.is_some() {
            let tensors = [("images".to_string(), images.clone()), ("logits".to_string(), ours)];
            save_tensors(&folder.join("expected.safetensors"), tensors, &BTreeMap::new()).unwrap();
            continue;
        }
        let d = distance(&ours, &recorded.as_ref().unwrap()[name]).unwrap();
        assert!(d < FOLD_TOLERANCE, "{name}: transformers, {d:e}");
        config.conditioning = ConditioningConfig::default();
        assert_eq!(read_config(&folder).unwrap(), config, "{name}");
        assert_eq!(read_classes(&folder).unwrap(), CLASSES);
        let (model, ..) = open(&folder, DType::F32, |_| ());
        let again = model.forward(images, Mode::Eval.into()).unwrap();
        let d = distance(&again, &ours).unwrap();
        assert!(d < FOLD_TOLERANCE, "{name}: read here, {d:e}");
    }
}

#[test]
fn what_transformers_wrote_is_written_as_it_was() {
    for name in ["vit", "deit"] {
        let (_, store, _) = open(&fixture(name), DType::F32, |_| ());
        let config = read_config(&fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &config, &classes(), &store).unwrap();
        let file = "model.safetensors";
        let theirs = load_tensors(&fixture(name).join(file), &Device::Cpu).unwrap();
        let ours = load_tensors(&folder.path().join(file), &Device::Cpu).unwrap();
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (key, tensor) in theirs {
            assert_eq!(distance(&ours[&key], &tensor).unwrap(), 0.0, "{key}");
        }
        let settings = |folder: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
        };
        let (theirs, ours) = (settings(&fixture(name)), settings(folder.path()));
        let others = ["dtype", "encoder_stride", "pooler_act", "pooler_output_size"];
        for (key, value) in theirs.as_object().unwrap() {
            if key != "transformers_version" && !others.contains(&&**key) {
                assert_eq!(ours[key], *value, "{key}");
            }
        }
        let error = write(folder.path(), &config, &classes()[..3], &store).unwrap_err();
        assert!(error.to_string().contains("3 names of classes for a model of 5"), "{error}");
    }
}

#[test]
fn a_conditioned_vit_goes_on_where_it_was_written() {
    let spectral = WeightMethod::Spectral(candle_conditioning::SpectralConditioning::Exact);
    for (source, method, weights, folds) in [
        ("vit", Method::pooled(0.7).unwrap(), spectral, true),
        ("deit", Method::per_sequence(0.4).unwrap(), WeightMethod::None, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = read_config(&fixture(source)).unwrap();
        config.conditioning =
            ConditioningConfig { method, weights, ramp_steps: 5, ..Default::default() };
        let first = store(DType::F32);
        read_weights(&fixture(source), &config, &first).unwrap();
        let model = Vit::new(&config, first.builder()).unwrap();
        let images = uniform(&[3, 3, 32, 32], 1).unwrap().to_dtype(DType::F32).unwrap();
        model.forward(&images, TRAIN.into()).unwrap();
        let plain = folder.path().join("plain");
        match export(&plain, &config, &[], &first) {
            Ok(()) => assert!(folds && read_config(&plain).unwrap().conditioning.is_plain()),
            Err(error) => assert!(!folds && error.to_string().contains("depends on other tokens")),
        }
        write(folder.path(), &config, &[], &first).unwrap();
        config.conditioning.ramp_steps = 0;
        assert_eq!(read_config(folder.path()).unwrap(), config);
        assert_eq!(read_classes(folder.path()).unwrap()[4], "LABEL_4");
        let (again, second, loaded) = open(folder.path(), DType::F32, |_| ());
        assert!(loaded.fresh.is_empty() && loaded.unused.is_empty(), "{loaded:?}");
        for ((name, a), (_, b)) in first.tensors().into_iter().zip(second.tensors()) {
            assert_eq!((a.dtype(), distance(&a, &b).unwrap()), (b.dtype(), 0.0), "{name}");
        }
        let logits = |model: &Vit| model.forward(&images, Mode::Eval.into()).unwrap();
        assert_eq!(distance(&logits(&again), &logits(&model)).unwrap(), 0.0);
    }
}
