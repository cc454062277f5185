use std::fs;
use std::path::Path;

use conditioned_data::{Error, Result, Tokenizer, Tokens, stories, write_shards};
use proptest::prelude::*;
use tempfile::TempDir;

/// Shards of a few stories each.
const BYTES: usize = 3000;

fn tokenizer() -> Tokenizer {
    Tokenizer::train(stories(0, 50), 300).unwrap()
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn failure(folder: &Path, tokenizer: &Tokenizer, file: &str) -> String {
    let message = Tokens::open(folder, tokenizer).unwrap_err().to_string();
    assert!(message.contains(folder.join(file).to_str().unwrap()), "{message}");
    message
}

#[test]
fn disk_and_memory_hold_what_was_encoded() {
    let (folder, tokenizer) = (TempDir::new().unwrap(), tokenizer());
    let written = write_shards(folder.path(), stories(1, 40), &tokenizer, BYTES).unwrap();
    let disk = Tokens::open(folder.path(), &tokenizer).unwrap();
    let memory = Tokens::encode(stories(1, 40), &tokenizer).unwrap();
    assert!(written.shards > 5 && written.kept == 0, "{written:?}");
    assert_eq!((written.documents, written.tokens), (disk.documents(), disk.len()));
    assert_eq!((memory.documents(), memory.len()), (40, disk.len()));
    for (i, story) in stories(1, 40).enumerate() {
        let mut ids = tokenizer.encode(&story.unwrap()).unwrap();
        ids.push(tokenizer.end_of_text());
        assert_eq!(disk.document(i).unwrap(), ids);
        assert_eq!(memory.document(i).unwrap(), ids);
    }
    disk.verify().unwrap();
    assert!(disk.document(40).is_err());
}

#[test]
fn threads_do_not_change_a_byte() {
    let tokenizer = tokenizer();
    let write = |threads| {
        let folder = TempDir::new().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write_shards(folder.path(), stories(1, 30), &tokenizer, BYTES)).unwrap();
        files(folder.path())
    };
    let one = write(1);
    assert!(one == write(2) && one == write(7));
}

#[test]
fn a_run_that_was_cut_off_goes_on() {
    let (folder, whole, tokenizer) =
        (TempDir::new().unwrap(), TempDir::new().unwrap(), tokenizer());
    let stop = Err(Error::Config { field: "stop", value: "here".into(), expected: "no".into() });
    let cut: Vec<Result<String>> = stories(1, 35).chain([stop]).collect();
    assert!(write_shards(folder.path(), cut, &tokenizer, BYTES).is_err());
    let message = Tokens::open(folder.path(), &tokenizer).unwrap_err().to_string();
    assert!(message.contains("no finished shards here"), "{message}");
    let there = files(folder.path()).len();
    assert!(there > 0);
    // One of them is damaged in the meantime: it is made again.
    let path = folder.path().join("000000.tokens");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let written = write_shards(folder.path(), stories(1, 40), &tokenizer, BYTES).unwrap();
    assert_eq!(written.kept, there - 1);
    write_shards(whole.path(), stories(1, 40), &tokenizer, BYTES).unwrap();
    assert!(files(folder.path()) == files(whole.path()));
    // Done: nothing is made again; another corpus: everything.
    let again = write_shards(folder.path(), stories(1, 40), &tokenizer, BYTES).unwrap();
    assert_eq!(again.kept, again.shards);
    let other = write_shards(folder.path(), stories(2, 40), &tokenizer, BYTES).unwrap();
    assert_eq!(other.kept, 0);
    Tokens::open(folder.path(), &tokenizer).unwrap().verify().unwrap();
}

#[test]
fn finished_shards_stay_readable_while_the_same_are_prepared() {
    let (folder, tokenizer) = (TempDir::new().unwrap(), tokenizer());
    write_shards(folder.path(), stories(1, 40), &tokenizer, BYTES).unwrap();
    let read = || Tokens::open(folder.path(), &tokenizer).unwrap().len();
    let tokens = read();
    let again = stories(1, 40).inspect(|_| assert_eq!(read(), tokens));
    write_shards(folder.path(), again, &tokenizer, BYTES).unwrap();
    assert_eq!(read(), tokens);
}

