//! The optimiser against a scalar oracle, its state, its groups.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use conditioned_train::{AdamW, AdamWConfig, Group, TrainError};

use crate::support::{assert_close, noise, parameter, values};

/// Twenty steps of a dozen roundings each.
const ROUNDING: f64 = 1e-14;
const STEPS: usize = 20;
/// More than one parallel chunk (16,384), with a rest.
const LARGE: usize = 40_001;

fn group(names: &[&str], weight_decay: f64, rate: f64) -> Group {
    Group { names: names.iter().map(|name| (*name).to_string()).collect(), weight_decay, rate }
}

/// Algorithm 2 of the paper on one scalar, as written there.
struct Oracle {
    theta: f64,
    m: f64,
    v: f64,
    t: i32,
}

impl Oracle {
    fn step(&mut self, g: f64, rate: f64, weight_decay: f64, c: AdamWConfig) {
        self.t += 1;
        self.m = c.beta1 * self.m + (1.0 - c.beta1) * g;
        self.v = c.beta2 * self.v + (1.0 - c.beta2) * g * g;
        let m_hat = self.m / (1.0 - c.beta1.powi(self.t));
        let v_hat = self.v / (1.0 - c.beta2.powi(self.t));
        self.theta -= rate * (m_hat / (v_hat.sqrt() + c.eps) + weight_decay * self.theta);
    }
}

fn gradients(pairs: &[(&Var, Tensor)]) -> GradStore {
    let mut grads = GradStore::default();
    for (var, grad) in pairs {
        grads.insert(var, grad.clone());
    }
    grads
}

#[test]
fn every_element_follows_the_scalar_algorithm() {
    let config = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-6 };
    let start = [0.5, -2.0, 0.0];
    let (a, b) = (parameter("a", &start), parameter("b", &start));
    let groups = [group(&["a"], 0.1, 1.0), group(&["b"], 0.0, 3.0)];
    let mut optimizer = AdamW::new(&[a.clone(), b.clone()], &groups, config).unwrap();
    let oracle = |theta| Oracle { theta, m: 0.0, v: 0.0, t: 0 };
    let mut wanted = [start.map(oracle), start.map(oracle)];
    for step in 0..STEPS {
        let (rate, scale) = (0.1 / (step + 1) as f64, 0.5 + 0.02 * step as f64);
        let g: Vec<f64> = (0..3).map(|i| noise(step * 3 + i)).collect();
        let grad = Tensor::new(g.as_slice(), &Device::Cpu).unwrap();
        let grads = gradients(&[(&a.1, grad.clone()), (&b.1, grad)]);
        optimizer.step(&grads, rate, scale).unwrap();
        for (i, g) in g.iter().enumerate() {
            wanted[0][i].step(g * scale, rate, 0.1, config);
            wanted[1][i].step(g * scale, rate * 3.0, 0.0, config);
        }
    }
    for ((name, var), oracle) in [a, b].iter().zip(wanted) {
        let wanted = oracle.map(|o| o.theta);
        assert_close(name, &values(var), &wanted, ROUNDING, ROUNDING);
    }
}

