//! Several processes against one, with threads in place of processes.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::{Mode, Store};
use conditioned_train::record::read;
use conditioned_train::{
    Batches, Collective, Control, Event, FitConfig, Metrics, Outcome, Result, Status, Task,
    TaskError, fit,
};

use crate::support::{assert_close, bits, by_micro_batches, config, noise, run, values};

/// The sums of f32 gradients in another order differ by their last bits, which thirteen steps do not blow up.
const ANOTHER_ORDER: f64 = 1e-5;

const BATCHES: usize = 5;
const FEATURES: usize = 6;

/// Threads that stand for processes.
#[derive(Debug, Clone)]
struct Threads {
    rank: usize,
    size: usize,
    meeting: Arc<Meeting>,
}

#[derive(Debug)]
struct Meeting {
    barrier: Barrier,
    brought: Mutex<Vec<Vec<Tensor>>>,
}

impl Threads {
    fn all(size: usize) -> Vec<Self> {
        let brought = Mutex::new(vec![Vec::new(); size]);
        let meeting = Arc::new(Meeting { barrier: Barrier::new(size), brought });
        (0..size).map(|rank| Self { rank, size, meeting: meeting.clone() }).collect()
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, tensors: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.meeting.brought.lock().unwrap()[self.rank] = tensors;
        self.meeting.barrier.wait();
        let mut sums = Vec::new();
        for from in self.meeting.brought.lock().unwrap().iter() {
            sums = match sums.is_empty() {
                true => from.clone(),
                false => sums.iter().zip(from).map(|(a, b)| (a + b).unwrap()).collect(),
            };
        }
        self.meeting.barrier.wait();
        Ok(sums.iter().map(|sum| sum.copy().unwrap()).collect())
    }
}

/// A linear regression on inputs less a running mean, which moves once a step as pooled statistics do.
struct Centred {
    weight: Tensor,
    /// `None` leaves the inputs as they are.
    running: Option<Tensor>,
    collected: RefCell<Vec<Tensor>>,
    /// The micro-batch whose loss is NaN.
    poison: Option<u64>,
}

impl Centred {
    fn new(store: &Store, centred: bool) -> Self {
        let normal = Init::Randn { mean: 0.0, stdev: 0.5 };
        let get = |shape, name, init| store.builder().get_with_hints(shape, name, init).unwrap();
        Self {
            weight: get((1, FEATURES), "head.weight", normal),
            running: centred.then(|| get((1, FEATURES), "running_mean", Init::Const(0.0))),
            collected: RefCell::default(),
            poison: None,
        }
    }
}

impl Task for Centred {
    type Batch = Tensor;

