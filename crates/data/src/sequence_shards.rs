//! Generated sequences in files: written chunk by chunk, so that memory stays bounded and a generation that was
//! killed goes on, and read back.
//!
//! A folder of `PART-00000.safetensors` and so on, each with the tensors `tokens` (16 bits), `ends` (64 bits, one
//! a sequence) and `labels` (32 bits), and a [`Header`] as JSON under the key `sequences` of the metadata.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::atomic::write_atomic;
use crate::listops::Seen;
use crate::sequence_set::Flat;
use crate::{Error, Result, SequenceSet};

/// Changes with the layout.
const FORMAT: u32 = 1;

/// Sequences of a file: a few megabytes of the usual lengths.
const SHARD: usize = 4096;

/// Key of the metadata.
const KEY: &str = "sequences";

/// Makes the sequences of a range of numbers, none of those that were seen.
pub(crate) type Make<'a> = &'a dyn Fn(Range<usize>, &mut Seen) -> Result<SequenceSet>;

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    /// What generated the sequences.
    recipe: Value,
    /// Number of the first sequence.
    first: usize,
    /// Number of sequences.
    count: usize,
    name: String,
    vocabulary: usize,
    classes: usize,
    /// Of all that goes before and the tensors.
    blake3: String,
}

/// A part of generated data, and its folder.
pub(crate) struct Part<'a> {
    pub(crate) folder: &'a Path,
    /// As in "train".
    pub(crate) name: &'static str,
    /// What generates the sequences.
    pub(crate) recipe: &'a Value,
    /// Numbers of the sequences.
    pub(crate) range: Range<usize>,
}

impl Part<'_> {
    /// Makes the files that are not there yet; those that are there are read, so that none of their sequences is
    /// made again.
    ///
    /// # Errors
    /// When a sequence cannot be made, or a file cannot be written, is damaged, or holds other sequences.
    pub(crate) fn write(&self, seen: &mut Seen, make: Make<'_>) -> Result<()> {
        fs::create_dir_all(self.folder).map_err(Error::io(self.folder))?;
        for (path, chunk) in self.files() {
            if path.exists() {
                let set = self.read_file(&path, &chunk)?;
                (0..set.len()).filter_map(|i| set.sequence(i)).for_each(|tokens| {
                    seen.insert(tokens);
                });
                continue;
            }
            let set = make(chunk.clone(), seen)?;
            let bytes = encode(self.header(&set, chunk.start), set.flat());
            let bytes = bytes.map_err(|e| damaged(&path, format!("cannot be written: {e}")))?;
            write_atomic(&path, &bytes)?;
            tracing::info!("{}: {} sequences", path.display(), set.len());
        }
        Ok(())
    }

    /// Whether all files are there.
    pub(crate) fn is_written(&self) -> bool {
        self.files().all(|(path, _)| path.exists())
    }

    /// Reads all files.
    ///
    /// # Errors
    /// When a file cannot be read, is damaged, or holds other sequences: names it.
    pub(crate) fn read(&self) -> Result<SequenceSet> {
        let mut whole: Option<(SequenceSet, Flat)> = None;
        for (path, chunk) in self.files() {
            let set = self.read_file(&path, &chunk)?;
            match &mut whole {
                None => whole = Some((set.subset(&[])?, set.flat().clone())),
                Some((kind, flat)) if set.subset(&[])? == *kind => flat.append(set.flat()),
                Some(_) => {
                    let problem =
                        "has another name, vocabulary or number of classes than the others";
                    return Err(damaged(&path, problem.into()));
                }
            }
        }
        let Some((kind, flat)) = whole else {
            let problem = format!("no sequence to {} on; ask for at least one", self.name);
            return Err(Error::Sequences { name: self.folder.display().to_string(), problem });
        };
        SequenceSet::of_flat(kind.name(), [kind.vocabulary(), kind.classes()], false, flat)
    }

    /// Every file, and the numbers of its sequences.
    fn files(&self) -> impl Iterator<Item = (PathBuf, Range<usize>)> {
        let end = self.range.end;
        self.range.clone().step_by(SHARD).enumerate().map(move |(i, start)| {
            let path = self.folder.join(format!("{}-{i:05}.safetensors", self.name));
            (path, start..end.min(start.saturating_add(SHARD)))
        })
    }

    /// The header of a set, as yet without hash.
    fn header(&self, set: &SequenceSet, first: usize) -> Header {
        Header {
            format: FORMAT,
            recipe: self.recipe.clone(),
            first,
            count: set.len(),
            name: set.name().to_string(),
            vocabulary: set.vocabulary(),
            classes: set.classes(),
            blake3: String::new(),
        }
    }

    fn read_file(&self, path: &Path, chunk: &Range<usize>) -> Result<SequenceSet> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let (header, flat) = decode(&bytes).map_err(|problem| damaged(path, problem))?;
        let planned = (FORMAT, self.recipe, chunk.start, chunk.len());
        if (header.format, &header.recipe, header.first, header.count) != planned {
            let problem = format!(
                "holds sequences {} to {} of {} and not {} to {} of {}; remove the file, or give another folder",
                header.first,
                header.first.saturating_add(header.count),
                header.recipe,
                chunk.start,
                chunk.end,
                self.recipe
            );
            return Err(Error::Shard { path: path.into(), problem });
        }
        let sizes = [header.vocabulary, header.classes];
        let set = SequenceSet::of_flat(&header.name, sizes, false, flat)
            .map_err(|e| damaged(path, e.to_string()))?;
        match set.len() == chunk.len() {
            true => Ok(set),
            false => {
                let (found, count) = (set.len(), chunk.len());
                Err(damaged(path, format!("{found} sequences where the header says {count}")))
            }
        }
    }
}

