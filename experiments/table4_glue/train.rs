//! One cell: from its folder to its summary.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::DType;
use conditioned_data::TextLoaderConfig;
use conditioned_nn::Store;
use conditioned_nn::store::load_tensors;
use conditioned_train::{Control, Outcome, Run, fit};
use experiments::classification::Classification;
use experiments::device;
use experiments::folder::Folder;
use experiments::worker::{self, boxed, finite};

use crate::cell::{FineTuning, Pretraining, RunConfig, Summary};
use crate::masked::MaskedLanguageModel;

/// Where a finished pre-training leaves its tensors.
fn weights(folder: &Path) -> PathBuf {
    folder.join("model.safetensors")
}

/// Trains the cell of `folder` to its end; `false` when it was stopped and can be resumed.
///
/// # Errors
/// When anything fails; the last checkpoint stands.
pub(crate) fn train(folder: &Folder) -> Result<bool> {
    worker::train(folder, run_cell, |config: &RunConfig, run, outcome, store| {
        if matches!(config, RunConfig::Pretraining(pretraining) if pretraining.test) {
            store.save(&weights(&run.folder), &BTreeMap::new())?;
        }
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
    match config {
        RunConfig::Pretraining(config) => pretrain(config, run, control),
        RunConfig::FineTuning(config) => fine_tune(config, run, control),
    }
}

fn pretrain(
    config: &Pretraining,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<(Outcome, Store)> {
    let device = device::open(&config.device)?;
    let store = Store::new(config.cell.seed, DType::F32, &device);
    let task = MaskedLanguageModel::new(config, &config.text.load()?, &store).map_err(boxed)?;
    let outcome = fit(&task, &store, &config.fit, run, control)?;
    Ok((outcome, store))
}

fn fine_tune(
    config: &FineTuning,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<(Outcome, Store)> {
    config.pretrained.check()?;
    let seed = config.pretraining.cell.seed;
    let store = Store::new(seed, DType::F32, &device::open(&config.pretraining.device)?);
    let tokenizer = config.pretraining.text.load()?.tokenizer;
    let training = TextLoaderConfig::training(config.batch_size, config.longest, seed);
    let (network, texts) = (config.network(), config.task.load()?);
    let task =
        Classification::new(&network, &texts, &tokenizer, training, &store).map_err(boxed)?;
    start_from(&store, &weights(&config.pretrained.folder))?;
    let outcome = fit(&task, &store, &config.fit, run, control)?;
    Ok((outcome, store))
}

/// Gives an encoder the tensors of a pre-training, statistics of its conditioning included; the
/// classifier is new, and the head for masked words stays behind.
fn start_from(store: &Store, file: &Path) -> Result<()> {
    let mut tensors = load_tensors(file, store.device())?;
    tensors.retain(|name, _| !name.starts_with("cls."));
    for (name, var) in store.tensors() {
        if let Entry::Vacant(new) = tensors.entry(name) {
            new.insert(var.as_detached_tensor().copy()?);
        }
    }
    store.assign(file, tensors)?;
    Ok(())
}
