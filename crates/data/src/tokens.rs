//! [`Tokens`]: the tokens of a corpus, in memory or mapped from shards on disk.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomic;
use crate::shard::{Shard, encode, source_hash};
use crate::{Error, Result, Tokenizer};

/// Text of a shard that is good for most machines: 16 MiB.
pub const SHARD_BYTES: usize = 16 << 20;

const MANIFEST: &str = "tokens.json";

/// What [`write_shards`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Shards of the corpus.
    pub shards: usize,
    /// Those that an earlier run had finished.
    pub kept: usize,
    /// Documents of the corpus.
    pub documents: usize,
    /// Tokens of the corpus, with an end of text for each document.
    pub tokens: usize,
}

/// Written last: a folder without it is unfinished.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    shards: usize,
    documents: usize,
    tokens: usize,
    vocab_size: usize,
    tokenizer: String,
}

/// Writes the tokens of documents into a folder, in shards of about `shard_bytes` bytes of text.
///
/// A shard is complete or absent, and one that is there, undamaged, and of the same text and
/// tokenizer, is not made again, so a run that was cut off goes on. Shards are made on all threads
/// of the pool; their bytes do not depend on it. As many shards as threads are in memory at a time.
///
/// # Errors
/// When a document is an error or cannot be encoded, when there is none, or when the folder cannot be
/// written.
pub fn write_shards(
    folder: impl AsRef<Path>,
    documents: impl IntoIterator<Item = Result<String>>,
    tokenizer: &Tokenizer,
    shard_bytes: usize,
) -> Result<Written> {
    let folder = folder.as_ref();
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let manifest = folder.join(MANIFEST);
    let mut written = Written { shards: 0, kept: 0, documents: 0, tokens: 0 };
    let mut chunks = Chunks { documents: documents.into_iter(), bytes: shard_bytes };
    loop {
        let group = chunks.by_ref().take(rayon::current_num_threads());
        let group = group.collect::<Result<Vec<_>>>()?;
        if group.is_empty() {
            break;
        }
        let work = group
            .par_iter()
            .enumerate()
            .map(|(i, documents)| write_one(folder, written.shards + i, documents, tokenizer));
        for (kept, documents, tokens) in work.collect::<Result<Vec<_>>>()? {
            written.shards += 1;
            written.kept += usize::from(kept);
            written.documents += documents;
            written.tokens += tokens;
        }
    }
    if written.documents == 0 {
        return Err(Error::empty(folder.into()));
    }
    let Written { shards, documents, tokens, .. } = written;
    let (vocab_size, hash) = (tokenizer.vocab_size(), tokenizer.hash());
    let content = Manifest { shards, documents, tokens, vocab_size, tokenizer: hash };
    let text = serde_json::to_string_pretty(&content)
        .map_err(|e| Error::Shard { path: manifest.clone(), problem: e.to_string() })?;
    write_atomic(&manifest, text.as_bytes())?;
    Ok(written)
}

fn shard_path(folder: &Path, i: usize) -> PathBuf {
    folder.join(format!("{i:06}.tokens"))
}

/// Whether it was there, its documents and its tokens.
fn write_one(
    folder: &Path,
    i: usize,
    documents: &[String],
    tokenizer: &Tokenizer,
) -> Result<(bool, usize, usize)> {
    let (path, source) = (shard_path(folder, i), source_hash(documents));
    // None where it is missing, of another corpus or damaged.
    let there = || {
        let old = Shard::open(&path, tokenizer).ok().filter(|old| old.is_of(&source))?;
        old.verify().ok().map(|()| (true, old.documents(), old.tokens()))
    };
    if let Some(old) = there() {
        return Ok(old);
    }
    let (bytes, manifest) = (encode(documents, tokenizer)?, folder.join(MANIFEST));
    // Another command may have made it in the meantime, and be reading the folder.
    if let Some(old) = there() {
        return Ok(old);
    }
    // Only now is the folder unfinished.
    match fs::remove_file(&manifest) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io(&manifest)(error));
        }
        _ => write_atomic(&path, &bytes)?,
    }
    let new = Shard::open(&path, tokenizer)?;
    Ok((false, new.documents(), new.tokens()))
}

/// Documents by the shard, the last one of a shard the first to reach its size.
struct Chunks<I> {
    documents: I,
    bytes: usize,
}

impl<I: Iterator<Item = Result<String>>> Iterator for Chunks<I> {
    type Item = Result<Vec<String>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for document in self.documents.by_ref() {
            match document {
                Ok(document) => {
                    bytes += document.len();
                    chunk.push(document);
                }
                Err(error) => return Some(Err(error)),
            }
            if bytes >= self.bytes {
                break;
            }
        }
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}

