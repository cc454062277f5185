//! BERT folders of Hugging Face: what transformers wrote is read and computes the same; what is written
//! here, transformers reads.
//!
//! `fixture/` is written by `make_fixture.py`, `written.safetensors` by `check_written.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use conditioned_models::bert::{Bert, BertConfig, BertInput};
use conditioned_models::bert_heads::{BertClassifier, BertMaskedLm};
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::hugging_face::bert::{
    Head, export, read_config, read_encoder, read_weights, write,
};
use conditioned_nn::store::{load_tensors, save_tensors};
use conditioned_nn::{Mode, Store};

use crate::{distance, learn_map};

/// f32 against transformers' f64, relative to the larger of 1 and the value.
const LOGIT_TOLERANCE: f64 = 2e-5;

/// A folded model against the conditioned one, both f32, relative to the larger of 1 and the value.
const FOLD_TOLERANCE: f64 = 2e-5;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/hugging_face_bert")
}

fn fixture(name: &str) -> PathBuf {
    here().join("fixture").join(name)
}

fn expected() -> BTreeMap<String, Tensor> {
    load_tensors(&fixture("expected.safetensors"), &Device::Cpu).unwrap()
}

fn input() -> BertInput {
    let expected = expected();
    let ids = |name: &str| expected[name].to_dtype(DType::U32).unwrap();
    BertInput::padded(ids("ids"), ids("types"), &expected["mask"]).unwrap()
}

/// The four positions whose words are restored, in both sequences.
fn positions() -> Tensor {
    Tensor::new(&[[0u32, 1, 2, 3], [0, 1, 2, 3]], &Device::Cpu).unwrap()
}

fn labels() -> Head {
    Head::Classes(["no", "perhaps", "yes"].map(str::to_string).to_vec())
}

fn store() -> Store {
    Store::new(7, DType::F32, &Device::Cpu)
}

#[test]
fn bert_folders_of_transformers_compute_the_same() {
    let (expected, input) = (expected(), input());
    let close = |got: &Tensor, what: &str| {
        let d = distance(got, &expected[what]).unwrap();
        assert!(d < LOGIT_TOLERANCE, "{what}: {d:e}");
    };
    let config = read_config(&fixture("classifier")).unwrap();
    assert_eq!((config.width, config.hidden, config.dropout), (8, 12, 0.1));
    let classifier_of = |folder: &str| {
        let store = store();
        let model = BertClassifier::new(&config, 3, store.builder()).unwrap();
        (model, read_weights(&fixture(folder), &store).unwrap())
    };

    let (model, loaded) = classifier_of("classifier");
    close(&model.logits(&input, Mode::Eval).unwrap(), "logits");
    assert!(loaded.fresh.is_empty() && loaded.unused.is_empty(), "{loaded:?}");

    // For a new task its classifier is another's.
    let other = store();
    BertClassifier::new(&config, 2, other.builder()).unwrap();
    assert!(read_weights(&fixture("classifier"), &other).is_err());
    let loaded = read_encoder(&fixture("classifier"), &other).unwrap();
    assert_eq!(loaded.unused, ["classifier.bias", "classifier.weight"]);

    let (model, loaded) = classifier_of("base");
    close(&model.pooled(&input, Mode::Eval).unwrap(), "pooled");
    assert_eq!(loaded.fresh, ["classifier.bias", "classifier.weight"]);

    let (_, loaded) = classifier_of("masked");
    assert!(loaded.fresh.iter().any(|name| name == "bert.pooler.dense.weight"), "{loaded:?}");
    assert!(loaded.unused.iter().any(|name| name == "cls.predictions.bias"), "{loaded:?}");

    let store = store();
    let model = BertMaskedLm::new(&config, store.builder()).unwrap();
    read_weights(&fixture("masked"), &store).unwrap();
    close(&model.logits(&input, &positions(), Mode::Eval).unwrap(), "masked");
}

