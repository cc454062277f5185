//! Attention in windows and among channels, against the definitions; probes of all kinds.

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_nn::check::central_differences;
use conditioned_nn::{
    Attention, ChannelAttention, CrossCovarianceAttention, Layer, Linear, Mode, Padding, Pass,
    Probe, Sequence, WindowAttention, reference,
};
use proptest::prelude::*;

use crate::{
    DIFFERENCE_TOLERANCE, F32_TOLERANCE, F64_TOLERANCE, agree, distance, uniform, variable,
};

fn apply(layer: impl Into<Box<dyn Layer>>, x: &Tensor) -> Result<Tensor> {
    Sequence::new([layer.into()]).forward(x, Mode::Eval)
}

fn xca(v: &[Tensor]) -> Result<Tensor> {
    apply(CrossCovarianceAttention::from_tensor(v[1].clone())?, &v[0])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn window_attention_equals_its_definition(
        b in 1usize..3, rows in 1usize..4, columns in 1usize..4, w in 1usize..5, shift in 0usize..4,
        h in 1usize..4, d in 1usize..6,
    ) {
        let shift = shift % w;
        let qkv = variable(&[b, rows * w, columns * w, 3 * h * d], 1).unwrap();
        let table = variable(&[(2 * w - 1) * (2 * w - 1), h], 2).unwrap();
        agree(
            &[qkv.clone(), table],
            |v| apply(WindowAttention::from_tensor(v[1].clone(), h, w, shift), &v[0]),
            |v| reference::window_attention(&v[0], h, w, shift, Some(&v[1])),
        ).unwrap();
        agree(
            &[qkv],
            |v| apply(WindowAttention::new(h, w), &v[0]),
            |v| reference::window_attention(&v[0], h, w, 0, None),
        ).unwrap();
    }

    // From 4 tokens on: the norms of fewer can be so small that f32 input does not resolve them.
    #[test]
    fn cross_covariance_attention_equals_its_definition(
        b in 1usize..3, n in 4usize..40, h in 1usize..4, d in 1usize..8,
    ) {
        let (qkv, tau) = (variable(&[b, n, 3 * h * d], 1).unwrap(), variable(&[h, 1, 1], 2).unwrap());
        agree(&[qkv, tau], xca, |v| reference::cross_covariance_attention(&v[0], &v[1])).unwrap();
    }

    #[test]
    fn channel_attention_equals_its_definition(
        b in 1usize..3, height in 1usize..5, width in 1usize..5, h in 1usize..4, d in 1usize..8,
    ) {
        let qkv = variable(&[b, height, width, 3 * h * d], 1).unwrap();
        agree(
            &[qkv],
            |v| apply(ChannelAttention { heads: h }, &v[0]),
            |v| reference::channel_attention(&v[0], h),
        ).unwrap();
    }
}

#[test]
fn gradients_equal_central_differences() -> Result<()> {
    let target = uniform(&[2, 4, 6, 6], 9)?;
    let qkv = variable(&[2, 4, 6, 18], 1)?;
    let loss = |y: Tensor| (y - &target)?.sqr()?.sum_all();
    let table = variable(&[9, 2], 2)?;
    let worst = central_differences(&[qkv.clone(), table.clone()], 12, || {
        let layer = WindowAttention::from_tensor(table.as_tensor().clone(), 2, 2, 1);
        loss(apply(layer, &qkv)?)
    })?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "window attention: {worst:?}");
    let tau = variable(&[2, 1, 1], 3)?;
    let worst = central_differences(&[qkv.clone(), tau.clone()], 12, || {
        loss(xca(&[qkv.as_tensor().clone(), tau.as_tensor().clone()])?)
    })?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "cross-covariance attention: {worst:?}");
    let worst = central_differences(std::slice::from_ref(&qkv), 12, || {
        loss(apply(ChannelAttention { heads: 2 }, &qkv)?)
    })?;
    assert!(worst.error < DIFFERENCE_TOLERANCE, "channel attention: {worst:?}");
    Ok(())
}

/// Shifted windows see neighbours only: a token changes nothing beyond the tokens near it, although the
/// rolled image puts the last rows beside the first.
#[test]
fn a_shifted_window_does_not_reach_round_the_image() -> Result<()> {
    let x = uniform(&[1, 8, 8, 12], 1)?;
    let layer = || WindowAttention::from_tensor(uniform(&[49, 2], 2).unwrap(), 2, 4, 2);
    let before = apply(layer(), &x)?;
    let changed = Tensor::cat(&[&(x.narrow(1, 0, 1)? + 1.0)?, &x.narrow(1, 1, 7)?], 1)?;
    let moved = (apply(layer(), &changed)? - before)?.abs()?.sum((2, 3))?.to_vec2::<f64>()?;
    assert!(moved[0][..2].iter().all(|d| *d > 1e-3), "{moved:?}");
    // -100 in the exponent is 4e-44: nothing in f64 beside one.
    assert!(moved[0][2..].iter().all(|d| *d == 0.0), "{moved:?}");
    Ok(())
}

