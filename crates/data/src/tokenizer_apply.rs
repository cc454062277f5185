//! [`apply`]: a `tokenizer.json` with what the files beside it say.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TruncationDirection,
};

use crate::tokenizer::END_OF_TEXT;
use crate::tokenizer_settings::{CONFIG, Names, Rule, Settings};
use crate::wordpiece::template;
use crate::{Error, Result};

/// Names by which other tokenizers know the end of a document, in the order of their search.
///
/// A BERT has two candidates. `[CLS]` stands between documents as it stands in front of every text of a
/// task; `[SEP]` would come to mean that what follows is of another document, and a task of pairs has it
/// between texts that belong together. `[CLS]`, whatever its name, is therefore the last.
const ENDS: [&str; 5] = [END_OF_TEXT, "<|end_of_text|>", "<|eot|>", "</s>", "<eos>"];

/// What there is to know of a tokenizer.
pub(crate) struct Applied {
    pub(crate) inner: tokenizers::Tokenizer,
    /// Names of special tokens but the end of a text.
    pub(crate) names: Names,
    pub(crate) end_of_text: u32,
    /// Whether a text that is too long loses its start.
    pub(crate) truncates_left: bool,
}

/// Reads the content of a `tokenizer.json` called `name`.
pub(crate) fn apply(name: &str, bytes: &[u8], settings: &Settings) -> Result<Applied> {
    let fail = |e: tokenizers::Error| Error::tokenizer(name, e);
    let damaged = |e: String| {
        Error::tokenizer(name, format!("not a tokenizer.json: {e}; fetch the file again"))
    };
    // The library panics over some text that is no JSON, and may over parts that do not fit together.
    let mut json: Value = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    let marked = mark_text(&mut json, settings).then(|| json.to_string().into_bytes());
    let bytes = marked.as_deref().unwrap_or(bytes);
    let mut inner = catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes))
        .map_err(|_| damaged("its parts contradict each other".into()))?
        .map_err(|e| damaged(e.to_string()))?;
    inner.set_encode_special_tokens(true);
    let truncates_left = settings.truncates_left
        || inner.get_truncation().is_some_and(|t| t.direction == TruncationDirection::Left);
    // Cutting and filling are the windows' business.
    inner.with_truncation(None).map_err(fail)?.with_padding(None);
    follow(&mut inner, settings, name)?;
    add_tokens(&mut inner, settings, name)?;
    let names = names_in(&inner, settings, name)?;
    let id = |key| names.get(key).and_then(|token| Some((token, inner.token_to_id(token)?)));
    if let (Some(cls), Some(sep)) = (id("cls_token"), id("sep_token")) {
        // What `encode_pair` makes, whatever the file has, so that other libraries make it too.
        let template = serde_json::from_value::<PostProcessorWrapper>(template(cls, sep));
        inner.with_post_processor(Some(template.map_err(|e| Error::tokenizer(name, e))?));
    }
    let end_of_text = end_of_text(&inner, settings, &names, name)?;
    Ok(Applied { inner, names, end_of_text, truncates_left })
}

/// Makes text of the special tokens that a text may hold, as markers of entities: transformers reads those in
/// a text as tokens too. The named ones, which a text must not forge, stay what they are.
///
/// Returns whether it changed any.
fn mark_text(json: &mut Value, settings: &Settings) -> bool {
    let mut changed = false;
    let tokens = json.get_mut("added_tokens").and_then(Value::as_array_mut);
    for token in tokens.into_iter().flatten() {
        let id = token.get("id").and_then(Value::as_u64);
        // Where nothing names the end.
        let by_id =
            settings.eos_id.filter(|_| settings.names.get("eos_token").is_none()).map(u64::from);
        let is_end = id.is_some() && id == by_id;
        let name = token.get("content").and_then(Value::as_str).unwrap_or_default();
        let is_named = is_end || ENDS.contains(&name) || settings.names.contains(name);
        if !is_named && token.get("special") == Some(&json!(true)) {
            token["special"] = json!(false);
            changed = true;
        }
    }
    changed
}

/// The names of special tokens but the end of a text. Of those that a file names and the vocabulary lacks,
/// a BERT can do without padding alone, which is masked.
fn names_in(inner: &tokenizers::Tokenizer, settings: &Settings, name: &str) -> Result<Names> {
    let mut names = settings.names.clone();
    // The end is known by its id.
    names.reset("eos_token");
    let is_bert = matches!(inner.get_model(), ModelWrapper::WordPiece(_));
    for (&key, file) in &settings.named_in {
        let Some(token) = names.get(key) else { continue };
        if inner.token_to_id(token).is_some() {
            continue;
        }
        if is_bert && !["pad_token", "bos_token"].contains(&key) {
            return Err(Error::tokenizer(name, absent(token, key, file)));
        }
        names.reset(key);
    }
    Ok(names)
}

fn absent(token: &str, key: &str, file: &Path) -> String {
    let file = file.display();
    format!("no token {token:?}, which is the {key} of {file}; correct one of them")
}

