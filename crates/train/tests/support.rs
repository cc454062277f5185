//! A small task whose every part depends on the position in the run, and helpers to run it.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::{Mode, Precision, Store};
use conditioned_train::{
    AdamWConfig, Alone, Batches, Control, Findings, FitConfig, GroupRule, Length, Metrics, Outcome,
    Result, Run, Schedule, Shape, Task, TaskError, fit,
};

/// Samples, features and hidden units of [`Toy`].
const SAMPLES: usize = 20;
const FEATURES: usize = 5;
const HIDDEN: usize = 8;
/// Five batches per epoch: with two per step, the last step of an epoch has only one.
const BATCH: usize = 4;

/// Fails unless `|found - wanted| <= atol + rtol |wanted|` everywhere, NaN included.
pub(crate) fn assert_close(what: &str, found: &[f64], wanted: &[f64], rtol: f64, atol: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}: length");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        let difference = (f - w).abs();
        assert!(
            difference <= atol + rtol * w.abs(),
            "{what}[{i}]: found {f}, wanted {w}, difference {difference:e}"
        );
    }
}

/// All values of a tensor, widened.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The bits of every tensor in a store.
pub(crate) fn bits(store: &Store) -> Vec<(String, Vec<u64>)> {
    let tensors = store.tensors().into_iter();
    tensors.map(|(name, var)| (name, values(&var).iter().map(|v| v.to_bits()).collect())).collect()
}

/// A parameter with these values.
pub(crate) fn parameter(name: &str, values: &[f64]) -> (String, Var) {
    (name.to_string(), Var::new(values, &Device::Cpu).unwrap())
}

