//! A job: one network trained on one task. A run is a pure function of its [`RunConfig`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use conditioned_models::Architecture;
use conditioned_models::architecture::Input;
use conditioned_models::encoder::EncoderConfig;
use conditioned_models::hugging_face::{bert, gpt2, timm, vit};
use conditioned_models::network::Network;
use conditioned_nn::Store;
use conditioned_nn::store::load_tensors;
use conditioned_train::{
    Control, Findings, FitConfig, Length, MOST_MICRO_BATCHES, Outcome, Run, Status, Task, fit,
};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;
use crate::checkpoint::Checkpoint;
use crate::device;
use crate::run::worker::boxed;
use crate::task::detection::{DetectionConfig, ObjectDetection};
use crate::task::images::{ImageClassification, ImagesConfig};
use crate::task::language::{LanguageConfig, LanguageModel};
use crate::task::masked::{MaskedConfig, MaskedLanguageModel};
use crate::task::sequences::{SequenceClassification, SequencesConfig};
use crate::task::texts::{TextClassification, TextsConfig};

/// The weights of a finished run in its folder.
pub const WEIGHTS: &str = "model.safetensors";

/// What it is trained on, and how it is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskConfig {
    /// Objects in images.
    Detection(DetectionConfig),
    /// Classes of images.
    Images(ImagesConfig),
    /// The next token.
    Language(LanguageConfig),
    /// Hidden tokens.
    Masked(MaskedConfig),
    /// Classes of long sequences.
    Sequences(SequencesConfig),
    /// Classes or scores of texts.
    Texts(TextsConfig),
}

/// The weights that a job starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// A folder of Hugging Face.
    HuggingFace(Checkpoint),
    /// The earlier stage of the same cell.
    Stage(Checkpoint),
}

impl Init {
    /// Whether each cell has its own.
    pub fn is_of_cell(&self) -> bool {
        matches!(self, Self::Stage(_))
    }

    /// The folder.
    pub fn checkpoint(&self) -> &Checkpoint {
        match self {
            Self::HuggingFace(checkpoint) | Self::Stage(checkpoint) => checkpoint,
        }
    }
}

/// One network trained on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What is trained.
    pub network: Network,
    /// The weights that it starts from; null draws them.
    pub init: Option<Init>,
    /// What it is trained on.
    pub task: TaskConfig,
    /// The training run.
    pub fit: FitConfig,
}

impl TaskConfig {
    /// The data, by name and BLAKE3.
    pub fn data(&self) -> (&str, &str) {
        match self {
            Self::Detection(task) => (&task.data.name, &task.data.hash),
            Self::Images(task) => (&task.data.name, &task.data.hash),
            Self::Language(task) => (&task.text.name, &task.text.hash),
            Self::Masked(task) => (&task.text.name, &task.text.hash),
            Self::Sequences(task) => (&task.data.name, &task.data.hash),
            Self::Texts(task) => (&task.data.name, &task.data.hash),
        }
    }

    /// (tokens of a sequence that is trained on, sequences or images of a micro-batch, micro-batches of an
    /// epoch).
    pub fn sizes(&self) -> (usize, usize, usize) {
        match self {
            Self::Detection(task) => {
                (0, task.batch_size, task.data.images[0].div_ceil(task.batch_size))
            }
            Self::Images(task) => {
                (0, task.batch_size, task.data.train_images.div_ceil(task.batch_size))
            }
            Self::Language(task) => (task.window, task.batch_size, 1),
            Self::Masked(task) => (task.window, task.batch_size, 1),
            Self::Sequences(task) => {
                let sequences = if task.data.pairs { 2 } else { 1 };
                (task.data.longest, sequences * task.batch_size, 1)
            }
            Self::Texts(task) => {
                (task.max_length, task.batch_size, task.train_rows().div_ceil(task.batch_size))
            }
        }
    }

    /// Numbers that a table or its notes show beside the metrics.
    pub fn facts(&self) -> Vec<(&'static str, f64)> {
        match self {
            Self::Detection(task) => task.facts(),
            Self::Images(task) => task.facts(),
            Self::Language(task) => task.facts(),
            Self::Masked(task) => task.facts(),
            Self::Sequences(task) => task.facts(),
            Self::Texts(task) => task.facts(),
        }
    }
}

impl Job {
    /// Micro-batches of the whole run.
    pub fn micro_batches(&self) -> usize {
        let (.., per_epoch) = self.task.sizes();
        match self.fit.length {
            Length::Epochs(epochs) => epochs.saturating_mul(per_epoch),
            Length::MicroBatches(count) => count,
        }
    }

    /// Floating-point operations of the whole run: a multiply-accumulate is two, and backward takes two
    /// forward passes.
    pub fn operations(&self) -> f64 {
        let (_, batch, _) = self.task.sizes();
        6.0 * self.macs() as f64 * (self.micro_batches() * batch) as f64
    }

