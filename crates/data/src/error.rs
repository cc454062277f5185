//! What can go wrong, with the file, the numbers found and expected, and what to do.

use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A failure in reading, splitting or loading images or text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data folder is not there, is not a folder, or is empty.
    #[error(
        "{}: {problem}; give a folder with a folder of images for each class, or with the files of MNIST \
         (train-images-idx3-ubyte and so on, gzipped or not) or of CIFAR", .folder.display()
    )]
    Folder {
        /// The folder asked for.
        folder: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// One of the files of a data folder is missing.
    #[error("{}: no {what}; looked for {looked_for}; put one of these there", .folder.display())]
    Missing {
        /// The folder searched.
        folder: PathBuf,
        /// The part that is missing, as in "training labels".
        what: String,
        /// Every file name that would do.
        looked_for: String,
    },
    /// The operating system could not read or write a file or folder.
    #[error("cannot read or write {}: {reason}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A file starts like gzip but does not unpack.
    #[error("{}: the gzip data are damaged or cut short ({reason}); fetch the file again", .path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// The unpacker's reason.
        reason: std::io::Error,
    },
    /// A file does not start with the IDX magic number of its kind.
    #[error(
        "{}: magic number {found:#010x} where an IDX file of {what} has {expected:#010x}; \
         is this another file under that name?", .path.display()
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// The part that the file should hold, as in "training labels".
        what: String,
        /// The magic number of that kind of file.
        expected: u32,
        /// The first four bytes, big-endian.
        found: u32,
    },
    /// A file ends before the size in its header.
    #[error("{}: truncated: the header asks for {expected} bytes, found {found}; fetch the file again", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Header and data, in bytes after unpacking (a damaged header can ask for more than 64 bits hold).
        expected: u128,
        /// Bytes found after unpacking.
        found: usize,
    },
    /// A file goes on after the size in its header.
    #[error(
        "{}: trailing bytes: the header asks for {expected} bytes, found {found}; fetch the file again",
        .path.display()
    )]
    Trailing {
        /// The file.
        path: PathBuf,
        /// Header and data, in bytes after unpacking.
        expected: u128,
        /// Bytes found after unpacking.
        found: usize,
    },
    /// A header declares no images or images without pixels.
    #[error("{}: holds no data: the header's sizes are {sizes:?}", .path.display())]
    NoData {
        /// The file.
        path: PathBuf,
        /// The sizes in the header.
        sizes: Vec<usize>,
    },
    /// A label is not one of the classes.
    #[error(
        "{}: label {label} of image {index}, and the labels of {classes} classes are 0 to {}; take a data set of \
         {classes} classes, or give the number of its classes", .path.display(), .classes.saturating_sub(1)
    )]
    Label {
        /// The file of labels.
        path: PathBuf,
        /// Position of the label, from 0.
        index: usize,
        /// The label found.
        label: u8,
        /// The number of classes asked for.
        classes: usize,
    },
    /// A file of images and its file of labels have different lengths.
    #[error(
        "{} holds {images} images, but {} holds {labels} labels; are they of the same set?",
        .images_path.display(), .labels_path.display()
    )]
    Counts {
        /// The file of images.
        images_path: PathBuf,
        /// The file of labels.
        labels_path: PathBuf,
        /// Images found.
        images: usize,
        /// Labels found.
        labels: usize,
    },
    /// The training and test images of a folder differ in size.
    #[error("{}: training images are {train:?} (channels, height, width), test images {test:?}", .folder.display())]
    Sizes {
        /// The folder.
        folder: PathBuf,
        /// Channels, height and width of the training images.
        train: [usize; 3],
        /// Channels, height and width of the test images.
        test: [usize; 3],
    },
    /// The embedded digits do not parse, which means a damaged build.
    #[error("embedded digits.csv.gz, line {line}: {problem}")]
    Digits {
        /// Line in the file, from 1; 0 for the file as a whole.
        line: usize,
        /// What was found and expected there.
        problem: String,
    },
    /// Images, their labels or a selection of them do not fit together.
    #[error("image set {name:?}: {problem}")]
    Images {
        /// Name of the set.
        name: String,
        /// What was found and expected.
        problem: String,
    },
    /// A tree of images is not one folder for each class.
    #[error("{}: {problem}", .folder.display())]
    ImageFolder {
        /// The folder.
        folder: PathBuf,
        /// What was found and expected, and what to do.
        problem: String,
    },
    /// A file, or a row of a parquet file, is no image that can be read.
    #[error("{}: {problem}", .file.display())]
    Picture {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// What is to be a mask of pixels is none.
    #[error("mask: {problem}")]
    Mask {
        /// What was found and expected, and what to do.
        problem: String,
    },
    /// Annotations or results of COCO do not say what they must, or belong to other images.
    #[error("{}: {problem}", .path.display())]
    Coco {
        /// The file.
        path: PathBuf,
        /// The image or annotation by its id, what was found and expected, and what to do.
        problem: String,
    },
    /// Detections, or the objects that they are scored by, do not fit together.
    #[error("detections: {problem}")]
    Detections {
        /// Which one, what was found and expected, and what to do.
        problem: String,
    },
    /// How the images of a checkpoint are prepared cannot be read, or is not done here.
    #[error("{}: {problem}", .path.display())]
    Preprocessing {
        /// The file or folder.
        path: PathBuf,
        /// The key, what was found and expected.
        problem: String,
    },
    /// Labelled texts, their labels or a selection of them do not fit together.
    #[error("texts {name:?}: {problem}")]
    Texts {
        /// Name of the set.
        name: String,
        /// What was found and expected, and what to do.
        problem: String,
    },
    /// Labelled sequences of tokens, or a selection of them, do not fit together or cannot be made.
    #[error("sequences {name:?}: {problem}")]
    Sequences {
        /// Name of the set.
        name: String,
        /// What was found and expected, at which place, and what to do.
        problem: String,
    },
    /// Text is not UTF-8.
    #[error("{}: line {line}: not UTF-8 at byte {offset} of the file; {remedy}", .path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Line of the first wrong byte, from 1.
        line: usize,
        /// Offset of the first wrong byte from the start of the file.
        offset: u64,
        /// What to do, by what the file begins like.
        remedy: String,
    },
    /// A text file or a folder of them is not what its layout says.
    #[error("{}: {problem}", .path.display())]
    Corpus {
        /// The file or folder.
        path: PathBuf,
        /// What was found and expected, and what to do.
        problem: String,
    },
    /// What is asked for as a tokenizer is neither a way to make one nor a file.
    #[error(
        "no tokenizer at {}: give `characters`, `bpe-V` or `wordpiece-V` with a number of tokens V, or the \
         path of a tokenizer.json (or of a folder with it, with vocab.json and merges.txt, or with \
         vocab.txt)", .path.display()
    )]
    NoTokenizer {
        /// What was given.
        path: PathBuf,
    },
    /// A text is a single document, perhaps because another line stands between its documents.
    #[error(
        "{text}: one document alone, and some must be held out: no line between two documents is {separator}; \
         {found}. Set the separator to the line that is there, or to nothing for blank lines, or give a folder \
         of texts"
    )]
    Separator {
        /// The file or files.
        text: String,
        /// The line that was looked for.
        separator: String,
        /// Lines that other texts have between documents, and how many of them there are.
        found: String,
    },
    /// A part of a text has no document.
    #[error("{text}: no document to {part} on: {problem}")]
    Part {
        /// The text, by name.
        text: String,
        /// "train", "tune" or "test".
        part: &'static str,
        /// Why, and what to do.
        problem: String,
    },
    /// A part of a text is no longer than a window of it.
    #[error(
        "{text}: {tokens} {part} tokens do not fill a window of {window}; give more text, or a smaller \
         context"
    )]
    Short {
        /// The text, by name.
        text: String,
        /// "train", "tune" or "test".
        part: &'static str,
        /// Tokens of the part.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// Data are not those that were read when a run was planned.
    #[error(
        "{name}: the {what} are not those that this run was planned with (hash {found}, planned \
         {planned}); put them back, or plan it anew in another folder"
    )]
    Changed {
        /// Name or file of the data.
        name: String,
        /// What they are, as in "images".
        what: &'static str,
        /// The hash then.
        planned: String,
        /// The hash now.
        found: String,
    },
    /// A tokenizer could not be read, trained or used.
    #[error("tokenizer {name}: {problem}")]
    Tokenizer {
        /// Its file, or how it was made.
        name: String,
        /// What was found and expected, and what to do.
        problem: String,
    },
    /// A shard of tokens, or the folder of them, is damaged or does not belong.
    #[error("{}: {problem}", .path.display())]
    Shard {
        /// The file or folder; "memory" for tokens that never were on disk.
        path: PathBuf,
        /// What was found and expected, and what to do.
        problem: String,
    },
    /// The hub does not give what is asked for.
    #[cfg(feature = "hub")]
    #[error("{repository}: {problem}")]
    Hub {
        /// Kind and id, as in "data set owner/name".
        repository: String,
        /// What happened with which file, and what to do.
        problem: String,
    },
    /// The cache of the hub cannot be written.
    #[cfg(feature = "hub")]
    #[error(
        "cannot write {}: {reason}; free some space or make it writable, or set HF_HOME to another \
         folder", .path.display()
    )]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A setting is out of its range.
    #[error("{field} = {value}: {expected}")]
    Config {
        /// The setting's field.
        field: &'static str,
        /// The value given.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// A loader thread died or could not be started.
    #[error("loader thread for batch {batch}: {problem}")]
    Worker {
        /// The batch that was asked of it.
        batch: usize,
        /// The panic's message or the system's reason.
        problem: String,
    },
    /// A tensor could not be made on the device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Makes an error of the system name its file.
    pub(crate) fn io(path: &std::path::Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |reason| Self::Io { path: path.into(), reason }
    }

    /// Makes an error of the system name its file in the cache of the hub.
    #[cfg(feature = "hub")]
    pub(crate) fn cache(path: &std::path::Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |reason| Self::Cache { path: path.into(), reason }
    }

    /// Text that is not UTF-8 from a line and byte on, of a file that begins with `start`.
    pub(crate) fn not_utf8(path: &std::path::Path, start: &[u8], line: usize, offset: u64) -> Self {
        let kinds: [(&[u8], &str); 7] = [
            (b"PAR1", "parquet"),
            (b"\x1f\x8b", "gzip"),
            (b"PK\x03\x04", "zip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\xfd7zXZ", "xz"),
            (b"\xff\xfe", "UTF-16"),
            (b"\xfe\xff", "UTF-16"),
        ];
        let kind = kinds.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, kind)| *kind);
        let remedy = match kind {
            Some("UTF-16") => "it is UTF-16: convert the file to UTF-8".to_string(),
            Some("parquet") => "it is a parquet file: name it .parquet, where parquet is read, or \
                                write its texts to a text file"
                .to_string(),
            Some(kind) => format!("it is a {kind} file: unpack it first"),
            None => "convert the file to UTF-8, or leave it out".to_string(),
        };
        Self::Utf8 { path: path.into(), line, offset, remedy }
    }

    /// A file of text whose bytes are not UTF-8.
    pub(crate) fn utf8(path: &std::path::Path, bytes: &[u8], error: std::str::Utf8Error) -> Self {
        let valid = error.valid_up_to();
        let line = 1 + bytes[..valid].iter().filter(|&&byte| byte == b'\n').count();
        Self::not_utf8(path, bytes, line, valid as u64)
    }

    /// What is wrong with a tokenizer.
    pub(crate) fn tokenizer(name: &str, problem: impl ToString) -> Self {
        Self::Tokenizer { name: name.to_string(), problem: problem.to_string() }
    }

    /// A file that is no image that can be read.
    pub(crate) fn picture(file: PathBuf, problem: String) -> Self {
        Self::Picture { file, problem }
    }

    /// A corpus without documents.
    pub(crate) fn empty(path: PathBuf) -> Self {
        Self::Corpus { path, problem: "the corpus is empty; give at least one document".into() }
    }

    /// Checks that data are those that a run was planned with.
    pub(crate) fn unchanged(
        name: impl std::fmt::Display,
        what: &'static str,
        planned: &str,
        found: &str,
    ) -> Result<()> {
        if planned == found {
            return Ok(());
        }
        let (planned, found) = (planned.to_string(), found.to_string());
        Err(Self::Changed { name: name.to_string(), what, planned, found })
    }

    pub(crate) fn config(
        field: &'static str,
        value: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Config { field, value: value.to_string(), expected: expected.into() }
    }
}
