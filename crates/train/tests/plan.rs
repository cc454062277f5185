//! The steps of a run, in micro-batches.

use conditioned_train::{FitConfig, Length, Plan};

use crate::support::{by_micro_batches, config};

/// The micro-batches before each step, and all of them.
fn before(plan: &Plan) -> Vec<usize> {
    (0..=plan.total()).map(|step| plan.batches_before(step)).collect()
}

/// The plan of `epochs` of `batches` as it was when runs were counted in epochs only.
fn by_epochs(epochs: usize, batches: usize, accumulate: usize, ramp: f64) -> Vec<usize> {
    let total = epochs * batches;
    let (mut before, mut done) = (vec![0], 0);
    while done < total {
        let grown = match ramp > 0.0 {
            true => {
                let full = done as f64 * accumulate as f64 / (ramp * total as f64);
                (full as usize).min(accumulate - 1) + 1
            }
            false => accumulate,
        };
        done += grown.min(batches - done % batches);
        before.push(done);
    }
    before
}

#[test]
fn the_plan_counts_a_short_last_step() {
    let plan = Plan::new(&config(), 5).unwrap();
    assert_eq!((plan.total(), plan.total_batches()), (9, 15));
    let error = Plan::new(&config(), 0).unwrap_err().to_string();
    assert!(error.contains("the training data fill no batch"), "{error}");
}

#[test]
fn the_batch_grows_in_a_line_and_no_step_reaches_into_the_next_epoch() {
    let config = FitConfig { length: Length::Epochs(2), accumulate: 4, ramp: 0.5, ..config() };
    let plan = Plan::new(&config, 20).unwrap();
    // After the shares 0, 1/40, ... of all 40 micro-batches: one more for each eighth, four from a half
    // on; the two epochs end at 20 and 40.
    let sizes: Vec<usize> = (0..plan.total()).map(|step| plan.batches(step)).collect();
    assert_eq!(sizes, [1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4]);
    assert_eq!((plan.batches_before(11), plan.total_batches()), (20, 40));
}

#[test]
fn steps_of_micro_batches_end_where_an_evaluation_or_a_checkpoint_is_due() {
    // After 4, 6, 8, 12 and 13, wherever the epochs of the data end.
    for batches in 1..20 {
        let plan = Plan::new(&by_micro_batches(), batches).unwrap();
        assert_eq!(before(&plan), [0, 3, 4, 6, 8, 11, 12, 13]);
    }
    // Settings far beyond the end are no limit.
    let config = FitConfig { evaluate_every: usize::MAX, ..by_micro_batches() };
    let config = FitConfig { checkpoint_every: usize::MAX, ..config };
    assert_eq!(before(&Plan::new(&config, 5).unwrap()), [0, 3, 6, 9, 12, 13]);
}

#[test]
fn both_lengths_have_the_steps_of_the_old_plan() {
    for (epochs, batches) in (1..=5).flat_map(|n| (1..=9).map(move |b| (n, b))) {
        for (accumulate, ramp) in (1..=6).flat_map(|a| [0.0, 0.3, 0.6, 1.0].map(|r| (a, r))) {
            let wanted = by_epochs(epochs, batches, accumulate, ramp);
            let settings = FitConfig { accumulate, ramp, ..config() };
            let case = format!("{epochs} of {batches}, {accumulate} a step, ramp {ramp}");

            let config = FitConfig { length: Length::Epochs(epochs), ..settings.clone() };
            assert_eq!(before(&Plan::new(&config, batches).unwrap()), wanted, "{case}");

            let config = FitConfig {
                length: Length::MicroBatches(epochs * batches),
                evaluate_every: batches,
                checkpoint_every: batches,
                ..settings
            };
            for of_the_data in [1, 4, 100] {
                let plan = Plan::new(&config, of_the_data).unwrap();
                assert_eq!(before(&plan), wanted, "{case}, data of {of_the_data}");
            }
        }
    }
}

#[test]
fn a_run_without_end_is_refused() {
    for length in [Length::Epochs(usize::MAX / 2 + 1), Length::MicroBatches(1_000_000_000_000)] {
        let error = Plan::new(&FitConfig { length, ..config() }, 2).unwrap_err().to_string();
        assert!(error.contains("`length` makes") && error.contains("the most"), "{error}");
    }
}
