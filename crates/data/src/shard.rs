//! One shard of tokens: its bytes, on disk or in memory.
//!
//! Little-endian: a header of 136 bytes (`TOKSHARD`, version, bytes per token, tokens N, documents D,
//! vocabulary V, then the BLAKE3 hashes of the tokenizer, of the text, and of all that follows), D
//! times the end of a document in tokens and the hash of its text, then N tokens.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{Error, Result, Tokenizer};

const MAGIC: &[u8; 8] = b"TOKSHARD";
const VERSION: u32 = 2;
const HEADER: usize = 136;
/// The end of a document and the hash of its text.
const ENTRY: usize = 16;

#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    Mapped(Mmap),
}

/// A shard whose header and length have been checked.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    bytes: Bytes,
    width: usize,
    tokens: usize,
    documents: usize,
    vocab_size: usize,
}

/// Hash of the texts of a shard, with their lengths.
pub(crate) fn source_hash(documents: &[String]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for text in documents {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize()
}

/// First 64 bits of the hash of a document's text, by which it is assigned to a part.
pub(crate) fn text_hash(text: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// The bytes of a shard: each document's tokens, then the end of text.
pub(crate) fn encode(documents: &[String], tokenizer: &Tokenizer) -> Result<Vec<u8>> {
    let vocab_size = tokenizer.vocab_size();
    let width = if vocab_size <= 1 << 16 { 2 } else { 4 };
    let (mut table, mut tokens, mut count) = (Vec::new(), Vec::new(), 0u64);
    for text in documents {
        let mut ids = tokenizer.encode(text)?;
        ids.push(tokenizer.end_of_text());
        count += ids.len() as u64;
        table.extend(count.to_le_bytes());
        table.extend(text_hash(text).to_le_bytes());
        tokens.extend(ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)));
    }
    let mut body = blake3::Hasher::new();
    body.update(&table).update(&tokens);
    let mut bytes = Vec::with_capacity(HEADER + table.len() + tokens.len());
    bytes.extend(MAGIC);
    bytes.extend([VERSION, width as u32].iter().flat_map(|n| n.to_le_bytes()));
    let sizes = [count, documents.len() as u64, vocab_size as u64];
    bytes.extend(sizes.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(tokenizer.hash_bytes());
    bytes.extend(source_hash(documents).as_bytes());
    bytes.extend(body.finalize().as_bytes());
    bytes.extend(table);
    bytes.extend(tokens);
    Ok(bytes)
}

impl Shard {
    /// A shard in memory, as [`encode`] made it.
    pub(crate) fn memory(bytes: Vec<u8>, tokenizer: &Tokenizer) -> Result<Self> {
        Self::check("memory".into(), Bytes::Memory(bytes), tokenizer)
    }

    /// Maps a file.
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: nothing changes a shard in place: the writer replaces it by a rename, which leaves
        // the mapped file as it was. What is read is checked and never trusted as an index.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Self::check(path.into(), Bytes::Mapped(map), tokenizer)
    }

    fn check(path: PathBuf, bytes: Bytes, tokenizer: &Tokenizer) -> Result<Self> {
        let mut this = Self { path, bytes, width: 0, tokens: 0, documents: 0, vocab_size: 0 };
        let found = this.bytes().len();
        if found < HEADER {
            let problem = format!("truncated: {found} bytes, the header alone has {HEADER}");
            return Err(this.damaged(problem));
        }
        if this.bytes()[..8] != *MAGIC {
            return Err(this.damaged("does not start like a shard of tokens".into()));
        }
        let [version, width] = [this.word(8) as u32, this.word(12) as u32];
        if version != VERSION {
            return Err(this.damaged(format!("version {version}, expected {VERSION}")));
        }
        if width != 2 && width != 4 {
            return Err(this.damaged(format!("{width} bytes per token, expected 2 or 4")));
        }
        let [tokens, documents, vocab_size] = [16, 24, 32].map(|at| this.word(at));
        if this.bytes()[40..72] != *tokenizer.hash_bytes()
            || vocab_size != tokenizer.vocab_size() as u64
        {
            let problem = format!(
                "made by another tokenizer than {}; give that one, or write the shards again",
                tokenizer.name()
            );
            return Err(Error::Shard { path: this.path, problem });
        }
        let sizes = u128::from(documents) * ENTRY as u128 + u128::from(tokens) * u128::from(width);
        let expected = HEADER as u128 + sizes;
        if found as u128 != expected {
            let kind = if (found as u128) < expected { "truncated" } else { "trailing bytes" };
            let problem = format!("{kind}: the header asks for {expected} bytes, found {found}");
            return Err(this.damaged(problem));
        }
        // They fit: the file is that long.
        (this.width, this.tokens, this.documents) =
            (width as usize, tokens as usize, documents as usize);
        this.vocab_size = vocab_size as usize;
        let mut last = 0;
        for i in 0..this.documents {
            let end = this.word(HEADER + ENTRY * i);
            if end <= last || end > tokens {
                let problem = format!("document {i} ends at token {end} after {last} of {tokens}");
                return Err(this.damaged(problem));
            }
            last = end;
        }
        if last != tokens {
            return Err(this.damaged(format!("the last document ends at token {last} of {tokens}")));
        }
        Ok(this)
    }

    /// Compares all bytes after the header with their hash in it.
    pub(crate) fn verify(&self) -> Result<()> {
        let hash = blake3::hash(&self.bytes()[HEADER..]);
        if self.bytes()[104..136] == *hash.as_bytes() {
            Ok(())
        } else {
            Err(self.damaged("the content does not match the hash in the header".into()))
        }
    }

    /// Whether it was made of these texts.
    pub(crate) fn is_of(&self, source: &blake3::Hash) -> bool {
        self.bytes()[72..104] == *source.as_bytes()
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn documents(&self) -> usize {
        self.documents
    }

    /// Tokens of document `i`, end of text included, as a range in the shard.
    pub(crate) fn range(&self, i: usize) -> Range<usize> {
        let end = |i| self.word(HEADER + ENTRY * i) as usize;
        (if i == 0 { 0 } else { end(i - 1) })..end(i)
    }

    /// First 64 bits of the hash of the text of document `i`.
    pub(crate) fn text_hash(&self, i: usize) -> u64 {
        self.word(HEADER + ENTRY * i + 8)
    }

    /// Appends the tokens of a range.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        let start = HEADER + ENTRY * self.documents;
        let bytes = &self.bytes()[start + self.width * range.start..start + self.width * range.end];
        for (i, token) in bytes.chunks_exact(self.width).enumerate() {
            let mut id = [0; 4];
            id[..self.width].copy_from_slice(token);
            let id = u32::from_le_bytes(id);
            if id as usize >= self.vocab_size {
                let (at, vocab) = (range.start + i, self.vocab_size);
                return Err(
                    self.damaged(format!("token {id} at {at} is beyond the vocabulary of {vocab}"))
                );
            }
            out.push(id);
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Memory(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }

    /// The 64 bits at a place before the tokens.
    fn word(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes()[at..at + 8]);
        u64::from_le_bytes(word)
    }

    fn damaged(&self, problem: String) -> Error {
        let problem = format!("{problem}; remove the file and write the shards again");
        Error::Shard { path: self.path.clone(), problem }
    }
}
