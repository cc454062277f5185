//! Trees of image files: layouts, splits, what is refused, and batches of them.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use conditioned_data::{
    Augment, CifarFolder, Error, ImageData, ImageFolder, ImageSizes, ImageSource, Loader,
    LoaderConfig, Preprocessing, RandAugment, Tuning,
};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

use crate::values;

/// A picture of one colour, as PNG.
fn write(path: &Path, side: u32, colour: [u8; 3]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(side, side + 1, Rgb(colour)).save(path).unwrap();
}

/// `count` images of each class, of different colours.
fn tree(root: &Path, classes: &[&str], count: u8) {
    for (i, class) in classes.iter().enumerate() {
        for j in 0..count {
            write(&root.join(class).join(format!("{j}.png")), 6, [i as u8 * 90, j * 3, 200]);
        }
    }
}

fn of(path: &Path, skip_broken: bool) -> ImageSource {
    let (path, preprocessing) = (path.to_path_buf(), Preprocessing::imagenet(8));
    ImageSource::Folder { path, preprocessing, skip_broken }
}

const SIZES: ImageSizes = ImageSizes { train: None, tune: Tuning::Share(0.25) };

fn read(root: &Path) -> Result<ImageData, String> {
    Ok(ImageData::read(of(root, false), SIZES).map_err(|e| e.to_string())?.0)
}

#[test]
fn classes_are_the_sorted_names_of_folders() {
    let root = TempDir::new().unwrap();
    tree(&root.path().join("train"), &["b", "a", "C"], 8);
    tree(&root.path().join("val"), &["a", "b"], 3);
    // Deeper folders, upper case, and what is passed over.
    write(&root.path().join("train/a/deep/x.PNG"), 5, [9, 9, 9]);
    write(&root.path().join("train/a/.hidden/y.png"), 5, [9, 9, 9]);
    fs::write(root.path().join("train/a/notes.txt"), "no image").unwrap();
    let (data, splits) = ImageData::read(of(root.path(), false), SIZES).unwrap();
    assert_eq!(data.classes, ["C", "a", "b"]);
    assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (19, 6, 6));
    assert_eq!(splits.test.labels(), [1, 1, 1, 2, 2, 2]);
    assert_eq!((splits.train.shape(), splits.train.classes()), ([3, 8, 8], 3));
    let folder = ImageFolder::read(root.path(), &Preprocessing::imagenet(8)).unwrap();
    assert_eq!((folder.train.len(), folder.passed_over), (25, 1));
    // The same by what is recorded.
    let again: ImageData = serde_json::from_str(&serde_json::to_string(&data).unwrap()).unwrap();
    assert_eq!(again, data);
    assert_eq!(again.load().unwrap().train, splits.train);
}

#[test]
fn val_beside_test_is_the_tuning_slice_and_a_plain_tree_is_split() {
    let root = TempDir::new().unwrap();
    tree(&root.path().join("train"), &["a", "b"], 5);
    tree(&root.path().join("validation"), &["a", "b"], 2);
    tree(&root.path().join("test"), &["a", "b"], 1);
    let (_, splits) = ImageData::read(of(root.path(), false), SIZES).unwrap();
    assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (10, 4, 2));
    let plain = TempDir::new().unwrap();
    tree(plain.path(), &["a", "b"], 10);
    let (data, splits) = ImageData::read(of(plain.path(), false), SIZES).unwrap();
    assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (12, 4, 4));
    // No file is in two of them.
    let mut files = Vec::new();
    for set in [&splits.train, &splits.tune, &splits.test] {
        let conditioned_data::ImageSet::Files(set) = set else { panic!("in memory") };
        files.extend(set.files().to_vec());
    }
    files.sort();
    files.dedup();
    assert_eq!(files.len(), 20);
    assert_eq!(data.load().unwrap().test, splits.test);
}

