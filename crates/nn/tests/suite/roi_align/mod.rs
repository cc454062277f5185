//! RoIAlign against its definition, against central differences and against torchvision.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_nn::check::central_differences;
use conditioned_nn::store::load_tensors;
use conditioned_nn::{Roi, reference, roi_align};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    DIFFERENCE_TOLERANCE, F32_TOLERANCE, F64_TOLERANCE, HALF_TOLERANCE, agree, distance, uniform,
    variable,
};

/// Boxes about maps of `height` x `width`, whose centres lie up to half a map outside and whose sides are up to `reach`
/// maps long; about half of the sides are negative where boxes may be `inverted`.
fn boxes(
    n: usize,
    [images, height, width]: [usize; 3],
    reach: f64,
    inverted: bool,
    seed: u64,
) -> Vec<Roi> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut side = |extent: usize| {
        let centre = rng.random_range(-0.5..1.5) * extent as f64;
        let half = rng.random_range(if inverted { -0.5..0.5 } else { 0.0..0.5 });
        (centre - half * reach * extent as f64, centre + half * reach * extent as f64)
    };
    let mut corners = || {
        let ((x1, x2), (y1, y2)) = (side(width), side(height));
        [x1, y1, x2, y2]
    };
    (0..n).map(|i| Roi { image: i * 7 % images, corners: corners() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // From a hundredth of a map to ten of them; channels around the number that is summed at once.
    #[test]
    fn it_equals_its_definition(
        b in 1usize..4, h in 1usize..9, w in 1usize..9, c in 1usize..70, n in 1usize..6,
        size in 1usize..5, ratio in 0usize..4, reach in prop::sample::select(vec![0.01, 1.0, 10.0]),
        inverted: bool, seed: u64,
    ) {
        let x = variable(&[b, h, w, c], 1).unwrap();
        let rois = boxes(n, [b, h, w], reach, inverted, seed);
        agree(
            &[x],
            |v| roi_align(&v[0], &rois, size, 1.0, ratio),
            |v| reference::roi_align(&v[0], &rois, size, 1.0, ratio),
        ).unwrap();
    }
}

#[test]
fn strided_features_are_read_as_they_are_seen() -> Result<()> {
    let x = variable(&[2, 3, 5, 6], 1)?;
    let rois = boxes(4, [2, 5, 6], 1.0, false, 2);
    agree(
        &[x],
        |v| roi_align(&v[0].permute((0, 2, 3, 1))?, &rois, 3, 1.0, 0),
        |v| reference::roi_align(&v[0].permute((0, 2, 3, 1))?.contiguous()?, &rois, 3, 1.0, 0),
    )
}

#[test]
fn gradients_equal_central_differences() -> Result<()> {
    let v = [variable(&[2, 4, 5, 2], 1)?];
    let rois = boxes(5, [2, 4, 5], 1.5, false, 3);
    let r = uniform(&[5, 3, 3, 2], 4)?;
    for op in [roi_align, reference::roi_align] {
        let worst = central_differences(&v, 80, || {
            (op(v[0].as_tensor(), &rois, 3, 1.0, 0)? * &r)?.sum_all()
        })?;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
    }
    Ok(())
}

/// Boxes, features and for each size and sampling ratio what torchvision has.
#[test]
fn values_and_gradients_are_those_of_torchvision() -> Result<()> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/roi_align/roi_align.safetensors");
    let fixture = load_tensors(&path, &Device::Cpu).unwrap();
    let rois = |key: &str| -> Result<Vec<Roi>> {
        let rows: Vec<Vec<f64>> = fixture[key].to_vec2()?;
        let roi = |r: &Vec<f64>| Roi { image: r[0] as usize, corners: [r[1], r[2], r[3], r[4]] };
        Ok(rows.iter().map(roi).collect())
    };
    for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
        let x = Var::from_tensor(&fixture["features"].to_dtype(dtype)?)?;
        for (size, ratio, rois) in
            [(3, 0, rois("upright")?), (2, 2, rois("rois")?), (1, 3, rois("rois")?)]
        {
            for op in [roi_align, reference::roi_align] {
                let of = |key: &str| &fixture[&format!("{size}-{ratio}/{key}")];
                let close = |key: &str, got: &Tensor| -> Result<()> {
                    let want = of(key);
                    let scale = want.abs()?.max_all()?.to_scalar::<f64>()?.max(1.0);
                    let d = distance(got, want)? / scale;
                    assert!(d < tolerance, "{size}-{ratio}/{key} in {dtype:?} differs by {d:e}");
                    Ok(())
                };
                let y = op(&x, &rois, size, 0.5, ratio)?;
                close("y", &y)?;
                let grads = (y * of("cotangent").to_dtype(dtype)?)?.sum_all()?.backward()?;
                close("gradient", grads.get(&x).expect("a gradient"))?;
            }
        }
    }
    Ok(())
}

