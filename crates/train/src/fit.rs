//! The training loop.

use std::sync::atomic::Ordering;

use conditioned_nn::{Mode, Store};

use crate::accumulate::accumulate;
use crate::clip::GradientNorms;
use crate::config::{FitConfig, Plan};
use crate::coverage;
use crate::error::{Result, TrainError};
use crate::record::Event;
use crate::run::{Control, Outcome, Progress, Run, Status};
use crate::state::State;
use crate::task::{Batches, Task};

/// Trains the parameters of `store` on `task`, from the newest checkpoint in the run folder if
/// there is one.
///
/// The model of `task` must be built over [`Store::builder`] beforehand. A run that is interrupted
/// or killed, and started again with the same arguments, ends with the same bits and the same
/// `metrics.jsonl` as one that was left alone.
///
/// # Errors
/// When a setting cannot be used; a parameter has no gradient (by name); the loss or the gradient
/// is not finite (by step, value and parameter; the last checkpoint stands); the task fails; or a
/// file cannot be read or written.
pub fn fit<T: Task>(
    task: &T,
    store: &Store,
    config: &FitConfig,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<Outcome> {
    let plan = Plan::new(config, task.batches_per_epoch())?;
    let mut state = State::open(store, config, run)?;
    let (start, total) = (state.step, plan.total());
    let mut interrupted = false;

    while state.step < total && !interrupted {
        let epoch = plan.epoch(state.step);
        let mut batches = open(task, &plan, state.step)?;
        while plan.epoch(state.step) == epoch && !interrupted {
            let (done, step) = (state.step, state.step + 1);
            let rate = config.schedule.rate(plan.batches_before(done), plan.total_batches());

            let (loss, grads) = accumulate(&state.parameters, plan.batches(done), |i| {
                let batch = next(&mut batches, task, &plan, done, i)?;
                let forward = (plan.batches_before(done) + i) as u64;
                let mode = Mode::Train { seed: config.seed, step: forward };
                task.loss(&batch, mode).map_err(TrainError::task(step, "compute the loss"))
            })?;

            require_finite(step, "loss", loss, None)?;
            coverage::check(&state.parameters, &grads)?;
            let norms = GradientNorms::new(&state.parameters, &grads)?;
            let grad_norm = norms.total();
            require_finite(step, "gradient norm", grad_norm, norms.first_non_finite())?;

            let scale = config.clip.map_or(1.0, |max| norms.clip(max));
            state.optimizer.step(&grads, rate, scale)?;
            if let Some(ema) = &mut state.ema {
                ema.update()?;
            }
            state.step = step;

            if step == 1 {
                let zero_gradients = norms.zeros();
                state.recorder.append(&Event::Coverage { step, zero_gradients })?;
            }
            state.recorder.append(&Event::Step { step, epoch, loss, rate, grad_norm })?;
            (control.progress)(Progress { step, total, epoch, loss, rate });

            if plan.evaluates(step) {
                state.evaluate(task, epoch, step == total)?;
            }
            interrupted = step < total && control.stop.load(Ordering::Relaxed);
            if interrupted || plan.checkpoints(step) {
                state.save()?;
            }
        }
    }
    Ok(Outcome {
        status: if interrupted { Status::Interrupted } else { Status::Finished },
        metrics: state.metrics,
        step: state.step,
        steps_here: state.step - start,
        set_aside: state.set_aside,
    })
}

/// The batches of the epoch that follows `done` steps, from the first that is still to come.
fn open<'a, T: Task>(task: &'a T, plan: &Plan, done: usize) -> Result<Batches<'a, T::Batch>> {
    let batches = task.batches(plan.epoch(done), plan.first_batch(done));
    batches.map_err(TrainError::task(done + 1, "open the batches"))
}

/// Micro-batch `index` of the step that follows `done` steps.
fn next<T: Task>(
    batches: &mut Batches<'_, T::Batch>,
    task: &T,
    plan: &Plan,
    done: usize,
    index: usize,
) -> Result<T::Batch> {
    match batches.next() {
        Some(batch) => batch.map_err(TrainError::task(done + 1, "read a batch")),
        None => Err(TrainError::Batches {
            epoch: plan.epoch(done),
            promised: task.batches_per_epoch(),
            given: plan.first_batch(done) + index,
        }),
    }
}

/// Stops the run on a value that is not finite; `parameter` is the first whose gradient is not.
fn require_finite(
    step: usize,
    what: &'static str,
    value: f64,
    parameter: Option<&str>,
) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(TrainError::NonFinite { step, what, value, parameter: parameter.map(str::to_string) })
}
