use std::fs;
use std::path::PathBuf;

use conditioned_data::{Labels, Text, Texts};
use proptest::prelude::*;
use tempfile::TempDir;

/// A file of this name and content; it lives as long as the folder.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn read(name: &str, content: &str) -> Texts {
    let (_folder, path) = file(name, content);
    Texts::read(path, None).unwrap()
}

fn fail(name: &str, content: impl AsRef<[u8]>, labels: Option<&Labels>) -> String {
    let (_folder, path) = file(name, content);
    let message = Texts::read(&path, labels).unwrap_err().to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

fn classes(names: &[&str]) -> Labels {
    Labels::Classes(names.iter().copied().map(String::from).collect())
}

fn row(text: &str, second: Option<&str>, label: f32) -> Text {
    Text { text: text.into(), second: second.map(String::from), label }
}

#[test]
fn three_layouts_say_the_same() {
    let csv = "\u{feff}label,id,text,text2\r\nno,1,\"One, \"\"two\"\"\",x\r\nyes,2,\"a\r\nb\",\r\n";
    let tsv = "id\ttext\ttext2\tlabel\r\n1\tOne, \"two\"\tx\tno\r\n\r\n2\ta b\t\tyes\r\n";
    let jsonl = "{\"text\": \"One, \\\"two\\\"\", \"text2\": \"x\", \"label\": \"no\"}\n\n\
                 {\"label\": \"yes\", \"text2\": \"\", \"text\": \"a b\"}";
    for (name, content) in [("a.csv", csv), ("a.TSV", tsv), ("a.jsonl", jsonl)] {
        let texts = read(name, content);
        assert_eq!(texts.labels(), &classes(&["no", "yes"]));
        assert_eq!((texts.len(), texts.pairs(), texts.labels().outputs()), (2, true, 2));
        assert_eq!(texts.rows()[0], row("One, \"two\"", Some("x"), 0.0), "{name}");
        let second = if name == "a.csv" { "a\r\nb" } else { "a b" };
        assert_eq!(texts.rows()[1], row(second, Some(""), 1.0), "{name}");
    }
}

#[test]
fn columns_may_have_the_names_of_glue() {
    let single = read("a.tsv", "sentence\tlabel\nA quote \" mark\t0\nb\t1\n");
    assert_eq!(single.rows()[0], row("A quote \" mark", None, 0.0));
    let pairs = read("a.csv", "sentence1,sentence2,label\na,b,x\nc,d,y\n");
    assert_eq!(pairs.rows()[1], row("c", Some("d"), 1.0));
}

#[test]
fn classes_are_sorted_numbers_by_value() {
    let lines = ["10", "9", "-1", "2", "9"].map(|label| format!("x\t{label}\n")).concat();
    let texts = read("a.tsv", &format!("text\tlabel\n{lines}"));
    assert_eq!(texts.labels(), &classes(&["-1", "2", "9", "10"]));
    let labels: Vec<f32> = texts.rows().iter().map(|row| row.label).collect();
    assert_eq!(labels, [3.0, 2.0, 0.0, 1.0, 2.0]);
    let json = "{\"text\": \"a\", \"label\": 10}\n{\"text\": \"b\", \"label\": 9}\n";
    assert_eq!(read("a.jsonl", json).labels(), &classes(&["9", "10"]));
    let json = "{\"text\": \"a\", \"label\": true}\n{\"text\": \"b\", \"label\": false}\n";
    assert_eq!(read("a.jsonl", json).labels(), &classes(&["false", "true"]));
}

#[test]
fn further_files_have_the_labels_of_the_first() {
    let labels = classes(&["b", "a"]);
    let (_folder, path) = file("dev.csv", "text,label\nx,a\n");
    assert_eq!(Texts::read(&path, Some(&labels)).unwrap().rows()[0].label, 1.0);
    let (_folder, path) = file("dev.csv", "text,label\nx,2.5\ny,-1e-3\n");
    let scores = Texts::read(&path, Some(&Labels::Score)).unwrap();
    assert_eq!((scores.rows()[0].label, scores.rows()[1].label), (2.5, -0.001));
    assert_eq!(scores.labels().outputs(), 1);
}

#[test]
fn files_that_do_not_fit_are_named_with_line_and_remedy() {
    let ab = classes(&["a", "b"]);
    let message = fail("x.csv", "text,label\nx,a\n\"y\ny\",a\nz,c\n", Some(&ab));
    assert!(message.contains("line 5: label \"c\" is not one of a, b; correct it"), "{message}");
    let message = fail("x.tsv", "text\tlabel\nx\ta\ny\t\n", None);
    assert!(message.contains("line 3: no label; leave out"), "{message}");
    assert!(fail("x.tsv", "text\tlabel\nx\t\n", Some(&ab)).contains("line 2: no label"));
    let message = fail("x.csv", "text,label\nx,a\ny,a\n", None);
    assert!(message.contains("every row has the label \"a\"; give a file with two"), "{message}");
    let message = fail("x.csv", "txt,label\nx,a\n", None);
    assert!(message.contains("line 1: no column \"text\" or \"sentence\""), "{message}");
    assert!(message.contains("found txt, label"), "{message}");
    assert!(fail("x.tsv", "text\tclass\nx\ta\n", None).contains("line 1: no column \"label\""));
    for (name, content) in
        ["x.tsv", "x.csv", "x.jsonl"].into_iter().flat_map(|n| [(n, ""), (n, "\n\n")])
    {
        assert!(fail(name, content, None).contains("no labelled row; give a file"));
    }
    for (name, content) in [("x.csv", "text,label\n"), ("x.tsv", "text\tlabel\r\n")] {
        assert!(fail(name, content, None).contains("no labelled row; give a file"));
    }
    let message = fail("x.csv", "text,label\nx,a\ny, z,b\n", None);
    assert!(message.contains("line 3: 3 fields where the header has 2; quote"), "{message}");
    let message = fail("x.tsv", "text\tlabel\nx\ta\nb\n", None);
    assert!(message.contains("line 3: 1 fields where the header has 2; write"), "{message}");
    let message = fail("x.csv", b"text,label\nx,a\nb\xe9,b\n", None);
    assert!(message.contains("line 3: not UTF-8 at byte 16 of the file; convert"), "{message}");
    let message = fail("x.txt", "text,label\n", None);
    assert!(message.contains("expected .csv, .tsv or .jsonl"), "{message}");
    let message = fail("x.csv", "text,label\nx,1\ny,nan\n", Some(&Labels::Score));
    assert!(message.contains("line 3: score \"nan\" is not a number"), "{message}");
}

#[test]
fn objects_that_do_not_fit_are_named_with_line_and_remedy() {
    let good = "{\"text\": \"a\", \"label\": \"x\"}\n";
    let with = |line: &str| fail("x.jsonl", format!("{good}\n{line}\n"), None);
    assert!(with("{").contains("line 3: EOF"));
    assert!(with("[1]").contains("put one JSON object on each line"));
    assert!(with("{\"label\": 1}").contains("line 3: no field \"text\"; give every object one"));
    assert!(with("{\"text\": \"b\"}").contains("line 3: no field \"label\""));
    assert!(with("{\"text\": 1, \"label\": 1}").contains("line 3: \"text\" is not a string"));
    assert!(with("{\"text\": \"b\", \"label\": null}").contains("line 3: \"label\" is no string"));
    assert!(fail("x.jsonl", "{\"a\": 1}\n", None).contains("line 1: no field \"text\" or"));
    let pair = "{\"text\": \"a\", \"text2\": \"b\", \"label\": \"x\"}\n";
    assert!(fail("x.jsonl", format!("{pair}{good}"), None).contains("line 2: no field \"text2\""));
}

#[test]
fn sets_that_do_not_fit_are_refused() {
    let fail = |labels: Labels, rows: &[Text]| {
        let message = Texts::new("mine", labels, rows.to_vec()).unwrap_err().to_string();
        assert!(message.contains("texts \"mine\""), "{message}");
        message
    };
    let ab = || classes(&["a", "b"]);
    assert!(fail(ab(), &[]).contains("no row"));
    assert!(fail(classes(&["a"]), &[row("x", None, 0.0)]).contains("at least two"));
    assert!(fail(classes(&["a", "a"]), &[row("x", None, 0.0)]).contains("of different names"));
    for label in [2.0, -1.0, 0.5, f32::NAN] {
        let rows = [row("x", None, 0.0), row("y", None, label)];
        assert!(fail(ab(), &rows).contains("of row 1 is not one of 2 classes"));
    }
    assert!(fail(Labels::Score, &[row("x", None, f32::NAN)]).contains("not a finite score"));
    let mixed = [row("x", None, 0.0), row("y", Some("z"), 0.0)];
    assert!(fail(ab(), &mixed).contains("one is a pair"));
    let texts = Texts::new("mine", ab(), vec![row("x", None, 1.0), row("y", None, 0.0)]).unwrap();
    assert!(!texts.is_empty() && !texts.pairs());
    let part = texts.subset("a part", &[1]).unwrap();
    assert_eq!((part.name(), part.rows()), ("a part", &texts.rows()[1..]));
    assert!(
        texts.subset("a part", &[2]).unwrap_err().to_string().contains("index = 2: mine has 2")
    );
    assert!(texts.subset("a part", &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn csv_keeps_any_text(texts in proptest::collection::vec("(?s).{0,20}", 2..6)) {
        let mut content = "text,label\n".to_string();
        for (i, text) in texts.iter().enumerate() {
            content += &format!("\"{}\",{}\n", text.replace('"', "\"\""), i % 2);
        }
        let (_folder, path) = file("a.csv", content);
        let read = Texts::read(path, None).unwrap();
        prop_assert!(read.rows().iter().map(|row| &row.text).eq(&texts));
    }

    #[test]
    fn jsonl_keeps_any_text(texts in proptest::collection::vec("(?s).{0,20}", 2..6)) {
        let line = |(i, text): (usize, &String)| {
            format!("{}\n", serde_json::json!({"text": text, "label": i % 2}))
        };
        let (_folder, path) = file("a.jsonl", texts.iter().enumerate().map(line).collect::<String>());
        let read = Texts::read(path, None).unwrap();
        prop_assert!(read.rows().iter().map(|row| &row.text).eq(&texts));
    }

    #[test]
    fn no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "[a-z\",\t\n\r{}:]{0,60}") {
        for name in ["a.csv", "a.tsv", "a.jsonl"] {
            for content in [&bytes[..], format!("text,label\n{text}").as_bytes(), format!("text\tlabel\n{text}").as_bytes()] {
                let (_folder, path) = file(name, content);
                drop(Texts::read(path, None));
            }
        }
    }
}
