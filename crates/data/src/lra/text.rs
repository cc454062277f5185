//! Labelled texts by their bytes: IMDb, or a file of one's own.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::{BYTES, Layout, check_length, ids};
use crate::sequence_set::Flat;
use crate::{Error, Labels, Result, SequenceSet, SequenceSplits, Texts};

pub(crate) const FILES: Layout = Layout { places: &["", "aclImdb"], file: "train/pos" };

/// Classes of IMDb, by the names of their folders.
const SENTIMENTS: [&str; 2] = ["neg", "pos"];

/// A part that is held out is one of so many.
const TENTH: usize = 10;

/// A text and its class.
pub(super) struct Labelled {
    pub(super) bytes: Vec<u8>,
    pub(super) label: u32,
}

/// The texts of a source in three parts.
pub(super) struct LabelledTexts {
    /// What the texts are called.
    pub(super) name: String,
    /// Whether they are those of the Long Range Arena.
    released: bool,
    pub(super) classes: usize,
    /// To train, to tune and to report on.
    pub(super) parts: [Vec<Labelled>; 3],
}

/// Texts of at most `max_length` bytes with their classes.
///
/// # Errors
/// When a file or folder is not as it should be, or there are too few texts to hold some out.
pub(crate) fn read(path: &Path, max_length: usize) -> Result<SequenceSplits> {
    check_length(max_length)?;
    let texts = LabelledTexts::read(path)?;
    let name = match texts.released {
        true => "LRA Text".to_string(),
        false => format!("bytes of {}", texts.name),
    };
    let part = |part: &[Labelled]| {
        let mut flat = Flat::default();
        for text in part {
            flat.push(ids(&text.bytes, max_length));
            flat.labels.push(text.label);
        }
        SequenceSet::of_flat(name.clone(), [BYTES, texts.classes], false, flat)
    };
    let [train, tune, test] = &texts.parts;
    Ok(SequenceSplits { train: part(train)?, tune: part(tune)?, test: part(test)? })
}

impl LabelledTexts {
    pub(super) fn read(path: &Path) -> Result<Self> {
        match fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            true => Self::read_imdb(&FILES.find(path, "texts of IMDb")?),
            false => Self::read_file(path),
        }
    }

    /// IMDb, which has no texts to tune on: a tenth of the training texts is held out.
    fn read_imdb(root: &Path) -> Result<Self> {
        let train = read_folder(&root.join("train"))?;
        let test = read_folder(&root.join("test"))?;
        let [tune, train] = hold_out(root, train)?;
        Ok(Self {
            name: "IMDb".into(),
            released: true,
            classes: SENTIMENTS.len(),
            parts: [train, tune, test],
        })
    }

    /// A file of labelled texts without parts: a tenth is held out to report on, another to tune on.
    fn read_file(path: &Path) -> Result<Self> {
        let fail = |problem: String| Err(Error::Corpus { path: path.into(), problem });
        let texts = Texts::read(path, None)?;
        let Labels::Classes(classes) = texts.labels() else {
            return fail("scores, and classes are needed".into());
        };
        let classes = classes.len();
        if texts.pairs() {
            return fail("pairs of texts, and single ones are needed; leave out the second".into());
        }
        let rows = texts.into_rows().into_iter();
        let texts: Vec<Labelled> = rows
            .map(|row| Labelled { bytes: row.text.into_bytes(), label: row.label as u32 })
            .collect();
        if let Some(i) = texts.iter().position(|text| text.bytes.is_empty()) {
            return fail(format!("text {i} (from 0) is empty; leave it out"));
        }
        let whole = texts.len();
        let [test, rest] = hold_out(path, texts)?;
        // As many again, of what is left.
        let [tune, train] = hold_out_of(path, rest, whole)?;
        let name = path.file_stem().unwrap_or_default().display().to_string();
        Ok(Self { name, released: false, classes, parts: [train, tune, test] })
    }
}

/// The texts of `neg` and `pos` in the order of their names.
fn read_folder(folder: &Path) -> Result<Vec<Labelled>> {
    let mut texts = Vec::new();
    for (label, sentiment) in (0..).zip(SENTIMENTS) {
        let folder = folder.join(sentiment);
        let mut paths = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                paths.push(path);
            }
        }
        paths.sort();
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).map_err(Error::io(&path))?;
            match bytes.is_empty() {
                true => {
                    let problem = "an empty text; fetch the file again, or remove it".into();
                    Err(Error::Corpus { path, problem })
                }
                false => Ok(Labelled { bytes, label }),
            }
        };
        if paths.is_empty() {
            let problem = "no text (*.txt) in it; unpack the archive again".into();
            return Err(Error::Corpus { path: folder, problem });
        }
        texts.extend(paths.into_iter().map(read).collect::<Result<Vec<_>>>()?);
    }
    Ok(texts)
}

/// A tenth of the texts, and the others.
fn hold_out(path: &Path, texts: Vec<Labelled>) -> Result<[Vec<Labelled>; 2]> {
    let whole = texts.len();
    hold_out_of(path, texts, whole)
}

/// As many texts as a tenth of `whole` is, and the others, both in their order.
///
/// Those of the smallest hashes are held out, of each class its share; equal texts go together.
fn hold_out_of(path: &Path, texts: Vec<Labelled>, whole: usize) -> Result<[Vec<Labelled>; 2]> {
    // Places of the different texts of each class, in the order of their hashes.
    let mut first: HashMap<[u8; 32], u32> = HashMap::new();
    let mut different: BTreeMap<u32, BTreeMap<[u8; 32], Vec<usize>>> = BTreeMap::new();
    for (i, text) in texts.iter().enumerate() {
        let hash = *blake3::hash(&text.bytes).as_bytes();
        // Of a text with two labels the first counts.
        let label = *first.entry(hash).or_insert(text.label);
        different.entry(label).or_default().entry(hash).or_default().push(i);
    }
    let mut held_out = vec![false; texts.len()];
    for (label, places) in &different {
        let share = places.len() as f64 * whole as f64 / (TENTH * texts.len()) as f64;
        let count = (share.round() as usize).max(1);
        if count >= places.len() {
            let problem = format!(
                "too few different texts of class {label} to hold some out; give ten or more of each class"
            );
            return Err(Error::Corpus { path: path.into(), problem });
        }
        places.values().take(count).flatten().for_each(|&i| held_out[i] = true);
    }
    let mut parts = [Vec::new(), Vec::new()];
    for (text, held_out) in texts.into_iter().zip(held_out) {
        parts[usize::from(!held_out)].push(text);
    }
    Ok(parts)
}
