//! The micro-batches of a run, one epoch of the data after another.

use crate::error::{Result, TrainError};
use crate::task::{Batches, Task};

/// Every `every`-th micro-batch of a run, read in order.
pub(crate) struct Stream<'a, T: Task> {
    task: &'a T,
    every: usize,
    /// The micro-batches of the run, of all processes.
    total: usize,
    /// The epoch that is read, and the rest of it; `None` before its first batch.
    open: Option<(usize, Batches<'a, T::Batch>)>,
    /// The batch that was read ahead, or why it could not be.
    ahead: Option<Result<T::Batch>>,
}

impl<'a, T: Task> Stream<'a, T> {
    /// The batches of `task`, whose epochs are not empty, up to number `total`.
    pub(crate) fn new(task: &'a T, every: usize, total: usize) -> Self {
        Self { task, every, total, open: None, ahead: None }
    }

    /// Micro-batch `number` of the run, which is `every` after the one before, if there was one; `step`, from
    /// 1, is the one that asks for it.
    ///
    /// # Errors
    /// When an epoch cannot be opened, or a batch cannot be read or is missing.
    pub(crate) fn read(&mut self, number: usize, step: usize) -> Result<T::Batch> {
        match self.ahead.take() {
            Some(Err(TrainError::Task { action, reason, .. })) => {
                Err(TrainError::Task { step, action, reason })
            }
            Some(batch) => batch,
            None => self.next(number, step),
        }
    }

    /// Reads what follows micro-batch `number`, if anything does: a GPU still computes, and can take it meanwhile. If that
    /// fails, the step that needs it does.
    pub(crate) fn read_ahead(&mut self, number: usize, step: usize) {
        let next = number + self.every;
        if next < self.total {
            self.ahead = Some(self.next(next, step));
        }
    }

    fn next(&mut self, number: usize, step: usize) -> Result<T::Batch> {
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
