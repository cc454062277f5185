//! A tiny BERT against transformers': padded pairs, hidden states, pooled output, logits, losses and
//! every gradient.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use conditioned_models::Architecture;
use conditioned_models::bert::{BertConfig, BertInput};
use conditioned_models::bert_heads::{BertClassifier, BertMaskedLm};
use conditioned_nn::{Mode, Store};

use crate::distance;

/// f64 against PyTorch's f64: roundings of 1e-16 through two layers.
const F64_TOLERANCE: f64 = 1e-12;

/// f32: roundings of 6e-8 through the same, relative to the larger of 1 and the value.
const F32_TOLERANCE: f64 = 2e-5;

const MODE: Mode = Mode::train(0, 0);

fn config() -> BertConfig {
    BertConfig {
        vocabulary: 19,
        context: 12,
        width: 12,
        depth: 2,
        heads: 3,
        hidden: 20,
        dropout: 0.0,
        ..BertConfig::preset("bert-base-uncased").unwrap()
    }
}

/// The fixture of one model in one precision.
struct Fixture {
    tensors: BTreeMap<String, Tensor>,
    kind: &'static str,
    dtype: DType,
    tolerance: f64,
}

impl Fixture {
    fn each(kind: &'static str, test: impl Fn(&Self)) {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/bert_parity/bert.safetensors");
        let tensors = conditioned_nn::store::load_tensors(&path, &Device::Cpu).unwrap();
        for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
            test(&Self { tensors: tensors.clone(), kind, dtype, tolerance });
        }
    }

    fn input(&self) -> BertInput {
        let get = |name: &str| self.tensors[name].clone();
        BertInput::padded(get("ids"), get("types"), &get("mask")).unwrap()
    }

    fn store(&self) -> Store {
        Store::new(0, self.dtype, &Device::Cpu)
    }

    fn fill(&self, store: &Store) {
        for (name, var) in store.parameters() {
            let value = &self.tensors[&format!("{}/parameter/{name}", self.kind)];
            var.set(&value.to_dtype(self.dtype).unwrap()).unwrap();
        }
    }

    fn close(&self, what: &str, got: &Tensor) {
        let d = distance(got, &self.tensors[&format!("{}/{what}", self.kind)]).unwrap();
        assert!(d < self.tolerance, "{:?}: {what} differs by {d:e}", self.dtype);
    }

    fn gradients(&self, store: &Store, loss: &Tensor) {
        self.close("loss", loss);
        let grads = loss.backward().unwrap();
        let prefix = format!("{}/gradient/", self.kind);
        let count = self.tensors.keys().filter(|key| key.starts_with(&prefix)).count();
        assert_eq!(store.parameters().len(), count);
        for (name, var) in store.parameters() {
            self.close(&format!("gradient/{name}"), grads.get(&var).expect(&name));
        }
    }
}

#[test]
fn a_classifier_equals_that_of_transformers() {
    Fixture::each("classifier", |fixture| {
        let (store, input) = (fixture.store(), fixture.input());
        let model = BertClassifier::new(&config(), 3, store.builder()).unwrap();
        fixture.fill(&store);
        let hidden = model.bert().hidden(&input, MODE).unwrap();
        let expected = &fixture.tensors["classifier/hidden"];
        for (i, &length) in input.padding.as_ref().unwrap().lengths().iter().enumerate() {
            let real = |x: &Tensor| x.get(i).unwrap().narrow(0, 0, length).unwrap();
            assert!(distance(&real(&hidden), &real(expected)).unwrap() < fixture.tolerance);
        }
        fixture.close("pooled", &model.pooled(&input, MODE).unwrap());
        fixture.close("logits", &model.logits(&input, MODE).unwrap());
        let labels = &fixture.tensors["labels"];
        fixture.gradients(&store, &model.loss(&input, labels, MODE).unwrap());
    });
}

#[test]
fn a_masked_language_model_equals_that_of_transformers() {
    Fixture::each("masked", |fixture| {
        let (store, input) = (fixture.store(), fixture.input());
        let model = BertMaskedLm::new(&config(), store.builder()).unwrap();
        fixture.fill(&store);
        let (positions, targets) = (&fixture.tensors["positions"], &fixture.tensors["targets"]);
        fixture.close("logits", &model.logits(&input, positions, MODE).unwrap());
        fixture.gradients(&store, &model.loss(&input, positions, targets, MODE).unwrap());
    });
}
