//! Folders whose files add to or contradict each other are read as transformers reads them. `fixture.json` is
//! written by `make_fixture.py`; nothing in it is edited by hand.

use std::collections::BTreeMap;
use std::fs;

use conditioned_data::Tokenizer;
use serde::Deserialize;
use tempfile::TempDir;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, String>,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// The first two texts as a BERT reads them.
    pair: Option<Vec<u32>>,
    /// The first text, and the first two, in nine tokens.
    cut: Option<[Vec<u32>; 2]>,
    /// A text with markers.
    marker: Option<Vec<u32>>,
    /// The texts with the end of text by its name.
    marked: Option<Vec<Vec<u32>>>,
}

fn check(tokenizer: &Tokenizer, case: &Case) {
    let Case { name, texts, ids, pair, cut, marker, marked, .. } = case;
    for (text, ids) in texts.iter().zip(ids) {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{name}: {text}");
    }
    if let Some(pair) = pair {
        let found = tokenizer.encode_pair(&texts[0], Some(&texts[1]), 64).unwrap();
        assert_eq!(&found.ids, pair, "{name}");
    }
    if let Some(marker) = marker {
        let found = tokenizer.encode("The [E1]cat[/E1] was [E1] old").unwrap();
        assert_eq!(&found, marker, "{name}");
    }
    if let Some([one, two]) = cut {
        let found = |second| tokenizer.encode_pair(&texts[0], second, 9).unwrap().ids;
        assert_eq!((&found(None), &found(Some(&texts[1]))), (one, two), "{name}");
    }
    for (text, ids) in texts.iter().zip(marked.iter().flatten()) {
        assert_eq!(&tokenizer.encode_marked(text).unwrap(), ids, "{name}: {text}");
    }
}

#[test]
fn folders_are_read_as_in_python_and_saved_as_they_are_read() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixture.json")).unwrap();
    assert_eq!(fixture.cases.len(), 27);
    for case in &fixture.cases {
        let (folder, saved) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        for (file, content) in &case.files {
            fs::write(folder.path().join(file), content).unwrap();
        }
        let tokenizer = Tokenizer::read(folder.path()).unwrap();
        check(&tokenizer, case);
        tokenizer.save(saved.path()).unwrap();
        let again = Tokenizer::read(saved.path()).unwrap();
        check(&again, case);
        assert_eq!(again.hash(), tokenizer.hash(), "{}", case.name);
        assert_eq!(again.end_of_text(), tokenizer.end_of_text(), "{}", case.name);
        assert_eq!(again.special(), tokenizer.special(), "{}", case.name);
    }
}

/// The error of a folder with these files.
fn fail(files: &[(&str, &str)]) -> String {
    let folder = TempDir::new().unwrap();
    for (file, content) in files {
        fs::write(folder.path().join(file), content).unwrap();
    }
    let message = Tokenizer::read(folder.path()).unwrap_err().to_string();
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    message
}

