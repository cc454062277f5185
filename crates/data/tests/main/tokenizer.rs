use std::fs;

use conditioned_data::{END_OF_TEXT, Tokenizer, stories};
use proptest::prelude::*;
use tempfile::TempDir;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

fn stories_bpe(vocab_size: usize) -> Tokenizer {
    Tokenizer::train(stories(0, 300), vocab_size).unwrap()
}

fn saved(tokenizer: &Tokenizer) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tokenizer.json");
    tokenizer.save(folder.path()).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn training_twice_gives_the_same_bytes_on_any_number_of_threads() {
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| saved(&stories_bpe(1000)))
    };
    let first = train(1);
    assert!(first == train(1) && first == train(3));
    // Nor does the process, whose hash maps have seeds of their own.
    assert_eq!(
        stories_bpe(1000).hash(),
        "007d66e68b11fb718d6aa488d5623fd5e1dc8eb7b32bea5761f9ca02225940a6"
    );
    // Nor the order of the documents.
    let mut reversed: Vec<String> = stories(0, 300).map(Result::unwrap).collect();
    reversed.reverse();
    assert!(first == saved(&Tokenizer::train(reversed.into_iter().map(Ok), 1000).unwrap()));
}

#[test]
fn training_finds_the_vocabulary_of_the_library_trainer() {
    let words = |text: &str| {
        let mut text = PreTokenizedString::from(text);
        ByteLevel::new(false, true, true).pre_tokenize(&mut text)?;
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(splits.into_iter().map(|(word, ..)| word.to_string()).collect())
    };
    let mut trainer = BpeTrainer::builder()
        .vocab_size(2000)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    trainer.feed(stories(0, 300).map(Result::unwrap), words).unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    let ours = stories_bpe(2000);
    let vocab = model.get_vocab();
    assert_eq!(vocab.len(), 2000);
    for (token, id) in vocab {
        assert_eq!(ours.id(&token), Some(id), "{token:?}");
    }
}

#[test]
fn the_vocabulary_has_the_size_that_was_asked_for() {
    let tokenizer = stories_bpe(700);
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (700, 0));
    assert_eq!(tokenizer.id(END_OF_TEXT), Some(0));
    let fail = |text: &str, size| Tokenizer::train([Ok(text)], size).unwrap_err().to_string();
    assert!(fail("abc", 256).contains("vocab_size = 256: expected at least 257"));
    let message = fail("abab", 300);
    assert!(message.contains("after 258 tokens; give more text, or ask for 258"), "{message}");
    let none: [conditioned_data::Result<String>; 0] = [];
    assert!(Tokenizer::train(none, 300).unwrap_err().to_string().contains("the corpus is empty"));
}

#[test]
fn files_keep_the_hash() {
    let folder = TempDir::new().unwrap();
    for tokenizer in [stories_bpe(300), Tokenizer::characters(["hello\nworld é🙂"]).unwrap()] {
        let path = folder.path().join("tokenizer.json");
        tokenizer.save(folder.path()).unwrap();
        for path in [path.as_path(), folder.path()] {
            let read = Tokenizer::read(path).unwrap();
            assert_eq!(
                (read.hash(), read.vocab_size()),
                (tokenizer.hash(), tokenizer.vocab_size())
            );
        }
    }
    assert_ne!(stories_bpe(300).hash(), stories_bpe(301).hash());
}

#[test]
fn a_saved_file_is_an_ordinary_one_and_an_error_names_it() {
    let folder = TempDir::new().unwrap();
    let tokenizer = Tokenizer::characters(["ab"]).unwrap();
    let [path, ordinary] = ["tokenizer.json", "ordinary.json"].map(|name| folder.path().join(name));
    fs::write(&ordinary, "{}").unwrap();
    tokenizer.save(folder.path()).unwrap();
    let permissions = |path| fs::metadata(path).unwrap().permissions();
    assert_eq!(permissions(&path), permissions(&ordinary));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);

    let missing = folder.path().join("missing");
    let error = tokenizer.save(&missing).unwrap_err().to_string();
    assert!(error.contains(missing.join("tokenizer.json").to_str().unwrap()), "{error}");
}

