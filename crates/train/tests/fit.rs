//! The loop: what it records, what it evaluates, and what stops it.

use std::cell::RefCell;
use std::fs;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use conditioned_nn::Mode;
use conditioned_train::{Batches, Event, FitConfig, Length, Metrics, Task, TaskError, record};
use tempfile::tempdir;

use crate::support::{Toy, bits, config, run, store, train};

/// One batch of four samples and a network of 53 parameters: the loss can only go to zero.
const OVERFIT_EPOCHS: usize = 300;
const OVERFIT_LOSS: f64 = 1e-6;

/// A task that changes another one.
struct Changed<'a> {
    toy: &'a Toy,
    promised: usize,
}

impl Task for Changed<'_> {
    type Batch = (Tensor, Tensor);

    fn batches_per_epoch(&self) -> usize {
        self.promised
    }

    fn batches(
        &self,
        _: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Self::Batch>, TaskError> {
        // Always the first epoch's first two batches.
        Ok(Box::new(self.toy.batches(0, 0, 1)?.take(2).skip(first).step_by(every)))
    }

    fn loss(&self, batch: &Self::Batch, mode: Mode) -> Result<Tensor, TaskError> {
        let Mode::Train { seed, last, precision, .. } = mode else {
            return self.toy.loss(batch, mode);
        };
        // Always the same noise.
        self.toy.loss(batch, Mode::Train { seed, step: 0, last, precision })
    }

    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        self.toy.evaluate(weights, last)
    }
}

/// With probes and without a run has the same weights and the same other events.
#[test]
fn probes_change_no_bit() {
    for every in [1, 2, 3, 100] {
        let of = |probe_every| {
            let (folder, store) = (tempdir().unwrap(), store());
            let config = FitConfig { probe_every, ..config() };
            train(&Toy::new(&store), &store, &config, folder.path(), None).unwrap();
            let events = record::read(&run(folder.path()).metrics()).unwrap();
            let (probes, others): (Vec<Event>, Vec<Event>) =
                events.into_iter().partition(|event| matches!(event, Event::Probe { .. }));
            // NaN is not equal to itself.
            (bits(&store), probes, format!("{others:?}"))
        };
        let ((bits, none, others), (probed, probes, same)) = (of(None), of(Some(every)));
        assert_eq!(probed, bits);
        assert_eq!(same, others);
        assert!(none.is_empty());
        let steps: Vec<usize> = probes.iter().map(Event::step).collect();
        let wanted: Vec<usize> = (0..=9).filter(|step| step % every == 0 || *step == 9).collect();
        assert_eq!(steps, wanted);
    }
}

#[test]
fn a_task_without_probes_says_so() {
    let (folder, store) = (tempdir().unwrap(), store());
    let toy = Toy::new(&store);
    let task = Changed { toy: &toy, promised: 1 };
    let config = FitConfig { probe_every: Some(1), ..config() };
    let error = train(&task, &store, &config, folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("this task has no probes: leave out probe_every"), "{error}");
}

#[test]
fn one_batch_is_overfitted() {
    let (folder, store) = (tempdir().unwrap(), store());
    let mut config = config();
    (config.length, config.accumulate) = (Length::Epochs(OVERFIT_EPOCHS), 1);
    (config.evaluate_every, config.checkpoint_every) = (OVERFIT_EPOCHS, OVERFIT_EPOCHS);
    let toy = Toy::new(&store);
    let task = Changed { toy: &toy, promised: 1 };
    train(&task, &store, &config, folder.path(), None).unwrap();
    let events = record::read(&run(folder.path()).metrics()).unwrap();
    let losses = events.iter().filter_map(|event| match event {
        Event::Step { loss, .. } => Some(*loss),
        _ => None,
    });
    let losses: Vec<f64> = losses.collect();
    assert_eq!(losses.len(), OVERFIT_EPOCHS);
    let (first, last) = (losses[0], losses[OVERFIT_EPOCHS - 1]);
    assert!(last < OVERFIT_LOSS && first > 0.1, "from {first} to {last}");
}

/// A task that notes the modes of its forward passes.
struct Noted<'a> {
    toy: &'a Toy,
    modes: RefCell<Vec<(u64, bool)>>,
}

impl Task for Noted<'_> {
    type Batch = (Tensor, Tensor);

    fn batches_per_epoch(&self) -> usize {
        self.toy.batches_per_epoch()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Self::Batch>, TaskError> {
        self.toy.batches(epoch, first, every)
    }

    fn loss(&self, batch: &Self::Batch, mode: Mode) -> Result<Tensor, TaskError> {
        if let Mode::Train { step, last, .. } = mode {
            self.modes.borrow_mut().push((step, last));
        }
        self.toy.loss(batch, mode)
    }

    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        self.toy.evaluate(weights, last)
    }
}

/// A task one of whose batches cannot be read.
struct Broken<'a> {
    toy: &'a Toy,
    batch: usize,
}

impl Task for Broken<'_> {
    type Batch = (Tensor, Tensor);

    fn batches_per_epoch(&self) -> usize {
        self.toy.batches_per_epoch()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Self::Batch>, TaskError> {
        let numbers = (first..).step_by(every);
        let batches = self.toy.batches(epoch, first, every)?.zip(numbers);
        Ok(Box::new(batches.map(move |(batch, number)| match number == self.batch {
            true => Err("it is broken".into()),
            false => batch,
        })))
    }

    fn loss(&self, batch: &Self::Batch, mode: Mode) -> Result<Tensor, TaskError> {
        self.toy.loss(batch, mode)
    }

    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        self.toy.evaluate(weights, last)
    }
}