#[test]
fn a_file_named_like_an_index_makes_no_mnist() {
    let root = TempDir::new().unwrap();
    tree(root.path(), &["a", "b"], 10);
    fs::write(root.path().join("train.idx"), "offsets").unwrap();
    fs::write(root.path().join("my-idx-of-files.txt"), "a list").unwrap();
    assert_eq!(read(root.path()).unwrap().classes, ["a", "b"]);
    // One file of its own is enough to say which others are missing.
    fs::write(root.path().join("t10k-labels.idx1-ubyte.gz"), "").unwrap();
    assert!(read(root.path()).unwrap_err().contains("train-images-idx3-ubyte"));
}

#[test]
fn trees_that_are_none_say_so() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    assert!(read(&at("empty")).unwrap_err().contains("a folder for each class is needed"));
    assert!(read(&at("missing")).unwrap_err().contains("missing"));
    write(&at("loose/1.png"), 4, [0; 3]);
    assert!(read(&at("loose")).unwrap_err().contains("a folder for each class is needed"));
    tree(&at("one"), &["a"], 3);
    assert!(read(&at("one")).unwrap_err().contains("one class alone, \"a\""));
    tree(&at("hollow"), &["a", "b"], 3);
    fs::create_dir(at("hollow/c")).unwrap();
    assert!(read(&at("hollow")).unwrap_err().contains("class \"c\" has no image"));
    tree(&at("unknown/train"), &["a", "b"], 4);
    tree(&at("unknown/val"), &["a", "x"], 1);
    let error = read(&at("unknown")).unwrap_err();
    assert!(error.contains("class \"x\" of val is none of train, which has a, b"), "{error}");
    for names in [["training", "testing"], ["Train", "x"]] {
        let name = format!("parts {}", names[0]);
        tree(&at(&name), &names, 3);
        let error = read(&at(&name)).unwrap_err();
        assert!(error.contains("reads like a part of the data"), "{error}");
    }
    tree(&at("beside/train"), &["a", "b"], 4);
    tree(&at("beside/eval"), &["a", "b"], 4);
    let error = read(&at("beside")).unwrap_err();
    assert!(error.contains("the folder \"eval\" with images stands beside `train`"), "{error}");
    tree(&at("tiny"), &["a", "b"], 1);
    assert!(read(&at("tiny")).unwrap_err().contains("no image is left to"));
    tree(&at("few"), &["a", "b"], 2);
    let sizes = ImageSizes { train: None, tune: Tuning::Images(50) };
    let error = ImageData::read(of(&at("few"), false), sizes).unwrap_err().to_string();
    assert!(error.contains("cannot draw"), "{error}");
}

#[test]
fn parquet_files_that_are_counted_must_all_be_there() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("train-00001-of-00002.parquet"), "PAR1").unwrap();
    let error = read(root.path()).unwrap_err();
    assert!(error.contains("train-00000-of-00002.parquet is missing, one of 2 files"), "{error}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_files_name_the_feature_that_reads_them() {
    let root = TempDir::new().unwrap();
    for name in ["train/0000.parquet", "train-00000-of-00001.parquet"] {
        let root = root.path().join(name.len().to_string());
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), "PAR1").unwrap();
        let error = read(&root).unwrap_err();
        let expected =
            format!("parquet files ({name}, 1 in all) are read with the feature `parquet`");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn files_that_are_no_images_are_named_or_left_out_and_counted() {
    let root = TempDir::new().unwrap();
    tree(&root.path().join("train"), &["a", "b"], 8);
    tree(&root.path().join("val"), &["a", "b"], 2);
    let (_, whole) = ImageData::read(of(root.path(), false), SIZES).unwrap();
    fs::write(root.path().join("train/a/text.jpg"), "not a picture").unwrap();
    let error = read(root.path()).unwrap_err();
    assert!(error.contains("train/a/text.jpg: its content is that of no image"), "{error}");
    // Cut short: its header is whole, so that it is found when it is decoded.
    let half = fs::read(root.path().join("val/b/0.png")).unwrap();
    fs::write(root.path().join("val/b/cut.png"), &half[..half.len() - 20]).unwrap();
    let (data, splits) = ImageData::read(of(root.path(), true), SIZES).unwrap();
    assert_eq!((data.broken(), &splits.train, &splits.test), (2, &whole.train, &whole.test));
    assert_eq!(data.load().unwrap().test, splits.test);
    fs::remove_file(root.path().join("train/a/text.jpg")).unwrap();
    let (_, splits) = ImageData::read(of(root.path(), false), SIZES).unwrap();
    let normalisation = splits.test.normalisation().unwrap();
    for workers in [0, 2] {
        let config = LoaderConfig { workers, ..LoaderConfig::evaluation(2) };
        let loader =
            Loader::new(splits.test.clone(), config, &normalisation, &Device::Cpu).unwrap();
        let mut batches = loader.epoch(0);
        assert!(batches.next().unwrap().is_ok());
        let error = batches.find_map(Result::err).unwrap().to_string();
        assert!(error.contains("cut.png: damaged or cut short"), "{error}");
    }
}

