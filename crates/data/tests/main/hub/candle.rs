//! candle-datasets as a second reader of the same files: its tensors are ours.

use candle_core::Device;
use candle_datasets::vision::{self, Dataset};
use conditioned_data::{
    CifarFolder, IdxFolder, ImageFolder, ImageSet, Images, Loader, LoaderConfig, Normalisation,
    Preprocessing, Resize,
};
use image::{GrayImage, ImageFormat, RgbImage};

use super::images::converted;
use super::*;
use crate::image_parquet::{Cell, Row, write};
use crate::{plain, values};

/// Set in a process that has a cache, and nothing else of the hub.
const CHILD: &str = "CACHE_OF_CHILD";

/// Byte `i` of image `n`: rows and columns are different.
fn byte(n: usize, i: usize) -> u8 {
    ((i * 7 + i / 31 + n * 13) % 251) as u8
}

#[test]
fn idx_files_are_read_alike() {
    let folder = TempDir::new().unwrap();
    for (part, count) in [("train", 20u32), ("t10k", 5)] {
        let header = |magic: u32, sizes: &[u32]| -> Vec<u8> {
            std::iter::once(&magic).chain(sizes).flat_map(|word| word.to_be_bytes()).collect()
        };
        let mut images = header(0x803, &[count, 28, 28]);
        images.extend((0..count as usize).flat_map(|n| (0..784).map(move |i| byte(n, i))));
        let mut labels = header(0x801, &[count]);
        labels.extend((0..count).map(|n| (n * 3 % 10) as u8));
        fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
    let ours = IdxFolder::read(folder.path(), 10).unwrap();
    let set = vision::mnist::load_dir(folder.path()).unwrap();
    let (train, test) = Images::of_candle(ours.train.name(), &set, [1, 28, 28]).unwrap();
    assert!(ours.train == train && ours.test == test);
    let other = Images::of_candle("idx", &set, [1, 28, 29]).map(|_| ());
    message(other, &["image set \"idx\"", "15680 pixels, expected 20 images of 1x28x29"]);
    let bright = Dataset { train_images: (&set.train_images * 2.0).unwrap(), ..set };
    let bright = Images::of_candle("idx", &bright, [1, 28, 28]).map(|_| ());
    message(bright, &["image set \"idx\"", "expected 0 to 1"]);
}

/// It reads files of 10,000 images and no others.
#[test]
fn binary_files_of_cifar_are_read_alike() {
    let folder = TempDir::new().unwrap();
    let files = (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".into()]);
    for (file, name) in files.enumerate() {
        let mut rows: Vec<u8> = (0..3073 * 10_000).map(|i| byte(file, i)).collect();
        rows.chunks_mut(3073).for_each(|row| row[0] %= 10);
        fs::write(folder.path().join(name), rows).unwrap();
    }
    let ours = CifarFolder::read(folder.path()).unwrap();
    let set = vision::cifar::load_dir(folder.path()).unwrap();
    let (train, test) = Images::of_candle("CIFAR-10", &set, [3, 32, 32]).unwrap();
    assert!(ours.train == train && ours.test == test);
}

/// The images of parquet files, of which ours are always in RGB, in memory.
fn in_memory(set: ImageSet, channels: usize) -> Images {
    let [_, side, _] = set.shape();
    let (n, classes, name) = (set.len(), set.classes(), set.name().to_string());
    let labels = set.labels().to_vec();
    let normalisation: Normalisation = plain(3);
    let config = LoaderConfig::evaluation(n);
    let loader = Loader::new(set, config, &normalisation, &Device::Cpu).unwrap();
    let (pixels, _) = values(&loader.epoch(0).next().unwrap().unwrap());
    let pixels = pixels.iter().map(|value| (value * 255.0).round() as u8).collect::<Vec<_>>();
    let kept = pixels.chunks(3 * side * side).flat_map(|image| &image[..channels * side * side]);
    let shape = [channels, side, side];
    Images::new(name, shape, classes, 255, kept.copied().collect(), labels).unwrap()
}

/// Runs only as a process of the test below: candle-datasets finds its cache by the environment alone.
#[test]
fn child() {
    let Some(cache) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let hub = Hub::offline(cache);
    let compare = |id, channels: usize, side: usize, set: &Dataset| {
        let as_they_are = Preprocessing {
            resize: Resize::Both(side),
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preprocessing::imagenet(side)
        };
        let ours = ImageFolder::read(&hub.images(id).unwrap(), &as_they_are).unwrap();
        let shape = [channels, side, side];
        let (train, test) = Images::of_candle(id, set, shape).unwrap();
        assert_eq!((train.len(), test.len()), (40, 20));
        assert!(in_memory(ours.train.into(), channels) == train, "{id}");
        assert!(in_memory(ours.test.unwrap().into(), channels) == test, "{id}");
    };
    compare("ylecun/mnist", 1, 28, &vision::mnist::load().unwrap());
    let fashion = vision::fashion_mnist::load().unwrap();
    compare("zalando-datasets/fashion_mnist", 1, 28, &fashion);
    // Its images are (C, W, H).
    let cifar = vision::cifar::load().unwrap();
    let upright = Dataset {
        train_images: cifar.train_images.transpose(2, 3).unwrap(),
        test_images: cifar.test_images.transpose(2, 3).unwrap(),
        ..cifar
    };
    compare("cifar10", 3, 32, &upright);
}

/// The named sets of candle-datasets out of a cache that was filled here, with no hub to be reached.
#[test]
fn parquet_files_in_the_cache_are_read_alike() {
    let cache = TempDir::new().unwrap();
    let sets = [
        ("ylecun/mnist", ["mnist/train/0000.parquet", "mnist/test/0000.parquet"]),
        (
            "zalando-datasets/fashion_mnist",
            ["fashion_mnist/train/0000.parquet", "fashion_mnist/test/0000.parquet"],
        ),
        ("cifar10", ["plain_text/train/0000.parquet", "plain_text/test/0000.parquet"]),
    ];
    for (id, names) in sets {
        let columns = if id == "cifar10" { ["img", "label"] } else { ["image", "label"] };
        let files = names.into_iter().zip([40, 20]).map(|(name, count)| {
            let path = cache.path().join("a.parquet");
            let rows: Vec<Row> = (0..count).map(|n| row(id == "cifar10", n)).collect();
            write(&path, columns, None, &rows);
            (name, fs::read(path).unwrap())
        });
        let server = converted(Repository { id, files: files.collect() });
        hub(&server, &cache).images(id).unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "hub::candle::child"]).env_clear();
    child.env("HF_HOME", cache.path()).env("HF_ENDPOINT", "http://127.0.0.1:1");
    let output = child.env(CHILD, cache.path().join("hub")).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Image `n` as a PNG, with its class of ten.
fn row(colour: bool, n: usize) -> Row {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let (side, channels) = if colour { (32, 3) } else { (28, 1) };
    let pixels = (0..side * side * channels).map(|i| byte(n, i as usize)).collect();
    if colour {
        let picture = RgbImage::from_raw(side, side, pixels).unwrap();
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    } else {
        let picture = GrayImage::from_raw(side, side, pixels).unwrap();
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    }
    (Cell::Image(bytes.into_inner()), Some((n % 10) as i64))
}