/// Tokens of documents, each with an end of text, in memory or mapped from disk.
///
/// ```
/// use conditioned_data::{Tokenizer, Tokens};
///
/// let tokenizer = Tokenizer::characters(["abc"])?;
/// let tokens = Tokens::encode(["ab", "c"].map(|text| Ok(text.into())), &tokenizer)?;
/// assert_eq!((tokens.len(), tokens.documents()), (5, 2));
/// assert_eq!(tokens.document(0)?, [0, 1, tokenizer.end_of_text()]);
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug)]
pub struct Tokens {
    shards: Vec<Shard>,
    /// Documents before each shard, and in all.
    starts: Vec<usize>,
    vocab_size: usize,
}

impl Tokens {
    /// Encodes documents into memory.
    ///
    /// # Errors
    /// When a document is an error or cannot be encoded, or when there is none.
    pub fn encode(
        documents: impl IntoIterator<Item = Result<String>>,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let chunks = Chunks { documents: documents.into_iter(), bytes: SHARD_BYTES / 16 };
        let chunks = chunks.collect::<Result<Vec<_>>>()?;
        let shards =
            chunks.par_iter().map(|chunk| Shard::memory(encode(chunk, tokenizer)?, tokenizer));
        Self::new(shards.collect::<Result<_>>()?, "memory".into(), tokenizer)
    }

    /// Maps what [`write_shards`] wrote with this tokenizer.
    ///
    /// # Errors
    /// When the folder is unfinished, or a shard is missing, damaged or of another tokenizer. The
    /// tokens themselves are checked when they are read, or all by [`verify`](Self::verify).
    pub fn open(folder: impl AsRef<Path>, tokenizer: &Tokenizer) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join(MANIFEST);
        if folder.is_dir() && !path.exists() {
            let problem = "no finished shards here (no tokens.json); write them, or go on writing";
            return Err(Error::Shard { path: folder.into(), problem: problem.into() });
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let fail = |problem: String| {
            let problem = format!("{problem}; write the shards again");
            Error::Shard { path: path.clone(), problem }
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        let shards = (0..manifest.shards).map(|i| {
            let path = shard_path(folder, i);
            if !path.exists() {
                let (promised, path) = (manifest.shards, path.display());
                return Err(fail(format!("promises {promised} shards, and there is no {path}")));
            }
            Shard::open(&path, tokenizer)
        });
        let this = Self::new(shards.collect::<Result<_>>()?, folder.into(), tokenizer)?;
        if (this.documents(), this.len()) != (manifest.documents, manifest.tokens) {
            let (documents, tokens) = (this.documents(), this.len());
            return Err(fail(format!(
                "promises {} documents and {} tokens, the shards hold {documents} and {tokens}",
                manifest.documents, manifest.tokens
            )));
        }
        Ok(this)
    }

    fn new(shards: Vec<Shard>, path: PathBuf, tokenizer: &Tokenizer) -> Result<Self> {
        let mut starts = vec![0];
        for shard in &shards {
            starts.push(starts[starts.len() - 1] + shard.documents());
        }
        if starts[starts.len() - 1] == 0 {
            return Err(Error::empty(path));
        }
        Ok(Self { shards, starts, vocab_size: tokenizer.vocab_size() })
    }

    /// Reads all of it and compares it with the hashes in the shards.
    ///
    /// # Errors
    /// When a shard is damaged.
    pub fn verify(&self) -> Result<()> {
        self.shards.par_iter().map(Shard::verify).collect()
    }

    /// Number of tokens, ends of text included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::tokens).sum()
    }

    /// The largest id of a token.
    ///
    /// # Errors
    /// When a token is beyond the vocabulary.
    pub fn largest(&self) -> Result<u32> {
        let largest = self.shards.par_iter().map(|shard| {
            let mut ids = Vec::new();
            shard.read(0..shard.tokens(), &mut ids)?;
            Ok(ids.into_iter().max().unwrap_or(0))
        });
        largest.try_reduce(|| 0, |a, b| Ok(a.max(b)))
    }

    /// Whether there is no token, which no way of making them allows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Number of ids, V.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Tokens of a document, end of text included.
    ///
    /// # Errors
    /// When `index` is past the last document, or a token is beyond the vocabulary.
    pub fn document(&self, index: usize) -> Result<Vec<u32>> {
        if index >= self.documents() {
            return Err(Error::config("index", index, format!("{} documents", self.documents())));
        }
        let mut out = Vec::new();
        self.read(index, 0..self.size(index), &mut out)?;
        Ok(out)
    }

    fn find(&self, index: usize) -> (&Shard, usize) {
        let shard = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.shards[shard], index - self.starts[shard])
    }

    /// Tokens of a document that exists, by number.
    pub(crate) fn size(&self, index: usize) -> usize {
        let (shard, i) = self.find(index);
        shard.range(i).len()
    }

    /// First 64 bits of the hash of a document's text.
    pub(crate) fn text_hash(&self, index: usize) -> u64 {
        let (shard, i) = self.find(index);
        shard.text_hash(i)
    }

    /// Appends a range of a document's tokens.
    pub(crate) fn read(
        &self,
        index: usize,
        range: std::ops::Range<usize>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let (shard, i) = self.find(index);
        let start = shard.range(i).start;
        shard.read(start + range.start..start + range.end, out)
    }
}