/// What stands in the folders of the parts is listed with them, and not once more to find others beside them.
#[cfg(unix)]
#[test]
fn parts_are_not_entered_to_find_strays() {
    let root = TempDir::new().unwrap();
    tree(&root.path().join("train"), &["a", "b"], 4);
    tree(&root.path().join("val"), &["a", "b"], 2);
    // A second name of `val`, which is not read: following it would never end.
    let unread = root.path().join("validation");
    fs::create_dir(&unread).unwrap();
    std::os::unix::fs::symlink(&unread, unread.join("again")).unwrap();
    let folder = ImageFolder::read(root.path(), &Preprocessing::imagenet(8)).unwrap();
    assert_eq!((folder.train.len(), folder.test.unwrap().len()), (8, 4));
}

#[test]
fn a_changed_tree_is_refused() {
    let root = TempDir::new().unwrap();
    tree(root.path(), &["a", "b"], 8);
    let data = read(root.path()).unwrap();
    write(&root.path().join("a/0.png"), 40, [1, 2, 3]);
    assert!(matches!(data.load().unwrap_err(), Error::Changed { .. }));
    fs::remove_file(root.path().join("a/0.png")).unwrap();
    assert!(data.load().is_err());
}

/// Every transform that a file goes through.
fn all() -> Augment {
    Augment {
        crop_scale: Some([0.3, 1.0]),
        rand_augment: Some(RandAugment::DEIT),
        colour_jitter: 0.4,
        erase: 0.5,
        repeats: 3,
        flip: true,
        crop_padding: 1,
        ..Augment::default()
    }
}

#[test]
fn batches_are_the_same_for_any_number_of_threads() {
    let root = TempDir::new().unwrap();
    tree(root.path(), &["a", "b", "c"], 10);
    let (_, splits) = ImageData::read(of(root.path(), false), SIZES).unwrap();
    let batches = |workers, seed| {
        let config = LoaderConfig { workers, augment: all(), ..LoaderConfig::training(5, seed) };
        let normalisation = splits.train.normalisation().unwrap();
        let loader =
            Loader::new(splits.train.clone(), config, &normalisation, &Device::Cpu).unwrap();
        let batches = (0..2).flat_map(|epoch| loader.epoch(epoch));
        batches
            .map(|batch| {
                let batch = batch.unwrap();
                (values(&batch), batch.labels)
            })
            .collect::<Vec<_>>()
    };
    let alone = batches(0, 7);
    assert_eq!(alone, batches(3, 7));
    assert_ne!(alone, batches(0, 8));
    // Three repeats: 18 places of an epoch hold 6 images.
    let labels: Vec<u32> = alone[..4].iter().flat_map(|(_, labels)| labels.clone()).collect();
    assert_eq!(labels.len(), 18);
    assert!(labels.chunks(3).all(|three| three.iter().all(|label| label == &three[0])));
    // And each of them was augmented anew.
    let first = &alone[0].0.0;
    assert_ne!(first[..192], first[192..384]);
}

