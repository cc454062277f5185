//! WordPiece, the tokenizer of BERT: read from `vocab.txt`, or trained, deterministic to the bit.
//!
//! Y. Wu et al., *Google's Neural Machine Translation System*, arXiv 1609.08144, as BERT uses it: text
//! is cleaned and split at white space and punctuation, and a word becomes the longest token at its
//! start, then the longest at the start of the rest, which has `##` before it. Training, of which
//! BERT's authors published nothing, is that of `tokenizers`: merges of the most frequent pair.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, str};

use serde_json::{Value, json};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use crate::bpe::{MIN_COUNT, Word, count_words, grow};
use crate::encoding::{CLS, MASK, PAD, SEP};
use crate::tokenizer_settings::{CONFIG, Cleaning, Settings};
use crate::{Error, Result, Tokenizer};

const UNKNOWN: &str = "[UNK]";
/// Tokens without text, in the order of their ids in a vocabulary that is trained here.
const SPECIAL: [&str; 5] = [PAD, UNKNOWN, CLS, SEP, MASK];
/// What a token that goes on in a word begins with.
const GOES_ON: &str = "##";
/// A longer word is unknown, as in BERT.
const LONGEST: usize = 100;

impl Tokenizer {
    /// Trains an uncased WordPiece of exactly `vocab_size` tokens: `[PAD]` (id 0), `[UNK]`, `[CLS]`,
    /// `[SEP]`, `[MASK]`, the characters that occur at least twice, then merges of the most frequent
    /// pair, of equals the one with the smallest ids. `[CLS]` stands between documents.
    ///
    /// The documents are read once and only their distinct words are kept. The same documents, in
    /// any order and on any number of threads, give the same bytes in [`save`](Self::save).
    ///
    /// ```
    /// use conditioned_data::{Tokenizer, stories};
    ///
    /// let tokenizer = Tokenizer::train_wordpiece(stories(0, 200), 800)?;
    /// assert_eq!((tokenizer.vocab_size(), tokenizer.pad()), (800, Some(0)));
    /// let ids = tokenizer.encode("The Dog was HAPPY.")?;
    /// assert_eq!(tokenizer.decode(&ids)?, "the dog was happy.");
    /// # Ok::<(), conditioned_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// When a document is an error, when there is no word, when `vocab_size` does not hold the
    /// characters, or when the pairs that occur at least twice are used up before.
    pub fn train_wordpiece<S: AsRef<str> + Sync>(
        documents: impl IntoIterator<Item = Result<S>>,
        vocab_size: usize,
    ) -> Result<Self> {
        let cleaning = Cleaning::default();
        let normalizer = cleaning.normalizer();
        let counts = count_words(documents, "WordPiece", |document, words| {
            let mut text = PreTokenizedString::from(document);
            text.normalize(|text| normalizer.normalize(text))?;
            BertPreTokenizer.pre_tokenize(&mut text)?;
            let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            splits.into_iter().for_each(|(word, ..)| words(word));
            Ok(())
        })?;
        let (tokens, words) = spell(&counts);
        if vocab_size < tokens.len() {
            let n = tokens.len();
            let expected = format!("expected at least {n}: special tokens and characters");
            return Err(Error::config("vocab_size", vocab_size, expected));
        }
        let join = |a: &str, b: &str| format!("{a}{}", b.strip_prefix(GOES_ON).unwrap_or(b));
        let (vocab, _) = grow("WordPiece", tokens, words, vocab_size, join)?;
        let settings = Settings::default();
        Self::word_piece(format!("WordPiece of {vocab_size}"), &vocab, &settings)
    }

    /// Reads BERT's `vocab.txt`, a token a line, the line its id, and the settings beside it; without them
    /// text is lower-cased and loses its accents. As in transformers an empty line is no token, and the
    /// last of equal lines counts.
    pub(crate) fn read_vocab(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let text = str::from_utf8(&bytes).map_err(|e| Error::utf8(path, &bytes, e))?;
        let name = path.display().to_string();
        let settings = Settings::beside(path)?;
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().zip(0..);
        let vocab: BTreeMap<String, u32> = lines
            .map(|(token, id)| (token.trim_end().to_string(), id))
            .filter(|(token, _)| !token.is_empty())
            .collect();
        if let Some(class) = settings.other_class() {
            let problem = format!(
                "it belongs to a {class}, and a vocab.txt is read here as that of a BertTokenizer; give the \
                 tokenizer.json that transformers saves of it"
            );
            return Err(Error::tokenizer(&name, problem));
        }
        for key in ["unk_token", "cls_token"] {
            let token = settings.names.get(key).unwrap_or(key);
            if !vocab.contains_key(token) {
                let problem = match settings.named_in.get(key) {
                    Some(file) => format!(
                        "no token {token}, which is the {key} of {}; correct one of them",
                        file.display()
                    ),
                    None => format!(
                        "no token {token}; is it the vocab.txt of a BERT? If it calls the token by another \
                         name, give that as {key} in {CONFIG} or in {}",
                        path.with_file_name("special_tokens_map.json").display()
                    ),
                };
                return Err(Error::tokenizer(&name, problem));
            }
        }
        Self::word_piece(name, &vocab, &settings)
    }

