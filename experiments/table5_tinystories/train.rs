//! One cell: from its folder to its summary.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device};
use conditioned_data::Windows;
use conditioned_models::generate::Sampling;
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::hugging_face::gpt2;
use conditioned_nn::Store;
use conditioned_train::{Control, Outcome, Run, TaskError, fit};
use experiments::cells::Cell;
use experiments::corpus::Text;
use experiments::device;
use experiments::folder::Folder;
use experiments::worker::{self, boxed, finite};
use serde::{Deserialize, Serialize};

use crate::cell::{RunConfig, Scale};
use crate::model::continued;
use crate::task::{LanguageModel, median_kappa};

/// The result of a run: numbers that a repetition gives bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// The last evaluation; a number that is not finite is null.
    pub(crate) metrics: BTreeMap<String, Option<f64>>,
    /// Optimiser steps.
    pub(crate) steps: usize,
    /// The deviation that the token table started with.
    pub(crate) token_std: f64,
    /// The deviation that the position table started with.
    pub(crate) position_std: f64,
    /// Trainable scalars.
    pub(crate) parameters: usize,
    /// What the model wrote.
    pub(crate) story: Option<String>,
}

/// What a finished run leaves beside its outcome.
pub(crate) struct Trained {
    /// Its tensors.
    pub(crate) store: Store,
    /// The network that was trained.
    pub(crate) network: Gpt2Config,
    /// Its text.
    pub(crate) text: Text,
}

/// The temperature of the story in the report.
const STORY_TEMPERATURE: f64 = 0.8;

/// Trains the cell of `folder` to its end; `false` when it was stopped and can be resumed.
///
/// # Errors
/// When anything fails; the last checkpoint stands.
pub(crate) fn train(folder: &Folder) -> Result<bool> {
    worker::train(folder, run_cell, summarise)
}

fn summarise(
    config: &RunConfig,
    _: &Run,
    outcome: Outcome,
    Trained { store, network, text }: Trained,
) -> Result<Summary> {
    let model = Gpt2::new(&network, store.frozen()?)?;
    let sampling = Sampling {
        temperature: STORY_TEMPERATURE,
        seed: config.cell.seed,
        stop: Some(text.tokenizer.end_of_text()),
        ..Sampling::default()
    };
    let story = match config.is_search() {
        true => None,
        false => Some(continued(&model, &text.tokenizer, &config.measure.prompt, &sampling)?),
    };
    Ok(Summary {
        steps: outcome.step,
        token_std: network.token_std,
        position_std: network.position_std,
        parameters: store.parameter_count(),
        metrics: finite(outcome.metrics),
        story,
    })
}

/// Builds the task of a configuration and trains it in `run`.
///
/// # Errors
/// When anything fails.
pub(crate) fn run_cell(
    config: &RunConfig,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<(Outcome, Trained)> {
    let device = device::open(&config.device)?;
    let text = config.data.text.load()?;
    let network = match config.scale {
        Scale::Given => config.network.clone(),
        Scale::SmallestKappa => smallest_kappa(config, &text, &device).map_err(boxed)?,
    };
    let store = Store::new(config.cell.seed, DType::F32, &device);
    if let Some(init) = &config.init {
        init.check()?;
        gpt2::read_weights(&init.folder, &network, &store)?;
    }
    let task = LanguageModel::new(config, network.clone(), &text, &store).map_err(boxed)?;
    let outcome = fit(&task, &store, &config.fit, run, control)?;
    Ok((outcome, Trained { store, network, text }))
}

/// The network with the deviation of the position table that makes kappa of the first batch
/// smallest, among 14 from 0.01 to 0.9 by factors of sqrt(2); the token table keeps its own. (The
/// scale of both together would not change kappa.) kappa tends to that of the position table, so a large
/// one is often chosen: then the positions drown the words.
fn smallest_kappa(
    config: &RunConfig,
    text: &Text,
    device: &Device,
) -> Result<Gpt2Config, TaskError> {
    let (batch, seed) = (config.batch_size, config.cell.seed);
    let windows = Windows::new(text.train.clone(), config.window, batch, seed)?;
    let ids = windows.batch(0, 0, device)?.inputs;
    let mut best = (f64::INFINITY, None);
    for i in 0..14 {
        let position_std = 0.01 * 2f64.powf(0.5 * f64::from(i));
        let network = Gpt2Config { position_std, ..config.network.clone() };
        let store = Store::new(seed, DType::F32, device);
        let kappa = median_kappa(&Gpt2::new(&network, store.builder())?.tokens(&ids)?.plain)?;
        if kappa < best.0 {
            best = (kappa, Some(network));
        }
    }
    best.1.ok_or_else(|| "kappa of the first batch is infinite at every scale".into())
}
