//! Images in parquet files as the hub keeps them: in files that its own library wrote, and that the tests write.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use conditioned_data::{
    Error, ImageData, ImageFolder, ImageSet, ImageSizes, ImageSource, Loader, LoaderConfig,
    Preprocessing, Splits, Tuning,
};
use image::{Rgb, RgbImage};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use crate::corruption::check;
use crate::damage::Cut;
use crate::values;

/// What is in the column of images.
#[derive(Clone)]
pub(crate) enum Cell {
    Image(Vec<u8>),
    /// A group whose bytes are null.
    NoBytes,
    Null,
}

pub(crate) type Row = (Cell, Option<i64>);

/// What a file says of its columns.
const COLUMNS: [&str; 2] = ["image", "label"];

/// The metadata that the hub's library writes, `classes` the names of the column of labels.
pub(crate) fn metadata(columns: [&str; 2], classes: &[&str]) -> String {
    let [image, label] = columns;
    serde_json::json!({ "info": { "features": {
        image: { "_type": "Image" },
        label: { "names": classes, "_type": "ClassLabel" },
    } } })
    .to_string()
}

/// Writes rows in groups of three.
pub(crate) fn write(path: &Path, columns: [&str; 2], metadata: Option<String>, rows: &[Row]) {
    let [image, label] = columns;
    let schema = format!(
        "message schema {{ required int32 id; optional int64 {label};
         optional group {image} {{ optional binary bytes; optional binary path (STRING); }} }}"
    );
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let said = metadata.map(|value| vec![KeyValue::new("huggingface".to_string(), value)]);
    let properties = WriterProperties::builder().set_key_value_metadata(said).build();
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(3) {
        let mut group = writer.next_row_group().unwrap();
        let numbers: Vec<i32> = (0..rows.len() as i32).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        let labels: Vec<i64> = rows.iter().filter_map(|row| row.1).collect();
        let present: Vec<i16> = rows.iter().map(|row| i16::from(row.1.is_some())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&present), None).unwrap();
        column.close().unwrap();
        let images = rows.iter().filter_map(|(cell, _)| match cell {
            Cell::Image(bytes) => Some(ByteArray::from(bytes.clone())),
            _ => None,
        });
        let level = |cell: &Cell| match cell {
            Cell::Image(_) => 2,
            Cell::NoBytes => 1,
            Cell::Null => 0,
        };
        let levels: Vec<i16> = rows.iter().map(|(cell, _)| level(cell)).collect();
        // Every path is null, as where images were given as arrays.
        let paths = levels.iter().map(|&level| level.min(1)).collect();
        for (values, levels) in [(images.collect(), levels), (Vec::new(), paths)] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// A picture of one colour, as PNG.
fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(5, 7, Rgb(colour));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// `count` images of each of so many classes, class by class, of different colours; the first is a JPEG.
pub(crate) fn images(classes: u8, count: u8) -> Vec<Row> {
    let jpeg = include_bytes!("../../../src/image/fixture/files/rgb.jpg");
    let all = (0..classes).flat_map(|class| (0..count).map(move |i| (class, i)));
    all.map(|(class, i)| {
        let bytes = if (class, i) == (0, 0) { jpeg.to_vec() } else { png([class, i, 200]) };
        (Cell::Image(bytes), Some(class.into()))
    })
    .collect()
}

/// The same images as a tree of classes.
fn tree(root: &Path, classes: &[&str], rows: &[Row]) {
    for (i, (cell, label)) in rows.iter().enumerate() {
        let Cell::Image(bytes) = cell else { panic!("no image") };
        let folder = root.join(classes[label.unwrap() as usize]);
        fs::create_dir_all(&folder).unwrap();
        // Whatever they are called.
        fs::write(folder.join(format!("{i:03}.png")), bytes).unwrap();
    }
}

const SIZES: ImageSizes = ImageSizes { train: None, tune: Tuning::Share(0.25) };

pub(crate) fn of(path: &Path, skip_broken: bool) -> ImageSource {
    let (path, preprocessing) = (path.to_path_buf(), Preprocessing::imagenet(8));
    ImageSource::Folder { path, preprocessing, skip_broken }
}

