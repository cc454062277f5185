//! One cell: from its folder to its summary.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::DType;
use conditioned_data::{TextLoaderConfig, Tokenizer};
use conditioned_models::hugging_face::bert;
use conditioned_nn::Store;
use conditioned_train::{Control, Outcome, Run, fit};
use experiments::cells::Cell;
use experiments::classification::Classification;
use experiments::device;
use experiments::encoder::EncoderConfig;
use experiments::folder::Folder;
use experiments::worker::{self, boxed, finite};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;

/// The result of a run: numbers that a repetition gives bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// The evaluation after the last step; a number that is not finite is null.
    pub(crate) metrics: BTreeMap<String, Option<f64>>,
    /// Optimiser steps.
    pub(crate) steps: usize,
    /// Trainable scalars.
    pub(crate) parameters: usize,
}

/// Trains the cell of `folder` to its end; `false` when it was stopped and can be resumed.
///
/// # Errors
/// When anything fails; the last checkpoint stands.
pub(crate) fn train(folder: &Folder) -> Result<bool> {
    worker::train(folder, run_cell, |_: &RunConfig, _, outcome, store| {
        Ok(Summary {
            steps: outcome.step,
            parameters: store.parameter_count(),
            metrics: finite(outcome.metrics),
        })
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
) -> Result<(Outcome, Store)> {
    let (task, store) = start(config)?;
    let outcome = fit(&task, &store, &config.fit, run, control)?;
    Ok((outcome, store))
}

/// A cell before its first step.
///
/// # Errors
/// When checkpoint, tokenizer or texts are not those that the run was planned with.
pub(crate) fn start(config: &RunConfig) -> Result<(Classification, Store)> {
    let device = device::open(&config.device)?;
    config.init.check()?;
    let folder = &config.init.folder;
    let tokenizer = Tokenizer::read(folder)?;
    ensure!(
        tokenizer.vocab_size() <= config.network.vocabulary,
        "{}: the tokenizer knows {} tokens, the model {}: it belongs to another model",
        folder.display(),
        tokenizer.vocab_size(),
        config.network.vocabulary
    );
    ensure!(
        tokenizer.hash() == config.tokenizer,
        "{}: the tokenizer is not the one that this run was planned with; choose another --out",
        folder.display()
    );
    let data = config.data.load(config.is_search())?;
    let store = Store::new(config.cell.seed, DType::F32, &device);
    let network = EncoderConfig::Bert(config.network.clone());
    let training = TextLoaderConfig::training(config.batch_size, config.longest, config.cell.seed);
    let task = Classification::new(&network, &data, &tokenizer, training, &store).map_err(boxed)?;
    bert::read_encoder(folder, &store)?;
    Ok((task, store))
}
