//! Nystromformers: padding, places, pairs, and settings that contradict each other.

use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use conditioned_models::nystromformer::{LongAttention, NystromformerConfig, Sequences};
use conditioned_models::nystromformer_heads::NystromformerClassifier;
use conditioned_nn::{InverseScale, Mode, Store};

use crate::bert::shake;
use crate::distance;

fn tiny() -> NystromformerConfig {
    NystromformerConfig::preset("nystromformer-tiny").unwrap()
}

fn ids(rows: usize, tokens: usize) -> Result<Tensor> {
    let ids = (0..rows * tokens).map(|i| 1 + (i * i + 5 * i) as u32 % 16).collect();
    Tensor::from_vec(ids, (rows, tokens), &Device::Cpu)
}

/// B sequences of these lengths: the first tokens of the rows of `ids`, zeros behind them.
fn padded(ids: &Tensor, lengths: &[usize]) -> Result<Sequences> {
    let n = ids.dim(1)?;
    let row = |&length: &usize| (0..n).map(move |i| u8::from(i < length));
    let mask: Vec<u8> = lengths.iter().flat_map(row).collect();
    let mask = Tensor::from_vec(mask, (lengths.len(), n), &Device::Cpu)?;
    Sequences::padded((ids * mask.to_dtype(DType::U32)?)?, None, &mask)
}

fn classifier(config: &NystromformerConfig, pairs: bool) -> Result<NystromformerClassifier> {
    let store = Store::new(3, DType::F32, &Device::Cpu);
    let model = NystromformerClassifier::new(config, 3, pairs, store.builder())?;
    shake(&store)?;
    Ok(model)
}

/// Exact and through landmarks, plain and with each sequence conditioned: what is done to a sequence depends neither
/// on the others nor on what padding holds, and alone it is the same: to the last bit.
#[test]
fn padding_and_the_rest_of_a_batch_do_not_change_a_bit() -> Result<()> {
    let lengths = [20, 7, 2, 13];
    let all = ids(4, 20)?;
    // Other sequences of other lengths around sequence i, and padding that is no zero.
    let other = |i: usize| -> Result<Sequences> {
        let rows = (0..4).map(|j| {
            let row = all.narrow(0, j, 1)?;
            let n = if i == j { lengths[j] } else { 20 - lengths[j] / 2 };
            let kept = row.narrow(1, 0, n)?;
            let kept = if i == j { kept } else { kept.flip(&[1])? };
            let padding = Tensor::full(5u32, (1, 20 - n), &Device::Cpu)?;
            let mask = Tensor::cat(
                &[
                    Tensor::ones((1, n), DType::U8, &Device::Cpu)?,
                    padding.zeros_like()?.to_dtype(DType::U8)?,
                ],
                1,
            )?;
            Ok((Tensor::cat(&[kept, padding], 1)?, mask))
        });
        let (ids, masks): (Vec<_>, Vec<_>) = rows.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Sequences::padded(Tensor::cat(&ids, 0)?, None, &Tensor::cat(&masks, 0)?)
    };
    for attention in [tiny().attention, LongAttention::Softmax] {
        for method in [Method::None, Method::per_sequence(1.0)?] {
            let conditioning = ConditioningConfig::from(method);
            let config = NystromformerConfig { attention, conditioning, ..tiny() };
            let model = classifier(&config, false)?;
            let batch = padded(&all, &lengths)?;
            let hidden = model.nystromformer().hidden(&batch, Mode::Eval)?;
            let logits = model.logits(&batch, Mode::Eval)?;
            for (i, &n) in lengths.iter().enumerate() {
                let what = format!("{attention:?} {method:?} {n}");
                let real = |x: &Tensor| x.narrow(0, i, 1)?.narrow(1, 0, n)?.contiguous();
                let (other, row) = (other(i)?, |x: Tensor| x.narrow(0, i, 1));
                let again = model.nystromformer().hidden(&other, Mode::Eval)?;
                assert_eq!(distance(&real(&hidden)?, &real(&again)?)?, 0.0, "{what}");
                let again = row(model.logits(&other, Mode::Eval)?)?;
                assert_eq!(distance(&row(logits.clone())?, &again)?, 0.0, "{what}");
                let alone = model.logits(&Sequences::new(real(&all)?), Mode::Eval)?;
                assert_eq!(distance(&row(logits.clone())?, &alone)?, 0.0, "{what} alone");
            }
        }
    }
    Ok(())
}

