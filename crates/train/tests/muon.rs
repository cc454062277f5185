//! Muon against torch's, its state, and the matrices at the edge.

use std::collections::BTreeMap;
use std::path::Path;

use candle_conditioning::Polar;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use conditioned_nn::store::load_tensors;
use conditioned_train::{Group, Muon, MuonConfig, Packed, TrainError, UpdateScale};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::support::{assert_close, noise, values};

/// Rounding of f64 in ten steps; U V^T magnifies that of a gradient by its condition number, here some tens.
const F64: f64 = 1e-11;

/// An update is at most 1e-6 of it off, its tolerance; ten of them are at most 0.15 long.
const ITERATIVE: f64 = 1e-4;

/// The settings of `make_muon_fixture.py`.
#[derive(Deserialize)]
struct Settings {
    pull: f64,
    momentum: f64,
    decay: BTreeMap<String, f64>,
    rates: Vec<f64>,
}

fn group(name: &str, weight_decay: f64) -> Group {
    Group { names: vec![name.to_string()], weight_decay, rate: 1.0 }
}

/// An optimiser of one matrix of its own, and the matrix.
fn single(start: &Tensor, config: MuonConfig) -> (Muon, Var) {
    let var = Var::from_tensor(start).unwrap();
    let parameters = [("w".to_string(), var.clone())];
    (Muon::new(&parameters, &[group("w", 0.1)], config).unwrap(), var)
}

fn gradient(var: &Var, grad: &Tensor) -> GradStore {
    let mut grads = GradStore::default();
    grads.insert(var, grad.clone());
    grads
}

