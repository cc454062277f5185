//! One cell: from its folder to its summary.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use candle_core::{DType, Device};
use conditioned_data::Splits;
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_nn::Store;
use conditioned_train::{
    Control, Event, Metrics, Outcome, Run, Status, TaskError, TrainError, fit, record,
};
use experiments::device;
use experiments::folder::Folder;
use experiments::worker::{Progress, Reporter, stop_flag};
use serde::{Deserialize, Serialize};

use crate::cell::{RunConfig, Scale};
use crate::task::{Classification, first_images, median_kappa};

/// The result of a run: numbers that a repetition gives bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// The last evaluation; a number that is not finite is null.
    pub(crate) metrics: BTreeMap<String, Option<f64>>,
    /// Optimiser steps.
    pub(crate) steps: usize,
    /// The first evaluated step at which the tuning accuracy reached the target.
    pub(crate) steps_to_target: Option<usize>,
    /// The deviation that class token and position table started with.
    pub(crate) table_std: f64,
    /// Trainable scalars.
    pub(crate) parameters: usize,
}

impl Summary {
    /// Of a run whose loss became infinite: no metrics.
    fn diverged(table_std: f64) -> Self {
        Self { metrics: BTreeMap::new(), steps: 0, steps_to_target: None, table_std, parameters: 0 }
    }
}

/// Trains the cell of `folder` to its end; `false` when it was stopped and can be resumed.
///
/// # Errors
/// When anything fails; the last checkpoint stands.
pub(crate) fn train(folder: &Folder) -> Result<bool> {
    let _lock = folder.lock()?;
    let config: RunConfig = folder.config()?;
    folder.enter()?;
    let run =
        Run { folder: folder.path().to_path_buf(), identity: serde_json::to_string(&config)? };
    let mut reporter = Reporter::default();
    let mut progress = |p: conditioned_train::Progress| {
        reporter.report(Progress { step: p.step, total: p.total, loss: p.loss });
    };
    let stop = stop_flag()?;
    let mut control = Control { stop: &stop, progress: &mut progress };
    let trained = run_cell(&config, &run, &mut control);
    folder.leave()?;
    let (outcome, store, network) = match trained {
        // A point of a search that diverges is a result: the worst.
        Err(error) if !config.test && is_divergence(&error) => {
            folder.finish(&Summary::diverged(config.network.table_std))?;
            return Ok(true);
        }
        done => done?,
    };
    for checkpoint in &outcome.set_aside {
        eprintln!("a damaged checkpoint was passed over: {}", checkpoint.display());
    }
    if outcome.status == Status::Interrupted {
        return Ok(false);
    }
    folder.finish(&Summary {
        steps: outcome.step,
        steps_to_target: steps_to_target(&run, config.target)?,
        table_std: network.table_std,
        parameters: store.parameter_count(),
        metrics: finite(outcome.metrics),
    })?;
    if !config.test {
        // Of a search only the scores matter; hundreds of checkpoints would stay behind.
        std::fs::remove_dir_all(run.checkpoints())?;
    }
    Ok(true)
}

fn is_divergence(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(TrainError::NonFinite { .. }))
}

/// Builds the task of a configuration and trains it in `run`.
///
/// # Errors
/// When anything fails.
pub(crate) fn run_cell(
    config: &RunConfig,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<(Outcome, Store, VitConfig)> {
    let device = device::open(&config.device)?;
    let splits = config.data.load()?;
    let network = match config.scale {
        Scale::Given => config.network.clone(),
        Scale::SmallestKappa => smallest_kappa(config, &splits, &device).map_err(boxed)?,
    };
    let store = Store::new(config.cell.seed, DType::F32, &device);
    let task = Classification::new(config, network.clone(), &splits, &store).map_err(boxed)?;
    let outcome = fit(&task, &store, &config.fit, run, control)?;
    Ok((outcome, store, network))
}

/// The network with the table deviation that makes kappa of the first batch smallest, among 14
/// from 0.01 to 0.9 by factors of sqrt(2).
///
/// kappa falls with the scale until the tables drown the image, so the best is often the largest;
/// beyond it the truncation at +-2 makes the deviation that is drawn fall behind the one asked for.
fn smallest_kappa(
    config: &RunConfig,
    splits: &Splits,
    device: &Device,
) -> Result<VitConfig, TaskError> {
    let images = first_images(config, splits, device)?;
    let mut best = (f64::INFINITY, None);
    for i in 0..14 {
        let table_std = 0.01 * 2f64.powf(0.5 * f64::from(i));
        let network = VitConfig { table_std, ..config.network.clone() };
        let store = Store::new(config.cell.seed, DType::F32, device);
        let kappa = median_kappa(&Vit::new(&network, store.builder())?.tokens(&images)?.plain)?;
        if kappa < best.0 {
            best = (kappa, Some(network));
        }
    }
    best.1.ok_or_else(|| "kappa of the first batch is infinite at every scale".into())
}

/// The first evaluated step at which the tuning accuracy reached `target`.
fn steps_to_target(run: &Run, target: f64) -> Result<Option<usize>> {
    let events = record::read(&run.metrics())?;
    Ok(events.into_iter().find_map(|event| match event {
        Event::Evaluation { step, metrics, .. } => {
            metrics.get("tune_accuracy").is_some_and(|value| *value >= target).then_some(step)
        }
        _ => None,
    }))
}

fn finite(metrics: Metrics) -> BTreeMap<String, Option<f64>> {
    metrics.into_iter().map(|(name, value)| (name, value.is_finite().then_some(value))).collect()
}

/// A task's error as anyhow's, which does not take boxes.
fn boxed(error: TaskError) -> anyhow::Error {
    anyhow!("{error}")
}
