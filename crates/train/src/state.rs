//! Everything that changes during a run: opened from the newest checkpoint, saved to the next.

use std::path::PathBuf;

use candle_core::Var;
use candle_nn::VarBuilder;
use conditioned_nn::Store;

use crate::checkpoint::Checkpoints;
use crate::collective::Together;
use crate::config::FitConfig;
use crate::ema::Ema;
use crate::error::{Result, TrainError};
use crate::optimizer::Optimizer;
use crate::record::{Event, Recorder};
use crate::run::Run;
use crate::snapshot::Snapshot;
use crate::task::{Findings, Metrics, Task};

// The three parts of a checkpoint's tensor names.
const MODEL: &str = "model";
const OPTIMIZER: &str = "optimizer";
const AVERAGE: &str = "ema";

pub(crate) struct State<'a> {
    store: Store,
    pub(crate) parameters: Vec<(String, Var)>,
    pub(crate) optimizer: Optimizer,
    pub(crate) ema: Option<Ema>,
    together: Together<'a>,
    /// Of the first process.
    recorder: Option<Recorder>,
    checkpoints: Checkpoints,
    pub(crate) step: usize,
    pub(crate) metrics: Metrics,
    pub(crate) set_aside: Vec<PathBuf>,
}

impl<'a> State<'a> {
    /// The state of a new run, or of the newest whole checkpoint in its folder.
    pub(crate) fn open(
        store: &Store,
        config: &FitConfig,
        run: &Run,
        together: Together<'a>,
    ) -> Result<Self> {
        // The first process cleans the folder up before the others read it.
        if !together.leads() {
            together.0.wait()?;
        }
        let state = Self::read(store, config, run, together)?;
        if together.leads() {
            together.0.wait()?;
        }
        together.require_same(state.step, &state.parameters)?;
        Ok(state)
    }

    fn read(store: &Store, config: &FitConfig, run: &Run, together: Together<'a>) -> Result<Self> {
        let parameters = store.parameters();
        if parameters.is_empty() {
            let reason = "has no parameters: build the model over it before training".to_string();
            return Err(TrainError::Config { field: "store", reason });
        }
        let mut optimizer =
            Optimizer::new(&parameters, &config.groups, config.adamw, config.muon.as_ref())?;
        let mut ema = config.ema.map(|decay| Ema::new(store, decay)).transpose()?;
        let checkpoints = Checkpoints::open(&run.checkpoints(), &run.config_hash(config)?)?;
        let (mut step, mut metrics, mut set_aside) = (0, Metrics::new(), Vec::new());
        if let Some(mut snapshot) = checkpoints.latest()? {
            step = snapshot.step;
            metrics = std::mem::take(&mut snapshot.metrics);
            set_aside = std::mem::take(&mut snapshot.set_aside);
            restore(snapshot, store, &mut optimizer, ema.as_mut())?;
        }
        let recorder = match together.leads() {
            true => Some(Recorder::open(&run.metrics(), step)?),
            false => None,
        };
        let store = store.clone();
        Ok(Self {
            together,
            store,
            parameters,
            optimizer,
            ema,
            recorder,
            checkpoints,
            step,
            metrics,
            set_aside,
        })
    }

    /// Appends to the record, which the first process keeps.
    pub(crate) fn record(&mut self, event: &Event) -> Result<()> {
        self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.append(event))
    }

    /// Evaluates the averaged weights if there are any, else the weights, and records the result.
    pub(crate) fn evaluate<T: Task>(&mut self, task: &T, epoch: usize, last: bool) -> Result<()> {
        self.together.require_same(self.step, &self.parameters)?;
        if !self.together.leads() {
            return Ok(());
        }
        let metrics = task.evaluate(self.evaluated()?, last);
        self.metrics = metrics.map_err(TrainError::task(self.step, "evaluate"))?;
        let (step, metrics) = (self.step, self.metrics.clone());
        self.record(&Event::Evaluation { step, epoch, metrics })
    }

    /// Probes what would be evaluated, and records the result.
    pub(crate) fn probe<T: Task>(&mut self, task: &T) -> Result<()> {
        if !self.together.leads() {
            return Ok(());
        }
        let step = self.step;
        let found = task.probe(self.evaluated()?).map_err(TrainError::task(step, "probe"))?;
        let Findings { metrics, spectra } = found;
        self.record(&Event::Probe { step, metrics, spectra })
    }

    /// The averaged weights if there are any, else the weights.
    fn evaluated(&self) -> Result<VarBuilder<'static>> {
        match &self.ema {
            Some(ema) => Ok(ema.builder(&self.store)?),
            None => Ok(self.store.frozen()?),
        }
    }

    /// Writes a checkpoint; the record reaches the disk first, since resuming counts on it.
    pub(crate) fn save(&self) -> Result<()> {
        let Some(recorder) = &self.recorder else { return Ok(()) };
        recorder.sync()?;
        let model = self.store.tensors().into_iter();
        let mut tensors: Vec<_> =
            model.map(|(name, var)| (MODEL, name, var.as_detached_tensor())).collect();
        let moments = self.optimizer.tensors()?.into_iter();
        tensors.extend(moments.map(|(name, tensor)| (OPTIMIZER, name, tensor)));
        if let Some(ema) = &self.ema {
            let averages = ema.tensors().into_iter();
            tensors.extend(averages.map(|(name, tensor)| (AVERAGE, name, tensor)));
        }
        let named = tensors.into_iter().map(|(part, name, t)| (format!("{part}.{name}"), t));
        self.checkpoints.save(self.step, &self.metrics, named.collect())?;
        Ok(())
    }
}

/// Sets everything to a checkpoint, in which nothing may be missing or left over.
fn restore(
    mut snapshot: Snapshot,
    store: &Store,
    optimizer: &mut Optimizer,
    ema: Option<&mut Ema>,
) -> Result<()> {
    let step = snapshot.step;
    for (name, var) in store.tensors() {
        let tensor = snapshot.take(&format!("{MODEL}.{name}"), &var)?;
        var.set(&tensor.to_device(var.device())?)?;
    }
    optimizer.load(step, |name, like| snapshot.take(&format!("{OPTIMIZER}.{name}"), like))?;
    if let Some(ema) = ema {
        ema.load(step, |name, like| snapshot.take(&format!("{AVERAGE}.{name}"), like))?;
    }
    snapshot.finish()
}
