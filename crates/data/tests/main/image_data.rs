use std::fs;
use std::path::Path;

use conditioned_data::{Error, ImageData, ImageSource, Preprocessing};
use serde_json::json;
use tempfile::TempDir;

/// A folder as a source.
fn of(path: &Path) -> ImageSource {
    let preprocessing = Preprocessing::imagenet(32);
    ImageSource::Folder { path: path.into(), preprocessing, skip_broken: false }
}

/// A folder of 20 training and 5 test images of 1 pixel, the first of this value.
fn write(folder: &Path, first: u8) {
    for (part, count) in [("train", 20u8), ("t10k", 5)] {
        let mut images = vec![0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 1, 0, 0, 0, 1];
        images.push(first);
        images.extend(1..count);
        fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        let mut labels = vec![0, 0, 8, 1, 0, 0, 0, count];
        labels.extend((0..count).map(|i| i % 10));
        fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
}

#[test]
fn a_folder_is_read_again_and_refused_when_it_changed() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), 0);
    let (data, splits) = ImageData::read(of(folder.path()), [12, 8].into()).unwrap();
    let again: ImageData = serde_json::from_str(&serde_json::to_string(&data).unwrap()).unwrap();
    assert_eq!(again, data);
    let loaded = again.load().unwrap();
    assert_eq!((&loaded.train, &loaded.tune), (&splits.train, &splits.tune));
    assert_eq!((loaded.train.len(), loaded.tune.len(), loaded.test.len()), (12, 8, 5));
    write(folder.path(), 255);
    let error = data.load().unwrap_err();
    assert!(matches!(error, Error::Changed { .. }));
    let wanted = format!("{}: the images are not those that this run was planned with", data.name);
    assert!(error.to_string().starts_with(&wanted), "{error}");
    let error = ImageData::read(of(folder.path()), [12, 9].into()).unwrap_err().to_string();
    assert!(error.contains("cannot draw [9, 12] disjoint images from 20"), "{error}");
}

#[test]
fn what_was_recorded_before_is_still_the_same() {
    let recorded = json!({
        "folder": null,
        "name": "UCI digits",
        "hash": "76bf17d94fd858ede701a41445e9d5676902296c45b57d896c570b8e9bb72a08",
        "train_images": 220,
        "tune_images": 60
    });
    let data: ImageData = serde_json::from_value(recorded.clone()).unwrap();
    data.load().unwrap();
    assert_eq!(serde_json::to_value(&data).unwrap(), recorded);
}

#[cfg(unix)]
#[test]
fn a_path_that_json_cannot_hold_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff"));
    let error = ImageData::read(of(path), [1, 1].into()).unwrap_err().to_string();
    assert!(error.contains("must be valid UTF-8"), "{error}");
}