#[test]
fn characters_are_sorted_and_end_before_end_of_text() {
    let tokenizer = Tokenizer::characters(["ba\n", "é🙂a"]).unwrap();
    assert_eq!(tokenizer.vocab_size(), 6);
    assert_eq!(tokenizer.encode("\nabé🙂").unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(tokenizer.decode(&[0, 4, 3, 5]).unwrap(), "\n🙂é<|endoftext|>");
    let message = tokenizer.encode("abc").unwrap_err().to_string();
    assert!(message.contains("'c'"), "{message}");
    // An id without a token gives nothing, as in transformers.
    assert_eq!(tokenizer.decode(&[0, 6, 3]).unwrap(), "\né");
    assert!(Tokenizer::characters([""]).is_err());
}

#[test]
fn a_marked_text_is_encoded_as_the_library_does() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tokenizer.json");
    let tokenizer = stories_bpe(400);
    tokenizer.save(folder.path()).unwrap();
    let library = tokenizers::Tokenizer::from_file(&path).unwrap();
    for text in
        ["One day,\n<|endoftext|>\nTwo.", "<|endoftext|>", "none", "<|endoftext|><|endoftext|>x"]
    {
        let wanted = library.encode_fast(text, false).unwrap();
        assert_eq!(tokenizer.encode_marked(text).unwrap(), wanted.get_ids(), "{text}");
    }
}

#[test]
fn a_text_cannot_forge_an_end() {
    let tokenizer = stories_bpe(400);
    let ids = tokenizer.encode("a<|endoftext|>b").unwrap();
    assert!(!ids.contains(&tokenizer.end_of_text()));
}

/// As in transformers 5, where a class of a BERT builds its tokenizer anew and no class takes the file as it is.
#[test]
fn a_class_decides_whether_a_file_is_taken_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::train_wordpiece(stories(0, 20), 80).unwrap().save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["normalizer"]["lowercase"] = false.into();
    std::fs::write(&path, json.to_string()).unwrap();
    let lowers_case = |settings: &str| {
        std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
        let tokenizer = Tokenizer::read(&path).unwrap();
        tokenizer.encode("ONCE").unwrap() == tokenizer.encode("once").unwrap()
    };
    assert!(!lowers_case(r#"{"model_max_length": 512}"#));
    assert!(lowers_case(r#"{"model_max_length": 512, "tokenizer_class": "BertTokenizer"}"#));
}

#[test]
fn damaged_files_are_named() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let fail = |name: &str| {
        let message = Tokenizer::read(path(name)).unwrap_err().to_string();
        assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
        message
    };
    assert!(fail("").contains("no tokenizer here"));
    assert!(fail("absent.json").contains("cannot read"));
    fs::write(path("x.json"), "{}").unwrap();
    assert!(fail("x.json").contains("not a tokenizer.json"));
    fs::write(path("vocab.json"), r#"{"a": 0, "b": 1, "<|endoftext|>": 2}"#).unwrap();
    fs::write(path("merges.txt"), "#version: 0.2\na\n").unwrap();
    assert!(fail("").contains("line 2: \"a\" is not two tokens"));
    fs::write(path("merges.txt"), "a b\n").unwrap();
    let missing = fail("");
    assert!(missing.contains("merges.txt: line 1: \"ab\" has no id in "), "{missing}");
    assert!(missing.contains("vocab.json"), "{missing}");
    fs::write(path("merges.txt"), b"a \xff\n").unwrap();
    assert!(fail("").contains("byte 2"));
    fs::write(path("merges.txt"), "").unwrap();
    assert_eq!(Tokenizer::read(path("")).unwrap().encode("ab").unwrap(), [0, 1]);
    fs::write(path("vocab.json"), r#"{"a": 0}"#).unwrap();
    assert!(fail("").contains("no token ends a document"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_text_comes_back(text in "(?s).{0,60}", story_like in "[a-z .,'\n]{0,80}") {
        static BPE: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(|| stories_bpe(500));
        for text in [text, story_like] {
            prop_assert_eq!(&BPE.decode(&BPE.encode(&text).unwrap()).unwrap(), &text);
            if !text.is_empty() {
                let characters = Tokenizer::characters([&text]).unwrap();
                let ids = characters.encode(&text).unwrap();
                prop_assert_eq!(ids.len(), text.chars().count());
                prop_assert_eq!(characters.decode(&ids).unwrap(), text);
            }
        }
    }
}
