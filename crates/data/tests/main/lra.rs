use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use conditioned_data::{
    ImageData, ImageSource, Preprocessing, SequenceData, SequenceSet, SequenceSource,
    SequenceSplits,
};
use image::{GrayImage, RgbImage};
use tempfile::TempDir;

pub(crate) fn write(path: PathBuf, bytes: impl AsRef<[u8]>) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn load(source: SequenceSource) -> (SequenceData, SequenceSplits) {
    let data = SequenceData::new(source, None).unwrap();
    let splits = data.load().unwrap();
    (data, splits)
}

fn fail(source: SequenceSource) -> String {
    SequenceData::new(source, None).unwrap_err().to_string()
}

fn lengths(splits: &SequenceSplits) -> [usize; 3] {
    [splits.train.len(), splits.tune.len(), splits.test.len()]
}

/// The bytes of a sequence of id = byte + 1.
fn bytes(sequence: &[u16]) -> Vec<u8> {
    sequence.iter().map(|&id| (id - 1) as u8).collect()
}

fn text(sequence: &[u16]) -> String {
    String::from_utf8(bytes(sequence)).unwrap()
}

fn texts(set: &SequenceSet) -> Vec<(String, u32)> {
    (0..set.len()).map(|i| (text(set.sequence(i).unwrap()), set.label(i).unwrap())).collect()
}

/// The three files of ListOps; the path of the first.
pub(crate) fn write_listops(folder: &Path) -> [PathBuf; 3] {
    let train = "Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t9\n\
                 ( ( ( [SM 5 ) ( ( ( [MED 1 ) 4 ) X ) ) X )\t7\n";
    [
        ("train", train),
        ("val", "Source\tTarget\n3\t3\n"),
        ("test", "Source\tTarget\r\n[MIN 4 6 ]\t4\r\n"),
    ]
    .map(|(part, text)| write(folder.join(format!("basic_{part}.tsv")), text))
}

#[test]
fn released_listops() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("listops-1000");
    write_listops(&folder);
    for folder in [root.path(), &folder] {
        let source = SequenceSource::find(folder, 10).unwrap();
        assert_eq!(source, SequenceSource::ListOpsFiles { folder: folder.into() });
        let (data, splits) = load(source);
        assert_eq!((&*data.name, data.vocabulary, data.classes), ("LRA ListOps", 16, 10));
        assert_eq!(lengths(&splits), [2, 1, 1]);
        assert_eq!(splits.train.sequence(0), Some(&[2, 8, 15, 5][..]));
        assert_eq!(splits.train.sequence(1), Some(&[4, 11, 3, 7, 10, 5, 5][..]));
        assert_eq!((splits.train.labels(), splits.tune.labels()), (&[9, 7][..], &[3][..]));
        assert_eq!(splits.test.sequence(0), Some(&[1, 10, 12, 5][..]));
    }
}

#[test]
fn damaged_listops_are_named() {
    let root = TempDir::new().unwrap();
    let [train, val, test] = write_listops(root.path());
    let read = || fail(SequenceSource::ListOpsFiles { folder: root.path().into() });
    for (line, problem) in [
        ("[MAX 2 9 ] 9", "line 3: 1 columns, expected Source and Target"),
        ("[MAX 2 9 ]\t9\t0", "line 3: 3 columns"),
        ("[MAX 2 9 ]\t10", "line 3: target 10 is out of range, expected 0 to 9"),
        ("[MAX 2 9 ]\t8", "line 3: target \"8\" where the value is 9"),
        ("[MAX 2 9 ]\tnine", "line 3: target \"nine\" where the value is 9"),
        ("[AVG 2 9 ]\t5", "line 3: token 0 is \"[AVG\""),
        ("[MAX 2 9\t9", "line 3: the bracket of token 0 is not closed"),
        ("", "line 3: 1 columns"),
    ] {
        write(val.clone(), format!("Source\tTarget\n3\t3\n{line}\n"));
        let error = read();
        assert!(error.contains(val.to_str().unwrap()) && error.contains(problem), "{error}");
    }
    write(val.clone(), "3\t3\n");
    assert!(read().contains("basic_val.tsv: line 1: the header is"), "{}", read());
    write(val.clone(), "Source\tTarget\n");
    assert!(read().contains("basic_val.tsv: no row in it"), "{}", read());
    write(val.clone(), b"Source\tTarget\n\xff\t3\n");
    assert!(read().contains("basic_val.tsv: line 2: not UTF-8"), "{}", read());
    fs::remove_file(&val).unwrap();
    assert!(read().contains(val.to_str().unwrap()), "{}", read());
    for path in [train, test] {
        fs::remove_file(path).unwrap();
    }
    let error = read();
    let looked_for =
        "no files of ListOps; looked for basic_train.tsv, listops-1000/basic_train.tsv";
    assert!(error.contains(root.path().to_str().unwrap()) && error.contains(looked_for), "{error}");
}