#[test]
fn heads_of_other_tasks_are_passed_over_and_layers_are_not() {
    let config = read_config(&fixture("classifier")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let read = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let name = "model.safetensors";
        let mut tensors = load_tensors(&fixture("classifier").join(name), &Device::Cpu).unwrap();
        change(&mut tensors);
        save_tensors(&folder.path().join(name), tensors, &BTreeMap::new()).unwrap();
        let store = store();
        BertClassifier::new(&config, 3, store.builder()).unwrap();
        read_weights(folder.path(), &store).map_err(|e| e.to_string())
    };
    let zeros = || Tensor::zeros((2, 8), DType::F32, &Device::Cpu).unwrap();
    let loaded = read(&|tensors| {
        tensors.insert("qa_outputs.weight".into(), zeros());
        tensors.insert("fit_denses.0.weight".into(), zeros());
        tensors.insert("cls.seq_relationship.weight".into(), zeros());
    });
    let wanted = ["cls.seq_relationship.weight", "fit_denses.0.weight", "qa_outputs.weight"];
    assert_eq!(loaded.unwrap().unused, wanted);
    let name = "encoder.layer.9.output.dense.weight";
    let error = read(&|tensors| drop(tensors.insert(format!("bert.{name}"), zeros()))).unwrap_err();
    assert!(error.contains("unexpected ") && error.contains(name), "{error}");
}

/// Name, method and place of what is written for transformers.
fn written() -> [(&'static str, Method, Placement); 4] {
    let pooled = Method::pooled(1.0).unwrap();
    [
        ("classifier", Method::None, Placement::AfterPosition),
        ("classifier-pooled", pooled, Placement::AfterPosition),
        ("classifier-table", Method::table(0.5).unwrap(), Placement::BeforePosition),
        ("masked-pooled", pooled, Placement::BeforePosition),
    ]
}

#[test]
fn bert_folders_for_transformers() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("WRITTEN").map(PathBuf::from);
    let recorded = load_tensors(&here().join("written.safetensors"), &Device::Cpu);
    let (input, mode) = (input(), Mode::train(0, 0));
    for (name, method, placement) in written() {
        let masked = name.starts_with("masked");
        let kind = if masked { "masked" } else { "classifier" };
        let head = if masked { Head::MaskedLm } else { labels() };
        let mut config = read_config(&fixture(kind)).unwrap();
        config.conditioning = ConditioningConfig { method, placement, ..Default::default() };
        let run = |store: &Store, config: &_, folder: &Path| {
            if masked {
                let model = BertMaskedLm::new(config, store.builder()).unwrap();
                read_weights(folder, store).unwrap();
                model.loss(&input, &positions(), &positions(), mode).unwrap();
                BertMaskedLm::new(config, store.frozen().unwrap())
                    .unwrap()
                    .logits(&input, &positions(), Mode::Eval)
                    .unwrap()
            } else {
                let model = BertClassifier::new(config, 3, store.builder()).unwrap();
                read_weights(folder, store).unwrap();
                model.logits(&input, mode).unwrap();
                BertClassifier::new(config, 3, store.frozen().unwrap())
                    .unwrap()
                    .logits(&input, Mode::Eval)
                    .unwrap()
            }
        };
        let store_of_method = store();
        let ours = run(&store_of_method, &config, &fixture(kind));
        let folder = root.as_deref().unwrap_or(temporary.path()).join(name);
        export(&folder, &config, &head, &store_of_method).unwrap();
        if root.is_some() {
            let tensors = [("logits".to_string(), ours)];
            save_tensors(&folder.join("expected.safetensors"), tensors, &BTreeMap::new()).unwrap();
            continue;
        }
        let d = distance(&ours, &recorded.as_ref().unwrap()[name]).unwrap();
        assert!(d < FOLD_TOLERANCE, "{name}: transformers, {d:e}");
        let plain = read_config(&folder).unwrap();
        assert_eq!(plain.conditioning.method, Method::None);
        if masked {
            // Its decoder is the raw word table, its word table the folded one.
            let other = store();
            BertMaskedLm::new(&plain, other.builder()).unwrap();
            let error = read_weights(&folder, &other).unwrap_err().to_string();
            assert!(error.contains("multiplies with the word table"), "{error}");
        } else {
            let d = distance(&run(&store(), &plain, &folder), &ours).unwrap();
            assert!(d < FOLD_TOLERANCE, "{name}: read here, {d:e}");
        }
    }
}

