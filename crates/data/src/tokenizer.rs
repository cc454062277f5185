//! [`Tokenizer`]: text to token ids and back, of any kind that `tokenizer.json` can express.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::path::Path;
use std::{fs, str};

use serde_json::{Value, json};

use crate::atomic::write_atomic;
use crate::encoding::CLS;
use crate::{Error, Result, bpe};

/// The token that ends a document, in the tokenizers that are made here.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Names by which other tokenizers know the end of a document, in the order of their search.
///
/// A BERT has two candidates. `[CLS]` stands between documents as it stands in front of every text of a
/// task; `[SEP]` would come to mean that what follows is of another document, and a task of pairs has it
/// between texts that belong together.
const ENDS: [&str; 6] = [END_OF_TEXT, "<|end_of_text|>", "<|eot|>", "</s>", "<eos>", CLS];

/// Text to token ids and back.
///
/// There is one type for GPT-2's byte-level BPE and BERT's WordPiece, for those trained here, for
/// characters, and for any `tokenizer.json`. The name of a special token inside a text is text: no
/// document can forge the end of another.
///
/// ```
/// use conditioned_data::Tokenizer;
///
/// let tokenizer = Tokenizer::characters(["to be, or not to be"])?;
/// let ids = tokenizer.encode("to be")?;
/// assert_eq!(ids.len(), 5);
/// assert_eq!(tokenizer.decode(&ids)?, "to be");
/// # Ok::<(), conditioned_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    name: String,
    inner: tokenizers::Tokenizer,
    end_of_text: u32,
    vocab_size: usize,
    hash: blake3::Hash,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` or BERT's `vocab.txt`, or a folder with one of them or with `vocab.json`
    /// and `merges.txt`.
    ///
    /// With `vocab.txt` text is lower-cased and loses its accents, unless `tokenizer_config.json` beside
    /// it says otherwise.
    ///
    /// # Errors
    /// When a file is missing, unreadable or no tokenizer, or when no token ends a document.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            if path.extension().is_some_and(|extension| extension == "txt") {
                return Self::read_vocab(path);
            }
            let bytes = fs::read(path).map_err(Error::io(path))?;
            return Self::parse(path.display().to_string(), &bytes);
        }
        let file = path.join("tokenizer.json");
        let (vocab, merges) = (path.join("vocab.json"), path.join("merges.txt"));
        let words = path.join("vocab.txt");
        if file.is_file() {
            Self::read(file)
        } else if vocab.is_file() && merges.is_file() {
            Self::read_gpt2(vocab, merges)
        } else if words.is_file() {
            Self::read_vocab(&words)
        } else {
            let problem = "no tokenizer here; put tokenizer.json, or vocab.json and merges.txt, or \
                           vocab.txt there";
            Err(Error::Tokenizer { name: path.display().to_string(), problem: problem.into() })
        }
    }

    /// Reads GPT-2's byte-level BPE: ids by token, and one merge a line, the first the strongest.
    ///
    /// # Errors
    /// When a file is unreadable or damaged, a merge names a token that has no id, or
    /// `<|endoftext|>` has none.
    pub fn read_gpt2(vocab: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<Self> {
        let (vocab, merges) = (vocab.as_ref(), merges.as_ref());
        let name = vocab.display().to_string();
        let bytes = fs::read(vocab).map_err(Error::io(vocab))?;
        let ids: BTreeMap<String, u32> = serde_json::from_slice(&bytes).map_err(|e| {
            let problem = format!("expected an object of token ids: {e}; fetch the file again");
            Error::Tokenizer { name: name.clone(), problem }
        })?;
        let bytes = fs::read(merges).map_err(Error::io(merges))?;
        let text = str::from_utf8(&bytes)
            .map_err(|e| Error::Utf8 { path: merges.into(), offset: e.valid_up_to() as u64 })?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
        let fail = |i: usize, problem: String| {
            let problem = format!("line {}: {problem}", i + 1);
            Error::Tokenizer { name: merges.display().to_string(), problem }
        };
        let pairs = lines.map(|(i, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => {
                let all = [left, right, &format!("{left}{right}")];
                match all.into_iter().find(|token| !ids.contains_key(*token)) {
                    None => Ok((left.into(), right.into())),
                    Some(token) => Err(fail(
                        i,
                        format!("{token:?} has no id in {name}; fetch both files again"),
                    )),
                }
            }
            _ => Err(fail(i, format!("{line:?} is not two tokens; fetch the file again"))),
        });
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        Self::byte_level(name, &ids, &pairs)
    }

    /// Trains a byte-level BPE of exactly `vocab_size` tokens: `<|endoftext|>` (id 0), the 256 bytes,
    /// then merges of the most frequent pair, of equals the one with the smallest ids.
    ///
    /// The documents are read once and only their distinct words are kept. The same documents, in
    /// any order and on any number of threads, give the same bytes in [`save`](Self::save).
    ///
    /// # Errors
    /// When a document is an error, when there is none, when `vocab_size` is below 257, or when the
    /// pairs that occur at least twice are used up before.
    pub fn train<S: AsRef<str> + Sync>(
        documents: impl IntoIterator<Item = Result<S>>,
        vocab_size: usize,
    ) -> Result<Self> {
        let (vocab, merges) = bpe::train(documents, vocab_size, END_OF_TEXT)?;
        Self::byte_level(format!("BPE of {vocab_size}"), &vocab, &merges)
    }

    /// One token for each character of the texts, in the order of code points, then `<|endoftext|>`.
    ///
    /// # Errors
    /// When there is no character.
    pub fn characters<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut ids = BTreeMap::new();
        for text in texts {
            ids.extend(text.as_ref().chars().map(|c| (c.to_string(), 0)));
        }
        let name = "of characters".to_string();
        if ids.is_empty() {
            let problem = "the texts hold no character; give at least one".into();
            return Err(Error::Tokenizer { name, problem });
        }
        // One character's UTF-8 sorts as its code point.
        ids.values_mut().zip(0..).for_each(|(id, next)| *id = next);
        let end = ids.len() as u32;
        ids.insert(END_OF_TEXT.into(), end);
        let model = json!({"type": "WordLevel", "vocab": ids, "unk_token": ""});
        let split = json!({
            "type": "Split", "pattern": {"Regex": "(?s:.)"}, "behavior": "Isolated", "invert": false
        });
        Self::from_parts(name, end, model, split, Value::Null, json!({"type": "Fuse"}))
    }

    fn byte_level(
        name: String,
        vocab: &BTreeMap<String, u32>,
        merges: &[(String, String)],
    ) -> Result<Self> {
        let Some(&end) = vocab.get(END_OF_TEXT) else {
            let problem = format!("{END_OF_TEXT} has no id; add it to the vocabulary");
            return Err(Error::Tokenizer { name, problem });
        };
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": merges,
        });
        let bytes = |trim: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim, "use_regex": true});
        Self::from_parts(name, end, model, bytes(true), bytes(false), bytes(true))
    }

    fn from_parts(
        name: String,
        end: u32,
        model: Value,
        pre_tokenizer: Value,
        post_processor: Value,
        decoder: Value,
    ) -> Result<Self> {
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{
                "id": end, "content": END_OF_TEXT, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            }],
            "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": decoder, "model": model,
        });
        Self::parse(name, file.to_string().as_bytes())
    }

    /// Reads the content of a `tokenizer.json`.
    pub(crate) fn parse(name: String, bytes: &[u8]) -> Result<Self> {
        let fail = |problem| Error::Tokenizer { name: name.clone(), problem };
        let damaged = |e: String| fail(format!("not a tokenizer.json: {e}; fetch the file again"));
        // The library panics over some text that is no JSON, and may over parts that do not fit together.
        serde_json::from_slice::<Value>(bytes).map_err(|e| damaged(e.to_string()))?;
        let mut inner = catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|_| damaged("its parts contradict each other".into()))?
            .map_err(|e| damaged(e.to_string()))?;
        inner.set_encode_special_tokens(true);
        // Cutting and filling are the windows' business.
        inner.with_truncation(None).map_err(|e| fail(e.to_string()))?.with_padding(None);
        let Some(end_of_text) = ENDS.iter().find_map(|end| inner.token_to_id(end)) else {
            let names = ENDS.join(", ");
            return Err(fail(format!("no token ends a document; looked for {names}; add one")));
        };
        let ids = inner.get_vocab(true).into_values();
        let vocab_size = ids.max().map_or(0, |id| id as usize + 1);
        let json = inner.to_string(false).map_err(|e| fail(e.to_string()))?;
        let hash = blake3::hash(json.as_bytes());
        Ok(Self { name, inner, end_of_text, vocab_size, hash })
    }

    /// Writes a `tokenizer.json` that [`read`](Self::read) and other libraries read, all or nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let json = self.inner.to_string(true).map_err(|e| self.fail(e))?;
        write_atomic(path.as_ref(), json.as_bytes())
    }

    /// Ids of a text, without any special token.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of it, as one of characters for a new character.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| {
            let known = |c: &char| self.inner.token_to_id(c.encode_utf8(&mut [0; 4])).is_some();
            match text.chars().find(|c| !known(c)) {
                Some(c) => self
                    .fail(format!("{e}; perhaps for {c:?}; make it of texts with all characters")),
                None => self.fail(e),
            }
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a text in which [`END_OF_TEXT`], where the tokenizer has it, stands for that token, as
    /// other libraries read it: a text of several documents.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_marked(&self, text: &str) -> Result<Vec<u32>> {
        let Some(end) = self.id(END_OF_TEXT) else { return self.encode(text) };
        let mut ids = Vec::new();
        for (i, document) in text.split(END_OF_TEXT).enumerate() {
            if i > 0 {
                ids.push(end);
            }
            ids.extend(self.encode(document)?);
        }
        Ok(ids)
    }

    /// Text of ids, special tokens by their name.
    ///
    /// Ids that end inside a character of a byte-level tokenizer give U+FFFD for its bytes.
    ///
    /// # Errors
    /// When an id has no token.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            let problem = format!("id {id} has no token among {} ids", self.vocab_size);
            return Err(self.fail(problem));
        }
        self.inner.decode(ids, false).map_err(|e| self.fail(e))
    }

    /// Number of ids, V: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Id of the token that ends a document, and in a BERT begins the next one.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// Ids of all tokens that stand for no text, in their order, the one that ends a document among them.
    pub fn special(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id);
        let special: BTreeSet<u32> = special.chain([self.end_of_text]).collect();
        special.into_iter().collect()
    }

    /// Id of a token by its name in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Where it comes from, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// BLAKE3 hash of the file without its white space, as 64 hexadecimal digits.
    pub fn hash(&self) -> String {
        self.hash.to_hex().to_string()
    }

    pub(crate) fn hash_bytes(&self) -> &[u8; 32] {
        self.hash.as_bytes()
    }

    fn fail(&self, problem: impl ToString) -> Error {
        Error::Tokenizer { name: self.name.clone(), problem: problem.to_string() }
    }
}
