use std::collections::HashSet;
use std::fs;
use std::sync::LazyLock;

use conditioned_data::{Tokenizer, premises, stories};
use proptest::prelude::*;
use tempfile::TempDir;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, Model, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Trainer, TruncationParams, truncate_encodings,
};

fn stories_wordpiece(vocab_size: usize) -> Tokenizer {
    Tokenizer::train_wordpiece(stories(0, 300), vocab_size).unwrap()
}

static OURS: LazyLock<Tokenizer> = LazyLock::new(|| stories_wordpiece(500));
static LIBRARY: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
    let mut library = tokenizers::Tokenizer::from_bytes(saved(&OURS)).unwrap();
    library.set_encode_special_tokens(true);
    library
});

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
        pool.install(|| saved(&stories_wordpiece(1000)))
    };
    let first = train(1);
    assert!(first == train(1) && first == train(3));
    // Nor does the process, whose hash maps have seeds of their own.
    assert_eq!(stories_wordpiece(1000).hash(), HASH);
    // Nor the order of the documents.
    let mut reversed: Vec<String> = stories(0, 300).map(Result::unwrap).collect();
    reversed.reverse();
    let reversed = reversed.into_iter().map(Ok);
    assert!(first == saved(&Tokenizer::train_wordpiece(reversed, 1000).unwrap()));
}

const HASH: &str = "3faf09470fc3fe251a34e9e0189eac1be4a9e1a316cb372f6ef5e3f01d107e61";

#[test]
fn the_first_tokens_are_special_ones_and_characters() {
    let tokenizer = Tokenizer::train_wordpiece(["Baa, baa! É"].map(Ok), 5 + 5 + 2).unwrap_err();
    // Of "b", "a" and ","; "!" and "e" occur once. "##a" alone goes on.
    let message = tokenizer.to_string();
    assert!(message.contains("after 10 tokens; give more text, or ask for 10"), "{message}");
    let tokenizer = Tokenizer::train_wordpiece(["Baa baa! É!"].map(Ok), 10).unwrap();
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", "a", "b", "##a", "ba"];
    for (id, token) in (0..).zip(tokens) {
        assert_eq!(tokenizer.id(token), Some(id), "{token}");
    }
    assert_eq!((tokenizer.pad(), tokenizer.mask()), (Some(0), Some(4)));
    assert_eq!((tokenizer.cls(), tokenizer.sep(), tokenizer.end_of_text()), (Some(2), Some(3), 2));
    assert_eq!(tokenizer.special(), [0, 1, 2, 3, 4]);
    assert_eq!(tokenizer.encode("BAA é a!").unwrap(), [9, 8, 1, 6, 5]);
    let message = Tokenizer::train_wordpiece(["Baa baa! É!"].map(Ok), 8).unwrap_err().to_string();
    assert!(message.contains("vocab_size = 8: expected at least 9"), "{message}");
    let message = Tokenizer::train_wordpiece([" \n"].map(Ok), 100).unwrap_err().to_string();
    assert!(message.contains("the corpus is empty"), "{message}");
}

#[test]
fn training_finds_the_vocabulary_of_the_library_trainer() {
    let words = |text: &str| {
        let mut text = PreTokenizedString::from(text);
        text.normalize(|text| BertNormalizer::default().normalize(text))?;
        BertPreTokenizer.pre_tokenize(&mut text)?;
        let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        Ok(splits.into_iter().map(|(word, ..)| word.to_string()).collect())
    };
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(1500)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.iter().map(|token| AddedToken::from(*token, true)).collect())
        .build();
    trainer.feed(stories(0, 300).map(Result::unwrap), words).unwrap();
    let mut model = WordPiece::default();
    trainer.train(&mut model).unwrap();
    let ours = stories_wordpiece(1500);
    let theirs: HashSet<String> = model.get_vocab().into_keys().collect();
    let missing = theirs.iter().filter(|token| ours.id(token).is_none()).count();
    // Pairs that occur equally often are merged in the order of their ids, which are others there.
    assert!(missing <= theirs.len() / 50, "{missing} of {} are missing", theirs.len());
}

#[test]
fn a_tokenizer_of_another_kind_says_what_it_lacks() {
    let bpe = Tokenizer::train(stories(0, 50), 300).unwrap();
    let message = bpe.encode_pair("a", None, 8).unwrap_err().to_string();
    assert!(message.contains("BPE of 300") && message.contains("no token [CLS]"), "{message}");
    assert_eq!((bpe.cls(), bpe.sep(), bpe.mask(), bpe.pad()), (None, None, None, None));
    let wordpiece = stories_wordpiece(300);
    let fail =
        |second, longest| wordpiece.encode_pair("a", second, longest).unwrap_err().to_string();
    assert!(fail(None, 2).contains("max_length = 2: expected at least 3"));
    assert!(fail(Some("b"), 4).contains("max_length = 4: expected at least 5"));
    assert_eq!(wordpiece.encode_pair("a", None, 3).unwrap().ids.len(), 3);
}

#[test]
fn a_text_cannot_forge_a_special_token() {
    let tokenizer =
        Tokenizer::train_wordpiece(stories(0, 100).chain(premises(0, 0..50)), 500).unwrap();
    for token in ["[SEP]", "[CLS]", "[MASK]", "[PAD]"] {
        let pair = tokenizer.encode_pair(&format!("a {token} b"), Some(token), 64).unwrap();
        let special = |id: &u32| *id != 1 && tokenizer.special().contains(id);
        assert_eq!(pair.ids.iter().copied().filter(special).collect::<Vec<_>>(), [2, 3, 3]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pairs_are_those_of_the_library(
        first in "[a-zA-Z ,.é\u{4e00}-\u{4e20}]{0,60}", second in proptest::option::of("(?s).{0,40}"),
        longest in 5usize..40,
    ) {
        let special = if second.is_some() { 3 } else { 2 };
        let params = TruncationParams { max_length: longest - special, ..Default::default() };
        let encode = |text: &str| LIBRARY.encode(text, false).unwrap();
        let (first_ids, second_ids) = (encode(&first), second.as_deref().map(encode));
        // With truncation set, the library would stop early and not know which text is the longer one.
        let (cut, cut_second) = truncate_encodings(first_ids, second_ids, &params).unwrap();
        let truncated = [Some(&cut), cut_second.as_ref()]
            .into_iter()
            .flatten()
            .any(|encoding| !encoding.get_overflowing().is_empty());
        let wanted = LIBRARY.post_process(cut, cut_second, true).unwrap();
        let ours = OURS.encode_pair(&first, second.as_deref(), longest).unwrap();
        prop_assert_eq!(&ours.ids, wanted.get_ids());
        prop_assert_eq!(&ours.types, wanted.get_type_ids());
        prop_assert_eq!(ours.truncated, truncated);
    }
}
