//! Images pixel by pixel.

use std::fs;

use conditioned_data::{ImageData, ImageSource, Preprocessing, SequenceSource};
use image::RgbImage;
use tempfile::TempDir;

use super::{bytes, lengths, load, write};

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
