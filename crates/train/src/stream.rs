//! The micro-batches of a run, one epoch of the data after another.

use crate::error::{Result, TrainError};
use crate::task::{Batches, Task};

/// Every `every`-th micro-batch of a run, read in order.
pub(crate) struct Stream<'a, T: Task> {
    task: &'a T,
    every: usize,
    /// The epoch that is read, and the rest of it; `None` before its first batch.
    open: Option<(usize, Batches<'a, T::Batch>)>,
}

impl<'a, T: Task> Stream<'a, T> {
    /// The batches of `task`, whose epochs are not empty.
    pub(crate) fn new(task: &'a T, every: usize) -> Self {
        Self { task, every, open: None }
    }

    /// Micro-batch `number` of the run, which is `every` after the one before, if there was one; `step`, from
    /// 1, is the one that asks for it.
    ///
    /// # Errors
    /// When an epoch cannot be opened, or a batch cannot be read or is missing.
    pub(crate) fn read(&mut self, number: usize, step: usize) -> Result<T::Batch> {
        let promised = self.task.batches_per_epoch();
        let (epoch, given) = (number / promised, number % promised);
        let mut rest = match self.open.take() {
            Some((open, rest)) if open == epoch => rest,
            _ => {
                let batches = self.task.batches(epoch, given, self.every);
                batches.map_err(TrainError::task(step, "open the batches"))?
            }
        };
        let Some(batch) = rest.next() else {
            return Err(TrainError::Batches { epoch, promised, given });
        };
        // What a task gives beyond its promise is not trained on.
        self.open = (given + self.every < promised).then_some((epoch, rest));
        batch.map_err(TrainError::task(step, "read a batch"))
    }
}