/// The three files of AAN.
pub(crate) fn write_retrieval(folder: &Path) -> [PathBuf; 3] {
    let train: &[u8] =
        b"1\tA00\tB00\tfirst text\tsecond \xff\xc3 text\n0.0\tA\tB\tother\t\x00 \"x\n";
    [("train", train), ("eval", b"1.0\ta\tb\tc\td\r\n"), ("test", b"0\ta\tb\te\tf")]
        .map(|(part, text)| write(folder.join(format!("new_aan_pairs.{part}.tsv")), text))
}

#[test]
fn released_pairs() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("tsv_data");
    write_retrieval(&folder);
    for folder in [root.path(), &folder] {
        let source = SequenceSource::find(folder, 12).unwrap();
        assert_eq!(source, SequenceSource::Retrieval { path: folder.into(), max_length: 12 });
        let (data, splits) = load(source);
        assert_eq!((&*data.name, data.vocabulary, data.classes), ("LRA Retrieval", 257, 2));
        assert!(data.pairs && data.longest == 12);
        assert_eq!(lengths(&splits), [2, 1, 1]);
        let pair = |set: &SequenceSet, i| set.pair(i).map(|(a, b)| (bytes(a), bytes(b))).unwrap();
        // Cut to 12 bytes; text need not be UTF-8, and quotes are bytes like others.
        assert_eq!(pair(&splits.train, 0), (b"first text".into(), b"second \xff\xc3 te".into()));
        assert_eq!(pair(&splits.train, 1), (b"other".into(), b"\x00 \"x".into()));
        assert_eq!(pair(&splits.tune, 0), (b"c".into(), b"d".into()));
        assert_eq!(splits.train.labels(), [1, 0]);
    }
    let train = folder.join("new_aan_pairs.train.tsv");
    let read = || fail(SequenceSource::Retrieval { path: folder.clone(), max_length: 12 });
    for (line, problem) in [
        ("1\ta\tb\tc", "line 1: 4 columns, expected a label, two ids and two texts"),
        ("2\ta\tb\tc\td", "line 1: label \"2\" is out of range, expected 0 or 1"),
        ("\ta\tb\tc\td", "line 1: label \"\""),
        ("1\ta\tb\tc\t", "line 1: an empty text"),
        ("1\ta\tb\t\td", "line 1: an empty text"),
    ] {
        write(train.clone(), line);
        let error = read();
        assert!(error.contains(train.to_str().unwrap()) && error.contains(problem), "{error}");
    }
    write(train.clone(), "");
    assert!(read().contains("no row in it"));
    let none = SequenceSource::Retrieval { path: folder.clone(), max_length: 0 };
    assert!(fail(none).contains("max_length = 0"));
}

/// A grey image, image i of side pixels.
fn grey(i: usize, side: u32) -> GrayImage {
    GrayImage::from_fn(side, side, |x, y| image::Luma([(i as u32 * 31 + x * 7 + y * 50) as u8]))
}