    /// The content of the `tokenizer.json` that BERT's tokenizer in `transformers` has.
    fn word_piece(
        name: String,
        vocab: &BTreeMap<String, u32>,
        settings: &Settings,
    ) -> Result<Self> {
        let names =
            settings.names.all().filter(|(key, _)| !["bos_token", "eos_token"].contains(key));
        let special = names.filter_map(|(_, token)| Some((token?, *vocab.get(token?)?)));
        let mut special: Vec<(&str, u32)> = special.collect();
        special.sort_unstable_by_key(|(_, id)| *id);
        let added = special.iter().map(|(content, id)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        });
        let cleaning = settings.cleaning;
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": {
                "type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": cleaning.tokenize_chinese_chars,
                "strip_accents": cleaning.strip_accents, "lowercase": cleaning.do_lower_case,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": null,
            "decoder": {"type": "WordPiece", "prefix": GOES_ON, "cleanup": true},
            "model": {
                "type": "WordPiece", "unk_token": settings.names.get("unk_token"), "continuing_subword_prefix": GOES_ON,
                "max_input_chars_per_word": LONGEST, "vocab": vocab,
            },
        });
        Self::parse(name, file.to_string().as_bytes(), settings)
    }
}

impl Cleaning {
    pub(crate) fn normalizer(&self) -> BertNormalizer {
        let Self { do_lower_case, tokenize_chinese_chars, strip_accents } = *self;
        BertNormalizer::new(true, tokenize_chinese_chars, strip_accents, do_lower_case)
    }
}

/// `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, of types 0 and 1, for other libraries.
pub(crate) fn template((cls, cls_id): (&str, u32), (sep, sep_id): (&str, u32)) -> Value {
    let token = |id: &str, kind: u32| json!({"SpecialToken": {"id": id, "type_id": kind}});
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let entry = |name: &str, id: u32| json!({"id": name, "ids": [id], "tokens": [name]});
    let single = [token(cls, 0), text("A", 0), token(sep, 0)];
    let second = [text("B", 1), token(sep, 1)];
    let pair = [&single[..], &second[..]].concat();
    json!({
        "type": "TemplateProcessing", "single": single, "pair": pair,
        "special_tokens": {cls: entry(cls, cls_id), sep: entry(sep, sep_id)},
    })
}

/// The first tokens, and the words in them; words with a rare character, which are unknown to the
/// model, and those that are too long for it teach nothing.
fn spell(counts: &BTreeMap<String, i64>) -> (Vec<String>, Vec<Word>) {
    let mut characters: BTreeMap<char, i64> = BTreeMap::new();
    for (word, count) in counts {
        word.chars().for_each(|c| *characters.entry(c).or_default() += count);
    }
    characters.retain(|_, count| *count >= MIN_COUNT);
    let known = |word: &&String| {
        word.chars().count() <= LONGEST && word.chars().all(|c| characters.contains_key(&c))
    };
    let words: Vec<&String> = counts.keys().filter(known).collect();
    let going_on: BTreeSet<char> = words.iter().flat_map(|word| word.chars().skip(1)).collect();
    let mut tokens: Vec<String> = SPECIAL.map(String::from).into();
    tokens.extend(characters.keys().map(char::to_string));
    tokens.extend(going_on.iter().map(|c| format!("{GOES_ON}{c}")));
    let first = SPECIAL.len() as u32;
    let starts: BTreeMap<char, u32> = characters.keys().copied().zip(first..).collect();
    let first = first + starts.len() as u32;
    let rest: BTreeMap<char, u32> = going_on.iter().copied().zip(first..).collect();
    let id = |(i, c): (usize, char)| if i == 0 { starts.get(&c) } else { rest.get(&c) };
    let ids = |word: &str| word.chars().enumerate().filter_map(id).copied().collect();
    let words = words.into_iter().map(|word| (ids(word), counts[word])).collect();
    (tokens, words)
}