pub(crate) fn read(path: &Path) -> (ImageData, Splits) {
    ImageData::read(of(path, false), SIZES).unwrap()
}

fn failure(path: &Path, words: &[&str]) {
    let message = ImageData::read(of(path, false), SIZES).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

/// Pixels, targets and labels of all batches.
fn batches(set: &ImageSet) -> Vec<(Vec<f32>, Vec<f32>)> {
    let normalisation = set.normalisation().unwrap();
    let config = LoaderConfig::evaluation(4);
    let loader = Loader::new(set.clone(), config, &normalisation, &Device::Cpu).unwrap();
    loader.epoch(0).map(|batch| values(&batch.unwrap())).collect()
}

const NAMES: [&str; 3] = ["ant", "bee", "cat"];

#[test]
fn rows_are_what_a_tree_of_the_same_images_is() {
    let (train, test) = (images(3, 8), images(3, 2));
    let folder = TempDir::new().unwrap();
    tree(&folder.path().join("train"), &NAMES, &train);
    tree(&folder.path().join("val"), &NAMES, &test);
    let (expected, of_tree) = read(folder.path());
    let said = || Some(metadata(COLUMNS, &NAMES));
    // The hub's own layouts, and where a data set is downloaded.
    for (first, second, val) in [
        (
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
            "validation-00000-of-00001.parquet",
        ),
        ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
        ("data/train-0.parquet", "data/train-1.parquet", "data/val.parquet"),
        ("default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"),
    ] {
        let folder = TempDir::new().unwrap();
        let at = |name| folder.path().join(name);
        write(&at(first), COLUMNS, said(), &train[..10]);
        write(&at(second), COLUMNS, said(), &train[10..]);
        write(&at(val), COLUMNS, said(), &test);
        fs::write(at("README.md"), "---").unwrap();
        // Below the parts of a configuration nothing is looked for.
        fs::create_dir_all(at("other/train")).unwrap();
        fs::write(at("other/train/train-0.parquet"), "").unwrap();
        let (data, splits) = read(folder.path());
        assert_eq!(data.classes, NAMES);
        assert_eq!((&data.hash, data.broken()), (&expected.hash, 0), "{first}");
        assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (18, 6, 6));
        for (set, of_tree) in [
            (&splits.train, &of_tree.train),
            (&splits.tune, &of_tree.tune),
            (&splits.test, &of_tree.test),
        ] {
            assert_eq!(set.labels(), of_tree.labels());
            assert_eq!(batches(set), batches(of_tree));
        }
        // The same by what is recorded.
        let again: ImageData =
            serde_json::from_str(&serde_json::to_string(&data).unwrap()).unwrap();
        assert_eq!(again, data);
        let again = again.load().unwrap();
        assert_eq!((again.train, again.tune, again.test), (splits.train, splits.tune, splits.test));
    }
}

/// What `datasets` wrote (`make_fixture.py`) is the same as a tree of the files that it was given.
#[test]
fn files_of_the_hubs_own_library_are_read() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = here.join("src/image/fixture/files");
    let folder = TempDir::new().unwrap();
    for (part, class, name) in [
        ("train", "0-grey", "grey.jpg"),
        ("train", "0-grey", "one-bit.png"),
        ("train", "1-colour", "1-rgb.png"),
        ("train", "1-colour", "2-rgb.jpg"),
        ("train", "1-colour", "3-lossy.webp"),
        ("test", "0-grey", "grey.jpg"),
        ("test", "1-colour", "palette.png"),
    ] {
        let class = folder.path().join(part).join(class);
        fs::create_dir_all(&class).unwrap();
        let file = files.join(name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-'));
        fs::copy(file, class.join(name)).unwrap();
    }
    let (_, of_tree) = read(folder.path());
    let (data, splits) = read(&here.join("tests/main/image_parquet/fixture"));
    assert_eq!(data.classes, ["grey", "colour"]);
    for (set, of_tree) in [
        (&splits.train, &of_tree.train),
        (&splits.tune, &of_tree.tune),
        (&splits.test, &of_tree.test),
    ] {
        assert_eq!((set.labels(), batches(set)), (of_tree.labels(), batches(of_tree)));
    }
}

