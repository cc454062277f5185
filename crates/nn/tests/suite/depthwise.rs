//! The depthwise convolution against its definition and against candle's convolution.

use candle_core::{Module, Result, Tensor};
use conditioned_nn::check::central_differences;
use conditioned_nn::{DepthwiseConv2d, reference};
use proptest::prelude::*;

use crate::{DIFFERENCE_TOLERANCE, F64_TOLERANCE, agree, distance, uniform, variable};

fn conv2d(v: &[Tensor]) -> Result<Tensor> {
    DepthwiseConv2d::from_tensors(v[1].clone(), v[2].clone()).forward(&v[0])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // Images smaller than the taps, and channels around a multiple of a vector.
    #[test]
    fn conv2d_equals_its_definition(
        b in 1usize..4, h in 1usize..8, w in 1usize..8, c in 1usize..40, half in 0usize..4,
    ) {
        let k = 2 * half + 1;
        let x = variable(&[b, h, w, c], 1).unwrap();
        let (weight, bias) =
            (variable(&[c, 1, k, k], 2).unwrap(), variable(&[c], 3).unwrap());
        agree(
            &[x, weight, bias],
            conv2d,
            |v| reference::depthwise2d(&v[0], &v[1], &v[2]),
        ).unwrap();
    }
}

#[test]
fn strided_views_are_read_as_they_are_seen() -> Result<()> {
    let x = variable(&[2, 10, 3, 4], 1)?;
    let (weight, bias) = (variable(&[10, 1, 3, 3], 2)?, variable(&[10], 3)?);
    let seen = |v: &[Tensor]| -> Result<[Tensor; 3]> {
        Ok([v[0].permute((0, 2, 3, 1))?, v[1].transpose(2, 3)?, v[2].clone()])
    };
    agree(
        &[x, weight, bias],
        |v| conv2d(&seen(v)?),
        |v| {
            let [x, w, bias] = seen(v)?;
            reference::depthwise2d(&x, &w, &bias)
        },
    )
}

#[test]
fn values_are_those_of_candles_convolution() -> Result<()> {
    let (x, w, b) = (uniform(&[2, 4, 5, 6], 1)?, uniform(&[6, 1, 3, 3], 2)?, uniform(&[6], 3)?);
    let images = x.permute((0, 3, 1, 2))?.contiguous()?;
    let expected = images.conv2d(&w, 1, 1, 1, 6)?.broadcast_add(&b.reshape((1, 6, 1, 1))?)?;
    let expected = expected.permute((0, 2, 3, 1))?;
    assert!(distance(&conv2d(&[x, w, b])?, &expected)? < F64_TOLERANCE);
    Ok(())
}

#[test]
fn gradients_equal_central_differences() -> Result<()> {
    let v = [variable(&[2, 3, 4, 3], 1)?, variable(&[3, 1, 3, 3], 2)?, variable(&[3], 3)?];
    let r = uniform(&[2, 3, 4, 3], 4)?;
    let worst = central_differences(&v, 64, || {
        (conv2d(&v.each_ref().map(|v| v.as_tensor().clone()))? * &r)?.sum_all()
    })?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "{worst:?}");
    Ok(())
}

#[test]
fn a_constant_gets_no_gradient() -> Result<()> {
    let v = [variable(&[2, 2, 3, 3], 1)?, variable(&[3, 1, 3, 3], 2)?, variable(&[3], 3)?];
    for constant in 0..3 {
        let mut inputs = v.each_ref().map(|v| v.as_tensor().clone());
        inputs[constant] = inputs[constant].detach();
        let grads = conv2d(&inputs)?.sum_all()?.backward()?;
        for (i, input) in inputs.iter().enumerate() {
            assert_eq!(grads.get(input).is_some(), i != constant);
        }
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_named() -> Result<()> {
    let (x, bias) = (uniform(&[2, 2, 3, 3], 1)?, uniform(&[3], 2)?);
    let odd = uniform(&[3, 1, 3, 3], 3)?;
    let wrong = [
        [x.reshape((2, 6, 3))?, odd.clone(), bias.clone()],
        [x.clone(), uniform(&[3, 1, 2, 2], 3)?, bias.clone()],
        [x.clone(), uniform(&[3, 1, 3, 5], 3)?, bias],
        [x, odd, uniform(&[1], 2)?],
    ];
    for inputs in &wrong {
        let message = conv2d(inputs).unwrap_err().to_string();
        let input = format!("{:?}", inputs[0].dims());
        assert!(message.contains(&input) && message.contains("not fit"), "{message}");
    }
    Ok(())
}