/// Batches are read ahead, and still every step before is made.
#[test]
fn a_batch_that_cannot_be_read_fails_in_its_own_step() {
    for (batch, step) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)] {
        let (folder, store) = (tempdir().unwrap(), store());
        let toy = Toy::new(&store);
        let task = Broken { toy: &toy, batch };
        let error = train(&task, &store, &config(), folder.path(), None).unwrap_err().to_string();
        let named = [format!("step {step}"), "read a batch".into(), "it is broken".into()];
        assert!(named.iter().all(|part| error.contains(part)), "{error}");
        let events = record::read(&run(folder.path()).metrics()).unwrap();
        let steps = events.iter().filter(|event| matches!(event, Event::Step { .. })).count();
        assert_eq!(steps, step - 1);
    }
}

#[test]
fn the_last_micro_batch_of_every_step_knows_that_it_is_the_last() {
    let (folder, store) = (tempdir().unwrap(), store());
    let toy = Toy::new(&store);
    let task = Noted { toy: &toy, modes: RefCell::default() };
    train(&task, &store, &config(), folder.path(), None).unwrap();
    // Five batches an epoch, two a step: two full steps and a short one.
    let epoch = [false, true, false, true, true];
    let wanted: Vec<(u64, bool)> = (0..).zip([epoch; 3].concat()).collect();
    assert_eq!(*task.modes.borrow(), wanted);
}

#[test]
fn every_event_is_recorded_in_order() {
    let (folder, store) = (tempdir().unwrap(), store());
    let outcome = train(&Toy::new(&store), &store, &config(), folder.path(), None).unwrap();
    let path = run(folder.path()).metrics();
    let kinds: String = record::read(&path)
        .unwrap()
        .iter()
        .map(|event| match event {
            Event::Coverage { zero_gradients, .. } => {
                assert!(zero_gradients.is_empty());
                'c'
            }
            Event::Step { .. } => 's',
            Event::Evaluation { .. } => 'e',
            Event::Probe { .. } => 'p',
        })
        .collect();
    assert_eq!(kinds, "cssse".to_string() + "ssse" + "ssse");
    assert_eq!(outcome.steps_here, 9);
}

#[test]
fn the_average_is_evaluated_when_there_is_one() {
    let last = |ema| {
        let (folder, store) = (tempdir().unwrap(), store());
        let mut config = config();
        config.ema = ema;
        let toy = Toy::new(&store);
        let outcome = train(&toy, &store, &config, folder.path(), None).unwrap();
        let own = toy.evaluate(store.frozen().unwrap(), true).unwrap()["loss"];
        (outcome.metrics["loss"], own)
    };
    let (evaluated, own) = last(None);
    assert_eq!(evaluated, own);
    let (averaged, same) = last(Some(0.9));
    assert_eq!(same, own, "averaging does not touch the training");
    assert_ne!(averaged, own);
}

#[test]
fn a_nan_loss_stops_the_run_by_step_and_value() {
    let (folder, first) = (tempdir().unwrap(), store());
    let mut toy = Toy::new(&first);
    // Five forward passes make the first epoch; number 8 is in the second step of the second.
    toy.poison = Some(8);
    let error = train(&toy, &first, &config(), folder.path(), None).unwrap_err().to_string();
    assert!(error.starts_with("step 5: the loss is NaN. What was recorded stands"), "{error}");

    let names: Vec<_> = fs::read_dir(run(folder.path()).checkpoints()).unwrap().collect();
    assert_eq!(names.len(), 1, "the checkpoint after the first epoch stands");
    let second = store();
    let outcome = train(&Toy::new(&second), &second, &config(), folder.path(), None).unwrap();
    assert_eq!(outcome.steps_here, 6);
}

#[test]
fn a_cut_graph_stops_the_first_step_by_name() {
    let (folder, store) = (tempdir().unwrap(), store());
    let mut toy = Toy::new(&store);
    toy.cut = true;
    let error = train(&toy, &store, &config(), folder.path(), None).unwrap_err().to_string();
    assert!(error.starts_with("no gradient for 2 of 4 parameters: fc.bias, fc.weight."), "{error}");
}

#[test]
fn a_task_that_fails_or_runs_short_is_named() {
    let (folder, store) = (tempdir().unwrap(), store());
    let toy = Toy::new(&store);
    let short = Changed { toy: &toy, promised: 3 };
    let error = train(&short, &store, &config(), folder.path(), None).unwrap_err();
    assert_eq!(error.to_string(), "epoch 0: the task promised 3 batches and gave 2");
    toy.fuse.set(0);
    let error = train(&toy, &store, &config(), folder.path(), None).unwrap_err();
    assert_eq!(error.to_string(), "step 1: the task failed to compute the loss: killed");
}

#[test]
fn a_checkpoint_beyond_the_end_is_refused() {
    let folder = tempdir().unwrap();
    let config = FitConfig { accumulate: 1, ..config() };
    let run = |promised| {
        let store = store();
        let toy = Toy::new(&store);
        train(&Changed { toy: &toy, promised }, &store, &config, folder.path(), None)
    };
    assert_eq!(run(2).unwrap().step, 6);
    let error = run(1).unwrap_err().to_string();
    assert!(error.contains("checkpoints: is at step 6 of a run of 3"), "{error}");
}

#[test]
fn a_store_without_parameters_is_refused() {
    let (folder, empty, filled) = (tempdir().unwrap(), store(), store());
    let error = train(&Toy::new(&filled), &empty, &config(), folder.path(), None).unwrap_err();
    assert!(error.to_string().contains("build the model over it before training"), "{error}");
}