    fn batches_per_epoch(&self) -> usize {
        BATCHES
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Tensor>, TaskError> {
        let batch = move |i: usize| {
            let values = (0..4 * FEATURES).map(|k| noise(1000 * epoch + 50 * i + k) as f32);
            Ok(Tensor::from_iter(values, &Device::Cpu)?.reshape((4, FEATURES))?)
        };
        Ok(Box::new((first..BATCHES).step_by(every).map(batch)))
    }

    fn loss(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TaskError> {
        let Mode::Train { step, last, .. } = mode else {
            return Err("not in training mode".into());
        };
        let mut centred = x.clone();
        if let Some(running) = &self.running {
            self.collected.borrow_mut().push(x.mean_keepdim(0)?);
            centred = x.broadcast_sub(&running.detach().copy()?)?;
            if last {
                let mean = Tensor::stack(&self.collected.take(), 0)?.mean(0)?;
                let moved = ((running.detach() * 0.9)? + (mean * 0.1)?)?;
                Var::from_tensor(running)?.set(&moved)?;
            }
        }
        let target = x.sum_keepdim(1)?;
        let loss =
            (centred.broadcast_mul(&self.weight)?.sum_keepdim(1)? - target)?.sqr()?.mean_all()?;
        Ok(if self.poison == Some(step) { (loss * f64::NAN)? } else { loss })
    }

    fn evaluate(&self, weights: VarBuilder<'static>, _: bool) -> Result<Metrics, TaskError> {
        let weight = weights.get((1, FEATURES), "head.weight")?;
        let norm = weight.sqr()?.sum_all()?.to_scalar::<f32>()?;
        Ok(Metrics::from([("norm".to_string(), f64::from(norm))]))
    }
}

/// What each process ends with.
type Ends = Vec<(Result<Outcome>, Store)>;

/// How processes train.
#[derive(Clone, Copy)]
struct Way {
    processes: usize,
    centred: bool,
    /// The process that is asked to stop, and after which step.
    stopper: Option<(usize, usize)>,
    /// The micro-batch whose loss is NaN.
    poison: Option<u64>,
    /// The seed of the parameters of a process.
    seed: fn(usize) -> u64,
}

fn of(processes: usize) -> Way {
    Way { processes, centred: true, stopper: None, poison: None, seed: |_| 3 }
}

fn train(way: Way, config: &FitConfig, folder: &Path) -> Ends {
    let Way { processes, centred, stopper, poison, seed } = way;
    std::thread::scope(|scope| {
        let start = |collective: Threads| {
            scope.spawn(move || {
                let store = Store::new(seed(collective.rank), DType::F32, &Device::Cpu);
                let task = Centred { poison, ..Centred::new(&store, centred) };
                let stop = AtomicBool::new(false);
                let mut progress = |progress: conditioned_train::Progress| {
                    let asked = stopper == Some((collective.rank, progress.step));
                    stop.store(asked, Ordering::Relaxed);
                };
                let mut control =
                    Control { stop: &stop, progress: &mut progress, collective: &collective };
                (fit(&task, &store, config, &run(folder), &mut control), store)
            })
        };
        let threads: Vec<_> = Threads::all(processes).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Loss, norm of the gradient, or a metric of every event, in order.
fn curve(folder: &Path) -> Vec<f64> {
    let numbers = |event: &Event| match event {
        Event::Step { loss, grad_norm, .. } => vec![*loss, *grad_norm],
        Event::Evaluation { metrics, .. } => metrics.values().copied().collect(),
        _ => Vec::new(),
    };
    read(&run(folder).metrics()).unwrap().iter().flat_map(numbers).collect()
}

fn all_values(store: &Store) -> Vec<f64> {
    store.tensors().iter().flat_map(|(_, var)| values(var)).collect()
}

#[test]
fn two_processes_with_one_micro_batch_each_give_the_bits_of_one() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Steps of 2, 2 and 1 micro-batches: an epoch ends with the share of one process alone.
    let alone = train(Way { centred: false, ..of(1) }, &config(), one.path());
    let together = train(Way { centred: false, ..of(2) }, &config(), two.path());
    let record = |folder: &Path| std::fs::read_to_string(run(folder).metrics()).unwrap();
    assert_eq!(record(two.path()), record(one.path()));
    for (_, store) in &together {
        assert_eq!(bits(store), bits(&alone[0].1));
    }
    // The first process alone evaluates.
    let metrics = |(end, _): &(Result<Outcome>, Store)| end.as_ref().unwrap().metrics.clone();
    assert_eq!(metrics(&together[0]), metrics(&alone[0]));
    assert!(metrics(&together[1]).is_empty());
}

#[test]
fn more_processes_than_micro_batches_a_ramp_and_a_resume_with_fewer() {
    let config = FitConfig { ramp: 0.3, probe_every: None, ..by_micro_batches() };
    let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let alone = train(of(1), &config, one.path());
    for (outcome, _) in train(Way { stopper: Some((2, 3)), ..of(4) }, &config, many.path()) {
        let outcome = outcome.unwrap();
        assert_eq!((outcome.status, outcome.step), (Status::Interrupted, 3));
    }
    for (outcome, store) in train(of(2), &config, many.path()) {
        assert_eq!(outcome.unwrap().status, Status::Finished);
        let (found, want) = (all_values(&store), all_values(&alone[0].1));
        assert_close("parameters and buffers", &found, &want, ANOTHER_ORDER, ANOTHER_ORDER);
    }
    assert_close("curve", &curve(many.path()), &curve(one.path()), ANOTHER_ORDER, ANOTHER_ORDER);
}

#[test]
fn a_loss_that_is_not_finite_in_one_process_stops_all_alike() {
    let folder = tempfile::tempdir().unwrap();
    let config = FitConfig { probe_every: None, ..by_micro_batches() };
    let ends = train(Way { poison: Some(4), ..of(3) }, &config, folder.path());
    let errors: Vec<String> =
        ends.iter().map(|(end, _)| end.as_ref().unwrap_err().to_string()).collect();
    assert!(errors[0].contains("step 3: the loss is NaN"), "{}", errors[0]);
    assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
}

#[test]
fn processes_with_other_parameters_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let way = Way { seed: |rank| rank as u64, ..of(2) };
    for (rank, (end, _)) in train(way, &config(), folder.path()).iter().enumerate() {
        let error = end.as_ref().unwrap_err().to_string();
        assert!(error.contains(&format!("step 0: process {rank} has other parameters")), "{error}");
    }
}