#[test]
fn contradictions_name_both_files() {
    let vocab = ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
    let message = fail(&[vocab, ("added_tokens.json", r#"{"b": 9}"#)]);
    let wanted = "\"b\" has the id 6 here and 9 in";
    assert!(message.contains(wanted) && message.contains("added_tokens.json"), "{message}");
    assert!(message.contains("vocab.txt"), "{message}");
    let message = fail(&[vocab, ("added_tokens.json", r#"{"a": 6}"#)]);
    assert!(message.contains("\"a\" has the id 5 here and 6 in"), "{message}");
    let message = fail(&[vocab, ("added_tokens.json", r#"{"b": "x"}"#)]);
    assert!(message.contains("`b` is \"x\"; expected the id of a token"), "{message}");
    let message = fail(&[vocab, ("special_tokens_map.json", r#"{"eos_token": "</s>"}"#)]);
    assert!(message.contains("no token \"</s>\", which is the eos_token of"), "{message}");
    let message = fail(&[vocab, ("tokenizer_config.json", r#"{"sep_token": "<s>"}"#)]);
    assert!(message.contains("no token \"<s>\", which is the sep_token of"), "{message}");
    let message = fail(&[vocab, ("tokenizer_config.json", r#"{"sep_token": 3}"#)]);
    assert!(message.contains("`sep_token` is 3; expected the name of a token"), "{message}");
    let message = fail(&[vocab, ("special_tokens_map.json", "[")]);
    assert!(message.contains("special_tokens_map.json: not an object of settings"), "{message}");
}

#[test]
fn a_text_of_a_model_ends_where_its_configuration_says() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("vocab.json", r#"{"a": 0, "b": 1, "<|endoftext|>": 2}"#);
    write("merges.txt", "");
    let ends = || {
        let tokenizer = Tokenizer::read(folder.path()).unwrap();
        (tokenizer.end_of_text(), tokenizer.ends())
    };
    assert_eq!(ends(), (2, vec![2]));
    write("config.json", r#"{"eos_token_id": [1, 0]}"#);
    assert_eq!(ends(), (1, vec![0, 1]));
    write("generation_config.json", r#"{"eos_token_id": 2}"#);
    assert_eq!(ends(), (1, vec![1, 2]));
    let saved = TempDir::new().unwrap();
    let tokenizer = Tokenizer::read(folder.path()).unwrap();
    tokenizer.save(saved.path()).unwrap();
    let again = Tokenizer::read(saved.path()).unwrap();
    assert_eq!((again.ends(), again.hash()), (tokenizer.ends(), tokenizer.hash()));
    // The default of GPT-2 is no token of a small vocabulary.
    write("config.json", r#"{"eos_token_id": 50256}"#);
    assert_eq!(ends(), (2, vec![2]));
}

/// Where transformers would take the mark for a part of the token, and add another `[PAD]`.
#[test]
fn a_byte_order_mark_is_no_part_of_the_first_token() {
    let folder = TempDir::new().unwrap();
    let lines = "\u{feff}[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\n";
    fs::write(folder.path().join("vocab.txt"), lines).unwrap();
    let tokenizer = Tokenizer::read(folder.path()).unwrap();
    assert_eq!((tokenizer.pad(), tokenizer.encode("a").unwrap()), (Some(0), vec![4]));
}

#[test]
fn other_kinds_of_tokenizers_are_refused() {
    let vocab = ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
    let japanese = r#"{"tokenizer_class": "BertJapaneseTokenizer"}"#;
    for file in ["tokenizer_config.json", "config.json"] {
        let message = fail(&[vocab, (file, japanese)]);
        assert!(message.contains("belongs to a BertJapaneseTokenizer"), "{message}");
    }
    let ids = r#"{"a": 0, "b</w>": 1, "ab</w>": 2, "<|endoftext|>": 3}"#;
    let message = fail(&[("vocab.json", ids), ("merges.txt", "a b</w>\n")]);
    assert!(message.contains("merges.txt: line 1: merges with ends of words"), "{message}");
}

#[test]
fn a_word_that_nothing_spells_needs_an_unknown_token() {
    let folder = TempDir::new().unwrap();
    let file = r###"{"version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[CLS]": 0, "[SEP]": 1, "a": 2}}}"###;
    fs::write(folder.path().join("tokenizer.json"), file).unwrap();
    let tokenizer = Tokenizer::read(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("a a").unwrap(), [2, 2]);
    let message = tokenizer.encode("a b").unwrap_err().to_string();
    assert!(message.contains("add [UNK] to the vocabulary"), "{message}");
}

#[test]
fn tokens_beyond_a_table_are_named() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n");
    write("added_tokens.json", r#"{"b": 5}"#);
    let tokenizer = Tokenizer::read(folder.path()).unwrap();
    // Added without a row for it: only a text that has it is refused.
    tokenizer.check_rows(5).unwrap();
    tokenizer.check_ids(&tokenizer.encode("a a").unwrap(), 5).unwrap();
    let ids = tokenizer.encode("a b").unwrap();
    let message = tokenizer.check_ids(&ids, 5).unwrap_err().to_string();
    assert!(message.contains("\"b\" has the id 5, and the token table"), "{message}");
    let message = tokenizer.check_rows(4).unwrap_err().to_string();
    assert!(message.contains("\"a\" the id 4") && message.contains("another model"), "{message}");
}