    /// Multiply-accumulates of one forward pass over one image or sequence.
    pub fn macs(&self) -> usize {
        match (&self.network, &self.task) {
            (Network::Xcit(backbone), TaskConfig::Detection(task)) => task.macs(backbone),
            _ => self.network.macs(self.task.sizes().0),
        }
    }

    /// Trainable scalars of the network, a detector's heads among them.
    ///
    /// # Errors
    /// When the network contradicts itself.
    pub fn parameter_count(&self) -> Result<usize> {
        Ok(match (&self.network, &self.task) {
            (Network::Xcit(backbone), TaskConfig::Detection(task)) => {
                task.detector.parameter_count(backbone)?
            }
            _ => self.network.parameter_count()?,
        })
    }

    /// Checks network and training run.
    ///
    /// # Errors
    /// Names the first setting that cannot be used.
    pub fn validate(&self) -> Result<()> {
        self.network.validate()?;
        ensure!(
            self.micro_batches() <= MOST_MICRO_BATCHES,
            "{} micro-batches are more than a run can have ({MOST_MICRO_BATCHES}); set fewer epochs or steps",
            self.micro_batches()
        );
        Ok(self.fit.validate()?)
    }

    /// The deviation of the embedding tables that makes kappa of the tokens of the first batch smallest, among
    /// 14 from 0.01 to 0.9 by factors of sqrt(2).
    ///
    /// kappa falls with the scale until the tables drown what they are added to, so the best is often the
    /// largest; beyond it the truncation at +-2 makes the deviation that is drawn fall behind the one asked
    /// for.
    ///
    /// # Errors
    /// When the first batch cannot be read, or kappa is infinite at every scale.
    pub fn smallest_kappa_std(&self, seed: u64) -> Result<f64> {
        if self.init.is_some() {
            bail!("arm init: a checkpoint has embedding tables of its own");
        }
        let input = match &self.task {
            TaskConfig::Detection(_) => bail!("arm init: an XCiT has no embedding tables"),
            TaskConfig::Images(task) => task.first_batch(seed)?,
            TaskConfig::Language(task) => task.first_batch(seed)?,
            TaskConfig::Masked(task) => task.first_batch(seed)?,
            TaskConfig::Sequences(task) => task.first_batch(seed)?,
            TaskConfig::Texts(_) => bail!("arm init: a checkpoint has embedding tables of its own"),
        };
        let mut best = (f64::INFINITY, None);
        for i in 0..14 {
            let std = 0.01 * 2f64.powf(0.5 * f64::from(i));
            let mut network = self.network.clone();
            network.set_init_std(std)?;
            let tokens = network.fresh_tokens(seed, &input)?;
            let kappa = crate::kappa::median_of_sequences(&tokens.plain)?;
            if kappa < best.0 {
                best = (kappa, Some(std));
            }
        }
        match best.1 {
            Some(std) => Ok(std),
            None => bail!("arm init: kappa of the first batch is infinite at every scale"),
        }
    }
}

/// What a finished run leaves beside its last evaluation.
#[derive(Debug, Default)]
pub struct Extras {
    /// Further numbers.
    pub metrics: BTreeMap<String, f64>,
    /// What a language model wrote.
    pub text: Option<String>,
}

/// A task that a cell trains on.
pub trait CellTask: Task {
    /// What follows from a run that is finished, by its weights and records. An error here loses nothing:
    /// it is logged, and the run is finished without it.
    ///
    /// # Errors
    /// When a record cannot be read or a text not be written.
    fn extras(&self, _config: &RunConfig, _run: &Run, _store: &Store) -> Result<Extras> {
        Ok(Extras::default())
    }
}

/// What is done with the task of a run, whichever it is.
trait Visit {
    type Out;

    fn visit<T: CellTask + 'static>(self, task: T) -> Result<Self::Out>;
}

/// Makes the task of a run over `store`, whose parameters are made, or start from the weights of its checkpoint.
fn with_task<V: Visit>(config: &RunConfig, store: &Store, visit: V) -> Result<V::Out> {
    match (&config.job.network, &config.job.task) {
        (network, TaskConfig::Images(task)) if matches!(network.input(), Input::Images { .. }) => {
            // What follows from the weights of a checkpoint follows when the model is built.
            start(config, store)?;
            visit.visit(ImageClassification::new(config, network, task, store).map_err(boxed)?)
        }
        (Network::Xcit(network), TaskConfig::Detection(task)) => {
            let task = ObjectDetection::new(config, network, task, store).map_err(boxed)?;
            start(config, store)?;
            visit.visit(task)
        }
        (Network::Gpt2(network), TaskConfig::Language(task)) => {
            // Its checkpoints are read before the model is built: conditioned tables follow their weights.
            start(config, store)?;
            visit.visit(LanguageModel::new(config, network, task, store).map_err(boxed)?)
        }
        (Network::Encoder(network), TaskConfig::Masked(task)) => {
            visit.visit(MaskedLanguageModel::new(config, network, task, store).map_err(boxed)?)
        }
        (Network::Nystromformer(network), TaskConfig::Sequences(task)) => {
            visit.visit(SequenceClassification::new(config, network, task, store).map_err(boxed)?)
        }
        (Network::Encoder(network), TaskConfig::Texts(task)) => {
            let task = TextClassification::new(config, network, task, store).map_err(boxed)?;
            start(config, store)?;
            visit.visit(task)
        }
        _ => bail!("{}: this network cannot be trained on this task", config.name()),
    }
}

