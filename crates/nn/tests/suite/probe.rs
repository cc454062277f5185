//! What a probe hands out of the layers in front of attention: their output, and the weight of the values.

use candle_core::{DType, Device, Module, Result, Tensor};
use conditioned_nn::{
    Among, Attention, ChannelAttention, CrossCovarianceAttention, Layer, LayerNorm, Linear, Mode,
    NystromAttention, Padding, Pass, Probe, Probed, Sequence, Store, WindowAttention,
};

use crate::{F64_TOLERANCE, distance, uniform};

/// Width, heads.
const C: usize = 12;
const H: usize = 3;

/// What the only attention of a sequence shows for `x`.
fn probed(layers: Vec<Box<dyn Layer>>, x: &Tensor, padding: Option<&Padding>) -> Result<Probed> {
    let probe = Probe::default();
    Sequence::new(layers).forward(x, Pass { padding, ..Pass::probed(&probe) })?;
    let mut seen = probe.take();
    assert!(seen.conditioning.is_none(), "no layer here conditions tokens");
    assert_eq!(seen.layers.len(), 1);
    Ok(seen.layers.remove(0))
}

fn norm() -> Result<LayerNorm> {
    Ok(LayerNorm::from_tensors(uniform(&[C], 1)?, uniform(&[C], 2)?, 1e-6))
}

/// A projection to queries, keys and values, with its last third as (C, C) and (C,).
fn qkv() -> Result<(Linear, Tensor, Tensor)> {
    let (weight, bias) = (uniform(&[3 * C, C], 3)?, uniform(&[3 * C], 4)?);
    let (w_v, b_v) = (weight.narrow(0, 2 * C, C)?.t()?.contiguous()?, bias.narrow(0, 2 * C, C)?);
    Ok((Linear::new(weight, Some(bias)), w_v, b_v))
}

fn proj() -> Result<Linear> {
    Ok(Linear::new(uniform(&[C, C], 5)?, Some(uniform(&[C], 6)?)))
}

/// (B, N, C) -> (B, H, N, D).
fn by_head(x: &Tensor) -> Result<Tensor> {
    let (b, n, c) = x.dims3()?;
    x.reshape((b, n, H, c / H))?.transpose(1, 2)?.contiguous()
}

#[test]
fn values_are_the_normal_input_times_their_weight() -> Result<()> {
    let x = uniform(&[2, 7, C], 7)?;
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]], &Device::Cpu)?;
    let padding = Padding::of(&mask)?;
    let kinds = [
        (Box::<dyn Layer>::from(Attention { heads: H, causal: false }), None),
        (Attention { heads: H, causal: false }.into(), Some(&padding)),
        (Attention { heads: H, causal: true }.into(), None),
        (NystromAttention::new(H, 3).into(), None),
    ];
    for (attention, padding) in kinds {
        let (qkv, w_v, b_v) = qkv()?;
        let layers = vec![norm()?.into(), qkv.into(), attention, proj()?.into()];
        let Probed { tokens, input, value_weight, heads, output } = probed(layers, &x, padding)?;
        assert_eq!(heads.among, Among::Tokens);
        assert_eq!(distance(&tokens, &x)?, 0.0);
        assert_eq!(distance(&input, &norm()?.forward(&x)?)?, 0.0, "the output of the norm");
        let found = value_weight.expect("a sum over all tokens");
        assert!(distance(&found, &w_v)? < F64_TOLERANCE);
        let values = input.broadcast_matmul(&found)?.broadcast_add(&b_v)?;
        assert!(distance(&heads.values, &by_head(&values)?)? < F64_TOLERANCE);
        assert_eq!(output.dims(), x.dims());
    }
    Ok(())
}

