//! The released files of the Long Range Arena, and what is read in their place.

use std::fs;
use std::path::{Path, PathBuf};

use conditioned_data::{SequenceData, SequenceSet, SequenceSource, SequenceSplits};
use image::{GrayImage, RgbImage};
use tempfile::TempDir;

mod pixels;
mod texts;

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
