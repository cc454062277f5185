//! Ten steps of `fit` against ten steps of `torch.optim.AdamW`, recorded by `make_fixture.py`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::store::load_tensors;
use conditioned_nn::{Mode, Store};
use conditioned_train::{Batches, Event, FitConfig, Metrics, Task, TaskError, record};
use safetensors::SafeTensors;
use tempfile::tempdir;

use crate::support::{assert_close, run, train, values};

/// Two orders of summation in f32: a few units of 6e-8, over ten steps.
const F32: f64 = 2e-6;
/// Nothing but rounding in f64, over ten steps.
const F64: f64 = 1e-13;

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/adamw.safetensors"))
}

fn settings() -> FitConfig {
    let bytes = std::fs::read(path()).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let fixture = &header.metadata().as_ref().unwrap()["fixture"];
    let mut fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
    serde_json::from_value(fixture["config"].take()).unwrap()
}

/// The two-layer MLP of the script, on its recorded batches.
struct Mlp {
    x: Tensor,
    y: Tensor,
    weights: BTreeMap<String, Tensor>,
}

impl Mlp {
    fn new(fixture: &BTreeMap<String, Tensor>, store: &Store, dtype: DType) -> Self {
        let vb = store.builder();
        let mut weights = BTreeMap::new();
        for (name, start) in fixture {
            let Some(name) = name.strip_prefix("start.") else { continue };
            weights.insert(
                name.to_string(),
                vb.get_with_hints(start.shape(), name, Init::Const(0.0)).unwrap(),
            );
            store.get(name).unwrap().set(&start.to_dtype(dtype).unwrap()).unwrap();
        }
        let data = |name: &str| fixture[name].to_dtype(dtype).unwrap();
        Self { x: data("x"), y: data("y"), weights }
    }
}

impl Task for Mlp {
    type Batch = usize;

    fn batches_per_epoch(&self) -> usize {
        self.x.dims()[0]
    }

    fn batches(
        &self,
        _: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, usize>, TaskError> {
        Ok(Box::new((first..self.batches_per_epoch()).step_by(every).map(Ok)))
    }

    fn loss(&self, &batch: &usize, _: Mode) -> Result<Tensor, TaskError> {
        let w = &self.weights;
        let layer = |x: &Tensor, name: &str| {
            let weight = w[&format!("{name}.weight")].t()?;
            x.broadcast_matmul(&weight)?.broadcast_add(&w[&format!("{name}.bias")])
        };
        let tokens = self.x.get(batch)?.broadcast_add(&w["pos_embed"])?;
        let out = layer(&layer(&tokens, "fc1")?.tanh()?, "fc2")?;
        Ok((out - self.y.get(batch)?)?.sqr()?.mean_all()?)
    }

    fn evaluate(&self, _: VarBuilder<'static>, _: bool) -> Result<Metrics, TaskError> {
        Ok(Metrics::new())
    }
}

fn compare(label: &str, dtype: DType, tolerance: f64) {
    let fixture = load_tensors(path(), &Device::Cpu).unwrap();
    let store = Store::new(0, dtype, &Device::Cpu);
    let task = Mlp::new(&fixture, &store, dtype);
    let folder = tempdir().unwrap();
    train(&task, &store, &settings(), folder.path(), None).unwrap();

    let (mut losses, mut rates, mut norms) = (Vec::new(), Vec::new(), Vec::new());
    for event in record::read(&run(folder.path()).metrics()).unwrap() {
        if let Event::Step { loss, rate, grad_norm, .. } = event {
            losses.push(loss);
            rates.push(rate);
            norms.push(grad_norm);
        }
    }
    let wanted = |name: &str| values(&fixture[&format!("{label}.{name}")]);
    assert_close("rates", &rates, &wanted("rates"), F64, 0.0);
    assert_close("losses", &losses, &wanted("losses"), tolerance, 0.0);
    assert_close("norms", &norms, &wanted("norms"), tolerance, 0.0);
    for (name, var) in store.parameters() {
        let final_value = wanted(&format!("final.{name}"));
        assert_close(&name, &values(&var), &final_value, tolerance, tolerance);
    }
}

#[test]
fn adamw_follows_torch_in_f32() {
    compare("f32", DType::F32, F32);
}

#[test]
fn adamw_follows_torch_in_f64() {
    compare("f64", DType::F64, F64);
}
