//! [`Settings`]: what the files beside a tokenizer say of it, read as transformers reads them.
//!
//! | file | what it says |
//! | --- | --- |
//! | `tokenizer_config.json` | how a BERT cleans text, names of special tokens, added tokens |
//! | `special_tokens_map.json`, `added_tokens.json` | the same, of folders whose `tokenizer_config.json` lists no added tokens |
//! | `config.json` | the kind of model, and the id of the end of a text, where nothing has its name |
//! | `generation_config.json`, else `config.json` | all ids after which a text ends |
//!
//! Source: transformers 5, `PreTrainedTokenizerBase._from_pretrained` and `BertTokenizer`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::encoding::{CLS, MASK, PAD, SEP};
use crate::{Error, Result};

/// The settings of a tokenizer, beside its file.
pub(crate) const CONFIG: &str = "tokenizer_config.json";

/// Models whose classes, here without `Fast`, build a tokenizer anew from its vocabulary and their settings.
const REBUILT: [(&str, &str); 8] = [
    ("bert", "BertTokenizer"),
    ("distilbert", "DistilBertTokenizer"),
    ("electra", "ElectraTokenizer"),
    ("layoutlm", "LayoutLMTokenizer"),
    ("lxmert", "LxmertTokenizer"),
    ("mobilebert", "MobileBertTokenizer"),
    ("squeezebert", "SqueezeBertTokenizer"),
    ("gpt2", "GPT2Tokenizer"),
];

/// Classes of transformers that take a `tokenizer.json` as it is.
const GENERIC: [&str; 3] = ["PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"];

/// How text is cleaned; the names are those of `tokenizer_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cleaning {
    pub(crate) do_lower_case: bool,
    pub(crate) tokenize_chinese_chars: bool,
    /// As `do_lower_case` where nothing is said.
    pub(crate) strip_accents: Option<bool>,
}

impl Default for Cleaning {
    fn default() -> Self {
        Self { do_lower_case: true, tokenize_chinese_chars: true, strip_accents: None }
    }
}

/// The keys of special tokens in `tokenizer_config.json`, and their usual names.
const KEYS: [(&str, Option<&str>); 7] = [
    ("cls_token", Some(CLS)),
    ("sep_token", Some(SEP)),
    ("pad_token", Some(PAD)),
    ("mask_token", Some(MASK)),
    ("unk_token", Some("[UNK]")),
    ("bos_token", None),
    ("eos_token", None),
];

/// Names of special tokens, by their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names(BTreeMap<&'static str, String>);

impl Default for Names {
    fn default() -> Self {
        let usual = KEYS.into_iter().filter_map(|(key, name)| Some((key, name?.to_string())));
        Self(usual.collect())
    }
}

impl Names {
    /// The name of a token.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All keys, with their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        KEYS.into_iter().map(|(key, _)| (key, self.get(key)))
    }

    /// Whether a token is one of these.
    pub(crate) fn contains(&self, token: &str) -> bool {
        self.0.values().any(|name| name == token)
    }

    pub(crate) fn set(&mut self, key: &'static str, name: String) {
        self.0.insert(key, name);
    }

    /// Takes the usual name again, if there is one.
    pub(crate) fn reset(&mut self, key: &'static str) {
        match Self::default().0.remove(key) {
            Some(usual) => self.set(key, usual),
            None => drop(self.0.remove(key)),
        }
    }
}

/// Who decides how text is cleaned and split.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// `tokenizer.json`, as it is.
    #[default]
    File,
    /// `tokenizer_config.json`, this file: transformers builds the tokenizer anew by it.
    Settings(PathBuf),
    /// `tokenizer.json` here, and the kind of model, in this file, in transformers.
    Model(PathBuf),
}

/// What the files beside a tokenizer say.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// Who decides how text is cleaned and split.
    pub(crate) rule: Rule,
    /// The class that transformers makes of the files.
    class: Option<String>,
    /// How a BERT cleans text.
    pub(crate) cleaning: Cleaning,
    /// Whether a byte-level BPE puts a blank before a text.
    pub(crate) add_prefix_space: bool,
    /// Whether a text that is too long loses its start.
    pub(crate) truncates_left: bool,
    pub(crate) names: Names,
    /// The file that names a special token, by its key.
    pub(crate) named_in: BTreeMap<&'static str, PathBuf>,
    /// Tokens beyond the vocabulary, by id, and the file that lists them.
    pub(crate) added: BTreeMap<u32, (AddedToken, PathBuf)>,
    /// Id of the end of a text.
    pub(crate) eos_id: Option<u32>,
    /// All ids after which a text ends.
    pub(crate) stops: Vec<u32>,
}

