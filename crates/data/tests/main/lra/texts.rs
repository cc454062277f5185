//! Texts by bytes: IMDb, files of reviews, and pieces of texts as pairs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use conditioned_data::SequenceSource;
use tempfile::TempDir;

use super::{bytes, fail, lengths, load, text, texts, write};

/// `each` texts of both classes in both parts; a training text that comes twice.
fn write_imdb(folder: &Path, each: usize) {
    for part in ["train", "test"] {
        for class in ["neg", "pos"] {
            for i in 0..each {
                let text = format!("{part} {class} é {}", if i == 1 { 0 } else { i });
                write(folder.join(format!("{part}/{class}/{i}_7.txt")), text);
            }
            write(folder.join(format!("{part}/{class}/.DS_Store")), [0xff]);
        }
    }
}

#[test]
fn released_texts() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("aclImdb");
    write_imdb(&folder, 30);
    for path in [root.path(), &folder] {
        let source = SequenceSource::find(path, 100).unwrap();
        assert_eq!(source, SequenceSource::Text { path: path.into(), max_length: 100 });
        let (data, splits) = load(source);
        assert_eq!((&*data.name, data.vocabulary, data.classes), ("LRA Text", 257, 2));
        // 29 different texts of each class, of which 3 are held out; of those one may come twice.
        assert_eq!((splits.train.len() + splits.tune.len(), splits.test.len()), (60, 60));
        assert!([6, 7, 8].contains(&splits.tune.len()), "{}", splits.tune.len());
        let [train, tune, test] = [&splits.train, &splits.tune, &splits.test].map(texts);
        for (text, label) in train.iter().chain(&tune).chain(&test) {
            assert_eq!(text.contains(" pos é "), *label == 1, "{text}");
        }
        // The test texts stay those of the folder, and no text is trained and tuned on.
        assert!(test.iter().all(|(text, _)| text.starts_with("test")));
        assert!(train.iter().chain(&tune).all(|(text, _)| text.starts_with("train")));
        let of_tune: HashSet<_> = tune.iter().collect();
        assert!(train.iter().all(|text| !of_tune.contains(text)));
        let positive = tune.iter().filter(|(_, label)| *label == 1).count();
        assert!((3..=4).contains(&positive), "{positive}");
        // "neg" comes first, in the order of the names, in which 10_7.txt is before 1_7.txt.
        assert_eq!(
            test[..4].iter().map(|(text, _)| &text[12..]).collect::<Vec<_>>(),
            ["0", "10", "11", "12"]
        );
    }
    // Cut after 10 bytes, in the middle of a character.
    let (data, splits) = load(SequenceSource::Text { path: folder.clone(), max_length: 10 });
    assert_eq!(
        (data.longest, bytes(splits.test.sequence(0).unwrap())),
        (10, "test neg é".as_bytes()[..10].into())
    );
    let read = || fail(SequenceSource::Text { path: folder.clone(), max_length: 100 });
    write(folder.join("test/pos/3_7.txt"), "");
    assert!(read().contains("3_7.txt: an empty text"), "{}", read());
    fs::remove_dir_all(folder.join("test/pos")).unwrap();
    assert!(read().contains("test/pos"), "{}", read());
    fs::create_dir(folder.join("test/pos")).unwrap();
    assert!(read().contains("test/pos: no text"), "{}", read());
    fs::remove_dir_all(folder.join("train/pos")).unwrap();
    assert!(
        read().contains("no texts of IMDb; looked for train/pos, aclImdb/train/pos"),
        "{}",
        read()
    );
}

/// A file of `n` reviews of 60 to 160 bytes, review i of class i mod 2.
fn write_reviews(folder: &Path, n: usize) -> PathBuf {
    let review = |i: usize| {
        let words = (0..10 + i * 7 % 20).map(|j| format!("{i}.{j} ")).collect::<String>();
        format!(
            "{{\"id\": \"cv{i}\", \"text\": \"{words}end\", \"label\": \"{}\"}}\n",
            ["neg", "pos"][i % 2]
        )
    };
    write(folder.join("reviews.jsonl"), (0..n).map(review).collect::<String>())
}