/// A pseudo-random number in [-1, 1), the same everywhere.
pub(crate) fn noise(index: usize) -> f64 {
    let mut z = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// A two-layer regression with a table and a running mean; the order of samples depends on the
/// epoch and the input on the forward pass's number, so a resume at the wrong place shows.
pub(crate) struct Toy {
    x: Tensor,
    y: Tensor,
    model: Model,
    /// Micro-batches until the simulated kill.
    pub(crate) fuse: Cell<usize>,
    /// The forward pass whose loss is NaN.
    pub(crate) poison: Option<u64>,
    /// Evaluations until the simulated kill.
    pub(crate) evaluations: Cell<usize>,
    /// Whether the first layer is cut from the graph.
    pub(crate) cut: bool,
}

struct Model {
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    table: Tensor,
    running: Tensor,
}

impl Model {
    fn new(vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let normal = Init::Randn { mean: 0.0, stdev: 0.5 };
        Ok(Self {
            weight: vb.get_with_hints((FEATURES, HIDDEN), "fc.weight", normal)?,
            bias: vb.get_with_hints(HIDDEN, "fc.bias", normal)?,
            out: vb.get_with_hints((HIDDEN, 1), "out.weight", normal)?,
            table: vb.get_with_hints((1, FEATURES), "pos_embed", normal)?,
            running: vb.get_with_hints(FEATURES, "running_mean", Init::Const(0.0))?,
        })
    }

    fn loss(&self, x: &Tensor, y: &Tensor, cut: bool) -> candle_core::Result<Tensor> {
        let [weight, bias] =
            [&self.weight, &self.bias].map(|t| if cut { t.detach() } else { t.clone() });
        let x = x.broadcast_add(&self.table)?.broadcast_sub(&self.running.detach())?;
        let hidden = x.matmul(&weight)?.broadcast_add(&bias)?.tanh()?;
        (hidden.matmul(&self.out)? - y)?.sqr()?.mean_all()
    }
}

impl Toy {
    /// The task over a store.
    pub(crate) fn new(store: &Store) -> Self {
        let x: Vec<f64> = (0..SAMPLES * FEATURES).map(noise).collect();
        let y: Vec<f64> = (0..SAMPLES).map(|i| noise(1000 + i)).collect();
        let vb = store.builder();
        let tensor = |v: Vec<f64>, shape| {
            Tensor::from_vec(v, shape, &Device::Cpu).unwrap().to_dtype(vb.dtype()).unwrap()
        };
        Self {
            x: tensor(x, (SAMPLES, FEATURES)),
            y: tensor(y, (SAMPLES, 1)),
            model: Model::new(&vb).unwrap(),
            fuse: Cell::new(usize::MAX),
            evaluations: Cell::new(usize::MAX),
            poison: None,
            cut: false,
        }
    }
}

impl Task for Toy {
    type Batch = (Tensor, Tensor);

    fn batches_per_epoch(&self) -> usize {
        SAMPLES / BATCH
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Self::Batch>, TaskError> {
        let batch = move |number: usize| {
            let order = (0..BATCH).map(|i| ((number * BATCH + i) * 7 + epoch * 3) % SAMPLES);
            let rows: Vec<u32> = order.map(|row| row as u32).collect();
            let rows = Tensor::new(rows, &Device::Cpu)?;
            Ok((self.x.index_select(&rows, 0)?, self.y.index_select(&rows, 0)?))
        };
        Ok(Box::new((first..self.batches_per_epoch()).step_by(every).map(batch)))
    }

    fn loss(&self, (x, y): &Self::Batch, mode: Mode) -> Result<Tensor, TaskError> {
        let Mode::Train { seed, step, .. } = mode else {
            return Err("not in training mode".into());
        };
        burn(&self.fuse)?;
        let x = (x * (1.0 + 0.1 * noise(seed as usize + step as usize)))?;
        let loss = self.model.loss(&x, y, self.cut)?;
        let moved = ((&self.model.running * 0.9)? + (x.mean(0)? * 0.1)?)?.detach();
        Var::from_tensor(&self.model.running)?.set(&moved)?;
        Ok(if self.poison == Some(step) { (loss * f64::NAN)? } else { loss })
    }

    fn evaluate(&self, weights: VarBuilder<'static>, _: bool) -> Result<Metrics, TaskError> {
        burn(&self.evaluations)?;
        let loss = Model::new(&weights)?.loss(&self.x, &self.y, false)?;
        if loss.track_op() {
            return Err("evaluation builds a graph".into());
        }
        let loss = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(Metrics::from([("loss".to_string(), loss), ("never".to_string(), f64::NAN)]))
    }

    /// The norm of the first weight, and a spectrum that is none.
    fn probe(&self, weights: VarBuilder<'static>) -> Result<Findings, TaskError> {
        let weight = Model::new(&weights)?.weight.to_dtype(DType::F64)?;
        let norm = weight.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
        Ok(Findings {
            metrics: Metrics::from([
                ("norm".to_string(), norm),
                ("kappa".to_string(), f64::INFINITY),
            ]),
            spectra: [("weight".to_string(), vec![norm as f32, 0.0])].into(),
        })
    }
}

/// Counts down to the simulated kill.
fn burn(fuse: &Cell<usize>) -> Result<(), TaskError> {
    let left = fuse.get().checked_sub(1).ok_or("killed")?;
    fuse.set(left);
    Ok(())
}

/// Nine steps: three epochs of two full steps and a short one.
pub(crate) fn config() -> FitConfig {
    FitConfig {
        length: Length::Epochs(3),
        accumulate: 2,
        ramp: 0.0,
        schedule: Schedule { peak: 0.05, shape: Shape::Cosine { warmup: 0.2, floor: 0.1 } },
        adamw: AdamWConfig::default(),
        muon: None,
        groups: GroupRule { table_rate: 2.0, ..GroupRule::new(0.05, ["*pos_embed"]) },
        clip: Some(0.5),
        ema: Some(0.9),
        evaluate_every: 1,
        checkpoint_every: 1,
        probe_every: None,
        precision: Precision::Full,
        seed: 11,
    }
}

/// Seven steps of 3, 1, 2, 2, 3, 1 and 1 micro-batches: evaluations after 4, 8, 12 and 13, checkpoints
/// after 6, 12 and 13, and steps that begin in one epoch of the data (5 or 10 batches) and end in the
/// next. A probe after 0, 2, 4, 6 and 7 steps.
pub(crate) fn by_micro_batches() -> FitConfig {
    FitConfig {
        length: Length::MicroBatches(13),
        accumulate: 3,
        evaluate_every: 4,
        checkpoint_every: 6,
        probe_every: Some(2),
        ..config()
    }
}

/// A fresh store, as a new process has it.
pub(crate) fn store() -> Store {
    Store::new(3, DType::F32, &Device::Cpu)
}

/// The run in `folder`.
pub(crate) fn run(folder: &Path) -> Run {
    Run { folder: folder.to_path_buf(), identity: "toy".to_string() }
}

/// Trains; the stop flag is raised after step `stop_at`.
pub(crate) fn train<T: Task>(
    task: &T,
    store: &Store,
    config: &FitConfig,
    folder: &Path,
    stop_at: Option<usize>,
) -> Result<Outcome> {
    let stop = AtomicBool::new(false);
    let mut progress = |progress: conditioned_train::Progress| {
        stop.store(Some(progress.step) == stop_at, Ordering::Relaxed);
    };
    let mut control = Control { stop: &stop, progress: &mut progress, collective: &Alone };
    fit(task, store, config, &run(folder), &mut control)
}
