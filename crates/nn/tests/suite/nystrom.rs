//! Attention by landmarks, against its definition and against exact attention.

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_nn::check::central_differences;
use conditioned_nn::{
    InverseScale, Layer, Mode, NystromAttention, Padding, Pass, Probe, Sequence, attention,
    reference,
};
use proptest::prelude::*;

use crate::{DIFFERENCE_TOLERANCE, F64_TOLERANCE, agree, distance, uniform, variable};

/// The pseudo-inverse multiplies some forty matrices: ten times the roundings of other layers.
const INVERSE_TOLERANCE: f64 = 1e-10;

fn apply<'a>(
    layer: impl Into<Box<dyn Layer>>,
    x: &Tensor,
    pass: impl Into<Pass<'a>>,
) -> Result<Tensor> {
    Sequence::new([layer.into()]).forward(x, pass)
}

fn padding(lengths: &[usize], tokens: usize) -> Result<Padding> {
    let row = |&length: &usize| (0..tokens).map(move |i| u8::from(i < length));
    let mask = lengths.iter().flat_map(row).collect();
    Padding::of(&Tensor::from_vec(mask, (lengths.len(), tokens), &Device::Cpu)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Fewer tokens than landmarks, as many, and numbers that they do not divide.
    #[test]
    fn nystrom_attention_equals_its_definition(
        b in 1usize..3, n in 1usize..40, m in 1usize..9, h in 1usize..4, d in 1usize..8,
        half in 0usize..4, batch in any::<bool>(),
    ) {
        let scale = if batch { InverseScale::Batch } else { InverseScale::Head };
        let qkv = variable(&[b, n, 3 * h * d], 1).unwrap();
        let weight = variable(&[h, 1, 2 * half + 1, 1], 2).unwrap();
        let layer = || NystromAttention::new(h, m).scale(scale);
        agree(
            &[qkv, weight],
            |v| apply(layer().convolution_from(v[1].clone()), &v[0], Mode::Eval),
            |v| reference::nystrom_attention(&v[0], h, m, scale, Some(&v[1]), None),
        ).unwrap();
    }

    #[test]
    fn padding_takes_part_in_nothing(
        lengths in prop::collection::vec(1usize..30, 1..4), more in 0usize..5, m in 1usize..6,
        batch in any::<bool>(),
    ) {
        let scale = if batch { InverseScale::Batch } else { InverseScale::Head };
        let tokens = lengths.iter().max().unwrap() + more;
        let padding = padding(&lengths, tokens).unwrap();
        let pass = Pass::from(Mode::Eval).padded(Some(&padding));
        let qkv = variable(&[lengths.len(), tokens, 12], 1).unwrap();
        let weight = variable(&[2, 1, 5, 1], 2).unwrap();
        let layer = || NystromAttention::new(2, m).scale(scale);
        agree(
            &[qkv.clone(), weight.clone()],
            |v| apply(layer().convolution_from(v[1].clone()), &v[0], pass),
            |v| reference::nystrom_attention(&v[0], 2, m, scale, Some(&v[1]), Some(&padding)),
        ).unwrap();
        // Alone a sequence has the same bits; unless its batch scales the pseudo-inverse.
        if scale == InverseScale::Head {
            let layer = || layer().convolution_from(weight.as_tensor().clone());
            let padded = apply(layer(), &qkv, pass).unwrap();
            for (i, &n) in lengths.iter().enumerate() {
                let real = |x: &Tensor| x.narrow(0, i, 1).unwrap().narrow(1, 0, n).unwrap();
                let alone = real(&qkv).contiguous().unwrap();
                let alone = apply(layer(), &alone, Mode::Eval).unwrap();
                prop_assert_eq!(distance(&real(&padded), &alone).unwrap(), 0.0);
            }
        }
    }
}

#[test]
fn gradients_equal_central_differences() -> Result<()> {
    let target = uniform(&[2, 11, 6], 9)?;
    let (qkv, weight) = (variable(&[2, 11, 18], 1)?, variable(&[2, 1, 3, 1], 2)?);
    for scale in [InverseScale::Head, InverseScale::Batch] {
        let worst = central_differences(&[qkv.clone(), weight.clone()], 24, || {
            let layer = NystromAttention::new(2, 4).scale(scale);
            let layer = layer.convolution_from(weight.as_tensor().clone());
            (apply(layer, &qkv, Mode::Eval)? - &target)?.sqr()?.sum_all()
        })?;
        assert!(worst.error < DIFFERENCE_TOLERANCE, "{scale:?}: {worst:?}");
    }
    Ok(())
}

/// Segments of equal tokens make landmarks of all tokens: F Z B is then softmax(s Q K^T) but for the error of the
/// pseudo-inverse, which six iterations bring to nothing where A is well-conditioned.
#[test]
fn landmarks_that_are_all_tokens_give_exact_attention() -> Result<()> {
    let (m, d) = (6, 6);
    // Queries that are keys, far apart: A is near the identity.
    let q = (Tensor::eye(m, DType::F64, &Device::Cpu)? * 4.0)?;
    let q = (q + uniform(&[m, d], 3)?)?;
    let qkv = Tensor::cat(&[&q, &q, &uniform(&[m, d], 4)?], 1)?;
    // Every token twice: the second of each pair adds nothing to the softmax but a factor of two.
    let twice = Tensor::stack(&[&qkv, &qkv], 1)?.reshape((1, 2 * m, 3 * d))?;
    let exact = attention(&twice, 1)?;
    let nystrom = apply(NystromAttention::new(1, m), &twice, Mode::Eval)?;
    let difference = distance(&exact, &nystrom)?;
    assert!(difference < 1e-3, "{difference}");
    let short = apply(NystromAttention::new(1, 2 * m), &twice, Mode::Eval)?;
    assert!(distance(&exact, &short)? < F64_TOLERANCE);
    Ok(())
}

/// What a probe sees makes the layer's output, but for the convolution.
#[test]
fn a_probe_sees_the_attention_that_landmarks_stand_for() -> Result<()> {
    let padding = padding(&[9, 4, 12], 12)?;
    let qkv = uniform(&[3, 12, 12], 1)?;
    let sequence = Sequence::new([NystromAttention::new(2, 5).into()]);
    let pass = Pass::from(Mode::Eval).padded(Some(&padding));
    let plain = sequence.forward(&qkv, pass)?;
    let probe = Probe::default();
    let probed = sequence.forward(&qkv, Pass { probe: Some(&probe), ..pass })?;
    assert_eq!(distance(&plain, &probed)?, 0.0);
    let seen = probe.take();
    let heads = &seen.layers[0].heads;
    let y = heads.attention.matmul(&heads.values)?.transpose(1, 2)?.reshape((3, 12, 4))?;
    assert!(distance(&y, &plain)? < INVERSE_TOLERANCE);
    Ok(())
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let run = |scale| -> Result<Vec<Vec<f32>>> {
        let single = |shape: &[usize], seed| -> Result<Var> {
            Var::from_tensor(&uniform(shape, seed)?.to_dtype(DType::F32)?)
        };
        let (qkv, weight) = (single(&[5, 300, 36], 1)?, single(&[3, 1, 7, 1], 2)?);
        let layer = NystromAttention::new(3, 16).scale(scale);
        let y = apply(layer.convolution_from(weight.as_tensor().clone()), &qkv, Mode::Eval)?;
        let grads = y.sqr()?.sum_all()?.backward()?;
        let values = |x: &Tensor| x.flatten_all()?.to_vec1();
        Ok(vec![
            values(&y)?,
            values(grads.get(&qkv).expect("a gradient"))?,
            values(grads.get(&weight).expect("a gradient"))?,
        ])
    };
    for scale in [InverseScale::Head, InverseScale::Batch] {
        let on = |threads: usize| conditioned_threads::with_count(threads, || run(scale).unwrap());
        let one = on(1);
        for threads in [2, 3, 8] {
            assert_eq!(one, on(threads), "{threads} threads");
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let x = uniform(&[1, 6, 12], 1)?;
    let even = || uniform(&[2, 1, 4, 1], 2);
    let cases: [(NystromAttention, &str); 4] = [
        (NystromAttention::new(3, 2), "three times 3 equal heads"),
        (NystromAttention::new(2, 0), "at least one landmark"),
        (NystromAttention::new(2, 2).convolution_from(even()?), "taps odd"),
        (NystromAttention::new(1, 2).convolution_from(uniform(&[2, 1, 3, 1], 2)?), "(1, 1, taps"),
    ];
    for (layer, expected) in cases {
        let message = apply(layer, &x, Mode::Eval).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    Ok(())
}
