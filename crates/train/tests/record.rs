//! The record file: its bytes, its repair, its errors.

use std::fs;
use std::path::PathBuf;

use conditioned_train::{Event, Metrics, Recorder, record};
use tempfile::{TempDir, tempdir};

const LINES: [&str; 4] = [
    r#"{"event":"coverage","step":1,"zero_gradients":["key.bias"]}"#,
    r#"{"event":"step","step":1,"epoch":0,"loss":0.1,"rate":0.001,"grad_norm":null}"#,
    r#"{"event":"evaluation","step":2,"epoch":0,"metrics":{"accuracy":0.5,"kappa":null}}"#,
    r#"{"event":"probe","step":2,"metrics":{"x/kappa":null},"spectra":{"x":[2.5,0.1,null]}}"#,
];

fn events() -> [Event; 4] {
    let metrics = [("accuracy".to_string(), 0.5), ("kappa".to_string(), f64::INFINITY)];
    [
        Event::Coverage { step: 1, zero_gradients: vec!["key.bias".to_string()] },
        Event::Step { step: 1, epoch: 0, loss: 0.1, rate: 1e-3, grad_norm: f64::NAN },
        Event::Evaluation { step: 2, epoch: 0, metrics: Metrics::from(metrics) },
        Event::Probe {
            step: 2,
            metrics: Metrics::from([("x/kappa".to_string(), f64::INFINITY)]),
            spectra: [("x".to_string(), vec![2.5, 0.1, f32::INFINITY])].into(),
        },
    ]
}

fn file(content: &str) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn events_are_lines_and_what_is_not_finite_is_null() {
    let (_folder, path) = file("");
    let mut recorder = Recorder::open(&path, 0).unwrap();
    events().iter().for_each(|event| recorder.append(event).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), LINES.join("\n") + "\n");
    let read = record::read(&path).unwrap();
    assert!(matches!(read[1], Event::Step { grad_norm, .. } if grad_norm.is_nan()));
    assert!(matches!(&read[2], Event::Evaluation { metrics, .. } if metrics["kappa"].is_nan()));
    assert!(matches!(&read[3], Event::Probe { spectra, .. } if spectra["x"][2].is_nan()));
}

#[test]
fn opening_cuts_back_to_the_step_and_drops_half_a_line() {
    let (_folder, path) = file(&(LINES.join("\n") + "\n{\"event\":\"st"));
    let mut recorder = Recorder::open(&path, 1).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), LINES[..2].join("\n") + "\n");
    events()[2..].iter().for_each(|event| recorder.append(event).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), LINES.join("\n") + "\n");
}

/// A probe before the first step is made again by a run that has no checkpoint.
#[test]
fn a_run_that_begins_anew_has_no_events() {
    let (_folder, path) = file("{\"event\":\"probe\",\"step\":0,\"metrics\":{},\"spectra\":{}}\n");
    Recorder::open(&path, 0).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
}

#[test]
fn a_record_that_ends_before_the_checkpoint_is_an_error() {
    let (_folder, path) = file(&(LINES.join("\n") + "\n"));
    let error = Recorder::open(&path, 3).unwrap_err().to_string();
    assert!(error.contains("ends at step 2, but the checkpoint is at 3"), "{error}");
}

#[test]
fn a_damaged_line_is_named() {
    let (_folder, path) = file(&format!("{}\nnonsense\n{}\n", LINES[0], LINES[1]));
    let error = Recorder::open(&path, 1).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl: line 2 is damaged"), "{error}");
    let (_folder, path) =
        file("{\"event\":\"coverage\",\"step\":1,\"zero_gradients\":[],\"x\":1}\n");
    assert!(record::read(&path).unwrap_err().to_string().contains("unknown field `x`"));
}

#[test]
fn a_step_that_comes_twice_or_too_late_is_named() {
    let [_, step, evaluation, probe] = LINES;
    for (lines, last) in [([probe, probe], 2), ([step, step], 1), ([evaluation, step], 1)] {
        let (_folder, path) = file(&(lines.join("\n") + "\n"));
        for error in [record::read(&path).unwrap_err(), Recorder::open(&path, last).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("metrics.jsonl: line 2 is damaged (step"), "{error}");
        }
    }
    // Events of several kinds at one step, in the order in which a run writes them.
    let [coverage, step, ..] = LINES;
    let first = probe.replace("\"step\":2", "\"step\":0");
    let lines =
        [&first, coverage, step, &probe.replace("\"step\":2", "\"step\":1")].join("\n") + "\n";
    let (_folder, path) = file(&lines);
    assert_eq!(record::read(&path).unwrap().len(), 4);
    Recorder::open(&path, 1).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), lines);
}