/// Sums over tokens are taken in blocks of 512: padding across the end of one changes no bit either.
#[test]
fn long_sequences_have_the_same_bits_alone_and_padded() -> Result<()> {
    let lengths = [1500, 700, 513];
    let all = ids(3, 1500)?;
    for attention in [tiny().attention, LongAttention::Softmax] {
        for method in [Method::None, Method::per_sequence(1.0)?] {
            let conditioning = ConditioningConfig::from(method);
            let config = NystromformerConfig { attention, conditioning, context: 1500, ..tiny() };
            let model = classifier(&config, false)?;
            let logits = model.logits(&padded(&all, &lengths)?, Mode::Eval)?;
            for (i, &n) in lengths.iter().enumerate() {
                let own = all.narrow(0, i, 1)?.narrow(1, 0, n)?.contiguous()?;
                let alone = model.logits(&Sequences::new(own), Mode::Eval)?;
                let d = distance(&logits.narrow(0, i, 1)?, &alone)?;
                assert_eq!(d, 0.0, "{attention:?} {method:?} {n}");
            }
        }
    }
    Ok(())
}

/// Tokens that keep their places: in their own order they are the same sequence, elsewhere they are another.
#[test]
fn places_are_those_that_are_given() -> Result<()> {
    let model = classifier(&tiny(), false)?;
    let ids = ids(2, 9)?;
    let at = |from: u32| -> Result<Tensor> {
        let row = Tensor::arange(from, from + 9, &Device::Cpu)?;
        let positions = Tensor::stack(&[&row, &row], 0)?;
        let input = Sequences { positions: Some(positions), ..Sequences::new(ids.clone()) };
        model.logits(&input, Mode::Eval)
    };
    let plain = model.logits(&Sequences::new(ids.clone()), Mode::Eval)?;
    assert_eq!(distance(&plain, &at(0)?)?, 0.0);
    assert!(distance(&plain, &at(4)?)? > 1e-4);
    let error = at(16).unwrap_err().to_string();
    assert!(error.contains("24"), "{error}");
    Ok(())
}

#[test]
fn a_pair_is_read_in_its_order() -> Result<()> {
    let model = classifier(&tiny(), true)?;
    let (a, b) = (ids(2, 9)?, ids(2, 9)?.flip(&[1])?);
    let logits = |first: &Tensor, second: &Tensor| {
        model.logits(&Sequences::new(Tensor::cat(&[first, second], 0)?), Mode::Eval)
    };
    assert_eq!(logits(&a, &b)?.dims(), [2, 3]);
    assert!(distance(&logits(&a, &b)?, &logits(&b, &a)?)? > 1e-4);
    let odd = model.logits(&Sequences::new(ids(3, 9)?), Mode::Eval).unwrap_err().to_string();
    assert!(odd.contains("3 sequences are no pairs"), "{odd}");
    Ok(())
}

#[test]
fn settings_that_contradict_each_other_are_named() -> Result<()> {
    let nystrom = |landmarks, convolution| LongAttention::Nystrom {
        landmarks,
        convolution,
        scale: InverseScale::Head,
    };
    let with = |attention| NystromformerConfig { attention, ..tiny() };
    for (config, expected) in [
        (with(nystrom(0, 5)), "landmarks must be at least 1"),
        (with(nystrom(3, 4)), "convolution 4 must be odd"),
        (NystromformerConfig { dropout: 1.0, ..tiny() }, "dropout 1"),
        (NystromformerConfig { heads: 5, ..tiny() }, "5 heads"),
    ] {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("nystromformer: ") && error.contains(expected), "{error}");
    }
    let long = classifier(&tiny(), false)?.logits(&Sequences::new(ids(1, 25)?), Mode::Eval);
    let error = long.unwrap_err().to_string();
    assert!(error.contains("25 tokens is longer than the position table"), "{error}");
    let ids = ids(2, 4)?;
    let mask = Tensor::ones((2, 3), DType::U8, &Device::Cpu)?;
    let error = Sequences::padded(ids, None, &mask).unwrap_err().to_string();
    assert!(error.contains("one shape"), "{error}");
    Ok(())
}
