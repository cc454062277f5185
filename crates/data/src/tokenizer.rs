//! [`Tokenizer`]: text to token ids and back, of any kind that `tokenizer.json` can express.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, str};

use serde_json::{Map, Value, json};
use tokenizers::ModelWrapper;

use crate::atomic::write_atomic;
use crate::tokenizer_apply::{Applied, apply, usual_end};
use crate::tokenizer_settings::{CONFIG, Names, Settings};
use crate::{Error, Result, bpe};

/// The file of a tokenizer.
const FILE: &str = "tokenizer.json";

/// The token that ends a document, in the tokenizers that are made here.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Text to token ids and back.
///
/// There is one type for GPT-2's byte-level BPE and BERT's WordPiece, for those trained here, for
/// characters, and for any `tokenizer.json`. The name of a special token that a model needs (`[CLS]`, `[SEP]`,
/// the end of a text and so on) is text inside a text: no document can forge the end of another. Other special
/// tokens, as markers of entities, are read.
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
    names: Names,
    end_of_text: u32,
    /// Ids after which a model's text ends, by its configuration.
    stops: Vec<u32>,
    truncates_left: bool,
    vocab_size: usize,
    hash: blake3::Hash,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` or BERT's `vocab.txt`, or a folder with one of them or with `vocab.json`
    /// and `merges.txt`.
    ///
    /// What `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` beside it say is
    /// read as transformers reads it: names of special tokens, added tokens, and how a BERT cleans text.
    /// Where `tokenizer_config.json` and the normalizer of a `tokenizer.json` differ, the former counts, as
    /// there, unless its class is `PreTrainedTokenizerFast`. A `vocab.txt` alone lower-cases text and strips
    /// accents; a `tokenizer.json` alone does what it says. Without a name the token that ends a document is
    /// that of `eos_token_id` in `config.json`, or one of the usual names.
    ///
    /// # Errors
    /// When a file is missing, unreadable or no tokenizer, files contradict each other in a way that
    /// transformers does not settle, or no token ends a document.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            if path.extension().is_some_and(|extension| extension == "txt") {
                return Self::read_vocab(path);
            }
            let bytes = fs::read(path).map_err(Error::io(path))?;
            let settings = Settings::beside(path)?;
            return Self::parse(path.display().to_string(), &bytes, &settings);
        }
        let file = path.join(FILE);
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
    /// When a file is unreadable or damaged, a merge names a token that has no id, or no token ends a
    /// document.
    pub fn read_gpt2(vocab: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<Self> {
        let (vocab, merges) = (vocab.as_ref(), merges.as_ref());
        let name = vocab.display().to_string();
        let bytes = fs::read(vocab).map_err(Error::io(vocab))?;
        let ids: BTreeMap<String, u32> = serde_json::from_slice(&bytes).map_err(|e| {
            let problem = format!("expected an object of token ids: {e}; fetch the file again");
            Error::Tokenizer { name: name.clone(), problem }
        })?;
        let bytes = fs::read(merges).map_err(Error::io(merges))?;
        let text = str::from_utf8(&bytes).map_err(|e| Error::utf8(merges, &bytes, e))?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
        let fail = |i: usize, problem: String| {
            let problem = format!("line {}: {problem}", i + 1);
            Error::Tokenizer { name: merges.display().to_string(), problem }
        };
        let pairs = lines.map(|(i, line)| match line.split_once(' ') {
            Some((_, right)) if right.ends_with("</w>") => {
                let problem = "merges with ends of words (`</w>`), which are not GPT-2's; give the tokenizer.json \
                               that transformers saves of it";
                Err(fail(i, problem.to_string()))
            }
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
        let (pairs, settings) = (pairs.collect::<Result<Vec<_>>>()?, Settings::beside(vocab)?);
        Self::byte_level(name, &ids, &pairs, &settings)
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
        Self::byte_level(format!("BPE of {vocab_size}"), &vocab, &merges, &Settings::default())
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
        // As each of the expression libraries of `tokenizers` reads it: that of Python knows no `(?s:.)`.
        let split = json!({
            "type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false
        });
        let (decoder, settings) = (json!({"type": "Fuse"}), Settings::default());
        Self::from_parts(name, Some(end), model, split, Value::Null, decoder, &settings)
    }

    fn byte_level(
        name: String,
        vocab: &BTreeMap<String, u32>,
        merges: &[(String, String)],
        settings: &Settings,
    ) -> Result<Self> {
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": merges,
        });
        let space = settings.add_prefix_space;
        let bytes = |trim: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": trim, "use_regex": true});
        let end = vocab.get(END_OF_TEXT).copied();
        Self::from_parts(name, end, model, bytes(true), bytes(false), bytes(true), settings)
    }

    fn from_parts(
        name: String,
        end: Option<u32>,
        model: Value,
        pre_tokenizer: Value,
        post_processor: Value,
        decoder: Value,
        settings: &Settings,
    ) -> Result<Self> {
        let added: Vec<Value> = end
            .iter()
            .map(|end| {
                json!({
                    "id": end, "content": END_OF_TEXT, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true,
                })
            })
            .collect();
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": decoder, "model": model,
        });
        Self::parse(name, file.to_string().as_bytes(), settings)
    }

    /// Reads the content of a `tokenizer.json` with the settings beside it.
    pub(crate) fn parse(name: String, bytes: &[u8], settings: &Settings) -> Result<Self> {
        let Applied { inner, names, end_of_text, truncates_left } = apply(&name, bytes, settings)?;
        let ids = inner.get_vocab(true).into_values();
        let vocab_size = ids.max().map_or(0, |id| id as usize + 1);
        let json = inner.to_string(false).map_err(|e| Error::tokenizer(&name, e.to_string()))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(json.as_bytes());
        // The usual names are not part of it, and all files that have them alone keep their hash.
        let usual = usual_end(&inner, &names) == Some(end_of_text);
        if !usual || names != Names::default() {
            for (key, name) in names.all() {
                hasher.update(format!("\0{key}={}", name.unwrap_or_default()).as_bytes());
            }
            hasher.update(&end_of_text.to_le_bytes());
        }
        if truncates_left {
            hasher.update(b"\0truncation_side=left");
        }
        let (stops, hash) = (settings.stops.clone(), hasher.finalize());
        Ok(Self { name, inner, names, end_of_text, stops, truncates_left, vocab_size, hash })
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder, to be read here and by other
    /// libraries, each file all or nothing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        self.save_with(folder, [])
    }

    /// [`save`](Self::save) with further settings of transformers, as `("model_max_length", 512)`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_with(
        &self,
        folder: impl AsRef<Path>,
        settings: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<()> {
        let folder = folder.as_ref();
        // A class that takes tokenizer.json as it is. By itself it would not give the types of a pair.
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        if self.cls().is_some() && self.sep().is_some() {
            let inputs = ["input_ids", "token_type_ids", "attention_mask"];
            config.insert("model_input_names".into(), json!(inputs));
        }
        if self.truncates_left {
            config.insert("truncation_side".into(), json!("left"));
        }
        // The [CLS] of a BERT, which stands for an end of text here, is none elsewhere.
        let is_cls = Some(self.end_of_text) == self.cls()
            && usual_end(&self.inner, &self.names) == self.cls();
        let end = self.inner.id_to_token(self.end_of_text).filter(|_| !is_cls);
        if self.ends().len() > 1 {
            config.insert("eos_token_id".into(), json!(self.ends()));
        }
        for (key, name) in self.names.all() {
            if let Some(name) = name.filter(|name| self.id(name).is_some()) {
                config.insert(key.into(), json!(name));
            }
        }
        if let Some(end) = end {
            config.insert("eos_token".into(), json!(end));
        }
        config.extend(settings.into_iter().map(|(key, value)| (key.to_string(), value)));
        let json = self.inner.to_string(true).map_err(|e| self.fail(e))?;
        write_atomic(&folder.join(FILE), json.as_bytes())?;
        let config = format!("{:#}\n", Value::Object(config));
        write_atomic(&folder.join(CONFIG), config.as_bytes())
    }

    /// Ids of a text, without any special token.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of it, as one of characters for a new character.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| {
            if matches!(self.inner.get_model(), ModelWrapper::WordPiece(_)) {
                let unk = self.names.get("unk_token").unwrap_or_default();
                return self.fail(format!(
                    "{e}; a word that no token spells has the token {unk}: add {unk} to the vocabulary, or \
                     name the one that it has as `unk_token`"
                ));
            }
            let known = |c: &char| self.inner.token_to_id(c.encode_utf8(&mut [0; 4])).is_some();
            match text.chars().find(|c| !known(c)) {
                Some(c) => self
                    .fail(format!("{e}; perhaps for {c:?}; make it of texts with all characters")),
                None => self.fail(e),
            }
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a text in which the name of the token that ends a document stands for that token, as other
    /// libraries read it: a text of several documents.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_marked(&self, text: &str) -> Result<Vec<u32>> {
        let Some(name) = self.inner.id_to_token(self.end_of_text) else { return self.encode(text) };
        let mut ids = Vec::new();
        for (i, document) in text.split(&name).enumerate() {
            if i > 0 {
                ids.push(self.end_of_text);
            }
            ids.extend(self.encode(document)?);
        }
        Ok(ids)
    }

    /// Text of ids, special tokens by their name.
    ///
    /// Ids that end inside a character of a byte-level tokenizer give U+FFFD for its bytes. An id without
    /// a token, as models with a padded table have, gives nothing, as in transformers.
    ///
    /// # Errors
    /// When the tokens cannot be put together.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|e| self.fail(e))
    }

    /// Checks that it can belong to a model whose token table has `rows` rows.
    ///
    /// Tokens that were added to the vocabulary may lie beyond the table: a text that has one is refused when
    /// it is read, by [`check_ids`](Self::check_ids).
    ///
    /// # Errors
    /// Names the first token of the vocabulary itself that has no row.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        let vocabulary = self.inner.get_vocab(false);
        let beyond = vocabulary.into_iter().filter(|(_, id)| *id as usize >= rows);
        match beyond.min_by_key(|(_, id)| *id) {
            None => Ok(()),
            Some((token, id)) => Err(self.fail(format!(
                "it gives {token:?} the id {id}, and the token table of the model has {rows} rows: it belongs \
                 to another model"
            ))),
        }
    }

    /// Checks that every id has a row in a token table.
    ///
    /// # Errors
    /// Names the first token that has none.
    pub fn check_ids(&self, ids: &[u32], rows: usize) -> Result<()> {
        let Some(id) = ids.iter().find(|&&id| id as usize >= rows) else { return Ok(()) };
        let token = self.inner.id_to_token(*id).unwrap_or_default();
        Err(self.fail(format!(
            "{token:?} has the id {id}, and the token table of the model has {rows} rows; take {token:?} out \
             of the texts, or a model whose table was resized for it"
        )))
    }

    /// Number of ids, V: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Id of the token that ends a document, and in a BERT begins the next one.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// Ids after any of which a model's text ends: that of [`end_of_text`](Self::end_of_text), and those that
    /// `generation_config.json`, or else `config.json`, has as `eos_token_id`.
    pub fn ends(&self) -> Vec<u32> {
        let ends: BTreeSet<u32> = self.stops.iter().copied().chain([self.end_of_text]).collect();
        ends.into_iter().collect()
    }

    /// Whether a text that is too long loses its start, by `truncation_side`, and not its end.
    pub fn truncates_left(&self) -> bool {
        self.truncates_left
    }

    /// Ids of all tokens that stand for no text, in their order, the one that ends a document among them.
    pub fn special(&self) -> Vec<u32> {
        let named = self.names.all().filter_map(|(_, name)| self.id(name?));
        let added = self.inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id);
        let special: BTreeSet<u32> = special.chain(named).chain([self.end_of_text]).collect();
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

    /// BLAKE3 hash of what decides about tokens, as 64 hexadecimal digits: of the file without its white space,
    /// and of names of special tokens, end of text and side of truncation where they are not the usual ones.
    pub fn hash(&self) -> String {
        self.hash.to_hex().to_string()
    }

    pub(crate) fn hash_bytes(&self) -> &[u8; 32] {
        self.hash.as_bytes()
    }

    /// Id of a special token by its key, as in `cls_token`.
    pub(crate) fn special_id(&self, key: &str) -> Option<u32> {
        self.id(self.names.get(key)?)
    }

    /// Id of a special token without which there is no going on.
    pub(crate) fn need(&self, key: &str) -> Result<u32> {
        self.special_id(key).ok_or_else(|| {
            let token = self.names.get(key).unwrap_or(key);
            self.fail(format!(
                "it has no token {token}; take a tokenizer of a BERT, as a WordPiece"
            ))
        })
    }

    fn fail(&self, problem: impl ToString) -> Error {
        Error::tokenizer(&self.name, problem)
    }
}