/// The bytes of a file.
fn encode(mut header: Header, flat: &Flat) -> std::result::Result<Vec<u8>, String> {
    let [tokens, ends, labels] = flat.bytes();
    header.blake3 = hash(&header, [&tokens, &ends, &labels])?;
    let view =
        |dtype, count, bytes| TensorView::new(dtype, vec![count], bytes).map_err(|e| e.to_string());
    let tensors = [
        ("tokens", view(Dtype::U16, flat.tokens.len(), &tokens)?),
        ("ends", view(Dtype::U64, flat.ends.len(), &ends)?),
        ("labels", view(Dtype::U32, flat.labels.len(), &labels)?),
    ];
    // A single key: the order of several would change from run to run.
    let text = serde_json::to_string(&header).map_err(|e| e.to_string())?;
    let metadata = HashMap::from([(KEY.to_string(), text)]);
    safetensors::serialize(tensors, Some(metadata)).map_err(|e| e.to_string())
}

/// The content of a file, after its hash has been compared; or what is wrong with it.
fn decode(bytes: &[u8]) -> std::result::Result<(Header, Flat), String> {
    let problem = |e: safetensors::SafeTensorError| format!("truncated, or no safetensors ({e})");
    let tensors = SafeTensors::deserialize(bytes).map_err(problem)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(problem)?;
    let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let text =
        text.ok_or_else(|| format!("no {KEY:?} in its metadata: not a file of sequences"))?;
    let header: Header =
        serde_json::from_str(text).map_err(|e| format!("{KEY:?} in its metadata: {e}"))?;
    let tensor = |name: &str, dtype: Dtype| {
        let tensor = tensors.tensor(name).map_err(|_| format!("no tensor {name:?}"))?;
        match tensor.dtype() == dtype && tensor.shape().len() == 1 {
            true => Ok(tensor.data()),
            false => Err(format!("tensor {name:?} is not one row of {dtype:?}")),
        }
    };
    let tokens = tensor("tokens", Dtype::U16)?;
    let ends = tensor("ends", Dtype::U64)?;
    let labels = tensor("labels", Dtype::U32)?;
    if hash(&header, [tokens, ends, labels])? != header.blake3 {
        return Err("the content does not match the hash in its metadata".into());
    }
    let mut end = [0; 8];
    let ends = ends.chunks_exact(8).map(|bytes| {
        end.copy_from_slice(bytes);
        // An end beyond the memory is beyond the tokens too, which is looked at next.
        usize::try_from(u64::from_le_bytes(end)).unwrap_or(usize::MAX)
    });
    let flat = Flat {
        ends: ends.collect(),
        tokens: tokens.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
        labels: labels
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    };
    Ok((header, flat))
}

fn hash(header: &Header, tensors: [&[u8]; 3]) -> std::result::Result<String, String> {
    let header = Header { blake3: String::new(), ..header.clone() };
    let text = serde_json::to_vec(&header).map_err(|e| e.to_string())?;
    let mut hasher = blake3::Hasher::new();
    for bytes in [&text[..]].into_iter().chain(tensors) {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn damaged(path: &Path, problem: String) -> Error {
    let problem = format!("{problem}; remove the file, and it is generated again");
    Error::Shard { path: path.into(), problem }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::ListOps;
    use crate::damage::{Cut, allocated, corrupt};

    const TINY: ListOps = ListOps { max_depth: 2, max_args: 3, min_length: 3, max_length: 6 };

    fn make(range: Range<usize>, seen: &mut Seen) -> Result<SequenceSet> {
        TINY.unseen(0, range, seen)
    }

    fn part<'a>(folder: &'a Path, recipe: &'a Value, range: Range<usize>) -> Part<'a> {
        Part { folder, name: "tune", recipe, range }
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = TempDir::new().unwrap();
        let recipe = json!({"seed": 0});
        part(folder.path(), &recipe, 0..20).write(&mut Seen::default(), &make).unwrap();
        let file = folder.path().join("tune-00000.safetensors");
        let path = folder.path().to_path_buf();
        corrupt("shards of sequences", [file], Cut::Known, allocated, move || {
            part(&path, &recipe, 0..20).read().map(drop).map_err(|e| e.to_string())
        });
    }

    #[test]
    fn files_are_the_same_bytes_each_time_and_others_are_refused() {
        let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let [recipe, other] = [json!({"seed": 0}), json!({"seed": 1})];
        let bytes = folders.each_ref().map(|folder| {
            let part = part(folder.path(), &recipe, 5..25);
            part.write(&mut Seen::default(), &make).unwrap();
            assert_eq!(part.read().unwrap(), make(5..25, &mut Seen::default()).unwrap());
            fs::read(folder.path().join("tune-00000.safetensors")).unwrap()
        });
        assert!(bytes[0] == bytes[1]);
        for (recipe, range) in [(&other, 5..25), (&recipe, 5..24), (&recipe, 6..26)] {
            let part = part(folders[0].path(), recipe, range);
            for error in [part.read().map(drop), part.write(&mut Seen::default(), &make)] {
                let error = error.unwrap_err().to_string();
                let [name, problem] =
                    ["tune-00000.safetensors: holds sequences 5 to 25 of", "remove the file"];
                assert!(error.contains(name) && error.contains(problem), "{error}");
            }
        }
        // Other content under a hash of its own: a file of this format by another program.
        let part = part(folders[0].path(), &recipe, 5..25);
        let mut set = make(5..25, &mut Seen::default()).unwrap().flat().clone();
        set.tokens[3] = 99;
        let header = part.header(&make(5..25, &mut Seen::default()).unwrap(), 5);
        let path = folders[0].path().join("tune-00000.safetensors");
        fs::write(&path, encode(header, &set).unwrap()).unwrap();
        let error = part.read().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("id 99 at"), "{error}");
    }
}
