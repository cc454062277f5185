//! What is looked into: a checkpoint with its input, or a finished run.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use conditioned_models::Architecture;
use conditioned_models::hugging_face;
use conditioned_models::network::Network;
use conditioned_nn::Store;
use conditioned_train::Findings;
use experiments::job::{self, Prober, TaskConfig, WEIGHTS};
use experiments::run::folder::Folder;
use experiments::run::worker::boxed;
use experiments::{hub, probe};

use crate::input;

/// Factors of the embedding tables that are tried.
const FACTORS: [f64; 6] = [0.25, 0.5, 2.0, 4.0, 8.0, 16.0];

/// The tables whose rows are added to patches or words, and tokens that stand for none, by the ends of their names.
const TABLES: [&str; 5] =
    ["pos_embed", "cls_token", "dist_token", "position_embeddings.weight", "wpe.weight"];

/// A model and what it looks at.
pub(crate) struct Subject {
    /// What it is called.
    pub(crate) network: Network,
    /// Its weights.
    pub(crate) store: Store,
    /// What it looks at, in words.
    pub(crate) input: String,
    prober: Prober,
}

impl Subject {
    /// Reads a model, and what it is to look at.
    ///
    /// # Errors
    /// When either cannot be read, or they do not fit each other.
    pub(crate) fn open(model: &Path, file: Option<&Path>) -> Result<Self> {
        let folder = Folder::new(model);
        if folder.is_run() {
            return Self::of_run(&folder, file);
        }
        let folder = hub::model(model)?;
        let store = Store::new(0, DType::F32, &Device::Cpu);
        let network = hugging_face::open(&folder, &store)?;
        let (inputs, input) = input::read(&folder, &network, file)?;
        let network_of = network.clone();
        let prober: Prober = Box::new(move |weights| {
            let model = network_of.build(weights)?;
            let seen = inputs.iter().map(|input: &Tensor| Ok(model.probe(input)?));
            probe::findings(seen).map_err(boxed)
        });
        Ok(Self { network, store, input, prober })
    }

    fn of_run(folder: &Folder, file: Option<&Path>) -> Result<Self> {
        let (config, path) = (folder.config()?, folder.path().display());
        ensure!(
            !matches!(config.job.task, TaskConfig::Detection(_)),
            "{path}: a detector, which `inspect` cannot look into; it takes runs of every table but 2"
        );
        ensure!(
            folder.path().join(WEIGHTS).is_file(),
            "{path}: no {WEIGHTS}; a run has one when it is finished, and a run of a search has none"
        );
        ensure!(
            file.is_none(),
            "{path}: a run looks at the data that it was trained on; leave out FILE, or write its model with \
             `export` and inspect that"
        );
        let store = job::store(&config)?;
        let prober = job::prober(&config, folder.path(), &store)?;
        let input = format!("{}, as the run has it", config.job.task.data().0);
        Ok(Self { network: config.job.network, store, input, prober })
    }

    /// What is found inside a model over the weights of a store.
    ///
    /// # Errors
    /// When the model cannot look at its input.
    pub(crate) fn probe(&self, store: &Store) -> Result<Findings> {
        (self.prober)(store.frozen()?)
    }

    /// Factor and kappa of the tokens that enter layer 1, were position table and class token as many times as large;
    /// nothing of a model that has none.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub(crate) fn at_other_scales(&self) -> Result<Vec<(f64, f64)>> {
        let tables = self.store.parameters().into_iter();
        let tables: Vec<_> =
            tables.filter(|(name, _)| TABLES.iter().any(|end| name.ends_with(end))).collect();
        let originals: Vec<Tensor> = tables
            .iter()
            .map(|(_, table)| table.as_detached_tensor().copy())
            .collect::<candle_core::Result<_>>()?;
        let mut kappas = Vec::new();
        for factor in FACTORS.iter().filter(|_| !tables.is_empty()) {
            for ((_, table), original) in tables.iter().zip(&originals) {
                table.set(&(original * *factor)?)?;
            }
            let found = self.probe(&self.store);
            for ((_, table), original) in tables.iter().zip(&originals) {
                table.set(original)?;
            }
            // A network without attention has no such layer.
            let kappa = found?.metrics.get("layer1/tokens/kappa").copied();
            kappas.extend(kappa.map(|kappa| (*factor, kappa)));
        }
        Ok(kappas)
    }
}
