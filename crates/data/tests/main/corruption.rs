//! Every reader of files, over damaged ones: see `tests/support/corruption.rs`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use conditioned_data::{
    Corpus, IdxFolder, Layout, SequenceData, SequenceSource, Task, Texts, Tokenizer, Tokens,
    stories, write_shards,
};
use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use crate::damage::{Cut, allocated, corrupt};
use crate::lra::{write_listops, write_pathfinder, write_retrieval};

/// Text with characters of one to four bytes, so that a cut can be inside one.
const TEXT: &str = "Ein Größenwahn, naïve — “ça va”, 数字 and 🦀.";

/// A folder with these files, and their paths.
fn folder<const N: usize>(files: [(&str, &[u8]); N]) -> (TempDir, [PathBuf; N]) {
    let folder = TempDir::new().unwrap();
    let paths = files.map(|(name, bytes)| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    });
    (folder, paths)
}

/// Damages files over which `read` is run.
pub(crate) fn check<T>(
    reader: &str,
    files: impl Into<Vec<PathBuf>>,
    cut: Cut,
    read: impl Fn() -> conditioned_data::Result<T> + Send + 'static,
) {
    corrupt(reader, files, cut, allocated, move || {
        read().map(drop).map_err(|error| error.to_string())
    });
}

/// Reads a tokenizer and uses it.
fn tokenize(path: &Path) -> conditioned_data::Result<()> {
    let tokenizer = Tokenizer::read(path)?;
    let ids = tokenizer.encode("Once upon a time.")?;
    tokenizer.decode(&ids)?;
    // No tokenizer but a BERT's makes pairs.
    let _ = (tokenizer.special(), tokenizer.encode_pair("Once", Some("upon"), 8));
    Ok(())
}

#[test]
fn tokenizer_json() {
    let kinds = [
        ("tokenizer.json (BPE)", Tokenizer::train(stories(0, 20), 280)),
        ("tokenizer.json (WordPiece)", Tokenizer::train_wordpiece(stories(0, 20), 80)),
        ("tokenizer.json (characters)", Tokenizer::characters(stories(0, 20).map(Result::unwrap))),
    ];
    for (reader, tokenizer) in kinds {
        let folder = TempDir::new().unwrap();
        tokenizer.unwrap().save(folder.path()).unwrap();
        let path = folder.path().join("tokenizer.json");
        check(reader, [path.clone()], Cut::Known, move || tokenize(&path));
    }
}

#[test]
fn vocab_txt_and_tokenizer_config_json() {
    let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n.\nonce\nupon\na\nti\n##me\nÜber\n“\n";
    let config = br#"{"do_lower_case": false, "strip_accents": null, "model_max_length": 512}"#;
    let (folder, paths) =
        folder([("vocab.txt", words.as_bytes()), ("tokenizer_config.json", config)]);
    let path = folder.path().to_path_buf();
    check("vocab.txt, tokenizer_config.json", paths, Cut::Lines, move || tokenize(&path));
}