/// The encoder lies at `bert.` where this crate builds it, and at the root where a user does.
#[test]
fn an_encoder_alone_folds_wherever_it_lies() {
    for prefix in ["bert", ""] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = read_config(&fixture("base")).unwrap();
        config.conditioning = Method::LearnedMap.into();
        let hidden = |config: &BertConfig, store: &Store, folder: Option<&Path>| {
            let vb = store.builder();
            let vb = if prefix.is_empty() { vb } else { vb.pp(prefix) };
            let bert = Bert::new(config, vb).unwrap();
            match folder {
                Some(folder) => drop(read_weights(folder, store).unwrap()),
                None => learn_map(store),
            }
            bert.hidden(&BertInput::new(input().ids).unwrap(), Mode::Eval).unwrap()
        };
        let first = store();
        let ours = hidden(&config, &first, None);
        if prefix.is_empty() {
            let error = export(folder.path(), &config, &Head::MaskedLm, &first).unwrap_err();
            assert!(error.to_string().contains("the model has no head"), "{error}");
        }
        export(folder.path(), &config, &Head::None, &first).unwrap();
        let plain = read_config(folder.path()).unwrap();
        assert!(plain.conditioning.is_plain());
        let d = distance(&hidden(&plain, &store(), Some(folder.path())), &ours).unwrap();
        assert!(d < FOLD_TOLERANCE, "{prefix:?}: {d:e}");
    }
}

#[test]
fn a_conditioned_bert_goes_on_where_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = read_config(&fixture("classifier")).unwrap();
    config.conditioning = ConditioningConfig {
        method: Method::pooled(1.0).unwrap(),
        placement: Placement::AfterNorm,
        ramp_steps: 5,
        ..Default::default()
    };
    let first = store();
    let model = BertClassifier::new(&config, 3, first.builder()).unwrap();
    model.logits(&input(), Mode::train(0, 0)).unwrap();
    write(folder.path(), &config, &labels(), &first).unwrap();
    let error = export(folder.path(), &config, &labels(), &first).unwrap_err().to_string();
    assert!(error.contains("front of the layer norm"), "{error}");
    config.conditioning.ramp_steps = 0;
    assert_eq!(read_config(folder.path()).unwrap(), config);
    let second = store();
    let again = BertClassifier::new(&config, 3, second.builder()).unwrap();
    let loaded = read_weights(folder.path(), &second).unwrap();
    assert!(loaded.fresh.is_empty(), "{loaded:?}");
    let logits = |model: &BertClassifier| model.logits(&input(), Mode::Eval).unwrap();
    assert_eq!(distance(&logits(&again), &logits(&model)).unwrap(), 0.0);
}

/// A copy of the classifier's folder with other settings or tensors, and the error of reading it.
fn refused(change: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("classifier").join(file), folder.path().join(file)).unwrap();
    }
    change(folder.path());
    let config = match read_config(folder.path()) {
        Err(error) => return error.to_string(),
        Ok(config) => config,
    };
    let store = store();
    BertClassifier::new(&config, 3, store.builder()).unwrap();
    read_weights(folder.path(), &store).unwrap_err().to_string()
}

#[test]
fn a_folder_that_is_no_bert_is_refused_by_name() {
    let set = |key: &'static str, value: serde_json::Value| {
        move |folder: &Path| {
            let path = folder.join("config.json");
            let mut json: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            json[key] = value.clone();
            std::fs::write(&path, json.to_string()).unwrap();
        }
    };
    let without =
        |file: &'static str| move |folder: &Path| std::fs::remove_file(folder.join(file)).unwrap();
    let tensors = |change: fn(&mut BTreeMap<String, Tensor>)| {
        move |folder: &Path| {
            let path = folder.join("model.safetensors");
            let mut tensors = load_tensors(&path, &Device::Cpu).unwrap();
            change(&mut tensors);
            save_tensors(&path, tensors, &BTreeMap::new()).unwrap();
        }
    };
    let cases: [(String, &[&str]); 8] = [
        (refused(without("config.json")), &["config.json"]),
        (refused(without("model.safetensors")), &["no weights", "pytorch_model.bin"]),
        (refused(set("model_type", "roberta".into())), &["`model_type` is \"roberta\"", "BERT"]),
        (refused(set("hidden_act", "relu".into())), &["`hidden_act` is \"relu\""]),
        (refused(set("num_attention_heads", 3.into())), &["3 heads do not divide width 8"]),
        (refused(set("vocab_size", 20.into())), &["word_embeddings.weight", "[19, 8]", "[20, 8]"]),
        (
            refused(tensors(|t| drop(t.remove("bert.embeddings.LayerNorm.weight")))),
            &["missing bert.embeddings.LayerNorm.weight"],
        ),
        (
            refused(tensors(|t| {
                let extra = t["classifier.bias"].copy().unwrap();
                t.insert("bert.encoder.layer.9.x".into(), extra);
            })),
            &["unexpected encoder.layer.9.x"],
        ),
    ];
    for (error, wanted) in cases {
        for part in wanted {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
