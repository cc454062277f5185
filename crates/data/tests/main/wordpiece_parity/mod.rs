//! `fixture.json` is written by `make_fixture.py`; nothing in it is edited by hand.

use std::fs;

use conditioned_data::Tokenizer;
use serde::Deserialize;
use tempfile::TempDir;

#[derive(Deserialize)]
struct Fixture {
    vocab: Vec<String>,
    cases: Vec<Case>,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Case {
    lower: bool,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Pair {
    text: String,
    second: Option<String>,
    longest: usize,
    ids: Vec<u32>,
    types: Vec<u32>,
    truncated: bool,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixture.json")).unwrap()
}

/// A folder with vocab.txt alone.
fn folder(vocab: &[String]) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("vocab.txt"), vocab.join("\n") + "\n").unwrap();
    folder
}

#[test]
fn texts_are_encoded_as_in_python() {
    let Fixture { vocab, cases, .. } = fixture();
    assert_eq!(cases.len(), 2);
    for Case { lower, texts, ids } in cases {
        let folder = folder(&vocab);
        if !lower {
            let config = r#"{"do_lower_case": false, "model_max_length": 512}"#;
            fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        }
        let tokenizer = Tokenizer::read(folder.path()).unwrap();
        let file = Tokenizer::read(folder.path().join("vocab.txt")).unwrap();
        assert_eq!((tokenizer.hash(), tokenizer.vocab_size()), (file.hash(), vocab.len()));
        for (text, ids) in texts.iter().zip(ids) {
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}, lower: {lower}");
        }
        // Saved and read again, and read by the library.
        let path = folder.path().join("tokenizer.json");
        tokenizer.save(folder.path()).unwrap();
        assert_eq!(Tokenizer::read(folder.path()).unwrap().hash(), tokenizer.hash());
        let library = tokenizers::Tokenizer::from_file(&path).unwrap();
        let wanted = library.encode(("the dog", "ran"), true).unwrap();
        let pair = tokenizer.encode_pair("the dog", Some("ran"), 64).unwrap();
        assert_eq!((pair.ids.as_slice(), &*pair.types), (wanted.get_ids(), wanted.get_type_ids()));
    }
}

#[test]
fn pairs_are_cut_as_in_python() {
    let Fixture { vocab, pairs, .. } = fixture();
    let folder = folder(&vocab);
    let tokenizer = Tokenizer::read(folder.path()).unwrap();
    let special = [tokenizer.pad(), tokenizer.cls(), tokenizer.sep(), tokenizer.mask()];
    assert_eq!(special, [Some(0), Some(3), Some(4), Some(5)]);
    assert_eq!(tokenizer.special(), [0, 2, 3, 4, 5]);
    assert!(pairs.iter().any(|pair| pair.truncated) && pairs.iter().any(|pair| !pair.truncated));
    for Pair { text, second, longest, ids, types, truncated } in pairs {
        let pair = tokenizer.encode_pair(&text, second.as_deref(), longest).unwrap();
        assert_eq!(pair.ids, ids, "{text:?} {second:?} {longest}");
        assert_eq!((pair.types, pair.truncated), (types, truncated));
    }
}

#[test]
fn damaged_vocabularies_are_named() {
    let fail = |lines: &[u8], config: &str| {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("vocab.txt"), lines).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let message = Tokenizer::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
        message
    };
    assert!(fail(b"[CLS]\na\n", "{}").contains("no token [UNK]"));
    assert!(fail(b"[UNK]\na\n", "{}").contains("no token [CLS]"));
    assert!(fail(b"[UNK]\n[CLS]\n\xff\n", "{}").contains("line 3: not UTF-8 at byte 12"));
    let message = fail(b"[UNK]\n[CLS]\n", r#"{"cls_token": "<s>"}"#);
    assert!(message.contains("no token <s>, which is the cls_token of"), "{message}");
    let message = fail(b"[UNK]\n[CLS]\n", r#"{"do_lower_case": "yes"}"#);
    assert!(message.contains("`do_lower_case` is \"yes\"; expected true or false"), "{message}");
    assert!(fail(b"[UNK]\n[CLS]\na\n", "[").contains("tokenizer_config.json"));
}
