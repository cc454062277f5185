//! Damaged, mismatched and rotated checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use conditioned_train::{Checkpoints, Metrics, TrainError};
use tempfile::tempdir;

use crate::support::{Toy, bits, config, run, store, train};

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run(folder).checkpoints()).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn the_newest_two_are_kept() {
    let (folder, store) = (tempdir().unwrap(), store());
    train(&Toy::new(&store), &store, &config(), folder.path(), None).unwrap();
    let names: Vec<String> = checkpoints(folder.path())
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy()[..13].to_string())
        .collect();
    assert_eq!(names, ["step-00000006", "step-00000009"]);
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used() {
    let (whole, reference) = (tempdir().unwrap(), store());
    train(&Toy::new(&reference), &reference, &config(), whole.path(), None).unwrap();
    for damage in [flip_a_byte as fn(&Path), truncate] {
        let (folder, first) = (tempdir().unwrap(), store());
        train(&Toy::new(&first), &first, &config(), folder.path(), Some(7)).unwrap();
        let newest = checkpoints(folder.path()).pop().unwrap();
        damage(&newest);

        let second = store();
        let outcome = train(&Toy::new(&second), &second, &config(), folder.path(), None).unwrap();
        let aside = newest.with_extension("safetensors.corrupt");
        assert_eq!(outcome.set_aside, std::slice::from_ref(&aside));
        assert!(aside.exists() && !newest.exists());
        assert_eq!(outcome.steps_here, 3, "from step 6 to step 9");
        assert_eq!(bits(&second), bits(&reference));
        let metrics = |folder: &Path| fs::read(run(folder).metrics()).unwrap();
        assert_eq!(metrics(folder.path()), metrics(whole.path()));
    }
}

#[test]
fn when_all_are_damaged_the_error_names_them() {
    let (folder, first) = (tempdir().unwrap(), store());
    train(&Toy::new(&first), &first, &config(), folder.path(), Some(7)).unwrap();
    let paths = checkpoints(folder.path());
    paths.iter().for_each(|path| flip_a_byte(path));
    let second = store();
    let error = train(&Toy::new(&second), &second, &config(), folder.path(), None).unwrap_err();
    for path in paths {
        assert!(path.exists());
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn tensors_and_metrics_come_back_and_mismatches_are_named() {
    let folder = tempdir().unwrap();
    let cpu = &Device::Cpu;
    let checkpoints = Checkpoints::open(folder.path(), "hash").unwrap();
    let a = Tensor::new(&[1f32, f32::NAN, -0.0], cpu).unwrap();
    let b = Tensor::new(&[[1f64, 2.0]], cpu).unwrap();
    let metrics = Metrics::from([("accuracy".to_string(), 0.1)]);
    let tensors = || vec![("a".to_string(), a.clone()), ("b".to_string(), b.clone())];
    let path = checkpoints.save(5, &metrics, tensors()).unwrap();
    assert_eq!(
        checkpoints.save(5, &metrics, tensors()).unwrap(),
        path,
        "equal states, equal files"
    );

    let mut snapshot = checkpoints.latest().unwrap().unwrap();
    assert_eq!((snapshot.step, &snapshot.metrics), (5, &metrics));
    let found = snapshot.take("a", &a).unwrap().to_vec1::<f32>().unwrap();
    let wanted = a.to_vec1::<f32>().unwrap();
    assert!(found.iter().zip(&wanted).all(|(f, w)| f.to_bits() == w.to_bits()));

    let narrow = b.to_dtype(DType::F32).unwrap();
    let text = |error: TrainError| error.to_string();
    assert!(text(snapshot.take("b", &narrow).unwrap_err()).contains("`b` is F64 [1, 2]"));
    assert!(text(snapshot.take("c", &a).unwrap_err()).contains("no tensor `c`"));
    let left_over = checkpoints.latest().unwrap().unwrap();
    assert!(text(left_over.finish().unwrap_err()).contains("does not know: a, b"));
}

#[test]
fn an_empty_folder_has_no_checkpoint() {
    let folder = tempdir().unwrap();
    assert!(Checkpoints::open(folder.path(), "hash").unwrap().latest().unwrap().is_none());
}