/// Trains a run in its folder, from its newest checkpoint on; `store` is empty, and that of the run.
///
/// # Errors
/// When anything fails; the last checkpoint stands.
pub fn train(
    config: &RunConfig,
    store: &Store,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<(Outcome, Extras)> {
    struct Train<'a, 'b>(&'a RunConfig, &'a Store, &'a Run, &'a mut Control<'b>);

    impl Visit for Train<'_, '_> {
        type Out = (Outcome, Extras);

        fn visit<T: CellTask + 'static>(self, task: T) -> Result<Self::Out> {
            let Self(config, store, run, control) = self;
            train_task(&task, store, config, run, control)
        }
    }
    with_task(config, store, Train(config, store, run, control))
}

/// What probes find in the model of a run over given weights.
pub type Prober = Box<dyn Fn(VarBuilder<'static>) -> Result<Findings>>;

/// What a finished run would find by a probe: its weights go into `store`, which must be empty.
///
/// # Errors
/// When data or weights cannot be read.
pub fn prober(config: &RunConfig, folder: &Path, store: &Store) -> Result<Prober> {
    struct Probe;

    impl Visit for Probe {
        type Out = Prober;

        fn visit<T: CellTask + 'static>(self, task: T) -> Result<Prober> {
            Ok(Box::new(move |weights| task.probe(weights).map_err(boxed)))
        }
    }
    // Its own weights are read: nothing starts from a checkpoint.
    let job = Job { init: None, ..config.job.clone() };
    let config = RunConfig { job, ..config.clone() };
    let prober = with_task(&config, store, Probe)?;
    store.load(&folder.join(WEIGHTS))?;
    Ok(prober)
}

fn train_task<T: CellTask>(
    task: &T,
    store: &Store,
    config: &RunConfig,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<(Outcome, Extras)> {
    let mut outcome = fit(task, store, &config.job.fit, run, control)?;
    if outcome.status == Status::Interrupted || control.collective.rank() > 0 {
        return Ok((outcome, Extras::default()));
    }
    // What was evaluated is what is kept.
    let averages: BTreeMap<String, Tensor> = outcome.averages.drain(..).collect();
    for (name, parameter) in store.parameters() {
        if let Some(average) = averages.get(&name) {
            parameter.set(average)?;
        }
    }
    let extras = task.extras(config, run, store).unwrap_or_else(|error| {
        tracing::warn!("{}: after training: {error:#}", config.name());
        Extras::default()
    });
    Ok((outcome, extras))
}

/// An empty store of the device and seed of a run.
///
/// # Errors
/// When the device cannot be opened.
pub fn store(config: &RunConfig) -> Result<Store> {
    store_of(config, 0)
}

/// The same for process `local_rank` of those that train together on this machine.
///
/// # Errors
/// When the device cannot be opened.
pub fn store_of(config: &RunConfig, local_rank: usize) -> Result<Store> {
    Ok(Store::new(config.cell.seed, DType::F32, &device::open(&config.device.0, local_rank)?))
}

/// Gives a model the weights that its run starts from.
///
/// # Errors
/// When they are not those that the run was planned with, or do not fit.
pub fn start(config: &RunConfig, store: &Store) -> Result<()> {
    let Some(init) = &config.job.init else { return Ok(()) };
    let folder = &init.checkpoint().folder;
    init.checkpoint().check()?;
    match (init, &config.job.network) {
        (Init::Stage(_), _) => start_from_stage(store, &folder.join(WEIGHTS)),
        (Init::HuggingFace(_), Network::Gpt2(network)) => {
            gpt2::read_weights(folder, network, store)?;
            Ok(())
        }
        (Init::HuggingFace(_), Network::Vit(network)) => {
            vit::read_encoder(folder, network, store)?;
            Ok(())
        }
        (Init::HuggingFace(_), Network::Encoder(EncoderConfig::Bert(_))) => {
            bert::read_encoder(folder, store)?;
            Ok(())
        }
        (Init::HuggingFace(_), Network::Xcit(network)) => {
            timm::read_backbone(folder, network, store)?;
            Ok(())
        }
        _ => bail!("{}: this network has no checkpoints of Hugging Face here", folder.display()),
    }
}

/// Gives an encoder the tensors of an earlier stage, statistics of its conditioning included; the
/// classifier is new, and the head for hidden words stays behind.
fn start_from_stage(store: &Store, file: &Path) -> Result<()> {
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