impl Settings {
    /// Reads the files beside `tokenizer`; those that are not there say nothing.
    ///
    /// # Errors
    /// When one is no JSON object, or a key has a value of another kind: file and key.
    pub(crate) fn beside(tokenizer: &Path) -> Result<Self> {
        let object = |name: &str| Object::read(tokenizer.with_file_name(name));
        let mut this = Self::default();
        let config = object(CONFIG)?;
        let lists_added = match &config {
            Some(config) => {
                this.read_names(config)?;
                this.read_cleaning(config)?;
                config.get("added_tokens_decoder").is_some()
            }
            None => false,
        };
        if let Some(config) = config.as_ref().filter(|_| lists_added) {
            this.read_decoder(config)?;
        } else {
            if let Some(map) = object("special_tokens_map.json")? {
                this.read_names(&map)?;
            }
            if let Some(added) = object("added_tokens.json")? {
                this.read_added(&added)?;
            }
        }
        let model = object("config.json")?;
        let ids = model.as_ref().map_or(Vec::new(), Object::eos_ids);
        this.eos_id = ids.first().copied();
        this.stops = match object("generation_config.json")?.map(|config| config.eos_ids()) {
            Some(stops) if !stops.is_empty() => stops,
            _ => ids,
        };
        this.stops.extend(config.as_ref().map_or(Vec::new(), Object::eos_ids));
        let text = |object: &Option<Object>, key: &str| {
            Some(object.as_ref()?.get(key)?.as_str()?.to_string())
        };
        this.class = text(&config, "tokenizer_class").or_else(|| text(&model, "tokenizer_class"));
        let kind = text(&model, "model_type");
        let is_rebuilt = match (&this.class, &kind) {
            (Some(class), _) => is_rebuilt(class),
            (None, Some(kind)) => REBUILT.iter().any(|(model, _)| model == kind),
            // A whole tokenizer is taken as it is.
            (None, None) => !tokenizer.ends_with("tokenizer.json"),
        };
        this.rule = match (config, model) {
            (Some(config), _) if is_rebuilt => Rule::Settings(config.path),
            (None, Some(model)) if is_rebuilt => Rule::Model(model.path),
            _ => Rule::File,
        };
        Ok(this)
    }

    fn read_names(&mut self, object: &Object) -> Result<()> {
        for (key, _) in KEYS {
            let Some(value) = object.get(key) else { continue };
            // A name, or a token with its properties.
            let name = value.as_str().or_else(|| value.get("content")?.as_str());
            let name = name.ok_or_else(|| object.wrong(key, "the name of a token"))?;
            self.names.set(key, name.to_string());
            self.named_in.insert(key, object.path.clone());
        }
        Ok(())
    }

    /// The class of transformers that reads the files, where that is none that is known here, which takes
    /// a vocabulary for another kind of tokenizer.
    pub(crate) fn other_class(&self) -> Option<&str> {
        let class = self.class.as_deref()?;
        (!is_rebuilt(class) && !GENERIC.contains(&class)).then_some(class)
    }

    fn read_cleaning(&mut self, config: &Object) -> Result<()> {
        let default = Cleaning::default();
        let flag = |key, default| -> Result<bool> { Ok(config.flag(key)?.unwrap_or(default)) };
        self.cleaning = Cleaning {
            do_lower_case: flag("do_lower_case", default.do_lower_case)?,
            tokenize_chinese_chars: flag("tokenize_chinese_chars", default.tokenize_chinese_chars)?,
            strip_accents: config.flag("strip_accents")?,
        };
        self.add_prefix_space = flag("add_prefix_space", false)?;
        let side = config.get("truncation_side");
        self.truncates_left = side.is_some_and(|side| side == "left");
        Ok(())
    }

    fn read_decoder(&mut self, config: &Object) -> Result<()> {
        let key = "added_tokens_decoder";
        let wrong = || config.wrong(key, "an object of tokens by their ids");
        let tokens = config.get(key).and_then(Value::as_object).ok_or_else(wrong)?;
        for (id, token) in tokens {
            let id = id.parse().map_err(|_| wrong())?;
            let content = token.get("content").and_then(Value::as_str).ok_or_else(wrong)?;
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            let normalized = token.get("normalized").and_then(Value::as_bool);
            let added = AddedToken {
                content: content.to_string(),
                // What has no name may stand in a text.
                special: flag("special") && self.names.contains(content),
                normalized: normalized.unwrap_or(!flag("special")),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
            };
            self.added.insert(id, (added, config.path.clone()));
        }
        Ok(())
    }

    fn read_added(&mut self, object: &Object) -> Result<()> {
        for (token, id) in &object.fields {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| object.wrong(token, "the id of a token"))?;
            let special = self.names.contains(token);
            let added = AddedToken::from(token.clone(), special);
            self.added.insert(id, (added, object.path.clone()));
        }
        Ok(())
    }
}

fn is_rebuilt(class: &str) -> bool {
    let class = class.strip_suffix("Fast").unwrap_or(class);
    REBUILT.iter().any(|(_, rebuilt)| *rebuilt == class)
}

/// A JSON object and its file.
struct Object {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Object {
    /// The object in a file, if the file is there.
    fn read(path: PathBuf) -> Result<Option<Self>> {
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        match serde_json::from_slice(&bytes) {
            Ok(fields) => Ok(Some(Self { path, fields })),
            Err(e) => {
                let name = path.display().to_string();
                let problem = format!("not an object of settings ({e}); fetch the file again");
                Err(Error::Tokenizer { name, problem })
            }
        }
    }

    /// The value of a key; null is none.
    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// One id, or a list.
    fn eos_ids(&self) -> Vec<u32> {
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let flag = |value: &Value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false"));
        self.get(key).map(flag).transpose()
    }

    fn wrong(&self, key: &str, wanted: &str) -> Error {
        let found = self.fields.get(key).unwrap_or(&Value::Null).to_string();
        let found: String = found.chars().take(80).collect();
        Error::Tokenizer {
            name: self.path.display().to_string(),
            problem: format!("`{key}` is {found}; expected {wanted}: correct it or leave it out"),
        }
    }
}
