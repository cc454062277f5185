//! A run that is stopped or killed anywhere ends with the same bits as one left alone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use conditioned_train::{FitConfig, MuonRule, Status, TrainError};
use tempfile::tempdir;

use crate::support::{Toy, bits, by_micro_batches, config, run, store, train};

/// A run by epochs, one by micro-batches, and one by Muon, with their steps, micro-batches and evaluations.
fn runs() -> [(FitConfig, [usize; 3]); 3] {
    let muon = FitConfig { muon: Some(MuonRule::new(["out.*"])), ..config() };
    [(config(), [9, 15, 3]), (by_micro_batches(), [7, 13, 4]), (muon, [9, 15, 3])]
}

/// What a process that is killed while it writes a checkpoint leaves beside it.
const UNFINISHED: &str = ".step-00000001-0123456789abcdef.safetensors.AbCdEf";

struct Reference {
    bits: Vec<(String, Vec<u64>)>,
    metrics: Vec<u8>,
    last: f64,
}

fn reference(config: &FitConfig, steps: usize) -> Reference {
    let (folder, store) = (tempdir().unwrap(), store());
    let outcome = train(&Toy::new(&store), &store, config, folder.path(), None).unwrap();
    assert_eq!((outcome.status, outcome.step), (Status::Finished, steps));
    let metrics = fs::read(run(folder.path()).metrics()).unwrap();
    Reference { bits: bits(&store), metrics, last: outcome.metrics["loss"] }
}

/// Resumes with a fresh store, as a new process would, and compares.
fn resume_and_compare(folder: &Path, config: &FitConfig, reference: &Reference, case: &str) {
    let store = store();
    let outcome = train(&Toy::new(&store), &store, config, folder, None).unwrap();
    assert_eq!(outcome.status, Status::Finished, "{case}");
    assert_eq!(outcome.metrics["loss"], reference.last, "{case}: last metric");
    assert_eq!(bits(&store), reference.bits, "{case}: parameters and buffers");
    let metrics = fs::read(run(folder).metrics()).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&metrics),
        String::from_utf8_lossy(&reference.metrics),
        "{case}: metrics.jsonl"
    );
}

/// Trains until a fuse burns out, leaves what a kill in the middle of two writes leaves, resumes.
fn kill_and_compare(set: impl Fn(&Toy), config: &FitConfig, reference: &Reference, case: &str) {
    let (folder, store) = (tempdir().unwrap(), store());
    let toy = Toy::new(&store);
    set(&toy);
    train(&toy, &store, config, folder.path(), None).unwrap_err();
    let mut metrics = OpenOptions::new();
    let mut metrics = metrics.append(true).open(run(folder.path()).metrics()).unwrap();
    metrics.write_all(b"{\"event\":\"step\",\"st").unwrap();
    let unfinished = run(folder.path()).checkpoints().join(UNFINISHED);
    fs::write(&unfinished, "half a checkpoint").unwrap();
    resume_and_compare(folder.path(), config, reference, case);
    assert!(!unfinished.exists(), "{case}");
}

#[test]
fn the_same_seed_twice_gives_the_same_bits() {
    for (config, [steps, ..]) in runs() {
        let [first, second] = [(); 2].map(|()| reference(&config, steps));
        assert_eq!(first.bits, second.bits);
        assert_eq!(first.metrics, second.metrics);
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let with = |threads| conditioned_threads::with_count(threads, || reference(&config(), 9));
    let (one, two) = (with(1), with(2));
    assert_eq!(one.bits, two.bits);
    assert_eq!(one.metrics, two.metrics);
}

#[test]
fn a_run_stopped_after_any_step_resumes_to_the_same_bits() {
    for (config, [steps, ..]) in runs() {
        let reference = reference(&config, steps);
        for stop_at in 1..steps {
            let (folder, store) = (tempdir().unwrap(), store());
            let toy = Toy::new(&store);
            let outcome = train(&toy, &store, &config, folder.path(), Some(stop_at)).unwrap();
            assert_eq!((outcome.status, outcome.step), (Status::Interrupted, stop_at));
            let case = format!("{:?} stopped after {stop_at}", config.length);
            resume_and_compare(folder.path(), &config, &reference, &case);
        }
    }
}

#[test]
fn a_run_killed_in_any_micro_batch_or_evaluation_resumes_to_the_same_bits() {
    // Every second epoch: then an evaluation is recorded that no checkpoint knows.
    let [epochs, micro_batches, muon] = runs();
    let seldom = (FitConfig { checkpoint_every: 2, ..config() }, epochs.1);
    for (config, [steps, batches, evaluations]) in [epochs, seldom, micro_batches, muon] {
        let reference = reference(&config, steps);
        for left in 0..batches {
            let case = format!("{:?} killed in batch {left}", config.length);
            kill_and_compare(|toy| toy.fuse.set(left), &config, &reference, &case);
        }
        for left in 0..evaluations {
            let case = format!("{:?} killed in evaluation {left}", config.length);
            kill_and_compare(|toy| toy.evaluations.set(left), &config, &reference, &case);
        }
    }
}

#[test]
fn a_finished_run_is_not_repeated() {
    let (folder, first) = (tempdir().unwrap(), store());
    let done = train(&Toy::new(&first), &first, &config(), folder.path(), None).unwrap();
    let second = store();
    let again = train(&Toy::new(&second), &second, &config(), folder.path(), None).unwrap();
    assert_eq!((again.status, again.steps_here), (Status::Finished, 0));
    assert_eq!(again.metrics["loss"], done.metrics["loss"]);
    assert!(again.metrics["never"].is_nan());
    assert_eq!(bits(&second), bits(&first));
}

#[test]
fn a_checkpoint_of_another_configuration_is_refused() {
    let (folder, first) = (tempdir().unwrap(), store());
    train(&Toy::new(&first), &first, &config(), folder.path(), Some(2)).unwrap();
    let mut other = config();
    other.clip = None;
    let second = store();
    let error = train(&Toy::new(&second), &second, &other, folder.path(), None).unwrap_err();
    assert!(matches!(error, TrainError::OtherConfiguration { .. }), "{error}");
    assert!(error.to_string().contains("of another configuration"), "{error}");
}
