use std::fs;
use std::path::Path;

use conditioned_data::{Error, Preparation, TextConfig, TextSource, story};
use serde_json::json;
use tempfile::TempDir;

const HOW: Preparation<'static> =
    Preparation { tokenizer: "bpe-300", tune: 0.1, test: 0.1, window: 32 };

fn failure(source: &TextSource, how: &Preparation<'_>, folder: &Path) -> String {
    TextConfig::prepare(source, how, folder).unwrap_err().to_string()
}

#[test]
fn a_text_is_prepared_once_and_opened_again() {
    let folder = TempDir::new().unwrap();
    let source = TextSource::stories(200);
    let text = TextConfig::prepare(&source, &HOW, folder.path()).unwrap();
    assert_eq!((&*text.name, text.vocabulary), ("200 generated stories", 300));
    assert_eq!(TextConfig::prepare(&source, &HOW, folder.path()).unwrap(), text);
    let again: TextConfig = serde_json::from_str(&serde_json::to_string(&text).unwrap()).unwrap();
    let parts = again.load().unwrap();
    assert_eq!(parts.train.len(), text.train_tokens);
    let all = [&parts.train, &parts.tune, &parts.test];
    let mut documents: Vec<usize> = all.iter().flat_map(|part| part.documents().to_vec()).collect();
    documents.sort_unstable();
    assert_eq!(documents, (0..200).collect::<Vec<_>>());
    let bytes: usize = parts.test.documents().iter().map(|&i| story(0, i as u64).len()).sum();
    let per_byte = parts.test.len() as f64 / bytes as f64;
    assert!((text.test_tokens_per_byte() - per_byte).abs() < 1e-12);
    let loss = parts.ngram_loss().unwrap();
    assert!(loss > 0.5 && loss < (300f64).ln(), "{loss}");
    // Another text is another folder beside it.
    let other = TextConfig::prepare(&TextSource::stories(201), &HOW, folder.path()).unwrap();
    assert_ne!((&other.hash, &other.folder), (&text.hash, &text.folder));
    again.load().unwrap();
}

#[test]
fn a_text_that_changed_is_refused() {
    let folder = TempDir::new().unwrap();
    let text = TextConfig::prepare(&TextSource::stories(100), &HOW, folder.path()).unwrap();
    let shard = text.folder.join("tokens/000000.tokens");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let error = text.load().unwrap_err().to_string();
    assert!(error.contains("000000.tokens"), "{error}");
    let how = Preparation { tokenizer: "characters", ..HOW };
    let other = TextConfig::prepare(&TextSource::stories(100), &how, folder.path()).unwrap();
    fs::copy(other.tokenizer_file(), text.tokenizer_file()).unwrap();
    let error = text.load().unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    let wanted = "tokenizer.json: the tokens are not those that this run was planned with";
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn files_lie_in_any_of_the_layouts() {
    let root = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
    write("plain.txt", "One.\n--\nTwo.\n");
    write("lines.jsonl", "{\"text\": \"One.\"}\n{\"text\": \"Two.\"}\n");
    let documents = |name: &str| {
        let source = TextSource::open(&root.path().join(name), "--").unwrap();
        let name = source.name().to_string();
        (name, source.documents().map(Result::unwrap).collect::<Vec<_>>())
    };
    let wanted = vec!["One.".to_string(), "Two.".to_string()];
    assert_eq!(documents("plain.txt"), ("plain".into(), wanted.clone()));
    assert_eq!(documents("lines.jsonl"), ("lines".into(), wanted.clone()));
    // A folder with both is refused; one with a JSONL file is one of them.
    let both = TextSource::open(root.path(), "--").map(|_| ()).unwrap_err().to_string();
    assert!(both.contains("lines.jsonl") && both.contains("plain.txt"), "{both}");
    fs::remove_file(root.path().join("plain.txt")).unwrap();
    assert_eq!(documents("").1, wanted);
}

#[test]
fn what_cannot_be_prepared_is_named() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("empty.txt"), "").unwrap();
    let stories = TextSource::stories(50);
    let of = |tokenizer| Preparation { tokenizer, ..HOW };
    let empty = TextSource::open(&root.path().join("empty.txt"), "").unwrap();
    let cases = [
        (failure(&empty, &HOW, root.path()), vec!["empty.txt: the corpus is empty"]),
        (
            failure(&TextSource::stories(0), &HOW, root.path()),
            vec!["0 generated stories: the corpus is empty"],
        ),
        (
            failure(&stories, &of("gpt2"), root.path()),
            vec!["no tokenizer at gpt2", "bpe-V", "wordpiece-V"],
        ),
        (failure(&stories, &of("bpe-9"), root.path()), vec!["9", "257"]),
        (
            failure(&stories, &Preparation { window: 100_000, ..HOW }, root.path()),
            vec!["50 generated stories: ", "train tokens do not fill a window of 100000"],
        ),
        (failure(&stories, &Preparation { tune: 1.5, ..HOW }, root.path()), vec!["tune = 1.5"]),
    ];
    for (error, parts) in cases {
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn what_was_recorded_before_is_still_the_same() {
    let folder = TempDir::new().unwrap();
    let how = Preparation { tune: 0.05, ..HOW };
    let text = TextConfig::prepare(&TextSource::stories(60), &how, folder.path()).unwrap();
    let mut recorded = json!({
        "name": "60 generated stories",
        "hash": "b652d2f9339cab20ee8c8ba5caa24df0b17d63fdba177d4636cffa345eae220a",
        "folder": "",
        "tokenizer": "307677ad46ceb71782042e73f21a50253438b2ce355df4529dcb3ba8ec6b7520",
        "vocabulary": 300,
        "tune": 0.05,
        "test": 0.1,
        "train_tokens": 26058,
        "test_tokens": 1972,
        "test_bytes": 2890
    });
    recorded["folder"] = json!(text.folder);
    assert_eq!(serde_json::to_value(&text).unwrap(), recorded);
    assert!(text.folder.ends_with("438456dfb7cd"));
}
