//! What the parity tests of image models share: a tiny model of timm against ours, in f64 and f32.
//!
//! The fixtures are written by `make_fixture.py` in the folder of each test; `image_parity.py` beside this
//! file lists what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use conditioned_models::Architecture;
use conditioned_models::conditioning::Method;
use conditioned_nn::store::load_tensors;
use conditioned_nn::{Mode, Pass, Store, cross_entropy};

use crate::distance;

/// f64 against PyTorch's f64: roundings of 1e-16 through a few blocks, times kappa of the tiny Gram
/// matrices (below 1e4) in the conditioned arms.
const F64_TOLERANCE: f64 = 1e-10;

/// f32: roundings of 6e-8 through the same, relative to the larger of 1 and the value.
const F32_TOLERANCE: f64 = 1e-4;

/// The arm without conditioning.
const PLAIN: &str = "none";

/// Its logits in evaluation mode, in fixtures that have them.
const EVALUATION: &str = "eval/logits";

/// Compares one arm of the fixture `file` (a path below `tests/suite`): the names of parameters and running
/// statistics, logits, loss, every gradient, the statistics that the pass leaves, and of the arm without
/// conditioning the logits of an evaluation before it.
pub(crate) fn compare(file: &str, arm: &str, config: &impl Architecture) {
    compare_heads(
        file,
        arm,
        |vb| config.build(vb),
        |model, images, pass| Ok(vec![model.forward(images, pass)?]),
    );
}

/// Compares the arms that every fixture has: plain, the method per sequence, and pooled.
pub(crate) fn compare_arms(file: &str, plain: &impl Architecture) {
    let methods = [Method::None, Method::per_sequence(1.0).unwrap(), Method::pooled(0.3).unwrap()];
    for (arm, method) in [PLAIN, "per-sequence", "pooled"].into_iter().zip(methods) {
        let mut config = plain.clone();
        config.set_conditioning(method.into());
        compare(file, arm, &config);
    }
}

/// The names of logits in the fixtures.
const HEADS: [&str; 2] = ["logits", "logits_dist"];

/// The same of a model with one or two heads, whose loss is the mean of their losses and whose logits in an
/// evaluation are their mean.
pub(crate) fn compare_heads<M>(
    file: &str,
    arm: &str,
    build: impl Fn(VarBuilder) -> Result<M>,
    heads: impl Fn(&M, &Tensor, Pass<'_>) -> Result<Vec<Tensor>>,
) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite").join(file);
    let fixture = load_tensors(&path, &Device::Cpu).unwrap();
    for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
        let close = |what: &str, got: &Tensor| {
            let wanted = fixture.get(what).unwrap_or_else(|| panic!("{file} lacks {what}"));
            let d = distance(got, wanted).unwrap();
            assert!(d < tolerance, "{arm} {dtype:?}: {what} differs by {d:e}");
        };
        let store = Store::new(0, dtype, &Device::Cpu);
        let model = build(store.builder()).unwrap();
        let (parameters, running) = (store.parameters(), statistics(&store));
        assign(&parameters, &fixture, "parameter/");
        assign(&running, &fixture, "buffer/");

        let images = fixture["images"].to_dtype(dtype).unwrap();
        if arm == PLAIN && fixture.contains_key(EVALUATION) {
            let logits = heads(&model, &images, Mode::Eval.into()).unwrap();
            close(EVALUATION, &mean(&logits));
        }
        let mode = Mode::train(0, 0);
        let logits = heads(&model, &images, mode.into()).unwrap();
        for (name, logits) in HEADS.iter().zip(&logits) {
            close(&format!("{arm}/{name}"), logits);
        }
        let losses =
            logits.iter().map(|logits| cross_entropy(logits, &fixture["targets"]).unwrap());
        let loss = mean(&losses.collect::<Vec<_>>());
        close(&format!("{arm}/loss"), &loss);
        let grads = loss.backward().unwrap();
        for (name, var) in &parameters {
            close(&format!("{arm}/gradient/{name}"), grads.get(var).expect(name));
        }
        for (name, var) in &running {
            close(&format!("{arm}/buffer_after/{name}"), var);
        }
    }
}

fn mean(tensors: &[Tensor]) -> Tensor {
    Tensor::stack(tensors, 0).unwrap().mean(0).unwrap()
}

/// The running statistics of the model itself, without those of the conditioning, which timm does not have.
fn statistics(store: &Store) -> Vec<(String, Var)> {
    let buffers = store.buffers().into_iter();
    buffers.filter(|(name, _)| !name.starts_with("conditioner.")).collect()
}

/// Gives every tensor its value in the fixture; both must have the same names.
fn assign(tensors: &[(String, Var)], fixture: &BTreeMap<String, Tensor>, prefix: &str) {
    let names: BTreeSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = fixture.keys().filter_map(|key| key.strip_prefix(prefix)).collect();
    let of = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| {
        a.difference(b).copied().map(String::from).collect::<Vec<_>>()
    };
    let (unknown, missing) = (of(&names, &wanted), of(&wanted, &names));
    assert_eq!((unknown, missing), (vec![], vec![]), "{prefix}: unknown to timm, missing here");
    for (name, var) in tensors {
        let value = fixture[&format!("{prefix}{name}")].to_dtype(var.dtype()).unwrap();
        var.set(&value).unwrap();
    }
}
