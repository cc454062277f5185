//! Event files against PyTorch's writer, byte by byte, and as `scripts/check_tensorboard.py` reads them.

use std::path::Path;

use conditioned_report::tensorboard::EventFile;
use serde_json::json;

/// What `make_fixture.py` made.
const TORCH: &[u8] = include_bytes!("torch.tfevents");
const TIME: f64 = 1.5e9;

/// CRC-32C bit by bit, from its definition.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

/// The next part of a file, whose masked checksum must follow it.
fn part<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let part = bytes.split_off(..length).unwrap();
    let crc = crc32c(part);
    let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
    assert_eq!(bytes.split_off(..4).unwrap(), masked.to_le_bytes());
    part
}

/// The records of a file, whose checksums must be right.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(part(&mut bytes, 8).try_into().unwrap());
        records.push(part(&mut bytes, length as usize));
    }
    records
}

/// Writes into a new folder and returns the bytes of the only file there.
fn written(events: &EventFile) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = events.write(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    std::fs::read(path).unwrap()
}

#[test]
fn events_are_those_of_pytorch() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let mut events = EventFile::new(TIME);
    events.scalar(0, "loss", 2.25);
    events.scalar(1, "loss", 0.0);
    events.histogram(300, "weights/σ", &[8.0, 4.0, 4.0, 3.0, 0.5]);
    events.histogram(1 << 31, "signs", &[-(0.5_f64.powi(39)), 0.0, 0.5_f64.powi(39)]);
    let bytes = written(&events);
    let (ours, theirs) = (records(&bytes), records(TORCH));
    assert_eq!(ours[1..], theirs[1..]);
    // Theirs names its writer after the version.
    assert_eq!(theirs[0].split_at(ours[0].len()).0, ours[0]);
    assert!(theirs[0].ends_with(b"tensorboard.summary.writer.event_file_writer"));
}

#[test]
fn what_is_not_finite_is_left_out() {
    let (nan, infinity) = (f64::NAN, f64::INFINITY);
    let mut events = EventFile::new(TIME);
    for value in [nan, infinity, -infinity, 1e39, -1e39] {
        events.scalar(0, "loss", value);
    }
    events.histogram(0, "none", &[]);
    events.histogram(0, "none", &[nan, infinity]);
    assert_eq!(events, EventFile::new(TIME));
    assert_eq!(records(&written(&events)).len(), 1);
    events.histogram(0, "some", &[nan, 2.0, infinity]);
    let mut finite = EventFile::new(TIME);
    finite.histogram(0, "some", &[2.0]);
    assert_eq!(events, finite);
}

#[test]
fn a_repetition_replaces_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = EventFile::new(TIME);
    events.scalar(0, "a longer tag", 1.0);
    let path = events.write(folder.path()).unwrap();
    let mut events = EventFile::new(TIME);
    events.scalar(0, "a", 1.0);
    let bytes = written(&events);
    assert_eq!(events.write(folder.path()).unwrap(), path);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let missing = folder.path().join("missing");
    let error = events.write(&missing).unwrap_err().to_string();
    assert!(error.starts_with(&missing.display().to_string()), "{error}");
}

/// Leaves a run and what is expected of it in the build folder, for the script.
#[test]
fn a_run_for_the_script() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tensorboard");
    std::fs::create_dir_all(&folder).unwrap();
    let mut events = EventFile::new(TIME);
    let losses: Vec<(usize, f64)> =
        (0..1500).map(|step| (10 * step, 2.3 * 0.998_f64.powi(step as i32))).collect();
    // In the order of a run: more than one tag at a step.
    for &(step, loss) in &losses {
        events.scalar(step, "loss/training", loss);
        if step % 1000 == 0 {
            events.scalar(step, "loss/validation", loss + 0.1);
            events.scalar(step, "condition number", f64::INFINITY);
        }
    }
    let validation: Vec<(usize, f64)> = losses
        .iter()
        .filter(|(step, _)| step % 1000 == 0)
        .map(|&(step, loss)| (step, loss + 0.1))
        .collect();
    let extremes = [(0, 3e38), (1, -3e38), (2, 1e-45), (3, 0.0), (1 << 40, 0.1)];
    for (step, value) in extremes {
        events.scalar(step, "extremes", value);
    }
    let spectrum = |condition: f64| -> Vec<f64> {
        (0..64).map(|i| 7.0 * condition.powf(-f64::from(i) / 63.0)).collect()
    };
    let singular = [(0, spectrum(1e6)), (1000, spectrum(10.0)), (2000, vec![1.0; 64])];
    for (step, values) in &singular {
        events.histogram(*step, "singular values", values);
    }
    let ends = [-1e300, -3e20, -1.0, -1e-13, 0.0, 1e-13, 1e-12, 1.0, 1.1, 1e20, 3e20, 1e300];
    events.histogram(0, "ends", &ends);
    events.histogram(1, "ends", &[f64::MAX]);
    events.histogram(2, "ends", &[-f64::MAX]);
    events.write(&folder).unwrap();
    let expected = json!({
        "scalars": {
            "loss/training": losses,
            "loss/validation": validation,
            "extremes": extremes,
        },
        "histograms": { "singular values": singular, "ends": [(0, &ends[..]), (1, &[f64::MAX]), (2, &[-f64::MAX])] },
    });
    std::fs::write(folder.join("expected.json"), expected.to_string()).unwrap();
}
