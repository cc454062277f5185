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

/// Classes, without `Fast`, that build a tokenizer anew from its vocabulary and their settings.
const REBUILT: [&str; 8] = [
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
    "GPT2Tokenizer",
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

/// Names of special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) cls: String,
    pub(crate) sep: String,
    pub(crate) pad: String,
    pub(crate) mask: String,
    pub(crate) unk: String,
    /// The start of a text, where a file names it.
    pub(crate) bos: Option<String>,
    /// The end of a text, where a file names it.
    pub(crate) eos: Option<String>,
}

impl Default for Names {
    fn default() -> Self {
        let [cls, sep, pad, mask, unk] = [CLS, SEP, PAD, MASK, "[UNK]"].map(String::from);
        Self { cls, sep, pad, mask, unk, bos: None, eos: None }
    }
}

impl Names {
    /// The keys of `tokenizer_config.json` and what they name.
    pub(crate) fn all(&self) -> [(&'static str, Option<&str>); 7] {
        let Self { cls, sep, pad, mask, unk, bos, eos } = self;
        let [cls, sep, pad, mask, unk] = [cls, sep, pad, mask, unk].map(|name| Some(&**name));
        [
            ("cls_token", cls),
            ("sep_token", sep),
            ("pad_token", pad),
            ("mask_token", mask),
            ("unk_token", unk),
            ("bos_token", bos.as_deref()),
            ("eos_token", eos.as_deref()),
        ]
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
        let class = |object: &Option<Object>| {
            Some(object.as_ref()?.get("tokenizer_class")?.as_str()?.to_string())
        };
        this.class = class(&config).or_else(|| class(&model));
        this.stops.extend(config.as_ref().map_or(Vec::new(), Object::eos_ids));
        this.rule = match (config, model) {
            (Some(config), model) => match config.get("tokenizer_class").and_then(Value::as_str) {
                Some(class) if !is_rebuilt(class) => Rule::File,
                Some(_) => Rule::Settings(config.path),
                None if model.is_none_or(|model| model.is_rebuilt()) => Rule::Settings(config.path),
                None => Rule::File,
            },
            (None, Some(model)) if model.is_rebuilt() => Rule::Model(model.path),
            (None, _) => Rule::File,
        };
        Ok(this)
    }

    fn read_names(&mut self, object: &Object) -> Result<()> {
        for (key, _) in Names::default().all() {
            let Some(value) = object.get(key) else { continue };
            // A name, or a token with its properties.
            let name = value.as_str().or_else(|| value.get("content")?.as_str());
            let name = name.ok_or_else(|| object.wrong(key, "the name of a token"))?.to_string();
            let names = &mut self.names;
            match key {
                "cls_token" => names.cls = name,
                "sep_token" => names.sep = name,
                "pad_token" => names.pad = name,
                "mask_token" => names.mask = name,
                "unk_token" => names.unk = name,
                "bos_token" => names.bos = Some(name),
                _ => names.eos = Some(name),
            }
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

    /// Whether a token is one of the special tokens that have a name here.
    pub(crate) fn names_special(&self, token: &str) -> bool {
        self.names.all().into_iter().any(|(_, name)| name == Some(token))
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
                special: flag("special") && self.names_special(content),
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
            let special = self.names_special(token);
            let added = AddedToken::from(token.clone(), special);
            self.added.insert(id, (added, object.path.clone()));
        }
        Ok(())
    }
}

fn is_rebuilt(class: &str) -> bool {
    REBUILT.contains(&class.strip_suffix("Fast").unwrap_or(class))
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

    /// Whether it is the configuration of a model whose tokenizer transformers builds anew.
    fn is_rebuilt(&self) -> bool {
        let kind = self.get("model_type").and_then(Value::as_str).unwrap_or("");
        kind.contains("bert") || kind == "gpt2"
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
