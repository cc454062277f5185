//! CIFAR-10 and CIFAR-100 in their binary files.
//!
//! Rows of one label byte (CIFAR-100: coarse and fine label) and 3 x 32 x 32 pixels, channel by channel.
//! A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Images, Result};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// Training and test images of a folder of CIFAR; [`hold_out`](crate::hold_out) makes splits of them.
#[derive(Debug, Clone)]
pub struct CifarFolder {
    /// The images of `data_batch_1.bin` to `data_batch_5.bin`, or of `train.bin`.
    pub train: Images,
    /// The images of `test_batch.bin`, or of `test.bin`.
    pub test: Images,
    /// The names of the classes in `batches.meta.txt` or `fine_label_names.txt`; their numbers where the file is
    /// missing.
    pub names: Vec<String>,
}

/// One of the two sets.
struct Kind {
    name: &'static str,
    /// The folder that the archive unpacks to.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    /// Bytes in front of the pixels; the last is the label.
    labels: usize,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "CIFAR-10",
        folder: "cifar-10-batches-bin",
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: "test_batch.bin",
        names: "batches.meta.txt",
        classes: 10,
        labels: 1,
    },
    Kind {
        name: "CIFAR-100",
        folder: "cifar-100-binary",
        train: &["train.bin"],
        test: "test.bin",
        names: "fine_label_names.txt",
        classes: 100,
        labels: 2,
    },
];

impl CifarFolder {
    /// Whether a folder, or the one in it that the archive unpacks to, has the test images of CIFAR.
    pub fn is_in(folder: &Path) -> bool {
        find(folder).is_some()
    }

    /// Reads the binary version of CIFAR-10 or CIFAR-100 (the fine labels); which one is told by the names of
    /// the files.
    ///
    /// # Errors
    /// When a file is missing, cut short, or holds a label that is no class: names the file.
    pub fn read(folder: &Path) -> Result<Self> {
        let Some((folder, kind)) = find(folder) else {
            let looked_for = KINDS.map(|kind| kind.test).join(", ");
            let (folder, what) = (folder.into(), "test images of CIFAR".into());
            return Err(Error::Missing { folder, what, looked_for });
        };
        let files: Vec<PathBuf> = kind.train.iter().map(|file| folder.join(file)).collect();
        let names = fs::read_to_string(folder.join(kind.names)).unwrap_or_default();
        let names: Vec<String> =
            names.lines().map(str::trim).filter(|line| !line.is_empty()).map(Into::into).collect();
        Ok(Self {
            train: kind.read(&files)?,
            test: kind.read(&[folder.join(kind.test)])?,
            names: match names.len() == kind.classes {
                true => names,
                false => (0..kind.classes).map(|class| class.to_string()).collect(),
            },
        })
    }
}

/// The folder that has the files, and of which set they are.
fn find(folder: &Path) -> Option<(PathBuf, Kind)> {
    KINDS.into_iter().find_map(|kind| {
        let folders = [folder.to_path_buf(), folder.join(kind.folder)];
        // Any folder may have a `test.bin`.
        let has = |folder: &PathBuf| {
            folder.join(kind.test).is_file() && folder.join(kind.train[0]).is_file()
        };
        Some((folders.into_iter().find(has)?, kind))
    })
}

impl Kind {
    fn read(&self, files: &[PathBuf]) -> Result<Images> {
        let row = self.labels + PIXELS;
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for path in files {
            let bytes = fs::read(path).map_err(Error::io(path))?;
            if bytes.is_empty() || bytes.len() % row != 0 {
                let (found, expected) = (bytes.len(), bytes.len().div_ceil(row).max(1) * row);
                return Err(Error::Truncated {
                    path: path.clone(),
                    expected: expected as u128,
                    found,
                });
            }
            for (index, row) in bytes.chunks_exact(row).enumerate() {
                let label = row[self.labels - 1];
                if usize::from(label) >= self.classes {
                    let (path, classes) = (path.clone(), self.classes);
                    return Err(Error::Label { path, index, label, classes });
                }
                labels.push(u32::from(label));
                pixels.extend_from_slice(&row[self.labels..]);
            }
        }
        Images::new(self.name, SHAPE, self.classes, 255, pixels, labels)
    }
}
