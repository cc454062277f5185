use std::fs;
use std::path::Path;

use conditioned_data::{Corpus, Layout};
use tempfile::TempDir;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn read(path: &Path, layout: Layout) -> Vec<String> {
    Corpus::open(path, layout).unwrap().documents().map(Result::unwrap).collect()
}

/// The documents of one file.
fn file(content: &str, layout: Layout) -> Vec<String> {
    let folder = folder(&[("file", content.as_bytes())]);
    read(&folder.path().join("file"), layout)
}

fn failure(name: &str, content: &[u8], layout: Layout) -> String {
    let folder = folder(&[(name, content)]);
    let corpus = Corpus::open(folder.path(), layout).unwrap();
    let mut documents = corpus.documents().skip_while(Result::is_ok);
    let message = documents.next().unwrap().unwrap_err().to_string();
    assert!(documents.next().is_none());
    assert!(message.contains(folder.path().join(name).to_str().unwrap()), "{message}");
    message
}

#[test]
fn separators_make_documents() {
    let end = || Layout::Separated("<|endoftext|>".into());
    let expected = ["One.\n\nMore.", "Two.", "Three."];
    assert_eq!(
        file("One.\n\nMore.\n<|endoftext|>\nTwo.\n<|endoftext|>\nThree.\n", end()),
        expected
    );
    let odd = "\n<|endoftext|>\nOne.\n\nMore.\n\n <|endoftext|> \r\n<|endoftext|>\nTwo.\r\n<|endoftext|>\nThree.";
    assert_eq!(file(odd, end()), expected);
    // In the middle of a line it is text.
    assert_eq!(file("a <|endoftext|> b", end()), ["a <|endoftext|> b"]);
    let blank = Layout::Separated(String::new());
    let play = "First:\nBefore we go.\n\nAll:\n  Speak.\n \t\n\n\nFirst:\nYou.\n";
    assert_eq!(
        file(play, blank.clone()),
        ["First:\nBefore we go.", "All:\n  Speak.", "First:\nYou."]
    );
    assert_eq!(file("\n \n\n", blank), [""; 0]);
}

#[test]
fn a_whole_file_is_unchanged() {
    assert_eq!(file("\n a\r\n\nb\n", Layout::Whole), ["\n a\r\n\nb\n"]);
    assert_eq!(file("", Layout::Whole), [""; 0]);
}

#[test]
fn jsonl_gives_the_named_field() {
    let lines = "{\"text\": \"a\\nb\", \"n\": 1}\n\n{\"n\": 2, \"text\": \"é\"}";
    assert_eq!(file(lines, Layout::Jsonl("text".into())), ["a\nb", "é"]);
    let fail = |line: &str| {
        failure(
            "a.jsonl",
            format!("{{\"text\":\"x\"}}\n{line}").as_bytes(),
            Layout::Jsonl("text".into()),
        )
    };
    assert!(fail("{\"story\": \"x\"}").contains("line 2: no field \"text\""));
    assert!(fail("{\"text\": 3}").contains("line 2: \"text\" is not a string"));
    assert!(fail("{\"text\"").contains("line 2: not JSON"));
}

#[test]
fn folders_are_read_in_the_order_of_paths() {
    let files: &[(&str, &[u8])] = &[
        ("b.txt", b"2"),
        ("a/z.TXT", b"1"),
        ("c.json", b"no"),
        (".hidden.txt", b"no"),
        ("d.md", b"3"),
    ];
    let folder = folder(files);
    assert_eq!(read(folder.path(), Layout::Whole), ["1", "2", "3"]);
    let message = Corpus::open(folder.path().join("a"), Layout::Jsonl("text".into()));
    assert!(message.unwrap_err().to_string().contains("looked for files in .jsonl"));
    assert!(Corpus::open(folder.path().join("absent"), Layout::Whole).is_err());
}

#[test]
fn wrong_bytes_are_found_to_the_byte() {
    let text = b"First line.\nSecond \xc3\xa9 then \xff.\n";
    for layout in [Layout::Whole, Layout::Separated(String::new())] {
        let message = failure("a.txt", text, layout);
        assert!(message.contains("not UTF-8 at byte 27 of the file"), "{message}");
    }
    // A character that is cut off.
    assert!(failure("a.txt", b"ok\nab\xc3", Layout::Whole).contains("at byte 5"));
}
