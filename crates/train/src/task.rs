//! The seam to the experiments: what is trained, on what, and how it is judged.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use conditioned_nn::Mode;

/// Whatever a task fails with.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// The numbers of one evaluation, by name.
pub type Metrics = BTreeMap<String, f64>;

/// The batches of one epoch, in order.
pub type Batches<'a, B> = Box<dyn Iterator<Item = Result<B, TaskError>> + 'a>;

/// What a probe found inside a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Findings {
    /// Numbers, by name.
    pub metrics: Metrics,
    /// Singular values, largest first, by the name of the matrix.
    pub spectra: BTreeMap<String, Vec<f32>>,
}

/// What [`fit`](crate::fit()) trains: data, loss and evaluation of one model.
///
/// A task is pure: the same arguments give the same batches and the same loss, bit for bit, or a
/// resumed run differs from an uninterrupted one.
pub trait Task {
    /// One micro-batch.
    type Batch;

    /// The number of micro-batches in every epoch, that is in one pass over the training data,
    /// however long the run is.
    fn batches_per_epoch(&self) -> usize;

    /// The batches `first`, `first + every`, ... of `epoch` (from 0), in an order fixed by the task's own
    /// (seed, epoch); `every` is 1 unless several processes train together, and then their number.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Self::Batch>, TaskError>;

    /// The mean training loss of one batch: a scalar, attached to the graph.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn loss(&self, batch: &Self::Batch, mode: Mode) -> Result<Tensor, TaskError>;

    /// The metrics of a model built over `weights`: the store's own, frozen, or their moving
    /// average. Buffers in `weights` are copies and may be changed.
    ///
    /// `last` is true after the last step of the run and at no other evaluation, so that is where a
    /// test split is read: nothing is trained or chosen after it. A run that is interrupted has no
    /// last evaluation until it is resumed and ends; one that is killed between its last evaluation
    /// and the checkpoint after it makes the same evaluation again, of the same bits; one that has
    /// ended is not evaluated again.
    ///
    /// # Errors
    /// When the model cannot be built or evaluated.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError>;

    /// What the inside of a model built over `weights` looks like, where
    /// [`FitConfig::probe_every`](crate::FitConfig::probe_every) asks for it; `weights` as in
    /// [`evaluate`](Self::evaluate).
    ///
    /// # Errors
    /// When the model cannot be built or evaluated; of a task that has no probes.
    fn probe(&self, _weights: VarBuilder<'static>) -> Result<Findings, TaskError> {
        Err("this task has no probes: leave out probe_every".into())
    }
}