#[test]
fn what_is_for_colour_images_refuses_grey_ones() {
    let images = crate::numbered(4, [1, 4, 4]);
    let config = LoaderConfig {
        augment: Augment { colour_jitter: 0.1, ..Augment::default() },
        ..LoaderConfig::training(2, 0)
    };
    let error =
        Loader::new(images, config, &crate::plain(1), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("three channels"), "{error}");
    let wrong = [
        (Augment { crop_scale: Some([0.5, 0.1]), ..Augment::default() }, "crop_scale"),
        (Augment { erase: 1.5, ..Augment::default() }, "erase"),
        (Augment { repeats: 0, ..Augment::default() }, "repeats"),
        (Augment { colour_jitter: f64::NAN, ..Augment::default() }, "colour_jitter"),
    ];
    for (augment, field) in wrong {
        let config = LoaderConfig { augment, ..LoaderConfig::training(2, 0) };
        let images = crate::numbered(4, [3, 4, 4]);
        let error =
            Loader::new(images, config, &crate::plain(3), &Device::Cpu).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

/// A folder of CIFAR-10 of 20 + 4 images, pixels and labels by number.
fn cifar(root: &Path) -> PathBuf {
    let folder = root.join("cifar-10-batches-bin");
    fs::create_dir_all(&folder).unwrap();
    let rows = |first: usize, count: usize| {
        (first..first + count)
            .flat_map(|i| {
                let pixels = (0..3072).map(move |p| ((p * 7 + i * 13) % 251) as u8);
                std::iter::once((i % 10) as u8).chain(pixels)
            })
            .collect::<Vec<u8>>()
    };
    for i in 0..5 {
        fs::write(folder.join(format!("data_batch_{}.bin", i + 1)), rows(4 * i, 4)).unwrap();
    }
    fs::write(folder.join("test_batch.bin"), rows(20, 4)).unwrap();
    folder
}

#[test]
fn cifar_is_read_by_bytes() {
    let root = TempDir::new().unwrap();
    let folder = cifar(root.path());
    fs::write(folder.join("batches.meta.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
    // The folder itself, or that which the archive unpacked to.
    for path in [root.path(), &folder] {
        let set = CifarFolder::read(path).unwrap();
        assert_eq!((set.train.len(), set.test.len(), set.names.len()), (20, 4, 10));
        assert_eq!(set.train.image(7).unwrap()[..3], [91, 98, 105]);
        assert_eq!(set.train.labels()[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    }
    let (data, splits) = ImageData::read(of(root.path(), false), SIZES).unwrap();
    assert_eq!((data.name.as_str(), data.classes[9].as_str()), ("CIFAR-10", "j"));
    assert_eq!((splits.train.len(), splits.tune.len(), splits.test.len()), (15, 5, 4));
    assert_eq!(data.load().unwrap().train, splits.train);
    let path = folder.join("data_batch_3.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(5000);
    fs::write(&path, &bytes).unwrap();
    let error = CifarFolder::read(&folder).unwrap_err().to_string();
    assert!(error.contains("data_batch_3.bin: truncated"), "{error}");
    bytes.truncate(3073);
    bytes[0] = 10;
    fs::write(&path, &bytes).unwrap();
    let error = CifarFolder::read(&folder).unwrap_err().to_string();
    assert!(error.contains("label 10 of image 0"), "{error}");
    fs::remove_file(&path).unwrap();
    assert!(CifarFolder::read(&folder).unwrap_err().to_string().contains("data_batch_3.bin"));
    let fine = root.path().join("cifar-100-binary");
    fs::create_dir(&fine).unwrap();
    let row: Vec<u8> = [19, 99].into_iter().chain((0..3072).map(|p| (p % 256) as u8)).collect();
    fs::write(fine.join("train.bin"), &row).unwrap();
    fs::write(fine.join("test.bin"), &row).unwrap();
    let set = CifarFolder::read(&fine).unwrap();
    assert_eq!((set.train.classes(), set.train.labels()), (100, &[99][..]));
}
