//! Folders of the MNIST family: MNIST, Fashion-MNIST, KMNIST. EMNIST is another: its files have other names, and lie
//! transposed.
//!
//! IDX, big-endian: the magic number (`0x00000803` for images, `0x00000801` for labels), one 32-bit
//! size for each axis (N, H, W or N), then one byte for each entry, the last axis fastest. Y. LeCun,
//! C. Cortes, C. Burges, *The MNIST database of handwritten digits*.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::{Error, Images, Result};

/// What a file holds, and its axes, both as in its name.
type Kind = (&'static str, usize);
const IMAGES: Kind = ("images", 3);
const LABELS: Kind = ("labels", 1);

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Bytes that a byte of deflate's unpacks to at most.
const DEFLATE_MOST: u64 = 1032;

/// Training and test images of a folder; [`hold_out`](crate::hold_out) makes splits of them.
#[derive(Debug, Clone)]
pub struct IdxFolder {
    /// The images of `train-images-idx3-ubyte`.
    pub train: Images,
    /// The images of `t10k-images-idx3-ubyte`.
    pub test: Images,
}

impl IdxFolder {
    /// Whether a folder has one of the files that [`read`](Self::read) reads, by its name.
    pub fn is_in(folder: &Path) -> bool {
        let files =
            ["train", "t10k"].into_iter().flat_map(|prefix| [(prefix, IMAGES), (prefix, LABELS)]);
        let mut names = files.flat_map(|(prefix, kind)| names(prefix, kind));
        names.any(|name| folder.join(name).is_file())
    }

    /// Reads the four files of a folder; the set takes the folder's name.
    ///
    /// `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    /// `t10k-labels-idx1-ubyte`, or with `.idx` in place of `-idx`, with or without `.gz`. Whether a
    /// file is gzipped is read from its first bytes.
    ///
    /// # Errors
    /// When the folder or a file is missing, unreadable, damaged, cut short or too long, when a
    /// label is not below `classes`, or when the files do not belong together. The message names
    /// the file.
    pub fn read(folder: impl AsRef<Path>, classes: usize) -> Result<Self> {
        let folder = folder.as_ref();
        check_folder(folder)?;
        let train = read_part(folder, "train", "training", classes)?;
        let test = read_part(folder, "t10k", "test", classes)?;
        if train.shape() != test.shape() {
            let (train, test) = (train.shape(), test.shape());
            return Err(Error::Sizes { folder: folder.into(), train, test });
        }
        Ok(Self { train, test })
    }
}

fn check_folder(folder: &Path) -> Result<()> {
    let bad = |problem| Err(Error::Folder { folder: folder.into(), problem });
    if !folder.exists() {
        return bad("there is no such folder");
    }
    if !folder.is_dir() {
        return bad("this is not a folder");
    }
    let mut entries =
        fs::read_dir(folder).map_err(|reason| Error::Io { path: folder.into(), reason })?;
    if entries.next().is_none() { bad("the folder is empty") } else { Ok(()) }
}

fn read_part(folder: &Path, prefix: &str, part: &str, classes: usize) -> Result<Images> {
    let (images, labels) = (format!("{part} images"), format!("{part} labels"));
    let images_path = find(folder, prefix, IMAGES, &images)?;
    let labels_path = find(folder, prefix, LABELS, &labels)?;
    let ([n, height, width], pixels) = read_file(&images_path, IMAGES_MAGIC, &images)?;
    let ([m], labels) = read_file(&labels_path, LABELS_MAGIC, &labels)?;
    if n != m {
        return Err(Error::Counts { images_path, labels_path, images: n, labels: m });
    }
    if let Some(index) = labels.iter().position(|&label| usize::from(label) >= classes) {
        return Err(Error::Label { path: labels_path, index, label: labels[index], classes });
    }
    let labels = labels.into_iter().map(u32::from).collect();
    Images::new(set_name(folder), [1, height, width], classes, 255, pixels, labels)
}

/// The folder's own name, also for a path such as `.`.
pub(crate) fn set_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.into());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

/// The names that a file may have.
fn names(prefix: &str, (kind, axes): Kind) -> [String; 4] {
    [
        format!("{prefix}-{kind}-idx{axes}-ubyte"),
        format!("{prefix}-{kind}-idx{axes}-ubyte.gz"),
        format!("{prefix}-{kind}.idx{axes}-ubyte"),
        format!("{prefix}-{kind}.idx{axes}-ubyte.gz"),
    ]
}

fn find(folder: &Path, prefix: &str, kind: Kind, what: &str) -> Result<PathBuf> {
    let names = names(prefix, kind);
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::Missing {
        folder: folder.into(),
        what: what.into(),
        looked_for: names.join(", "),
    })
}

/// Sizes and data of one file of `D` axes.
///
/// No more is kept than the header asks for and the file can hold: a small one can unpack to anything.
fn read_file<const D: usize>(path: &Path, magic: u32, what: &str) -> Result<([usize; D], Vec<u8>)> {
    let file = fs::read(path).map_err(|reason| Error::Io { path: path.into(), reason })?;
    let damaged = |reason| Error::Gzip { path: path.into(), reason };
    let packed = file.starts_with(&GZIP_MAGIC);
    let mut bytes: Box<dyn Read + '_> = match packed {
        // The multi-member decoder also rejects bytes that follow the gzip data.
        true => Box::new(MultiGzDecoder::new(file.as_slice())),
        false => Box::new(file.as_slice()),
    };
    let length = 4 * (1 + D);
    let mut header = Vec::new();
    bytes.by_ref().take(length as u64).read_to_end(&mut header).map_err(damaged)?;
    let word = |i: usize| header.get(4 * i..4 * i + 4)?.try_into().ok().map(u32::from_be_bytes);
    let truncated = |expected, found| Error::Truncated { path: path.into(), expected, found };
    let short = || truncated(length as u128, header.len());
    let first = word(0).ok_or_else(short)?;
    if first != magic {
        let what = what.into();
        return Err(Error::Magic { path: path.into(), what, expected: magic, found: first });
    }
    let mut sizes = [0; D];
    for (i, size) in sizes.iter_mut().enumerate() {
        *size = word(i + 1).ok_or_else(short)? as usize;
    }
    // Three 32-bit sizes fit in 128 bits, so a damaged header cannot overflow.
    let wanted = sizes.iter().map(|&size| size as u128).product::<u128>();
    let most = file.len() as u64 * if packed { DEFLATE_MOST } else { 1 };
    let mut data = Vec::new();
    if wanted <= u128::from(most) {
        bytes.by_ref().take(wanted as u64).read_to_end(&mut data).map_err(damaged)?;
    }
    let rest = io::copy(&mut bytes, &mut io::sink()).map_err(damaged)?;
    let found = header.len() + data.len() + rest as usize;
    let expected = length as u128 + wanted;
    if (found as u128) < expected {
        return Err(truncated(expected, found));
    }
    if found as u128 > expected {
        return Err(Error::Trailing { path: path.into(), expected, found });
    }
    if data.is_empty() {
        return Err(Error::NoData { path: path.into(), sizes: sizes.to_vec() });
    }
    Ok((sizes, data))
}