/// Where features are linear in their place, the mean of a box inside is their value in its middle.
#[test]
fn a_plane_is_resampled_exactly() -> Result<()> {
    let plane: Vec<f64> = (0..12 * 16).map(|i| (3 * (i / 16) - 2 * (i % 16)) as f64).collect();
    let plane = Tensor::from_vec(plane, (1, 12, 16, 1), &Device::Cpu)?;
    // Cells of 2 x 3 pixels of the features, which begin at the borders of pixels.
    let roi = Roi { image: 0, corners: [8.0, 4.0, 32.0, 40.0] };
    for ratio in [0, 1, 3] {
        let y = roi_align(&plane, &[roi], 3, 0.25, ratio)?;
        let want: Vec<f64> = (0..9)
            .map(|i| (1.0 + 3.0 * (f64::from(i / 3) + 0.5), 2.0 + 2.0 * (f64::from(i % 3) + 0.5)))
            .map(|(y, x)| 3.0 * (y - 0.5) - 2.0 * (x - 0.5))
            .collect();
        let want = Tensor::from_vec(want, (1, 3, 3, 1), &Device::Cpu)?;
        assert!(distance(&y, &want)? < F64_TOLERANCE);
    }
    Ok(())
}

/// Only the samples about the image are looked at: all 10^17 of these would take years.
#[test]
fn the_largest_boxes_take_no_longer() -> Result<()> {
    let x = uniform(&[1, 4, 4, 2], 1)?;
    let rois = [Roi { image: 0, corners: [-9e8, -9e8, 9e8, 9e8] }];
    for op in [roi_align, reference::roi_align] {
        let y: Vec<f64> = op(&x, &rois, 2, 1.0, 0)?.flatten_all()?.to_vec1()?;
        assert!(y.iter().all(|y| y.abs() < 1e-15), "{y:?}");
    }
    Ok(())
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let rois = boxes(60, [2, 40, 50], 1.0, false, 5);
    let run = || -> Result<[Vec<f32>; 2]> {
        let x = Var::from_tensor(&uniform(&[2, 40, 50, 48], 1)?.to_dtype(DType::F32)?)?;
        let y = roi_align(&x, &rois, 7, 1.0, 0)?;
        let grads = y.sqr()?.sum_all()?.backward()?;
        let gradient = grads.get(&x).expect("a gradient");
        Ok([y.flatten_all()?.to_vec1()?, gradient.flatten_all()?.to_vec1()?])
    };
    let on = |threads: usize| conditioned_threads::with_count(threads, || run().unwrap());
    let one = on(1);
    for threads in [2, 3, 8] {
        assert!(one == on(threads), "{threads} threads");
    }
    Ok(())
}

#[test]
fn half_precision_follows_the_definition() -> Result<()> {
    let rois = boxes(6, [2, 5, 6], 1.0, false, 6);
    let x = uniform(&[2, 5, 6, 3], 1)?;
    let want = roi_align(&x, &rois, 2, 1.0, 0)?;
    for dtype in [DType::BF16, DType::F16] {
        let x = Var::from_tensor(&x.to_dtype(dtype)?)?;
        let y = roi_align(&x, &rois, 2, 1.0, 0)?;
        assert_eq!(y.dtype(), dtype);
        assert!(distance(&y, &want)? < HALF_TOLERANCE);
        let grads = y.sum_all()?.backward()?;
        assert_eq!(grads.get(&x).expect("a gradient").dtype(), dtype);
    }
    Ok(())
}

#[test]
fn no_channels_are_no_values() -> Result<()> {
    let x = uniform(&[1, 3, 3, 0], 1)?;
    let y = roi_align(&x, &boxes(2, [1, 3, 3], 1.0, false, 7), 2, 1.0, 0)?;
    assert_eq!(y.dims(), [2, 2, 2, 0]);
    Ok(())
}

#[test]
fn what_it_cannot_take_is_named() -> Result<()> {
    let x = uniform(&[2, 3, 4, 2], 1)?;
    let good = Roi { image: 1, corners: [0.0, 0.0, 2.0, 2.0] };
    let corners = |corner: f64| Roi { corners: [0.0, 1.0, corner, 2.0], ..good };
    let message = |x: &Tensor, rois: &[Roi], size: usize, scale: f64| {
        let message = roi_align(x, rois, size, scale, 0).unwrap_err().to_string();
        let definition = reference::roi_align(x, rois, size, scale, 0).unwrap_err().to_string();
        assert_eq!(message.lines().next(), definition.lines().next());
        message
    };
    assert!(message(&x, &[], 2, 1.0).contains("there are no RoIs"));
    assert!(message(&x, &[good], 0, 1.0).contains("size is 0"));
    let other = [good, Roi { image: 2, ..good }];
    assert!(message(&x, &other, 2, 1.0).contains("RoI 1 is of image 2 in a batch of 2"));
    for (corner, scale) in [(f64::NAN, 1.0), (f64::INFINITY, 0.5), (1e10, 1.0), (1.0, f64::NAN)] {
        let message = message(&x, &[good, good, corners(corner)], 2, scale);
        let named = if scale.is_nan() { "RoI 0" } else { "RoI 2" };
        assert!(message.contains(named) && message.contains("not finite"), "{message}");
    }
    for wrong in [x.reshape((6, 4, 2))?, uniform(&[2, 0, 4, 2], 1)?, x.to_dtype(DType::U32)?] {
        let message = message(&wrong, &[good], 2, 1.0);
        assert!(message.contains(&format!("{:?}", wrong.dims())), "{message}");
    }
    Ok(())
}
