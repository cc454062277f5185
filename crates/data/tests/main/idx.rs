use std::fs;
use std::io::Write;
use std::path::Path;

use conditioned_data::{Error, IdxFolder, LoaderConfig};
use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use crate::damage::allocated;
use crate::{loader, values};

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

fn idx(magic: u32, sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let words = std::iter::once(&magic).chain(sizes);
    words.flat_map(|word| word.to_be_bytes()).chain(data.iter().copied()).collect()
}

/// Two images of 2 rows and 3 columns, every pixel different.
fn images() -> Vec<u8> {
    idx(0x803, &[2, 2, 3], &[10, 20, 30, 40, 50, 60, 11, 21, 31, 41, 51, 61])
}

fn labels() -> Vec<u8> {
    idx(0x801, &[2], &[1, 0])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in [(TRAIN_IMAGES, images()), (TEST_IMAGES, images())] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    for name in [TRAIN_LABELS, TEST_LABELS] {
        fs::write(folder.path().join(name), labels()).unwrap();
    }
    folder
}

fn failure(folder: &Path, classes: usize, named: &Path) -> Error {
    let error = IdxFolder::read(folder, classes).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(named.to_str().unwrap()), "{message}");
    error
}

/// The error after replacing one file; its message names that file.
fn damaged(name: &str, bytes: &[u8]) -> Error {
    let folder = folder();
    fs::write(folder.path().join(name), bytes).unwrap();
    failure(folder.path(), 2, &folder.path().join(name))
}