#[test]
fn damage_is_named() {
    let (folder, tokenizer) = (TempDir::new().unwrap(), tokenizer());
    write_shards(folder.path(), stories(1, 20), &tokenizer, BYTES).unwrap();
    let (name, path) = ("000001.tokens", folder.path().join("000001.tokens"));
    let whole = fs::read(&path).unwrap();
    let fail = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let message = failure(folder.path(), &tokenizer, name);
        assert!(message.contains("remove the file and write the shards again"), "{message}");
        message
    };
    let edited = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    for length in [0, 10, 135, 136, whole.len() / 2, whole.len() - 1] {
        assert!(fail(&whole[..length]).contains("truncated"), "{length}");
    }
    assert!(fail(&[&whole[..], &[0]].concat()).contains("trailing bytes"));
    assert!(fail(&edited(0, b'X')).contains("does not start like a shard"));
    assert!(fail(&edited(8, 9)).contains("version 9"));
    assert!(fail(&edited(12, 3)).contains("3 bytes per token"));
    assert!(fail(&edited(23, 255)).contains("truncated"));
    assert!(fail(&edited(143, 255)).contains("document 0 ends at"));
    // A token past the vocabulary is found when it is read, any changed bit by `verify`.
    fs::write(&path, edited(whole.len() - 1, 255)).unwrap();
    let tokens = Tokens::open(folder.path(), &tokenizer).unwrap();
    let read: Result<Vec<_>> = (0..tokens.documents()).map(|i| tokens.document(i)).collect();
    let message = read.unwrap_err().to_string();
    assert!(
        message.contains(name) && message.contains("beyond the vocabulary of 300"),
        "{message}"
    );
    assert!(tokens.verify().unwrap_err().to_string().contains("does not match the hash"));
    fs::remove_file(&path).unwrap();
    let missing = failure(folder.path(), &tokenizer, name);
    assert!(
        missing.contains("tokens.json: promises ") && missing.contains("there is no"),
        "{missing}"
    );
}

#[test]
fn another_tokenizer_is_refused() {
    let (folder, tokenizer) = (TempDir::new().unwrap(), tokenizer());
    write_shards(folder.path(), stories(1, 5), &tokenizer, BYTES).unwrap();
    let other = Tokenizer::train(stories(1, 50), 300).unwrap();
    assert!(failure(folder.path(), &other, "000000.tokens").contains("made by another tokenizer"));
}

#[test]
fn an_empty_corpus_is_refused() {
    let (folder, tokenizer) = (TempDir::new().unwrap(), tokenizer());
    let message = write_shards(folder.path(), [], &tokenizer, BYTES).unwrap_err().to_string();
    assert!(message.contains("the corpus is empty"), "{message}");
    assert!(Tokens::encode([], &tokenizer).is_err());
}

#[test]
fn large_vocabularies_take_four_bytes() {
    let all: String = (0..70_000).filter_map(char::from_u32).collect();
    let tokenizer = Tokenizer::characters([&all]).unwrap();
    assert!(tokenizer.vocab_size() > 1 << 16);
    let text: String = all.chars().rev().take(50).collect();
    let tokens = Tokens::encode([Ok(text.clone())], &tokenizer).unwrap();
    let ids = tokens.document(0).unwrap();
    assert_eq!(tokenizer.decode(&ids[..50]).unwrap(), text);
    assert!(ids.iter().all(|&id| id > 1 << 16));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shards_give_any_documents_back(
        texts in prop::collection::vec("(?s).{1,30}", 1..20), bytes in 1usize..200,
    ) {
        static BPE: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(tokenizer);
        let folder = TempDir::new().unwrap();
        write_shards(folder.path(), texts.iter().cloned().map(Ok), &BPE, bytes).unwrap();
        let tokens = Tokens::open(folder.path(), &BPE).unwrap();
        prop_assert_eq!(tokens.documents(), texts.len());
        for (i, text) in texts.iter().enumerate() {
            let ids = tokens.document(i).unwrap();
            let (end, ids) = ids.split_last().unwrap();
            prop_assert_eq!(*end, BPE.end_of_text());
            prop_assert_eq!(&BPE.decode(ids).unwrap(), text);
        }
    }
}
