//! The detector on images that are not as most: without objects, with one of a pixel, long and low, of several sizes.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use conditioned_models::detection::{DetectorConfig, Mask, MaskRcnn, Target};
use conditioned_models::hugging_face::timm;
use conditioned_models::network::Network;
use conditioned_models::xcit::XcitConfig;
use conditioned_nn::{Mode, Store};

use crate::uniform;

const TRAIN: Mode = Mode::train(1, 3);

fn detector(method: Method, store: &Store) -> Result<MaskRcnn> {
    let conditioning = ConditioningConfig::from(method);
    let backbone = XcitConfig { conditioning, ..XcitConfig::preset("xcit-64-tiny").unwrap() };
    let small = DetectorConfig { channels: 8, hidden: 16, ..DetectorConfig::small(4, 3) };
    MaskRcnn::new(&backbone, &small, store.builder())
}

/// Objects that fill their boxes.
fn target(size: [usize; 2], boxes: &[[usize; 4]]) -> Target {
    let [height, width] = size;
    let mask = |&[x1, y1, x2, y2]: &[usize; 4]| {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let inside = |(y, x)| (y1..y2).contains(&y) && (x1..x2).contains(&x);
        Mask { height, width, pixels: pixels.map(inside).collect() }
    };
    Target {
        size,
        boxes: boxes.iter().map(|corners| corners.map(|v| v as f64)).collect(),
        classes: (0..boxes.len()).map(|i| i % 3).collect(),
        masks: boxes.iter().map(mask).collect(),
    }
}

#[test]
fn unusual_images_train_every_parameter() -> Result<()> {
    let usual = target([64, 64], &[[4, 4, 30, 40], [20, 30, 60, 60]]);
    let batches = [
        ("no object", [64, 64], vec![target([64, 64], &[]), target([64, 64], &[])]),
        ("one pixel", [64, 64], vec![target([64, 64], &[[10, 12, 11, 13]])]),
        ("long and low", [32, 4000], vec![target([8, 4000], &[[100, 1, 140, 7]])]),
        ("several sizes", [64, 96], vec![target([33, 95], &[[0, 0, 95, 33]]), usual]),
    ];
    for method in [Method::None, Method::per_sequence(1.0)?, Method::pooled(0.3)?] {
        for (what, [h, w], targets) in &batches {
            let store = Store::new(1, DType::F32, &Device::Cpu);
            let model = detector(method, &store)?;
            let images = uniform(&[targets.len(), 3, *h, *w], 4)?.to_dtype(DType::F32)?;
            let losses = model.losses(&images, targets, TRAIN)?;
            for (name, value) in losses.values()? {
                assert!(value.is_finite(), "{what} {method:?}: {name} is {value}");
            }
            let gradients = losses.total()?.backward()?;
            for (name, var) in store.parameters() {
                let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{what}: {name}"));
                let sum = gradient.abs()?.sum_all()?.to_scalar::<f32>()?;
                assert!(sum.is_finite(), "{what} {method:?}: gradient of {name}");
            }
            let sizes: Vec<[usize; 2]> = targets.iter().map(|target| target.size).collect();
            for (found, size) in model.detect(&images, &sizes)?.iter().zip(&sizes) {
                for found in found {
                    let mask = found.mask(*size, [1.0, 1.0]);
                    assert_eq!([mask.height, mask.width], *size);
                }
            }
        }
    }
    Ok(())
}

/// The same seed and step draw the same anchors and proposals, another step others.
#[test]
fn what_is_trained_on_is_drawn_by_seed_and_step() -> Result<()> {
    let store = Store::new(1, DType::F32, &Device::Cpu);
    let model = detector(Method::None, &store)?;
    let images = uniform(&[1, 3, 64, 64], 4)?.to_dtype(DType::F32)?;
    let targets = [target([64, 64], &[[4, 4, 30, 40]])];
    let at = |step| -> Result<f64> {
        let mode = Mode::train(1, step);
        Ok(model.losses(&images, &targets, mode)?.values()?[0].1)
    };
    assert_eq!(at(1)?, at(1)?);
    assert_ne!(at(1)?, at(2)?);
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let store = Store::new(1, DType::F32, &Device::Cpu);
    let model = detector(Method::None, &store)?;
    let good = target([64, 64], &[[4, 4, 30, 40]]);
    let error = |images: &[usize], target: &Target| {
        let images = Tensor::zeros(images, DType::F32, &Device::Cpu).unwrap();
        model.losses(&images, std::slice::from_ref(target), TRAIN).unwrap_err().to_string()
    };
    let image = [1, 3, 64, 64];
    let class = Target { classes: vec![3], ..good.clone() };
    let flat = Target { boxes: vec![[4.0, 4.0, 4.0, 40.0]], ..good.clone() };
    let few = Target { masks: vec![], ..good.clone() };
    let outside = Target { size: [65, 64], ..good.clone() };
    for (images, target, word) in [
        (&image, &class, "class 3"),
        (&image, &flat, "without area"),
        (&image, &few, "0 masks"),
        (&image, &outside, "mask of 64 x 64"),
        (&[1, 1, 64, 64], &good, "(B, 3, H, W)"),
        (&[2, 3, 64, 64], &good, "1 sizes"),
        (&[1, 3, 60, 64], &good, "multiples of 32"),
    ] {
        let error = error(images, target);
        assert!(error.contains(word), "{word} is missing in {error}");
    }
    Ok(())
}

/// The blocks of an XCiT for classes start a backbone, bit for bit; all else stays as it is drawn.
#[test]
fn a_checkpoint_of_an_xcit_starts_the_backbone() {
    let folder = tempfile::tempdir().unwrap();
    let classifier = Store::new(5, DType::F32, &Device::Cpu);
    let network = Network::preset("xcit-64-tiny").unwrap();
    network.build(classifier.builder()).unwrap();
    classifier.save(&folder.path().join("model.safetensors"), &BTreeMap::new()).unwrap();
    let Network::Xcit(config) = network else { panic!("no XCiT") };
    let drawn = || {
        let store = Store::new(6, DType::F32, &Device::Cpu);
        let detector = DetectorConfig::small(config.depth, 2);
        MaskRcnn::new(&config, &detector, store.builder()).unwrap();
        store
    };
    let (store, before) = (drawn(), drawn());
    let unused = timm::read_backbone(folder.path(), &config, &store).unwrap();
    assert!(unused.contains(&"head.weight".to_string()), "{unused:?}");
    let bits = |store: &Store, name: &str| -> Vec<u32> {
        let values = store.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    let (mut read, mut kept) = (0, 0);
    for (name, _) in store.tensors() {
        let own = name.strip_prefix("backbone.").filter(|name| classifier.get(name).is_some());
        match own {
            Some(own) => {
                read += 1;
                assert_eq!(bits(&store, &name), bits(&classifier, own), "{name}");
            }
            None => {
                kept += 1;
                assert_eq!(bits(&store, &name), bits(&before, &name), "{name}");
            }
        }
    }
    assert_eq!(read, classifier.tensors().len() - unused.len());
    assert!(read > 50 && kept > 20, "{read} read, {kept} kept");

    let shallow = XcitConfig { depth: 2, ..config.clone() };
    let wide = XcitConfig { width: 32, ..config };
    for (other, word) in [(shallow, "backbone.blocks.2"), (wide, "backbone.")] {
        let store = Store::new(0, DType::F32, &Device::Cpu);
        let error = timm::read_backbone(folder.path(), &other, &store).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