#[test]
fn validation_beside_test_is_the_tuning_slice_and_training_files_alone_are_split() {
    let folder = TempDir::new().unwrap();
    let at = |name| folder.path().join(name);
    write(&at("train/0000.parquet"), COLUMNS, None, &images(2, 10));
    let (data, splits) = read(folder.path());
    assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (12, 4, 4));
    assert_eq!(data.load().unwrap().test, splits.test);
    write(&at("validation/0000.parquet"), COLUMNS, None, &images(2, 3));
    write(&at("test/0000.parquet"), COLUMNS, None, &images(2, 1));
    let (_, splits) = read(folder.path());
    assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (20, 6, 2));
}

#[test]
fn classes_without_names_are_numbers_up_to_the_largest() {
    let folder = TempDir::new().unwrap();
    let at = |name| folder.path().join(name);
    let columns = ["img", "fine_label"];
    // What is said of other columns is not of this one.
    write(&at("train.parquet"), columns, Some(metadata(COLUMNS, &NAMES)), &images(3, 3));
    write(&at("test.parquet"), columns, Some("{ no JSON".into()), &images(4, 1));
    let set = ImageFolder::read(folder.path(), &Preprocessing::imagenet(8)).unwrap();
    assert_eq!(set.train.classes(), ["0", "1", "2", "3"]);
    assert_eq!(set.train.files()[4], Path::new("train.parquet row 5"));
    assert_eq!(
        (set.train.labels(), set.test.unwrap().labels()),
        (&[0, 0, 0, 1, 1, 1, 2, 2, 2][..], &[0, 1, 2, 3][..])
    );
    // Names of one file are those of all.
    write(
        &at("test.parquet"),
        columns,
        Some(metadata(columns, &["a", "b", "c", "d"])),
        &images(4, 1),
    );
    let set = ImageFolder::read(folder.path(), &Preprocessing::imagenet(8)).unwrap();
    assert_eq!(set.train.classes(), ["a", "b", "c", "d"]);
}

#[test]
fn rows_without_image_or_label_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("train-0.parquet");
    let file = path.to_str().unwrap();
    let said = Some(metadata(COLUMNS, &NAMES));
    for (cell, label, problem) in [
        (Cell::Null, Some(0), "no bytes of an image"),
        (Cell::NoBytes, Some(0), "no bytes of an image"),
        (Cell::Image(png([1; 3])), None, "label null is none"),
        (Cell::Image(png([1; 3])), Some(-1), "label -1 is none"),
        (Cell::Image(png([1; 3])), Some(3), "label 3, and the classes are 0 to 2"),
    ] {
        let mut rows = images(3, 4);
        rows[6] = (cell, label);
        write(&path, COLUMNS, said.clone(), &rows);
        failure(folder.path(), &[&format!("{file} row 7: {problem}")]);
    }
    let mut rows = images(2, 4);
    rows[6].1 = Some(1 << 31);
    write(&path, COLUMNS, None, &rows);
    failure(folder.path(), &[&format!("{file} row 7: label 2147483648 in 8 rows")]);
    write(&path, COLUMNS, None, &images(1, 4));
    failure(folder.path(), &["a single class"]);
    write(&path, COLUMNS, said, &[]);
    failure(folder.path(), &[file, "no rows"]);
}