/// Lists 2 and 10 with ten images each of 4 x 4; the lists, then the images.
pub(crate) fn write_pathfinder(folder: &Path) -> Vec<PathBuf> {
    let (mut lists, mut images) = (Vec::new(), Vec::new());
    for k in [10, 2] {
        let mut list = String::new();
        for n in 0..10 {
            let path = folder.join(format!("imgs/{k}/sample_{n}.png"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            grey(k * 10 + n, 4).save(&path).unwrap();
            images.push(path);
            list += &format!("imgs/{k} sample_{n}.png {n} {} 1.8 6 2 0.75 14\n", (k + n) / 3 % 2);
        }
        lists.push(write(folder.join(format!("metadata/{k}.npy")), list));
    }
    lists.into_iter().chain(images).collect()
}

#[test]
fn released_pathfinder() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("pathfinder32/curv_contour_length_14");
    let files = write_pathfinder(&folder);
    for folder in [root.path(), &root.path().join("pathfinder32"), &folder] {
        let source = SequenceSource::find(folder, 12).unwrap();
        assert_eq!(source, SequenceSource::PathfinderFiles { folder: folder.into() });
        let (data, splits) = load(source);
        assert_eq!((&*data.name, data.vocabulary, data.classes), ("LRA Pathfinder", 257, 2));
        assert_eq!((data.longest, lengths(&splits)), (16, [16, 2, 2]));
        // List 2 comes before list 10; the last ten are those of list 10.
        let all = [&splits.train, &splits.tune, &splits.test];
        let all = all.map(|set| {
            (0..set.len())
                .map(|i| (bytes(set.sequence(i).unwrap()), set.label(i).unwrap()))
                .collect::<Vec<_>>()
        });
        for (i, (pixels, label)) in all.concat().into_iter().enumerate() {
            let (k, n) = if i < 10 { (2, i) } else { (10, i - 10) };
            assert_eq!((pixels, label), (grey(k * 10 + n, 4).into_raw(), ((k + n) / 3 % 2) as u32));
        }
    }

    let (list, image) = (&files[0], &files[5]);
    let read = || fail(SequenceSource::PathfinderFiles { folder: folder.clone() });
    let whole = (fs::read(list).unwrap(), fs::read(image).unwrap());
    for (line, problem) in [
        ("imgs/10 sample_0.png 0", "line 1: 3 fields, expected folder, file, number and label"),
        ("imgs/10 sample_0.png 0 2 1.8", "line 1: label \"2\" is out of range"),
        ("imgs/10 sample_77.png 0 1 1.8", "no image "),
        ("../imgs sample_0.png 0 1 1.8", "leads out of the folder"),
        ("/etc passwd 0 1 1.8", "leads out of the folder"),
    ] {
        write(list.clone(), line);
        let error = read();
        assert!(error.contains(list.to_str().unwrap()) && error.contains(problem), "{error}");
    }
    write(list.clone(), "");
    assert!(read().contains("10.npy: no row in it"), "{}", read());
    write(list.clone(), &whole.0);
    grey(0, 5).save(image).unwrap();
    let error = read();
    let problem = "5 x 5 pixels where the first image has 4 x 4";
    assert!(error.contains(image.to_str().unwrap()) && error.contains(problem), "{error}");
    RgbImage::from_pixel(4, 4, image::Rgb([1, 2, 1])).save(image).unwrap();
    assert!(read().contains("in colours"), "{}", read());
    fs::remove_file(image).unwrap();
    let problem = format!("line 4: no image {}", image.display());
    assert!(read().contains(&problem), "{}", read());
    write(image.clone(), &whole.1[..40]);
    assert!(read().contains(image.to_str().unwrap()), "{}", read());
    for list in &files[..2] {
        fs::remove_file(list).unwrap();
    }
    assert!(read().contains("metadata: no list"), "{}", read());
    write(list.clone(), "imgs/2 sample_0.png 0 1\n");
    assert!(read().contains("1 images listed"), "{}", read());
}

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

#[test]
fn images_are_read_pixel_by_pixel() {
    let (images, splits) = ImageData::read(ImageSource::Digits, [100, 50].into()).unwrap();
    let (data, sequences) = load(SequenceSource::Pixels { images: Box::new(images) });
    assert_eq!((&*data.name, data.vocabulary, data.longest), ("pixels of UCI digits", 18, 64));
    assert_eq!((data.classes, lengths(&sequences)), (10, [100, 50, 497]));
    let conditioned_data::ImageSet::Memory(train) = &splits.train else { panic!("in memory") };
    for i in 0..100 {
        assert_eq!(bytes(sequences.train.sequence(i).unwrap()), train.image(i).unwrap());
    }
    assert_eq!(sequences.train.labels(), train.labels());
}

#[test]
fn colours_become_grey() {
    // 0.2989 * 100 + 0.587 * 50 + 0.114 * 201 = 82.154; white is 254.97.
    let grey = [
        ([100, 50, 201], 82),
        ([255, 255, 255], 254),
        ([0, 0, 0], 0),
        ([255, 0, 0], 76),
        ([0, 255, 0], 149),
        ([0, 0, 255], 29),
    ];
    let root = TempDir::new().unwrap();
    // The layout of CIFAR-10: a label, then the planes of the three colours.
    let row = |i: usize| {
        let (colours, _) = grey[i % 6];
        let planes = colours.iter().flat_map(|&c| [c; 1024]);
        std::iter::once((i % 6) as u8).chain(planes).collect::<Vec<u8>>()
    };
    for file in [
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ] {
        write(root.path().join(format!("{file}.bin")), (0..6).flat_map(row).collect::<Vec<_>>());
    }
    let source = ImageSource::Folder {
        path: root.path().into(),
        preprocessing: Preprocessing::imagenet(32),
        skip_broken: false,
    };
    let (images, _) = ImageData::read(source, [20, 6].into()).unwrap();
    let (data, splits) = load(SequenceSource::Pixels { images: Box::new(images) });
    assert_eq!((&*data.name, data.vocabulary, data.longest), ("pixels of CIFAR-10", 257, 1024));
    for i in 0..6 {
        let expected = grey[splits.test.label(i).unwrap() as usize].1;
        assert_eq!(bytes(splits.test.sequence(i).unwrap()), [expected; 1024]);
    }
    // Image files of any size are prepared first.
    let root = TempDir::new().unwrap();
    for (class, colour) in [("a", grey[0].0), ("b", grey[3].0)] {
        for i in 0..10 {
            let path = root.path().join(format!("{class}/{i}.png"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::from_pixel(9, 7 + i, image::Rgb(colour)).save(path).unwrap();
        }
    }
    let preprocessing = Preprocessing::imagenet(8);
    let source =
        ImageSource::Folder { path: root.path().into(), preprocessing, skip_broken: false };
    let (images, _) = ImageData::read(source, [10, 2].into()).unwrap();
    let (data, splits) = load(SequenceSource::Pixels { images: Box::new(images) });
    assert_eq!((data.vocabulary, data.longest, data.classes), (257, 64, 2));
    for i in 0..10 {
        let expected = [82, 76][splits.train.label(i).unwrap() as usize];
        assert_eq!(bytes(splits.train.sequence(i).unwrap()), [expected; 64]);
    }
}

#[test]
fn a_folder_without_a_task_is_told_what_was_looked_for() {
    let root = TempDir::new().unwrap();
    let error = SequenceSource::find(root.path(), 10).unwrap_err().to_string();
    assert!(error.contains(root.path().to_str().unwrap()), "{error}");
    for file in [
        "listops-1000/basic_train.tsv",
        "tsv_data/new_aan_pairs.train.tsv",
        "pathfinder32/curv_contour_length_14/metadata",
        "aclImdb/train/pos",
    ] {
        assert!(error.contains(file), "{error}");
    }
    let source = SequenceSource::PathfinderFiles { folder: root.path().into() };
    assert!(fail(source).contains("no lists of Pathfinder; looked for metadata, "));
}

#[cfg(unix)]
#[test]
fn a_path_that_json_cannot_hold_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(b"/tmp/\xff"));
    let error = fail(SequenceSource::Text { path: path.clone(), max_length: 10 });
    assert!(error.contains("path = ") && error.contains("UTF-8"), "{error}");
    assert!(fail(SequenceSource::ListOpsFiles { folder: path }).contains("folder = "));
}
