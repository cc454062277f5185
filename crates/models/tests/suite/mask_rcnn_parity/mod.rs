//! A tiny Mask R-CNN against one of timm's XCiT and torchvision's operators: losses, every gradient and the statistics
//! of its batch norms in a training step, and what it finds in an evaluation.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::Architecture;
use conditioned_models::detection::{Corners, DetectorConfig, Mask, MaskRcnn, Target};
use conditioned_models::xcit::XcitConfig;
use conditioned_nn::{Mode, Store};

use crate::distance;

type Fixture = BTreeMap<String, Tensor>;

/// Values in f64: a few thousand roundings of 1e-16, and sums over as many samples.
const F64_TOLERANCE: f64 = 1e-9;

/// Gradients and findings stand in the fixture in f32: 6e-8 of the largest.
const F32_TOLERANCE: f64 = 2e-7;

/// Height and width of what is real in each image.
const SIZES: [[usize; 2]; 2] = [[64, 96], [50, 70]];

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/suite/mask_rcnn_parity/mask_rcnn.safetensors");
    conditioned_nn::store::load_tensors(&path, &Device::Cpu).unwrap()
}

fn backbone() -> XcitConfig {
    XcitConfig {
        image_size: 64,
        width: 8,
        depth: 4,
        heads: 2,
        mlp_ratio: 2,
        ..XcitConfig::preset("xcit_small_12_p16_224").unwrap()
    }
}

fn config() -> DetectorConfig {
    DetectorConfig {
        out_blocks: [0, 1, 2, 3],
        channels: 4,
        hidden: 6,
        mask_convolutions: 1,
        anchor_scale: 4.0,
        anchor_samples: 1_000_000,
        region_samples: 1_000_000,
        level_proposals: [40, 40],
        proposals: 50,
        least_score: 0.2,
        most_found: 6,
        ..DetectorConfig::small(4, 3)
    }
}

fn detector(fixture: &Fixture) -> Result<(Store, MaskRcnn)> {
    let store = Store::new(1, DType::F64, &Device::Cpu);
    let model = MaskRcnn::new(&backbone(), &config(), store.builder())?;
    let ours: BTreeSet<String> = store.parameters().into_iter().map(|(name, _)| name).collect();
    let theirs = fixture.keys().filter_map(|key| key.strip_prefix("parameter/"));
    assert_eq!(ours, theirs.map(str::to_string).collect());
    for (name, var) in store.parameters() {
        var.set(&fixture[&format!("parameter/{name}")])?;
    }
    Ok((store, model))
}

fn images(fixture: &Fixture) -> Result<Tensor> {
    let pixels = (fixture["pixels"].to_dtype(DType::F64)? / 256.0)?;
    let images = (0..2).map(|i| {
        let [h, w] = SIZES[i];
        let real = pixels.narrow(0, i, 1)?.narrow(2, 0, h)?.narrow(3, 0, w)?;
        real.pad_with_zeros(2, 0, 64 - h)?.pad_with_zeros(3, 0, 96 - w)
    });
    Tensor::cat(&images.collect::<Result<Vec<_>>>()?, 0)
}

fn masks(x: &Tensor) -> Result<Vec<Mask>> {
    let (n, height, width) = x.dims3()?;
    let pixels: Vec<u8> = x.flatten_all()?.to_vec1()?;
    let masks = pixels.chunks(height * width).take(n).map(|mask| Mask {
        height,
        width,
        pixels: mask.iter().map(|&pixel| pixel != 0).collect(),
    });
    Ok(masks.collect())
}

fn corners(x: &Tensor) -> Result<Vec<Corners>> {
    let rows: Vec<Vec<f64>> = x.to_dtype(DType::F64)?.to_vec2()?;
    Ok(rows.into_iter().map(|row| row.try_into().unwrap()).collect())
}

fn classes(x: &Tensor) -> Result<Vec<usize>> {
    Ok(x.to_vec1::<u8>()?.into_iter().map(usize::from).collect())
}

fn targets(fixture: &Fixture) -> Result<Vec<Target>> {
    let target = |i: usize| {
        let of = |key: &str| &fixture[&format!("{i}/{key}")];
        Ok(Target {
            size: SIZES[i],
            boxes: corners(of("boxes"))?,
            classes: classes(of("classes"))?,
            masks: masks(of("masks"))?,
        })
    };
    (0..2).map(target).collect()
}

/// The largest difference over the largest value, at least 1.
fn difference(found: &Tensor, wanted: &Tensor) -> Result<f64> {
    let wanted = wanted.to_dtype(DType::F64)?;
    let scale = wanted.flatten_all()?.abs()?.max(0)?.to_scalar::<f64>()?.max(1.0);
    Ok(distance(found, &wanted)? / scale)
}

#[test]
fn losses_gradients_and_statistics_equal_those_of_pytorch() -> Result<()> {
    let fixture = fixture();
    let (store, model) = detector(&fixture)?;
    let mode = Mode::train(1, 0);
    let losses = model.losses(&images(&fixture)?, &targets(&fixture)?, mode)?;
    for (name, value) in losses.values()? {
        let wanted = fixture[&format!("loss/{name}")].to_scalar::<f64>()?;
        let error = (value - wanted).abs();
        assert!(error < F64_TOLERANCE, "{name}: {value} instead of {wanted}");
    }
    let gradients = losses.total()?.backward()?;
    for (name, var) in store.parameters() {
        let found = gradients.get(&var).expect(&name);
        let d = difference(found, &fixture[&format!("gradient/{name}")])?;
        assert!(d < F32_TOLERANCE, "gradient of {name} differs by {d:e}");
    }
    for (name, var) in store.buffers() {
        let d = difference(&var, &fixture[&format!("buffer/{name}")])?;
        assert!(d < F64_TOLERANCE, "{name} differs by {d:e}");
    }
    Ok(())
}

#[test]
fn what_is_found_equals_what_pytorch_finds() -> Result<()> {
    let fixture = fixture();
    let (store, model) = detector(&fixture)?;
    for (name, var) in store.buffers() {
        var.set(&fixture[&format!("buffer/{name}")])?;
    }
    let found = model.detect(&images(&fixture)?, &SIZES)?;
    for (i, found) in found.iter().enumerate() {
        let of = |key: &str| &fixture[&format!("found/{i}/{key}")];
        let wanted: Vec<usize> = classes(of("classes"))?;
        assert_eq!(found.iter().map(|found| found.class).collect::<Vec<_>>(), wanted);
        let tensor =
            |values: Vec<f64>, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
        let boxes = found.iter().flat_map(|found| found.corners).collect();
        let scores = found.iter().map(|found| found.score).collect();
        let grids =
            found.iter().flat_map(|found| found.grid.iter().map(|&p| f64::from(p))).collect();
        for (key, values) in [("boxes", boxes), ("scores", scores), ("grids", grids)] {
            let d = difference(&tensor(values, of(key))?, of(key))?;
            assert!(d < F32_TOLERANCE, "{key} of image {i} differ by {d:e}");
        }
    }
    let pasted = masks(&fixture["found/1/pasted"])?;
    let of_object = |mask: &Mask| mask.pixels.iter().filter(|&&pixel| pixel).count();
    assert!(pasted.iter().any(|mask| (1..50 * 70).contains(&of_object(mask))));
    for (found, pasted) in found[1].iter().zip(&pasted) {
        assert_eq!(&found.mask(SIZES[1], [1.0, 1.0]), pasted);
    }
    Ok(())
}
