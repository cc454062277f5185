use conditioned_data::{Images, Normalisation};

use crate::numbered;

#[test]
fn sets_that_do_not_fit_are_refused_with_numbers() {
    let new = |shape, classes, white, pixels, labels| {
        Images::new("demo", shape, classes, white, pixels, labels).unwrap_err().to_string()
    };
    let message = new([1, 0, 2], 1, 1, vec![], vec![0]);
    assert!(message.contains("\"demo\"") && message.contains("no pixels"), "{message}");
    let message = new([1, 2, 2], 1, 1, vec![0; 7], vec![0, 0]);
    assert!(message.contains("7 pixels, expected 2 images of 1x2x2"), "{message}");
    let message = new([1, 1, 2], 1, 0, vec![0; 2], vec![0]);
    assert!(message.contains("white is 0"), "{message}");
    let message = new([1, 1, 2], 1, 16, vec![0, 0, 0, 17], vec![0, 0]);
    assert!(message.contains("pixel 17 in image 1 is above white = 16"), "{message}");
    let message = new([1, 1, 1], 3, 1, vec![0, 0], vec![2, 3]);
    assert!(message.contains("label 3 of image 1 is out of range for 3 classes"), "{message}");
    let message = new([usize::MAX, 2, 2], 1, 1, vec![0], vec![0]);
    assert!(message.contains("1 pixels"), "{message}");
}

#[test]
fn subsets_keep_order_labels_and_name() {
    let images = numbered(5, [2, 3, 4]);
    let subset = images.subset(&[3, 0, 3]).unwrap();
    assert_eq!((subset.name(), subset.shape(), subset.classes()), ("numbered", [2, 3, 4], 5));
    assert_eq!(subset.labels(), [3, 0, 3]);
    assert_eq!(subset.image(1), images.image(0));
    assert_eq!(subset.image(2), images.image(3));
    assert_eq!(subset.image(3), None);
    assert_eq!(images.take(2).unwrap().pixels(), &images.pixels()[..48]);
    let message = images.subset(&[1, 5]).unwrap_err().to_string();
    assert!(message.contains("index 5 is past the end of 5 images"), "{message}");
    assert!(images.take(6).is_err());
    assert!(images.take(0).unwrap().is_empty());
}

#[test]
fn hash_sees_content_and_not_the_name() {
    let with = |name: &str, shape, white, pixel| {
        Images::new(name, shape, 2, white, vec![pixel, 0], vec![1]).unwrap().hash()
    };
    let hash = with("a", [1, 1, 2], 9, 3);
    assert_eq!(hash.len(), 64);
    assert_eq!(hash, with("b", [1, 1, 2], 9, 3));
    assert_ne!(hash, with("a", [1, 2, 1], 9, 3));
    assert_ne!(hash, with("a", [1, 1, 2], 8, 3));
    assert_ne!(hash, with("a", [1, 1, 2], 9, 4));
}

#[test]
fn normalisation_is_per_channel_and_safe_on_constant_ones() {
    // Channel 0 of the two images: 0, 2 and 4, 6. Channel 1: always 8.
    let pixels = vec![0, 2, 8, 8, 4, 6, 8, 8];
    let images = Images::new("demo", [2, 1, 2], 1, 8, pixels, vec![0, 0]).unwrap();
    let normalisation = Normalisation::measure(&images).unwrap();
    assert_eq!(normalisation.mean, [3.0 / 8.0, 1.0]);
    assert_eq!(normalisation.std, [5f32.sqrt() / 8.0, 1.0]);
    let message = Normalisation::measure(&images.take(0).unwrap()).unwrap_err().to_string();
    assert!(message.contains("\"demo\""), "{message}");
}