#[test]
fn an_asymmetric_picture_arrives_upright() {
    let folder = folder();
    let data = IdxFolder::read(folder.path(), 2).unwrap();
    assert_eq!((data.train.len(), data.train.shape(), data.train.classes()), (2, [1, 2, 3], 2));
    assert_eq!(data.train.image(0), Some(&[10, 20, 30, 40, 50, 60][..]));
    assert_eq!(data.test.labels(), [1, 0]);
    assert_eq!(data.train.name(), folder.path().file_name().unwrap().to_str().unwrap());
    let batch = loader(&data.train, LoaderConfig::evaluation(2)).epoch(0).next().unwrap().unwrap();
    let row = batch.images.get(1).unwrap().get(0).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(row, [[11, 21, 31], [41, 51, 61]].map(|r| r.map(|p| p as f32 / 255.0)));
    assert_eq!(values(&batch).1, [0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn names_with_dots_and_gzip_under_any_name_are_read() {
    let plain = IdxFolder::read(folder().path(), 2).unwrap();
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("train-images.idx3-ubyte", &gzip(&images()));
    write("train-labels.idx1-ubyte.gz", &gzip(&labels()));
    write("t10k-images-idx3-ubyte.gz", &images());
    write("t10k-labels.idx1-ubyte", &labels());
    let data = IdxFolder::read(folder.path(), 2).unwrap();
    assert_eq!(data.train.hash(), plain.train.hash());
    assert_eq!(data.test.hash(), plain.test.hash());
}

#[test]
fn missing_folders_and_files_say_what_was_looked_for() {
    let empty = TempDir::new().unwrap();
    let gone = empty.path().join("gone");
    let error = failure(&gone, 2, &gone);
    assert!(error.to_string().contains("there is no such folder; give a folder"), "{error}");
    let error = failure(empty.path(), 2, empty.path());
    assert!(error.to_string().contains("the folder is empty"), "{error}");

    let folder = folder();
    let file = folder.path().join(TRAIN_IMAGES);
    assert!(failure(&file, 2, &file).to_string().contains("not a folder"));
    fs::remove_file(folder.path().join(TEST_LABELS)).unwrap();
    let message = failure(folder.path(), 2, folder.path()).to_string();
    assert!(message.contains("no test labels; looked for t10k-labels-idx1-ubyte,"), "{message}");
    assert!(message.contains("t10k-labels.idx1-ubyte.gz"), "{message}");
}

#[test]
fn a_wrong_magic_number_is_shown() {
    let error = damaged(TRAIN_IMAGES, &labels());
    assert!(matches!(error, Error::Magic { expected: 0x803, found: 0x801, .. }), "{error}");
    let error = damaged(TEST_LABELS, b"<html>not found</html>");
    assert!(error.to_string().contains("an IDX file of test labels has 0x00000801"), "{error}");
}

#[test]
fn wrong_lengths_are_shown() {
    let error = damaged(TRAIN_IMAGES, &images()[..27]);
    assert!(matches!(error, Error::Truncated { expected: 28, found: 27, .. }), "{error}");
    let error = damaged(TRAIN_IMAGES, &gzip(&images()[..20]));
    assert!(matches!(error, Error::Truncated { expected: 28, found: 20, .. }), "{error}");
    for header in [0, 3, 4, 15] {
        let error = damaged(TEST_IMAGES, &images()[..header]);
        assert!(matches!(error, Error::Truncated { expected: 16, .. }), "{error}");
    }
    let error = damaged(TEST_LABELS, &[labels(), vec![0; 3]].concat());
    assert!(matches!(error, Error::Trailing { expected: 10, found: 13, .. }), "{error}");
}

#[test]
fn a_damaged_header_does_not_allocate() {
    let error = damaged(TRAIN_IMAGES, &idx(0x803, &[u32::MAX; 3], &[0; 12]));
    let expected = 16 + u128::from(u32::MAX).pow(3);
    assert!(matches!(error, Error::Truncated { expected: e, found: 28, .. } if e == expected));
    let error = damaged(TRAIN_LABELS, &idx(0x801, &[u32::MAX], &[0; 2]));
    assert!(matches!(error, Error::Truncated { found: 10, .. }), "{error}");
    let error = damaged(TRAIN_IMAGES, &idx(0x803, &[2, 0, 3], &[]));
    assert!(
        error.to_string().contains("holds no data: the header's sizes are [2, 0, 3]"),
        "{error}"
    );
}

#[test]
fn damaged_gzip_is_told_from_damaged_idx() {
    let packed = gzip(&images());
    let mut flipped = packed.clone();
    let crc = flipped.len() - 8;
    flipped[crc] ^= 1;
    let cut = &packed[..packed.len() - 5];
    for bytes in [&flipped[..], cut, &packed[..2], &[packed.clone(), vec![7; 20]].concat()] {
        let error = damaged(TRAIN_IMAGES, bytes);
        assert!(matches!(error, Error::Gzip { .. }), "{error}");
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let error = damaged(TRAIN_LABELS, &idx(0x801, &[2], &[1, 2]));
    assert!(
        error.to_string().contains("label 2 of image 1, and the labels of 2 classes are 0 to 1"),
        "{error}"
    );
    let error = damaged(TEST_LABELS, &idx(0x801, &[3], &[1, 0, 1]));
    let message = error.to_string();
    assert!(message.contains(TEST_IMAGES) && message.contains("holds 2 images"), "{message}");
    assert!(message.contains("holds 3 labels"), "{message}");

    let folder = folder();
    let turned = idx(0x803, &[2, 3, 2], &[0; 12]);
    fs::write(folder.path().join(TEST_IMAGES), turned).unwrap();
    let message = failure(folder.path(), 2, folder.path()).to_string();
    assert!(message.contains("[1, 2, 3]") && message.contains("[1, 3, 2]"), "{message}");
}

/// What a header does not ask for is not kept, and what a file cannot hold is not waited for.
#[test]
fn a_small_file_that_unpacks_to_a_large_one_takes_no_memory() {
    let zeros = vec![0; 32 << 20];
    for (sizes, problem) in [([2, 2, 3], "trailing bytes"), ([u32::MAX; 3], "truncated")] {
        let bomb = gzip(&[idx(0x803, &sizes, &[]), zeros.clone()].concat());
        let mut message = String::new();
        let bytes = allocated(&mut || message = damaged(TRAIN_IMAGES, &bomb).to_string());
        assert!(message.contains(problem), "{message}");
        assert!(bytes < 2 << 20, "{bytes} bytes for a file of {}: {message}", bomb.len());
    }
}