#[test]
fn columns_of_zeros_have_a_finite_gradient() -> Result<()> {
    let x = variable(&[1, 5, 12], 1)?;
    let zeros = Tensor::zeros((1, 5, 2), DType::F64, &Device::Cpu)?;
    let qkv = Tensor::cat(&[&zeros, &x.narrow(2, 2, 10)?], 2)?;
    let qkv = Var::from_tensor(&qkv)?;
    let tau = Tensor::ones((2, 1, 1), DType::F64, &Device::Cpu)?;
    let kernel = xca(&[qkv.as_tensor().clone(), tau.clone()])?;
    let definition = reference::cross_covariance_attention(qkv.as_tensor(), &tau)?;
    for y in [kernel, definition] {
        let grads = y.sqr()?.sum_all()?.backward()?;
        let values: Vec<f64> = grads.get(&qkv).expect("a gradient").flatten_all()?.to_vec1()?;
        assert!(values.iter().all(|v| v.is_finite()));
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_named() -> Result<()> {
    let x = uniform(&[1, 6, 6, 12], 1)?;
    let table = || uniform(&[49, 2], 2);
    let cases: [(Box<dyn Layer>, &str); 5] = [
        (WindowAttention::new(2, 4).into(), "do not tile 6 x 6"),
        (WindowAttention::new(3, 2).into(), "three times 3 equal heads"),
        (WindowAttention::from_tensor(table()?, 2, 3, 1).into(), "a bias table [49, 2]"),
        (ChannelAttention { heads: 5 }.into(), "channel-attention"),
        (
            CrossCovarianceAttention::from_tensor(uniform(&[3, 1, 1], 1)?)?.into(),
            "three times 3 equal heads",
        ),
    ];
    for (layer, expected) in cases {
        let message = apply(layer, &x).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    Ok(())
}

/// A pass with a probe has the bits of one without; what the probe saw makes the layer's output.
#[test]
fn a_probe_sees_every_kind_of_attention_and_changes_no_bit() -> Result<()> {
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], &Device::Cpu)?;
    let padding = Padding::of(&mask)?;
    let (tokens, image) = (uniform(&[2, 6, 12], 1)?, uniform(&[2, 4, 4, 12], 2)?);
    let tau = uniform(&[2, 1, 1], 3)?;
    let bias = uniform(&[9, 2], 4)?;
    let kinds = [
        (Box::<dyn Layer>::from(Attention { heads: 2, causal: true }), &tokens, None, false),
        (Attention { heads: 2, causal: false }.into(), &tokens, Some(&padding), false),
        (WindowAttention::from_tensor(bias, 2, 2, 1).into(), &image, None, false),
        (CrossCovarianceAttention::from_tensor(tau)?.into(), &tokens, None, true),
        (ChannelAttention { heads: 2 }.into(), &image, None, true),
    ];
    for (layer, x, padding, among_channels) in kinds {
        let name = layer.name();
        let proj = |seed, outputs| -> Result<Box<dyn Layer>> {
            Ok(Linear::new(uniform(&[outputs, 12], seed)?, None).into())
        };
        let sequence = Sequence::residual([proj(5, 36)?, layer, proj(6, 12)?]);
        let pass = Pass { padding, ..Mode::Eval.into() };
        let plain = sequence.forward(x, pass)?;
        let probe = Probe::default();
        let probed = sequence.forward(x, Pass { probe: Some(&probe), ..pass })?;
        assert_eq!(distance(&plain, &probed)?, 0.0, "{name}");
        let seen = probe.take().layers;
        assert_eq!(seen.len(), 1, "{name}");
        assert_eq!(distance(&seen[0].tokens, x)?, 0.0, "{name}");
        // The output from what was seen; among channels it is (columns) P^T.
        let conditioned_nn::Heads { queries, values, attention, .. } = &seen[0].heads;
        let y = match (among_channels, name) {
            (false, _) => attention.matmul(values)?,
            (true, "channel-attention") => queries.matmul(&attention.t()?)?,
            (true, _) => values.matmul(&attention.t()?)?,
        };
        if name != "window-attention" {
            let y = y.transpose(1, 2)?.contiguous()?.reshape(seen[0].output.shape())?;
            assert!(distance(&y, &seen[0].output)? < F64_TOLERANCE, "{name}");
        }
        let sums = attention.sum(3)?.flatten_all()?.to_vec1::<f64>()?;
        assert!(
            sums.iter().all(|sum| (sum - 1.0).abs() < F32_TOLERANCE || padding.is_some()),
            "{name}"
        );
        assert!(probe.take().layers.is_empty());
    }
    Ok(())
}

/// Enough windows for several pieces, and several images.
#[test]
fn bits_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let run = || -> Result<Vec<Vec<f32>>> {
        let single = |shape: &[usize], seed| -> Result<Var> {
            Var::from_tensor(&uniform(shape, seed)?.to_dtype(DType::F32)?)
        };
        let qkv = single(&[3, 20, 24, 36], 1)?;
        let (table, tau) = (single(&[49, 3], 2)?, single(&[3, 1, 1], 3)?);
        let layers: [Box<dyn Layer>; 3] = [
            WindowAttention::from_tensor(table.as_tensor().clone(), 3, 4, 2).into(),
            CrossCovarianceAttention::from_tensor(tau.as_tensor().clone())?.into(),
            ChannelAttention { heads: 3 }.into(),
        ];
        let mut out = Vec::new();
        for layer in layers {
            let y = Sequence::new([layer]).forward(&qkv, Mode::Eval)?;
            let grads = y.sqr()?.sum_all()?.backward()?;
            out.push(y.flatten_all()?.to_vec1()?);
            for var in [&qkv, &table, &tau] {
                if let Some(grad) = grads.get(var) {
                    out.push(grad.flatten_all()?.to_vec1()?);
                }
            }
        }
        assert_eq!(out.len(), 3 + 3 + 2);
        Ok(out)
    };
    let on = |threads: usize| conditioned_threads::with_count(threads, || run().unwrap());
    let one = on(1);
    for threads in [2, 3, 8] {
        assert_eq!(one, on(threads), "{threads} threads");
    }
    Ok(())
}