fn random(seed: usize, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| noise(seed * 1000 + i)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn muon_follows_torch() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/muon.safetensors"));
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let settings = &header.metadata().as_ref().unwrap()["fixture"];
    let settings: Settings = serde_json::from_str(settings).unwrap();
    let fixture = load_tensors(path, &Device::Cpu).unwrap();
    let ways = [(Polar::Exact, F64), (Polar::Iterative { tolerance: 1e-6 }, ITERATIVE)];
    let scales = [(UpdateScale::Original, "original"), (UpdateScale::MatchAdamw, "match-adamw")];
    for ((polar, tolerance), (scale, label)) in
        ways.iter().flat_map(|way| scales.map(|s| (*way, s)))
    {
        for (nesterov, form) in [(true, "nesterov"), (false, "plain")] {
            let momentum = settings.momentum;
            let config = MuonConfig { momentum, nesterov, scale, polar, ..MuonConfig::default() };
            let parameters: Vec<_> = (settings.decay.keys())
                .map(|name| {
                    (name.clone(), Var::from_tensor(&fixture[&format!("start.{name}")]).unwrap())
                })
                .collect();
            let groups: Vec<_> =
                settings.decay.iter().map(|(name, decay)| group(name, *decay)).collect();
            let mut muon = Muon::new(&parameters, &groups, config).unwrap();
            for (step, rate) in settings.rates.iter().enumerate() {
                let mut grads = GradStore::default();
                for (name, var) in &parameters {
                    let noise = fixture[&format!("noise.{name}")].get(step).unwrap();
                    let pull = (var.as_detached_tensor() * settings.pull).unwrap();
                    // Half of the gradient, and a factor of two on the way.
                    grads.insert(var, ((noise + pull).unwrap() * 0.5).unwrap());
                }
                muon.step(&grads, *rate, 2.0).unwrap();
            }
            for (name, var) in &parameters {
                let wanted = values(&fixture[&format!("{label}.{form}.{name}")]);
                assert_close(
                    &format!("{label} {form} {name}"),
                    &values(var),
                    &wanted,
                    0.0,
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn the_state_continues_a_trajectory_to_the_same_bits() {
    let (start, config) = (random(1, &[6, 2, 2]), MuonConfig::default());
    let (mut first, var) = single(&start, config.clone());
    first.step(&gradient(&var, &random(2, &[6, 2, 2])), 0.1, 1.0).unwrap();
    let (saved, middle) = (first.tensors().unwrap(), var.as_detached_tensor().copy().unwrap());
    assert_eq!((saved[0].0.as_str(), saved[0].1.dims()), ("w.momentum_buffer", &[6, 2, 2][..]));
    first.step(&gradient(&var, &random(3, &[6, 2, 2])), 0.1, 1.0).unwrap();

    let (mut second, again) = single(&middle, config);
    second.load(1, |_, _| Ok(saved[0].1.clone())).unwrap();
    second.step(&gradient(&again, &random(3, &[6, 2, 2])), 0.1, 1.0).unwrap();
    assert_eq!((second.steps(), values(&again)), (2, values(&var)));
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let result = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let parameters: Vec<_> = (0..5)
                .map(|i| {
                    let start = random(i, &[20 + i, 30]).to_dtype(DType::F32).unwrap();
                    (format!("w{i}"), Var::from_tensor(&start).unwrap())
                })
                .collect();
            let groups: Vec<_> = parameters.iter().map(|(name, _)| group(name, 0.1)).collect();
            let mut muon = Muon::new(&parameters, &groups, MuonConfig::default()).unwrap();
            for _ in 0..3 {
                let mut grads = GradStore::default();
                for (_, var) in &parameters {
                    grads.insert(var, (var.as_detached_tensor() * 9.0).unwrap().sin().unwrap());
                }
                muon.step(&grads, 0.02, 0.7).unwrap();
            }
            parameters.iter().flat_map(|(_, var)| values(var)).collect::<Vec<_>>()
        })
    };
    assert_eq!(result(1), result(2));
}

/// Queries, keys and values (2, 3) each, in the three ways that models pack them.
#[test]
fn packed_matrices_move_as_if_each_were_alone() {
    let [start, grad] = [1, 2].map(|seed| random(seed, &[3, 2, 3]));
    // Side by side each is a matrix of three rows and two columns, whose update has another size.
    let alone = |axis: usize| -> Tensor {
        let as_packed = |t: &Tensor| match axis {
            0 => t.clone(),
            _ => t.t().unwrap().contiguous().unwrap(),
        };
        let moved = (0..3).map(|i| {
            let [start, grad] = [&start, &grad].map(|t| as_packed(&t.get(i).unwrap()));
            let (mut muon, var) = single(&start, MuonConfig::default());
            muon.step(&gradient(&var, &grad), 0.1, 1.0).unwrap();
            as_packed(&var.as_detached_tensor())
        });
        Tensor::stack(&moved.collect::<Vec<_>>(), 0).unwrap()
    };
    let rows = |t: &Tensor| t.reshape((6, 3)).unwrap();
    let columns = |t: &Tensor| rows(t).t().unwrap().contiguous().unwrap();
    // Two heads, each with one row of every matrix.
    let heads = |t: &Tensor| t.transpose(0, 1).unwrap().reshape((6, 3)).unwrap();
    let ways = [(0, 1), (1, 1), (0, 2)];
    for (axis, blocks) in ways {
        let pack = |t: &Tensor| match (axis, blocks) {
            (0, 1) => rows(t),
            (1, 1) => columns(t),
            _ => heads(t),
        };
        let packed = vec![Packed { names: "w*".to_string(), axis, parts: 3, blocks }];
        let config = MuonConfig { packed, ..MuonConfig::default() };
        let (mut muon, var) = single(&pack(&start), config);
        muon.step(&gradient(&var, &pack(&grad)), 0.1, 1.0).unwrap();
        let case = format!("axis {axis}, {blocks} blocks");
        assert_close(&case, &values(&var), &values(&pack(&alone(axis))), F64, 0.0);
    }
    let packed = vec![Packed { names: "w".to_string(), axis: 1, parts: 2, blocks: 1 }];
    let parameters = [("w".to_string(), Var::from_tensor(&rows(&start)).unwrap())];
    let config = MuonConfig { packed, ..MuonConfig::default() };
    let error = Muon::new(&parameters, &[group("w", 0.0)], config).unwrap_err();
    assert!(error.to_string().contains("`w` (6, 3) cannot be divided along axis 1"), "{error}");
}

#[test]
fn without_a_rate_nothing_moves_and_without_a_gradient_nothing_but_decay() {
    let start = random(1, &[4, 3]);
    let (mut muon, var) = single(&start, MuonConfig::default());
    muon.step(&gradient(&var, &random(2, &[4, 3])), 0.0, 1.0).unwrap();
    assert_eq!(values(&var), values(&start));

    let (mut muon, var) = single(&start, MuonConfig::default());
    muon.step(&gradient(&var, &start.zeros_like().unwrap()), 0.5, 1.0).unwrap();
    assert_eq!(values(&var), values(&(&start * (1.0 - 0.5 * 0.1)).unwrap()));
}

#[test]
fn an_update_has_the_length_of_its_scale_whatever_the_gradient() {
    for (shape, scale, length) in [
        ([4, 9], UpdateScale::Original, 1.0),
        ([8, 2], UpdateScale::Original, 2.0),
        ([1, 5], UpdateScale::Original, 1.0),
        ([5, 1], UpdateScale::MatchAdamw, 0.2 * 5f64.sqrt()),
    ] {
        for size in [1e-6, 1e6] {
            let zero = Tensor::zeros(&shape, DType::F64, &Device::Cpu).unwrap();
            let (mut muon, var) = single(&zero, MuonConfig { scale, ..MuonConfig::default() });
            let grad = (random(5, &shape) * size).unwrap();
            muon.step(&gradient(&var, &grad), 0.1, 1.0).unwrap();
            let norm = values(&var).iter().map(|v| v * v).sum::<f64>().sqrt();
            let rank = shape[0].min(shape[1]) as f64;
            assert_close("norm", &[norm], &[0.1 * length * rank.sqrt()], F64, 0.0);
        }
    }
}

#[test]
fn what_it_cannot_train_is_refused() {
    let refused = |var: Var, config: MuonConfig| {
        Muon::new(&[("w".to_string(), var)], &[group("w", 0.0)], config).unwrap_err().to_string()
    };
    let vector = Var::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let text = refused(vector, MuonConfig::default());
    assert!(text.contains("`w` is no matrix: give it to AdamW"), "{text}");
    let matrix = |dtype| Var::zeros((2, 2), dtype, &Device::Cpu).unwrap();
    let text = refused(matrix(DType::BF16), MuonConfig::default());
    assert!(text.contains("`w` is BF16, Muon needs f32 or f64"), "{text}");
    let momentum = MuonConfig { momentum: 1.0, ..MuonConfig::default() };
    let text = refused(matrix(DType::F32), momentum);
    assert!(text.contains("muon.momentum"), "{text}");

    let (mut muon, var) = single(&random(1, &[2, 2]), MuonConfig::default());
    let error = muon.step(&GradStore::default(), 0.1, 1.0).unwrap_err();
    assert!(matches!(error, TrainError::MissingGradients { names, .. } if names == ["w"]));
    let nan = (random(1, &[2, 2]) * f64::NAN).unwrap();
    assert!(muon.step(&gradient(&var, &nan), 0.1, 1.0).is_err());
    assert_eq!(values(&var), values(&random(1, &[2, 2])));
}