#[test]
fn settings_beside_a_tokenizer() {
    let words = "[PAD]\n[UNK]\n<cls>\n[SEP]\n[MASK]\n.\nonce\nupon\na\nti\n##me\n";
    let (folder, [vocab, paths @ ..]) = folder([
        ("vocab.txt", words.as_bytes()),
        ("tokenizer_config.json", br#"{"do_lower_case": false, "truncation_side": "left"}"#),
        (
            "special_tokens_map.json",
            br#"{"cls_token": "<cls>", "sep_token": {"content": "[SEP]"}}"#,
        ),
        ("added_tokens.json", br#"{"riverhouse": 11, "treehouse": 12}"#),
        ("config.json", br#"{"model_type": "bert", "eos_token_id": [3, 4]}"#),
        ("generation_config.json", br#"{"eos_token_id": 4}"#),
    ]);
    let path = folder.path().to_path_buf();
    drop(vocab);
    check("settings beside a tokenizer", paths, Cut::Known, move || tokenize(&path));
}

#[test]
fn vocab_json_and_merges_txt() {
    let trained = TempDir::new().unwrap();
    Tokenizer::train(stories(0, 20), 280).unwrap().save(trained.path()).unwrap();
    let json = trained.path().join("tokenizer.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges =
        merges.map(|pair| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    let merges = format!("#version: 0.2\n{}", merges.collect::<String>());
    let vocab = json["model"]["vocab"].to_string();
    let (folder, paths) =
        folder([("vocab.json", vocab.as_bytes()), ("merges.txt", merges.as_bytes())]);
    let path = folder.path().to_path_buf();
    check("vocab.json, merges.txt", paths, Cut::Lines, move || tokenize(&path));
}

#[test]
fn labelled_texts() {
    let quoted = TEXT.replace(['“', '”'], "\"\"");
    let csv = format!("text,label\n\"{quoted}\",positive\nDull.,negative\nFine.,positive\n");
    let tsv = format!("sentence1\tsentence2\tlabel\n{TEXT}\tNo.\t1\nA\tB\t0\nC\tD\t1\n");
    let jsonl = format!(
        "{{\"text\": \"{TEXT}\", \"label\": 1}}\n{{\"text\": \"Dull.\", \"label\": 0}}\n\
         {{\"text\": \"Fine.\", \"label\": 1}}\n"
    );
    for (name, text) in [("texts.csv", csv), ("texts.tsv", tsv), ("texts.jsonl", jsonl)] {
        let (_folder, [path]) = folder([(name, text.as_bytes())]);
        check(name, [path.clone()], Cut::Lines, move || Texts::read(&path, None));
    }
}

#[test]
fn glue_tsv() {
    let rte = format!(
        "index\tsentence1\tsentence2\tlabel\n0\t{TEXT}\tB.\tnot_entailment\n1\tC.\tD.\tentailment\n"
    );
    let cola = format!("gj04\t1\t\t{TEXT}\ngj04\t0\t*\tThey drank the.\n");
    for (task, text) in [(Task::Rte, rte), (Task::Cola, cola)] {
        let (folder, paths) =
            folder([("train.tsv", text.as_bytes()), ("dev.tsv", text.as_bytes())]);
        let path = folder.path().to_path_buf();
        check(&format!("GLUE's {}", task.title()), paths, Cut::Lines, move || task.read(&path));
    }
}

#[test]
fn corpora() {
    let text = format!("{TEXT}\nMore.\n<|endoftext|>\n{TEXT}\n<|endoftext|>\nThe end.\n");
    let jsonl = format!("{{\"text\": \"{TEXT}\"}}\n{{\"text\": \"The end.\"}}\n");
    let separated = Layout::Separated("<|endoftext|>".into());
    for (reader, name, text, layout) in [
        ("a whole text", "corpus.txt", &text, Layout::Whole),
        ("a separated text", "corpus.txt", &text, separated),
        ("a JSONL corpus", "corpus.jsonl", &jsonl, Layout::Jsonl("text".into())),
    ] {
        let (_folder, [path]) = folder([(name, text.as_bytes())]);
        check(reader, [path.clone()], Cut::Lines, move || {
            let corpus = Corpus::open(&path, layout.clone())?;
            corpus.documents().collect::<Result<Vec<_>, _>>()
        });
    }
}

fn idx(magic: u32, sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let words = std::iter::once(&magic).chain(sizes);
    words.flat_map(|word| word.to_be_bytes()).chain(data.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn idx_folders() {
    let images = idx(0x803, &[5, 6, 7], &(0..5 * 6 * 7).collect::<Vec<u8>>());
    let labels = idx(0x801, &[5], &[1, 0, 7, 3, 9]);
    for (reader, end, pack) in [
        ("IDX", "", (|bytes| bytes.to_vec()) as fn(&[u8]) -> Vec<u8>),
        ("gzipped IDX", ".gz", gzip),
    ] {
        let folder = TempDir::new().unwrap();
        let files = ["train", "t10k"].into_iter().flat_map(|part| {
            let path = |kind: &str| folder.path().join(format!("{part}-{kind}-ubyte{end}"));
            let files =
                [(path("images-idx3"), pack(&images)), (path("labels-idx1"), pack(&labels))];
            files.map(|(path, bytes)| {
                fs::write(&path, bytes).unwrap();
                path
            })
        });
        let (files, path) = (files.collect::<Vec<_>>(), folder.path().to_path_buf());
        check(reader, files, Cut::Known, move || IdxFolder::read(&path, 10));
    }
}

#[test]
fn token_shards() {
    let tokenizer = Tokenizer::train(stories(0, 50), 300).unwrap();
    let folder = TempDir::new().unwrap();
    let written = write_shards(folder.path(), stories(1, 8), &tokenizer, 2000).unwrap();
    assert!(written.shards > 1, "{written:?}");
    let shards = (0..written.shards).map(|i| format!("{i:06}.tokens"));
    let names = shards.chain(["tokens.json".into()]);
    let files = names.map(|name| folder.path().join(name)).collect::<Vec<_>>();
    let path = folder.path().to_path_buf();
    check("token shards, tokens.json", files, Cut::Known, move || {
        let tokens = Tokens::open(&path, &tokenizer)?;
        for i in 0..tokens.documents() {
            tokens.document(i)?;
        }
        tokens.verify()
    });
}

#[test]
fn files_of_the_long_range_arena() {
    let root = TempDir::new().unwrap();
    let read = |source: SequenceSource| move || SequenceData::new(source.clone(), None);

    let folder = root.path().join("listops");
    let files = write_listops(&folder);
    let source = SequenceSource::ListOpsFiles { folder };
    check("basic_train.tsv, basic_val.tsv, basic_test.tsv", files, Cut::Lines, read(source));

    let path = root.path().join("retrieval");
    let files = write_retrieval(&path);
    let source = SequenceSource::Retrieval { path, max_length: 100 };
    check("new_aan_pairs", files, Cut::Lines, read(source));

    let folder = root.path().join("pathfinder");
    // Both lists, and some of the images.
    let mut files = write_pathfinder(&folder);
    files.truncate(6);
    let source = SequenceSource::PathfinderFiles { folder };
    check("lists and images of Pathfinder", files, Cut::Lines, read(source));
}
