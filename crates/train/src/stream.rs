//! The micro-batches of a run, one epoch of the data after another.

use crate::error::{Result, TrainError};
use crate::task::{Batches, Task};

/// The micro-batches of a run from one of them on, opened where they are first asked for.
pub(crate) struct Stream<'a, T: Task> {
    task: &'a T,
    /// Micro-batches of an epoch.
    batches: usize,
    /// Micro-batches of the run before the next.
    given: usize,
    /// The rest of the epoch; `None` before its first batch.
    rest: Option<Batches<'a, T::Batch>>,
}

impl<'a, T: Task> Stream<'a, T> {
    /// The batches of `task`, whose epochs are not empty, after the first `given` of the run.
    pub(crate) fn new(task: &'a T, given: usize) -> Self {
        Self { task, batches: task.batches_per_epoch(), given, rest: None }
    }

    /// The epoch of the next batch.
    pub(crate) fn epoch(&self) -> usize {
        self.given / self.batches
    }

    /// The next batch; `step`, from 1, is the one that asks for it.
    ///
    /// # Errors
    /// When an epoch cannot be opened, or a batch cannot be read or is missing.
    pub(crate) fn next(&mut self, step: usize) -> Result<T::Batch> {
        let (epoch, given) = (self.epoch(), self.given % self.batches);
        let mut rest = match self.rest.take() {
            Some(rest) => rest,
            None => {
                let batches = self.task.batches(epoch, given);
                batches.map_err(TrainError::task(step, "open the batches"))?
            }
        };
        let Some(batch) = rest.next() else {
            return Err(TrainError::Batches { epoch, promised: self.batches, given });
        };
        self.given += 1;
        // What a task gives beyond its promise is not trained on.
        self.rest = (!self.given.is_multiple_of(self.batches)).then_some(rest);
        batch.map_err(TrainError::task(step, "read a batch"))
    }
}
