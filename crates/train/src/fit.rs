//! The training loop.

use conditioned_nn::{Mode, Store};

use crate::accumulate::accumulate;
use crate::clip::GradientNorms;
use crate::collective::Together;
use crate::config::FitConfig;
use crate::coverage;
use crate::error::{Result, TrainError};
use crate::plan::Plan;
use crate::record::Event;
use crate::run::{Control, Outcome, Progress, Run, Status};
use crate::state::State;
use crate::stream::Stream;
use crate::task::Task;

/// Trains the parameters of `store` on `task`, from the newest checkpoint in the run folder if
/// there is one.
///
/// The model of `task` must be built over [`Store::builder`] beforehand. A run that is interrupted
/// or killed, and started again with the same arguments, ends with the same bits and the same
/// `metrics.jsonl` as one that was left alone.
///
/// # Errors
/// When a setting cannot be used; the checkpoint lies beyond the end of the run, as when the data have
/// become fewer; a parameter has no gradient (by name); the loss or the gradient is not finite (by
/// step, value and parameter; the last checkpoint stands); the task fails; a file cannot be read or written; or
/// processes that train together differ in their parameters.
pub fn fit<T: Task>(
    task: &T,
    store: &Store,
    config: &FitConfig,
    run: &Run,
    control: &mut Control<'_>,
) -> Result<Outcome> {
    let plan = Plan::new(config, task.batches_per_epoch())?;
    let together = Together(control.collective);
    let mut state = State::open(store, config, run, together)?;
    let (start, total) = (state.step, plan.total());
    if start > total {
        let reason = format!("is at step {start} of a run of {total}: have the data changed?");
        return Err(TrainError::Checkpoint { path: run.checkpoints(), reason });
    }
    let mut stream = Stream::new(task, control.collective.size(), plan.total_batches());
    let mut interrupted = false;
    if start == 0 && plan.probes(0) {
        state.probe(task)?;
    }

    while state.step < total && !interrupted {
        let (done, step) = (state.step, state.step + 1);
        let (before, count) = (plan.batches_before(done), plan.batches(done));
        let epoch = before / task.batches_per_epoch();
        let rate = config.schedule.rate(before, plan.total_batches());

        let share = together.share(before, count);
        let buffers = together.buffers(store)?;
        let (loss, grads) = accumulate(&state.parameters, count, &share, |number| {
            let batch = stream.read(number, step)?;
            let last = share.last() == Some(&number);
            let (seed, step_number, precision) = (config.seed, number as u64, config.precision);
            let mode = Mode::Train { seed, step: step_number, last, precision };
            let loss = task.loss(&batch, mode);
            let loss = loss.map_err(TrainError::task(step, "compute the loss"))?;
            stream.read_ahead(number, step);
            Ok(loss)
        })?;

        let loss = together.sum(loss)?;
        require_finite(step, "loss", loss, None)?;
        if !share.is_empty() {
            coverage::check(&state.parameters, &grads)?;
        }
        let grads = together.sum_gradients(&state.parameters, grads)?;
        let norms = GradientNorms::new(&state.parameters, &grads)?;
        let grad_norm = norms.total();
        require_finite(step, "gradient norm", grad_norm, norms.first_non_finite())?;

        let scale = config.clip.map_or(1.0, |max| norms.clip(max));
        state.optimizer.step(&grads, rate, scale)?;
        together.merge_buffers(&buffers, share.len(), count)?;
        if let Some(ema) = &mut state.ema {
            ema.update()?;
        }
        state.step = step;

        if step == 1 {
            let zero_gradients = norms.zeros();
            state.record(&Event::Coverage { step, zero_gradients })?;
        }
        state.record(&Event::Step { step, epoch, loss, rate, grad_norm })?;
        (control.progress)(Progress { step, total, epoch, loss, rate });

        if plan.probes(step) {
            state.probe(task)?;
        }
        if plan.evaluates(step) {
            state.evaluate(task, epoch, step == total)?;
        }
        interrupted = step < total && together.any(control.stop)?;
        if interrupted || plan.checkpoints(step) {
            state.save()?;
        }
    }
    Ok(Outcome {
        status: if interrupted { Status::Interrupted } else { Status::Finished },
        metrics: state.metrics,
        step: state.step,
        steps_here: state.step - start,
        averages: state.ema.map_or_else(Vec::new, |ema| ema.tensors()),
        set_aside: state.set_aside,
    })
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