/// GPT-2 stores W^T, others have no bias: the weight is read off what the layer does.
#[test]
fn the_weight_of_the_values_is_found_however_it_is_stored() -> Result<()> {
    let x = uniform(&[1, 6, C], 7)?;
    let store = Store::new(0, DType::F64, &Device::Cpu);
    let transposed = Linear::conv1d(store.builder(), C, 3 * C, 1.0)?;
    let weight = transposed.weight().narrow(1, 2 * C, C)?;
    let (with_bias, w_v, _) = qkv()?;
    let plain = Linear::new(with_bias.weight().clone(), None);
    for (layer, wanted) in [(transposed, weight), (plain, w_v)] {
        let attention = Attention { heads: H, causal: true };
        let seen = probed(vec![layer.into(), attention.into()], &x, None)?;
        // Without a norm the input is the tokens themselves.
        assert_eq!(distance(&seen.input, &x)?, 0.0);
        assert!(distance(&seen.value_weight.expect("a weight"), &wanted)? < F64_TOLERANCE);
    }
    // Of a model in f32 it is f32.
    let single = |x: &Tensor| x.to_dtype(DType::F32);
    let (layer, w_v, _) = qkv()?;
    let bias = single(&uniform(&[3 * C], 4)?)?;
    let layer = Linear::new(single(layer.weight())?, Some(bias));
    let attention = Attention { heads: H, causal: false };
    let seen = probed(vec![layer.into(), attention.into()], &single(&x)?, None)?;
    let found = seen.value_weight.expect("a weight");
    assert_eq!(found.dtype(), DType::F32);
    assert!(distance(&found, &w_v)? < BIASED);
    Ok(())
}

/// A weight below 1 comes and goes on a bias below 1: two roundings of f32 to 6e-8 of at most 2.
const BIASED: f64 = 3e-7;

#[test]
fn attention_in_windows_and_among_channels_has_no_such_weight() -> Result<()> {
    let (tokens, image) = (uniform(&[2, 6, C], 7)?, uniform(&[2, 4, 4, C], 8)?);
    let tau = uniform(&[H, 1, 1], 9)?;
    let kinds: [(Box<dyn Layer>, &Tensor, Among); 3] = [
        (WindowAttention::new(H, 2).into(), &image, Among::Windows),
        (CrossCovarianceAttention::from_tensor(tau)?.into(), &tokens, Among::Channels),
        (ChannelAttention { heads: H }.into(), &image, Among::Channels),
    ];
    for (attention, x, among) in kinds {
        let name = attention.name();
        let (qkv, ..) = qkv()?;
        let layers = vec![norm()?.into(), qkv.into(), attention, proj()?.into()];
        let seen = probed(layers, x, None)?;
        assert_eq!(seen.heads.among, among, "{name}");
        assert!(seen.value_weight.is_none(), "{name}");
        assert_eq!(distance(&seen.tokens, x)?, 0.0, "{name}");
        assert_eq!(distance(&seen.input, &norm()?.forward(x)?)?, 0.0, "{name}");
        // What values are summed with: (N, N) of a window, (D, D) of channels.
        let (heads, rows, columns) = match among {
            Among::Windows => (2 * 4, 4, 4),
            _ => (2, C / H, C / H),
        };
        assert_eq!(seen.heads.attention.dims(), [heads, H, rows, columns], "{name}");
    }
    Ok(())
}

/// Attention that nothing stands in front of is given queries, keys and values: there is no input to make them of.
#[test]
fn packed_queries_keys_and_values_are_their_own_input() -> Result<()> {
    let x = uniform(&[2, 5, 3 * C], 7)?;
    let seen = probed(vec![Attention { heads: H, causal: false }.into()], &x, None)?;
    assert_eq!(distance(&seen.input, &x)?, 0.0);
    assert!(seen.value_weight.is_none());
    // In training nobody looks on.
    let probe = Probe::default();
    let pass = Pass { mode: Mode::train(1, 1), ..Pass::probed(&probe) };
    let layer = Sequence::new([Attention { heads: H, causal: false }.into()]);
    let error = layer.forward(&x, pass).unwrap_err().to_string();
    assert!(error.contains("looks on to evaluations"), "{error}");
    assert!(probe.take().layers.is_empty());
    Ok(())
}