#[test]
fn files_that_are_of_something_else_say_so() {
    let folder = TempDir::new().unwrap();
    let at = |name| folder.path().join(name);
    let path = at("train-0.parquet");
    let file = path.to_str().unwrap().to_string();
    let looked_for = "looked for image, img); it has id, label, picture";
    write(&path, ["picture", "label"], None, &images(2, 2));
    failure(folder.path(), &[&file, "no column of images", looked_for, "rename"]);
    write(&path, ["image", "class"], None, &images(2, 2));
    failure(folder.path(), &[&file, "no column of labels", "it has id, class, image"]);
    // `image` is a number.
    write(&path, ["label", "image"], None, &images(2, 2));
    failure(folder.path(), &[&file, "no column of images"]);
    fs::write(&path, "no parquet").unwrap();
    failure(folder.path(), &[&file, "fetch the file again"]);
    let other = metadata(COLUMNS, &["x", "y", "z"]);
    write(&path, COLUMNS, Some(metadata(COLUMNS, &NAMES)), &images(3, 2));
    write(&at("test-0.parquet"), COLUMNS, Some(other), &images(3, 2));
    failure(folder.path(), &["test-0.parquet: its classes are not those of", &file]);
    write(&at("other/train-0.parquet"), COLUMNS, None, &images(2, 2));
    let other = at("other").display().to_string();
    failure(folder.path(), &["parquet files to train on in 2 folders", &other, "give one"]);
    // Without files to train on there is nothing to read.
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("test-0.parquet"), COLUMNS, None, &images(2, 2));
    failure(folder.path(), &["no folder of images in it", "train-00000-of-00001.parquet"]);
}

#[test]
fn a_row_that_is_no_image_is_named_or_left_out_and_counted() {
    let folder = TempDir::new().unwrap();
    let at = |name| folder.path().join(name);
    let (mut train, test) = (images(2, 8), images(2, 2));
    let write_all = |train: &[Row]| {
        write(&at("data/train-0.parquet"), COLUMNS, None, train);
        write(&at("data/test-0.parquet"), COLUMNS, None, &test);
    };
    write_all(&[&train[..4], &train[5..]].concat());
    let (_, whole) = read(folder.path());
    train[4].0 = Cell::Image(b"not a picture".to_vec());
    write_all(&train);
    let path = at("data/train-0.parquet");
    failure(
        folder.path(),
        &[&format!("{} row 5: its content is that of no image", path.display())],
    );
    let (data, splits) = ImageData::read(of(folder.path(), true), SIZES).unwrap();
    assert_eq!(
        (data.broken(), splits.train.len(), splits.train.labels()),
        (1, whole.train.len(), whole.train.labels())
    );
    assert_eq!(batches(&splits.test), batches(&whole.test));
    assert_eq!(data.load().unwrap().train, splits.train);
    // Cut short: found where it is decoded.
    let mut cut = png([9; 3]);
    cut.truncate(cut.len() - 20);
    train[4].0 = Cell::Image(cut);
    write_all(&train);
    let (_, splits) = read(folder.path());
    let normalisation = splits.train.normalisation().unwrap();
    let all = [splits.train, splits.tune].map(|set| {
        let loader = Loader::new(set, LoaderConfig::evaluation(2), &normalisation, &Device::Cpu);
        loader.unwrap().epoch(0).find_map(Result::err).map(|error| error.to_string())
    });
    let error = all.into_iter().flatten().next().unwrap();
    assert!(error.contains("train-0.parquet row 5: damaged or cut short"), "{error}");
}

#[test]
fn changed_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("train-0.parquet");
    let mut rows = images(2, 8);
    write(&path, COLUMNS, None, &rows);
    let (data, _) = read(folder.path());
    // Of the same length.
    let Cell::Image(bytes) = &mut rows[3].0 else { panic!("no image") };
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    write(&path, COLUMNS, None, &rows);
    assert!(matches!(data.load().unwrap_err(), Error::Changed { .. }));
    fs::remove_file(&path).unwrap();
    assert!(data.load().is_err());
}

/// See `tests/support/corruption.rs`.
#[test]
fn damaged_files_neither_panic_nor_hang_nor_take_memory() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("train-0.parquet");
    let rows: Vec<Row> = images(2, 5).split_off(1);
    write(&path, COLUMNS, Some(metadata(COLUMNS, &["a", "b"])), &rows);
    let root = folder.path().to_path_buf();
    check("images in parquet", [path], Cut::Known, move || {
        ImageFolder::read(&root, &Preprocessing::imagenet(8))
    });
}