/// The token that ends a document by its usual name, or the one before a text of a BERT.
pub(crate) fn usual_end(inner: &tokenizers::Tokenizer, names: &Names) -> Option<u32> {
    ENDS.into_iter().chain(names.get("cls_token")).find_map(|end| inner.token_to_id(end))
}

/// The token that ends a document: the one that a file names, or one of the usual names.
fn end_of_text(
    inner: &tokenizers::Tokenizer,
    settings: &Settings,
    names: &Names,
    name: &str,
) -> Result<u32> {
    let sep = names.get("sep_token");
    // [SEP] stands between texts that belong together, also where it is called the end of them.
    if let Some(eos) = settings.names.get("eos_token").filter(|eos| Some(*eos) != sep) {
        let key = "eos_token";
        let file = settings.named_in.get(key).map_or(Path::new(name), PathBuf::as_path);
        let missing = || Error::tokenizer(name, absent(eos, key, file));
        return inner.token_to_id(eos).ok_or_else(missing);
    }
    // The default of a configuration may be an id that a small vocabulary lacks.
    let sep = sep.and_then(|sep| inner.token_to_id(sep));
    let by_id = settings.eos_id.filter(|&id| inner.id_to_token(id).is_some() && sep != Some(id));
    if let Some(id) = by_id {
        return Ok(id);
    }
    usual_end(inner, names).ok_or_else(|| {
        let problem = format!(
            "no token ends a document; looked for eos_token in {CONFIG}, eos_token_id in config.json, {} and {}; \
             name one as eos_token",
            ENDS.join(", "),
            names.get("cls_token").unwrap_or_default()
        );
        Error::tokenizer(name, problem)
    })
}

/// Cleans and splits text as transformers would, where that decides, or warns where it would do otherwise.
///
/// BERT's and GPT-2's classes there take vocabulary and merges of a `tokenizer.json` and build the rest anew.
fn follow(inner: &mut tokenizers::Tokenizer, settings: &Settings, name: &str) -> Result<()> {
    let file = match &settings.rule {
        Rule::File => return Ok(()),
        Rule::Settings(file) | Rule::Model(file) => file.display(),
    };
    let (normalizer, pre_tokenizer): (Option<NormalizerWrapper>, PreTokenizerWrapper) =
        match inner.get_model() {
            ModelWrapper::WordPiece(_) => {
                (Some(settings.cleaning.normalizer().into()), BertPreTokenizer.into())
            }
            ModelWrapper::BPE(_) => {
                (None, ByteLevel::new(settings.add_prefix_space, true, true).into())
            }
            _ => return Ok(()),
        };
    // Offsets, which nobody asks for, may be trimmed or not.
    let plain = |part: Option<&PreTokenizerWrapper>| match part {
        Some(PreTokenizerWrapper::ByteLevel(bytes)) => {
            json!(ByteLevel::new(bytes.add_prefix_space, true, bytes.use_regex))
        }
        part => json!(part),
    };
    let found = (json!(inner.get_normalizer()), plain(inner.get_pre_tokenizer()));
    let wanted = (json!(normalizer), plain(Some(&pre_tokenizer)));
    if found == wanted {
        return Ok(());
    }
    let differ = |found: &Value, wanted: &Value| match found == wanted {
        true => String::new(),
        false => format!(" {found} and {wanted};"),
    };
    let parts = differ(&found.0, &wanted.0) + &differ(&found.1, &wanted.1);
    if matches!(settings.rule, Rule::Model(_)) {
        tracing::warn!(
            "{name} cleans or splits text in another way than transformers does for the model of {file}:{parts} the \
             former counts here. A {CONFIG} with \"tokenizer_class\": \"PreTrainedTokenizerFast\" makes both do the \
             same"
        );
        return Ok(());
    }
    tracing::warn!(
        "{name} and {file} clean or split text in two ways:{parts} the latter counts, as in transformers"
    );
    let replaced = inner.with_normalizer(normalizer);
    replaced.map_err(|e| Error::tokenizer(name, e))?;
    inner.with_pre_tokenizer(Some(pre_tokenizer));
    Ok(())
}

/// Adds the tokens that files beside the tokenizer list, with the ids that they have there.
fn add_tokens(inner: &mut tokenizers::Tokenizer, settings: &Settings, name: &str) -> Result<()> {
    for (id, (token, file)) in &settings.added {
        // One that the vocabulary has keeps its id, and is looked for in text as a whole.
        let added = inner.add_tokens([token.clone()]);
        added.map_err(|e| Error::tokenizer(name, e))?;
        let found = inner.token_to_id(&token.content);
        if found != Some(*id) {
            let found = found.map_or("none".to_string(), |found| found.to_string());
            let problem = format!(
                "{:?} has the id {found} here and {id} in {}; correct one of them",
                token.content,
                file.display()
            );
            return Err(Error::tokenizer(name, problem));
        }
    }
    Ok(())
}
