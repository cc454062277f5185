//! Damaged checkpoints and records.

use std::fs;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use conditioned_train::{Checkpoints, Metrics, Recorder, Result, record};
use tempfile::tempdir;

use crate::damage::{Cut, allocated, corrupt};

fn tensors() -> Vec<(String, Tensor)> {
    let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
    vec![
        ("model.weight".to_string(), tensor(&[1.0, f32::NAN, -0.0, 3.5])),
        ("optimizer.weight".to_string(), tensor(&[0.1, 0.2, 0.3, 0.4])),
    ]
}

/// What resuming reads of a folder.
fn resume(checkpoints: &Checkpoints) -> Result<()> {
    let mut snapshot = checkpoints.latest()?.expect("a checkpoint");
    for (name, like) in tensors() {
        snapshot.take(&name, &like)?;
    }
    snapshot.finish()
}

#[test]
fn checkpoints() {
    let folder = tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path(), "hash").unwrap();
    let metrics = Metrics::from([("accuracy".to_string(), 0.1)]);
    let path = checkpoints.save(5, &metrics, tensors()).unwrap();
    corrupt("a checkpoint", [path.clone()], Cut::Known, allocated, move || {
        resume(&checkpoints).map_err(|error| error.to_string())
    });

    // What its hash in its name would not tell.
    let other = tempdir().unwrap();
    let checkpoints = Checkpoints::open(other.path(), "hash").unwrap();
    corrupt("a checkpoint, renamed", [path.clone()], Cut::Known, allocated, move || {
        let bytes = fs::read(&path).unwrap();
        let digits = &blake3::hash(&bytes).to_hex()[..16];
        let renamed = other.path().join(format!("step-00000005-{digits}.safetensors"));
        fs::write(&renamed, bytes).unwrap();
        let result = resume(&checkpoints).map_err(|error| error.to_string());
        fs::remove_file(&renamed).unwrap();
        // For the test, under the name that the file has there.
        let [renamed, path] = [&renamed, &path].map(|path| path.to_str().unwrap());
        result.map_err(|error| error.replace(renamed, path))
    });
}

#[test]
fn records() {
    let folder = tempdir().unwrap();
    let path: PathBuf = folder.path().join("metrics.jsonl");
    let lines = [
        r#"{"event":"coverage","step":1,"zero_gradients":["key.bias"]}"#,
        r#"{"event":"step","step":1,"epoch":0,"loss":0.1,"rate":0.001,"grad_norm":null}"#,
        r#"{"event":"evaluation","step":2,"epoch":0,"metrics":{"accuracy":0.5,"kappa":null}}"#,
    ];
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    // A last line that was cut off is left out; a checkpoint knows of it.
    let file = path.clone();
    corrupt("metrics.jsonl (resumed)", [path.clone()], Cut::Known, allocated, move || {
        Recorder::open(&file, 2).map(drop).map_err(|error| error.to_string())
    });
    corrupt("metrics.jsonl (read)", [path.clone()], Cut::Nothing, allocated, move || {
        record::read(&path).map(drop).map_err(|error| error.to_string())
    });
}
