//! The masked softmax against its definition, and what hidden entries must be.

use candle_core::{DType, Device, Result, Tensor};
use conditioned_nn::check::central_differences;
use conditioned_nn::{reference, softmax};
use proptest::prelude::*;

use crate::{DIFFERENCE_TOLERANCE, agree, uniform, variable};

/// A mask that shows about half of its entries.
fn mask(shape: &[usize], seed: u64) -> Result<Tensor> {
    uniform(shape, seed)?.ge(0.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn softmax_equals_its_definition(b in 1usize..4, n in 1usize..200, m in 1usize..90, scale in -3f64..3.0) {
        let x = variable(&[b, n, m], 1).unwrap();
        agree(
            &[x],
            |v| softmax(&v[0], scale, None),
            |v| reference::softmax(&v[0], scale, None),
        ).unwrap();
    }

    // Short rows: some see nothing.
    #[test]
    fn masked_softmax_equals_its_definition(
        b in 1usize..4, h in 1usize..3, n in 1usize..9, m in 1usize..40, shape in 0usize..5, seed: u64,
    ) {
        let x = variable(&[b, h, n, m], 1).unwrap();
        let shapes = [vec![b, h, n, m], vec![b, 1, 1, m], vec![1, h, n, m], vec![n, m], vec![m]];
        let mask = mask(&shapes[shape], seed).unwrap();
        agree(
            &[x],
            |v| softmax(&v[0], 2.5, Some(&mask)),
            |v| reference::softmax(&v[0], 2.5, Some(&mask)),
        ).unwrap();
    }

    #[test]
    fn softmax_of_strided_views(n in 2usize..20, m in 2usize..20) {
        let x = variable(&[m, n], 1).unwrap();
        let mask = mask(&[m, n], 2).unwrap();
        agree(
            &[x],
            |v| softmax(&v[0].t()?, 1.5, Some(&mask.t()?)),
            |v| reference::softmax(&v[0].t()?, 1.5, Some(&mask.t()?)),
        ).unwrap();
    }
}

#[test]
fn the_definition_is_candles_softmax_when_all_is_seen() -> Result<()> {
    let x = variable(&[3, 4, 7], 1)?;
    let all = Tensor::ones((4, 7), DType::U8, &Device::Cpu)?;
    agree(
        &[x],
        |v| softmax(&v[0], 0.7, Some(&all)),
        |v| candle_nn::ops::softmax(&(&v[0] * 0.7)?, 2),
    )
}

#[test]
fn gradients_equal_central_differences() -> Result<()> {
    let (x, r) = (variable(&[2, 3, 5], 1)?, uniform(&[2, 3, 5], 2)?);
    let mask = Tensor::new(&[[1u8, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], &Device::Cpu)?;
    for mask in [None, Some(&mask)] {
        for f in [softmax, reference::softmax] {
            let worst = central_differences(std::slice::from_ref(&x), 30, || {
                (f(&x, 1.7, mask)? * &r)?.sum_all()
            })?;
            assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
        }
    }
    Ok(())
}

#[test]
fn hidden_entries_are_zero_whatever_they_hold() -> Result<()> {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let x = Tensor::new(&[[0f32, nan, 1e30, 0.0], [inf, nan, -1e30, 1.0]], &Device::Cpu)?;
    let mask = Tensor::new(&[[1u8, 0, 0, 1], [0, 0, 0, 0]], &Device::Cpu)?;
    let y = softmax(&x, 1.0, Some(&mask))?;
    assert_eq!(y.to_vec2::<f32>()?, [[0.5, 0.0, 0.0, 0.5], [0.0; 4]]);
    // What is seen and not finite is not hidden.
    let y: Vec<Vec<f32>> = softmax(&x, 1.0, None)?.to_vec2()?;
    assert!(y.iter().flatten().any(|v| v.is_nan()));
    Ok(())
}

#[test]
fn large_scores_stay_finite() -> Result<()> {
    let x = (uniform(&[4, 9], 3)? * 1e6)?.to_dtype(DType::F32)?;
    for y in [softmax(&x, 10.0, None)?, softmax(&x, -10.0, Some(&mask(&[4, 9], 4)?))?] {
        assert!(y.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| v.is_finite()));
    }
    Ok(())
}

#[test]
fn a_mask_that_does_not_fit_is_named() -> Result<()> {
    let x = uniform(&[2, 3, 4], 1)?;
    for wrong in [mask(&[2, 3, 1], 1)?, mask(&[3, 1, 4], 1)?, uniform(&[4], 1)?] {
        let message = softmax(&x, 1.0, Some(&wrong)).unwrap_err().to_string();
        assert!(message.contains("does not fit [2, 3, 4]"), "{message}");
    }
    Ok(())
}
