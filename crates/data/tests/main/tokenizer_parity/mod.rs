//! `fixture.json` is written by `make_fixture.py`; nothing in it is edited by hand.

use std::collections::BTreeMap;
use std::fs;

use conditioned_data::Tokenizer;
use serde::Deserialize;
use tempfile::TempDir;

#[derive(Deserialize)]
struct Fixture {
    corpus: Vec<String>,
    vocab: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixture.json")).unwrap()
}

fn check(tokenizer: &Tokenizer, cases: &[Case]) {
    for Case { text, ids } in cases {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids).unwrap(), text);
    }
}

#[test]
fn vocab_and_merges_encode_as_in_python() {
    let fixture = fixture();
    let folder = TempDir::new().unwrap();
    let vocab = serde_json::to_string(&fixture.vocab).unwrap();
    let merges = fixture.merges.iter().map(|(a, b)| format!("{a} {b}\n"));
    fs::write(folder.path().join("vocab.json"), vocab).unwrap();
    let merges = format!("#version: 0.2\n{}", merges.collect::<String>());
    fs::write(folder.path().join("merges.txt"), merges).unwrap();
    let tokenizer = Tokenizer::read(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), fixture.vocab.len());
    check(&tokenizer, &fixture.cases);
}

#[test]
fn training_finds_the_merges_of_python() {
    let fixture = fixture();
    let documents = fixture.corpus.iter().map(Ok);
    let tokenizer = Tokenizer::train(documents, fixture.vocab.len()).unwrap();
    check(&tokenizer, &fixture.cases);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tokenizer.json");
    tokenizer.save(folder.path()).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(file["model"]["vocab"], serde_json::json!(fixture.vocab));
    assert_eq!(file["model"]["merges"], serde_json::json!(fixture.merges));
}
