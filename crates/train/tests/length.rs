//! A run of micro-batches over the epochs of the data is the run whose epochs were made up: as many
//! micro-batches as lie between two evaluations, taken from the data by div and mod.

use std::cell::RefCell;
use std::path::Path;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use conditioned_nn::Mode;
use conditioned_train::{
    Batches, Event, FitConfig, Length, Metrics, Plan, Task, TaskError, record,
};
use tempfile::tempdir;

use crate::support::{Toy, bits, config, run, store, train};

/// A task that notes which of its evaluations is called the last; with `made_up`, the size of its
/// epochs is that, and the data run through them.
struct Noting<'a> {
    toy: &'a Toy,
    made_up: Option<usize>,
    last: RefCell<Vec<bool>>,
}

impl<'a> Noting<'a> {
    fn new(toy: &'a Toy, made_up: Option<usize>) -> Self {
        Self { toy, made_up, last: RefCell::default() }
    }
}

impl Task for Noting<'_> {
    type Batch = (Tensor, Tensor);

    fn batches_per_epoch(&self) -> usize {
        self.made_up.unwrap_or(self.toy.batches_per_epoch())
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Self::Batch>, TaskError> {
        let Some(size) = self.made_up else { return self.toy.batches(epoch, first, every) };
        let data = self.toy.batches_per_epoch();
        Ok(Box::new((first..size).step_by(every).map(move |i| {
            let number = epoch * size + i;
            let mut batches = self.toy.batches(number / data, number % data, 1)?;
            batches.next().ok_or("no batch")?
        })))
    }

    fn loss(&self, batch: &Self::Batch, mode: Mode) -> Result<Tensor, TaskError> {
        self.toy.loss(batch, mode)
    }

    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        self.last.borrow_mut().push(last);
        self.toy.evaluate(weights, last)
    }
}

/// The lines of a record; events do not compare, since NaN is not NaN.
fn lines(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| serde_json::to_string(event).unwrap()).collect()
}

fn events(folder: &Path) -> Vec<Event> {
    record::read(&run(folder).metrics()).unwrap()
}

/// The events of a run with made-up epochs, with the epoch of the data in which each step began.
fn renumbered(mut events: Vec<Event>, plan: &Plan, data: usize) -> Vec<Event> {
    for event in &mut events {
        if let Event::Step { step, epoch, .. } | Event::Evaluation { step, epoch, .. } = event {
            *epoch = plan.batches_before(*step - 1) / data;
        }
    }
    events
}

#[test]
fn micro_batches_are_the_made_up_epochs_bit_for_bit() {
    // The data have five batches: smaller, equal, no multiple, and several times larger.
    for (epochs, size) in [(4, 3), (2, 5), (3, 7), (2, 12), (9, 1)] {
        for (accumulate, ramp) in [(1, 0.0), (2, 0.0), (4, 0.0), (4, 0.6)] {
            let case = format!("{epochs} of {size}, {accumulate} a step, ramp {ramp}");
            let made_up =
                FitConfig { length: Length::Epochs(epochs), accumulate, ramp, ..config() };
            let (old_folder, old_store) = (tempdir().unwrap(), store());
            let toy = Toy::new(&old_store);
            let old = Noting::new(&toy, Some(size));
            train(&old, &old_store, &made_up, old_folder.path(), None).unwrap();

            let counted = FitConfig {
                length: Length::MicroBatches(epochs * size),
                evaluate_every: size,
                checkpoint_every: size,
                ..made_up
            };
            let (folder, store) = (tempdir().unwrap(), store());
            let toy = Toy::new(&store);
            let task = Noting::new(&toy, None);
            train(&task, &store, &counted, folder.path(), None).unwrap();

            assert_eq!(bits(&store), bits(&old_store), "{case}");
            let data = toy.batches_per_epoch();
            let plan = Plan::new(&counted, data).unwrap();
            let wanted = renumbered(events(old_folder.path()), &plan, data);
            assert_eq!(lines(&events(folder.path())), lines(&wanted), "{case}");

            let mut wanted = vec![false; epochs];
            wanted[epochs - 1] = true;
            assert_eq!(task.last.take(), wanted, "{case}");
            assert_eq!(old.last.take(), wanted, "{case}");
        }
    }
}

#[test]
fn the_end_of_a_run_is_evaluated_wherever_it_lies() {
    let (folder, store) = (tempdir().unwrap(), store());
    let toy = Toy::new(&store);
    let task = Noting::new(&toy, None);
    let config = FitConfig {
        length: Length::MicroBatches(7),
        evaluate_every: 4,
        checkpoint_every: 100,
        ..config()
    };
    train(&task, &store, &config, folder.path(), None).unwrap();
    assert_eq!(task.last.take(), [false, true]);
    // Steps of 2, 2, 2 and 1: the third begins with the last of the five batches of an epoch.
    let epochs = events(folder.path()).into_iter().filter_map(|event| match event {
        Event::Step { epoch, .. } => Some(epoch),
        _ => None,
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [0, 0, 0, 1]);
}