#[test]
fn a_transposed_gradient_is_read_in_logical_order() {
    let cpu = &Device::Cpu;
    let rows = Tensor::new(&[[0.1f64, -0.2, 0.3], [0.4, 0.5, -0.6]], cpu).unwrap();
    let step = |grad: Tensor| {
        let var = Var::zeros((2, 3), DType::F64, cpu).unwrap();
        let groups = [group(&["w"], 0.0, 1.0)];
        let parameters = [("w".to_string(), var.clone())];
        let config = AdamWConfig { eps: 1.0, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(&parameters, &groups, config).unwrap();
        optimizer.step(&gradients(&[(&var, grad)]), 0.1, 1.0).unwrap();
        values(&var)
    };
    let strided = rows.t().unwrap().contiguous().unwrap().t().unwrap();
    assert!(!strided.is_contiguous());
    assert_eq!(step(strided), step(rows));
}

#[test]
fn large_parameters_do_not_depend_on_the_number_of_threads() {
    let result = |threads| {
        conditioned_threads::with_count(threads, || {
            let start: Vec<f32> = (0..LARGE).map(|i| noise(i) as f32).collect();
            let var = Var::new(start.as_slice(), &Device::Cpu).unwrap();
            let groups = [group(&["w"], 0.1, 1.0)];
            let parameters = [("w".to_string(), var.clone())];
            let mut optimizer = AdamW::new(&parameters, &groups, AdamWConfig::default()).unwrap();
            for _ in 0..3 {
                let grad = var.as_detached_tensor().sin().unwrap();
                optimizer.step(&gradients(&[(&var, grad)]), 0.01, 0.9).unwrap();
            }
            var.to_vec1::<f32>().unwrap()
        })
    };
    let (one, two) = (result(1), result(2));
    assert!(one.iter().zip(&two).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(one.iter().all(|value| value.is_finite()));
}

#[test]
fn the_state_continues_a_trajectory_to_the_same_bits() {
    let grad = |step: usize| {
        let g: Vec<f64> = (0..4).map(|i| noise(step * 4 + i)).collect();
        Tensor::new(g, &Device::Cpu).unwrap()
    };
    let groups = [group(&["w"], 0.1, 1.0)];
    let (name, var) = parameter("w", &[1.0, 2.0, 3.0, 4.0]);
    let parameters = [(name, var.clone())];
    let mut first = AdamW::new(&parameters, &groups, AdamWConfig::default()).unwrap();
    let mut second = AdamW::new(&parameters, &groups, AdamWConfig::default()).unwrap();
    first.step(&gradients(&[(&var, grad(0))]), 0.1, 1.0).unwrap();

    let saved = first.tensors().unwrap();
    let names: Vec<&str> = saved.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["w.exp_avg", "w.exp_avg_sq"]);
    let middle = var.as_detached_tensor().copy().unwrap();
    first.step(&gradients(&[(&var, grad(1))]), 0.1, 1.0).unwrap();
    let wanted = values(&var);

    var.set(&middle).unwrap();
    let take = |name: &str, _: &Tensor| {
        Ok(saved.iter().find(|(other, _)| other == name).unwrap().1.clone())
    };
    second.load(1, take).unwrap();
    second.step(&gradients(&[(&var, grad(1))]), 0.1, 1.0).unwrap();
    assert_eq!(second.steps(), 2);
    assert_eq!(values(&var), wanted);
}

#[test]
fn groups_must_hold_every_parameter_once() {
    let parameters = [parameter("a", &[1.0]), parameter("b", &[1.0])];
    let error = |groups: &[Group]| {
        AdamW::new(&parameters, groups, AdamWConfig::default()).unwrap_err().to_string()
    };
    let one = [group(&["a"], 0.0, 1.0)];
    assert_eq!(error(&one), "parameter groups: in no group: b");
    let three = [group(&["a", "b"], 0.0, 1.0), group(&["b", "c"], 0.1, 1.0)];
    assert_eq!(error(&three), "parameter groups: in more than one group: b; not a parameter: c");
}

#[test]
fn a_parameter_without_gradient_and_half_precision_are_refused() {
    let (name, var) = parameter("w", &[1.0]);
    let groups = [group(&["w"], 0.0, 1.0)];
    let mut optimizer = AdamW::new(&[(name, var)], &groups, AdamWConfig::default()).unwrap();
    let error = optimizer.step(&GradStore::default(), 0.1, 1.0).unwrap_err();
    assert!(matches!(error, TrainError::MissingGradients { names, .. } if names == ["w"]));

    let half = Var::zeros(2, DType::BF16, &Device::Cpu).unwrap();
    let error = AdamW::new(&[("w".to_string(), half)], &groups, AdamWConfig::default());
    assert!(error.unwrap_err().to_string().contains("needs f32 or f64"));
}