#[test]
fn a_file_of_texts_is_split() {
    let root = TempDir::new().unwrap();
    let path = write_reviews(root.path(), 200);
    let (data, splits) = load(SequenceSource::Text { path: path.clone(), max_length: 1000 });
    assert_eq!(
        (&*data.name, data.classes, lengths(&splits)),
        ("bytes of reviews", 2, [160, 20, 20])
    );
    let all = [&splits.train, &splits.tune, &splits.test].map(texts);
    for part in &all {
        assert_eq!(part.iter().filter(|(_, label)| *label == 1).count() * 2, part.len());
    }
    let all = all.concat();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 200);
    for (text, label) in &all {
        let number: u32 = text.split('.').next().unwrap().parse().unwrap();
        assert_eq!(*label, number % 2);
    }
    let read = |text: &str, name: &str| {
        let path = write(root.path().join(name), text);
        fail(SequenceSource::Text { path, max_length: 10 })
    };
    let rows = "text,text2,label\na,b,1\nc,d,0\n";
    assert!(read(rows, "pairs.csv").contains("pairs of texts, and single ones are needed"));
    assert!(
        read("text,label\na,1\n,0\n", "empty.csv").contains("empty.csv: text 1 (from 0) is empty")
    );
    let error = read("text,label\na,1\nb,0\n", "few.csv");
    assert!(error.contains("few.csv: too few different texts of class 0"), "{error}");
    assert!(read("text\na\n", "none.csv").contains("none.csv: line 1: no column \"label\""));
    let missing = SequenceSource::Text { path: root.path().join("none.jsonl"), max_length: 10 };
    assert!(fail(missing).contains("none.jsonl"));
}

#[test]
fn halves_of_texts() {
    let root = TempDir::new().unwrap();
    let path = write_reviews(root.path(), 206);
    let (data, splits) = load(SequenceSource::Retrieval { path: path.clone(), max_length: 48 });
    assert_eq!((&*data.name, data.vocabulary, data.classes), ("halves of reviews", 257, 2));
    assert!(data.pairs && data.longest == 48);
    let (_, whole) = load(SequenceSource::Text { path: path.clone(), max_length: 1000 });
    let parts =
        [(&splits.train, &whole.train), (&splits.tune, &whole.tune), (&splits.test, &whole.test)];
    for (set, whole) in parts {
        let whole = texts(whole);
        assert_eq!(set.len(), 2 * whole.len());
        // Which text a piece is of: the number before the dot of its first whole word.
        let by_piece: HashMap<String, usize> = whole
            .iter()
            .enumerate()
            .flat_map(|(i, (text, _))| {
                let (first, second) = text.split_at(text.len() / 2);
                [(first[..20].to_string(), i), (second[..20].to_string(), i)]
            })
            .collect();
        let (mut seconds, mut gap) = ([vec![0; whole.len()], vec![0; whole.len()]], 0);
        for i in 0..set.len() {
            let (first, second) = set.pair(i).map(|(a, b)| (text(a), text(b))).unwrap();
            let (a, b) = (by_piece[&first[..20]], by_piece[&second[..20]]);
            let label = set.label(i).unwrap();
            assert_eq!((a, label == 1), (i / 2, a == b));
            assert_eq!(whole[a].1, whole[b].1, "of one class");
            let halves = [
                whole[a].0.split_at(whole[a].0.len() / 2).0,
                whole[b].0.split_at(whole[b].0.len() / 2).1,
            ];
            assert!(halves[0].starts_with(&first) && halves[1].starts_with(&second));
            // Both as long as the shorter half.
            let n = halves[0].len().min(halves[1].len()).min(48);
            assert_eq!((first.len(), second.len()), (n, n));
            seconds[label as usize][b] += 1;
            gap += whole[a].0.len().abs_diff(whole[b].0.len());
        }
        // Every second piece once in each class: it says nothing alone.
        assert!(seconds.iter().flatten().all(|&n| n == 1));
        assert!(gap as f64 / (set.len() as f64) < 20.0, "{gap}");
        assert_eq!(set.labels().iter().filter(|&&label| label == 1).count(), whole.len());
    }
    // Of a single text of a class no other can be told.
    let few = (0..20).map(|i| format!("{{\"text\": \"text {i}\", \"label\": {}}}\n", i % 2));
    let path = write(root.path().join("few.jsonl"), few.collect::<String>());
    let error = fail(SequenceSource::Retrieval { path, max_length: 48 });
    assert!(error.contains("few.jsonl: a single text of class 0 in a part"), "{error}");
    let short = (0..40).map(|i| {
        format!("{{\"text\": \"{}\", \"label\": {}}}\n", (b'A' + i as u8 % 26) as char, i % 2)
    });
    let path = write(root.path().join("short.jsonl"), short.collect::<String>());
    assert!(fail(SequenceSource::Retrieval { path, max_length: 48 }).contains("has no two halves"));

    let folder = root.path().join("imdb");
    write_imdb(&folder, 30);
    assert_eq!(
        load(SequenceSource::Retrieval { path: folder, max_length: 48 }).0.name,
        "halves of IMDb"
    );
    let none = root.path().join("none");
    fs::create_dir(&none).unwrap();
    let error = fail(SequenceSource::Retrieval { path: none, max_length: 48 });
    let looked_for =
        "new_aan_pairs.train.tsv, tsv_data/new_aan_pairs.train.tsv, train/pos, aclImdb/train/pos";
    assert!(error.contains(looked_for), "{error}");
}
