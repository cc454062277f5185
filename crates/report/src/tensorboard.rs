//! Scalars and histograms as an event file of TensorBoard.
//!
//! The file is derived from records and written whole: the same calls give the same bytes.
//!
//! ```
//! use conditioned_report::tensorboard::EventFile;
//!
//! let folder = tempfile::tempdir()?;
//! let mut events = EventFile::new(1.7e9);
//! events.scalar(0, "loss", 2.3);
//! events.scalar(1, "loss", 2.1);
//! events.histogram(1, "singular values", &[4.0, 1.0, 0.1]);
//! let path = events.write(folder.path())?;
//! assert!(path.ends_with("events.out.tfevents.report"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::{Path, PathBuf};

use prost::Message;

use crate::error::{Result, file, write_bytes};

/// TensorBoard reads the files that have `tfevents` in their names.
const NAME: &str = "events.out.tfevents.report";
/// Where the file is written before it is renamed: a name that TensorBoard does not read.
const BESIDE: &str = "events.part";
/// What the first event of every file says.
const VERSION: &str = "brain.Event:2";

/// The events of one run, in the order in which they were added.
#[derive(Debug, Clone, PartialEq)]
pub struct EventFile {
    wall_time: f64,
    bytes: Vec<u8>,
}

impl EventFile {
    /// A file without values; all of its events have this time, in seconds since 1970.
    pub fn new(wall_time: f64) -> Self {
        let mut file = Self { wall_time, bytes: Vec::new() };
        let file_version = Some(VERSION.to_string());
        file.push(&Event { wall_time, file_version, ..Event::default() });
        file
    }

    /// Adds a value, which TensorBoard keeps in single precision; one that is not finite there is left out.
    pub fn scalar(&mut self, step: usize, tag: &str, value: f64) {
        let value = value as f32;
        if value.is_finite() {
            self.add(step, Value { simple_value: Some(value), ..Value::of(tag) });
        }
    }

    /// Adds the distribution of values, such as singular values, in TensorBoard's own buckets, each a tenth wider
    /// than the one before. Values that are not finite are left out; without any other there is no histogram.
    pub fn histogram(&mut self, step: usize, tag: &str, values: &[f64]) {
        let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        if !finite.is_empty() {
            self.add(step, Value { histo: Some(Histogram::of(&finite)), ..Value::of(tag) });
        }
    }

    /// Writes `events.out.tfevents.report` into an existing folder and returns its path. A file of that name is
    /// replaced; a reader sees the old content or the new. A folder is one run of TensorBoard, which follows a
    /// replacement while it runs only if started with `--load_fast=false`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let (path, beside) = (folder.join(NAME), folder.join(BESIDE));
        write_bytes(&beside, &self.bytes)?;
        std::fs::rename(&beside, &path).map_err(file(&path))?;
        Ok(path)
    }

    fn add(&mut self, step: usize, value: Value) {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let summary = Some(Summary { value: vec![value] });
        self.push(&Event { wall_time: self.wall_time, step, summary, ..Event::default() });
    }

    /// Appends a record: the length and the event, each followed by its checksum.
    fn push(&mut self, event: &Event) {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        for part in [&length[..], &data] {
            // Masked, since a checksum of data that holds checksums says little.
            let checksum = crc32c::crc32c(part).rotate_right(15).wrapping_add(0xa282_ead8);
            self.bytes.extend_from_slice(part);
            self.bytes.extend_from_slice(&checksum.to_le_bytes());
        }
    }
}

// Of TensorBoard's event.proto, summary.proto and histogram.proto, the fields that are written here.

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "5")]
    histo: Option<Histogram>,
}

impl Value {
    fn of(tag: &str) -> Self {
        Self { tag: tag.to_string(), ..Self::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    /// The upper limits of the buckets, which do not belong to them.
    #[prost(double, repeated, tag = "6")]
    bucket_limit: Vec<f64>,
    /// The number of values in each.
    #[prost(double, repeated, tag = "7")]
    bucket: Vec<f64>,
}

impl Histogram {
    /// Of at least one value, all finite.
    fn of(values: &[f64]) -> Self {
        let limits = limits();
        let places = values.iter().map(|value| {
            // No limit is above the greatest number itself: it joins the last bucket.
            limits.partition_point(|limit| limit <= value).min(limits.len() - 1)
        });
        let mut bucket = vec![0.0; limits.len()];
        let (mut first, mut last) = (limits.len(), 0);
        for place in places {
            bucket[place] += 1.0;
            (first, last) = (first.min(place), last.max(place));
        }
        // An empty bucket stands before the first, so that its lower limit is known.
        let shown = first.saturating_sub(1)..last + 1;
        Self {
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            num: values.len() as f64,
            sum: values.iter().sum(),
            sum_squares: values.iter().map(|value| value * value).sum(),
            bucket_limit: limits[shown.clone()].to_vec(),
            bucket: bucket[shown].to_vec(),
        }
    }
}

/// TensorBoard's limits in order: the powers of 1.1 from 1e-12 to 1e20, those below zero, zero, and both ends.
fn limits() -> Vec<f64> {
    let powers = std::iter::successors(Some(1e-12), |limit| Some(limit * 1.1));
    let positive: Vec<f64> = powers.take_while(|limit| *limit < 1e20).collect();
    let negative = positive.iter().rev().map(|limit| -limit);
    let ends = [-f64::MAX, f64::MAX];
    let inner = negative.chain([0.0]).chain(positive.iter().copied());
    std::iter::once(ends[0]).chain(inner).chain([ends[1]]).collect()
}
