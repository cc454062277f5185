//! The control arms.

use candle_conditioning::{Conditioner, Error, NormMatched, Standardise};
use candle_core::{DType, Device, IndexOp, Tensor};

use crate::support::*;

fn norm(x: &Tensor) -> f64 {
    values(x).iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn norm_matched_has_the_norm_of_the_conditioned_and_the_direction_of_x() {
    let x = normal(1, &[3, 6, 4]);
    let conditioner = Conditioner::default().with_strength(0.7).unwrap();
    let (y, z) =
        (conditioner.forward(&x).unwrap(), NormMatched::new(conditioner).forward(&x).unwrap());
    for b in 0..3 {
        let (x, y, z) = (x.get(b).unwrap(), y.get(b).unwrap(), z.get(b).unwrap());
        assert_close(&[norm(&z)], &[norm(&y)], EXACT, norm(&y));
        let f = norm(&y) / norm(&x);
        assert_close(&values(&z), &values(&(x * f).unwrap()), EXACT, norm(&y));
    }
}

#[test]
fn norm_matched_leaves_zero_tokens_and_strength_zero_alone() {
    let zero = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(bits(&NormMatched::default().forward(&zero).unwrap()), bits(&zero));
    let off = NormMatched::new(Conditioner::default().with_strength(0.0).unwrap());
    let x = normal(2, &[3, 4]);
    assert_eq!(bits(&off.forward(&x).unwrap()), bits(&x));
}

#[test]
fn standardised_channels_have_mean_zero_and_variance_one() {
    let x = normal(3, &[4, 50, 3]).affine(5.0, 2.0).unwrap();
    let y = Standardise::new(3).unwrap().forward_train(&x).unwrap();
    for channel in 0..3 {
        let y = values(&y.i((.., .., channel)).unwrap());
        let mean = y.iter().sum::<f64>() / 200.0;
        let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 200.0;
        // The variance of the tokens is about 25: eps = 1e-5 is missing from it.
        assert_close(&[mean, variance], &[0.0, 1.0], 1e-6, 1.0);
    }
}

#[test]
fn running_statistics_are_those_of_batch_normalisation() {
    let layer = Standardise::new(1).unwrap();
    let column = |v: &[f64]| Tensor::from_slice(v, (v.len(), 1), &Device::Cpu).unwrap();
    let x = column(&[1.0, 2.0, 6.0]);
    assert_eq!(bits(&layer.forward(&x).unwrap()), bits(&x));
    layer.observe(&x).unwrap();
    layer.observe(&column(&[5.0, 7.0])).unwrap();
    let state: Vec<f64> = layer.named_tensors().iter().flat_map(|(_, t)| values(t)).collect();
    // Means 3 and 6; unbiased variances 7 and 2.
    assert_close(&state, &[3.3, 6.5, 2.0], EXACT, 1.0);
    let y = values(&layer.forward(&x).unwrap());
    let deviation = (6.5f64 + 1e-5).sqrt();
    assert_close(&y, &[-2.3 / deviation, -1.3 / deviation, 2.7 / deviation], EXACT, 1.0);
}

#[test]
fn standardisation_leaves_padding_out_and_alone() {
    let mut entries = normal_values(4, 10);
    (entries[8], entries[9]) = (f64::NAN, f64::INFINITY);
    let x = Tensor::from_vec(entries, (1, 5, 2), &Device::Cpu).unwrap();
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 0]], &Device::Cpu).unwrap();
    let real = x.narrow(1, 0, 4).unwrap();
    let layer = Standardise::new(2).unwrap();
    let y = layer.forward_train_masked(&x, &mask).unwrap();
    let wanted = values(&layer.forward_train(&real).unwrap());
    assert_close(&values(&y.narrow(1, 0, 4).unwrap()), &wanted, EXACT, 1.0);
    assert_eq!(bits(&y.narrow(1, 4, 1).unwrap()), bits(&x.narrow(1, 4, 1).unwrap()));
    layer.observe_masked(&x, &mask).unwrap();
    let evaluated = values(&layer.forward_masked(&x, &mask).unwrap().narrow(1, 0, 4).unwrap());
    assert!(evaluated.iter().all(|v| v.is_finite()));
    assert!(matches!(layer.observe(&x), Err(Error::Statistic { .. })));
    assert!(matches!(
        layer.forward_train_masked(&x, &mask.zeros_like().unwrap()),
        Err(Error::NoTokens)
    ));
}

#[test]
fn the_batches_of_a_step_move_the_standardisation_once() {
    let (one, two) = (Standardise::new(2).unwrap(), Standardise::new(2).unwrap());
    let values_of = |layer: &Standardise| -> Vec<f64> {
        layer.named_tensors().iter().flat_map(|(_, tensor)| values(tensor)).collect()
    };
    let (first, x) = (normal(7, &[5, 2]), normal(8, &[3, 4, 2]));
    let mask = Tensor::new(&[[1u8, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], &Device::Cpu).unwrap();
    for layer in [&one, &two] {
        layer.observe(&first).unwrap();
    }
    let before = values_of(&two);
    one.observe_masked(&x, &mask).unwrap();
    two.collect(&x.narrow(0, 0, 1).unwrap()).unwrap();
    two.collect_masked(&x.narrow(0, 1, 2).unwrap(), &mask.narrow(0, 1, 2).unwrap()).unwrap();
    assert_eq!(values_of(&two), before, "the averages stand still within a step");
    two.commit().unwrap();
    assert_close(&values_of(&two), &values_of(&one), EXACT, 1.0);

    let after = values_of(&two);
    two.collect(&first).unwrap();
    two.discard();
    two.commit().unwrap();
    assert_eq!(values_of(&two), after, "nothing is left to observe");
}

#[test]
fn standardisation_state_is_shared_and_frozen_like_the_pooled_one() {
    let layer = Standardise::new(2).unwrap();
    let detached: Vec<Tensor> =
        layer.named_tensors().iter().map(|(_, tensor)| tensor.detach()).collect();
    let [mean, variance, weight] = detached.try_into().unwrap();
    let frozen = Standardise::with_state(mean, variance, weight).unwrap();
    let x = normal(5, &[2, 6, 2]);
    layer.observe(&x).unwrap();
    assert_eq!(bits(&frozen.forward(&x).unwrap()), bits(&layer.forward(&x).unwrap()));
    assert!(matches!(frozen.observe(&x), Err(Error::ReadOnly { .. })));
    let copy = Standardise::new(2).unwrap();
    copy.load(layer.named_tensors()).unwrap();
    assert_eq!(copy.observations().unwrap(), 1.0);
}

#[test]
fn recalibrated_standardisation_is_that_of_all_tokens_at_once() {
    let batches = [normal(31, &[4, 5, 2]), normal(32, &[3, 2]), normal(33, &[1, 7, 2])];
    let rows: Vec<Tensor> = batches.iter().map(|b| b.reshape(((), 2)).unwrap()).collect();
    let (parts, whole) = (Standardise::new(2).unwrap(), Standardise::new(2).unwrap());
    parts.observe(&normal(30, &[6, 2])).unwrap();
    parts.recalibrate(batches.iter().map(|b| Ok::<_, Error>(b.clone()))).unwrap();
    whole.observe(&Tensor::cat(&rows, 0).unwrap()).unwrap();
    let x = normal(34, &[8, 2]);
    let (a, b) = (parts.forward(&x).unwrap(), whole.forward(&x).unwrap());
    assert_close(&values(&a), &values(&b), EXACT, 1.0);
    assert!(matches!(
        parts.recalibrate(std::iter::empty::<Result<_, Error>>()),
        Err(Error::NoTokens)
    ));
}

#[test]
fn standardise_refuses_what_does_not_fit() {
    let cpu = &Device::Cpu;
    let (layer, x) = (Standardise::new(4).unwrap(), normal(1, &[2, 3, 4]));
    let scalar = Tensor::new(1f64, cpu).unwrap();
    for x in [&scalar, &normal(2, &[2, 3, 5])] {
        assert!(matches!(layer.forward_train(x), Err(Error::Shape { .. })));
        assert!(matches!(layer.forward(x), Err(Error::Shape { .. })));
        assert!(matches!(layer.observe(x), Err(Error::Shape { .. })));
    }
    layer.observe(&x).unwrap();
    for shape in [&[3][..], &[2, 1], &[2, 3, 4]] {
        let mask = Tensor::ones(shape, DType::U8, cpu).unwrap();
        assert!(matches!(layer.forward_masked(&x, &mask), Err(Error::Shape { .. })), "{shape:?}");
        assert!(matches!(layer.forward_train_masked(&x, &mask), Err(Error::Shape { .. })));
    }
    let mask = Tensor::ones((2, 3), DType::U32, cpu).unwrap();
    assert!(matches!(layer.forward_masked(&x, &mask), Err(Error::Dtype { .. })));
}

#[test]
fn standardise_collects_in_the_same_pass() {
    let x = normal(3, &[2, 3, 4]);
    let mask = Tensor::new(&[[1u8, 1, 0], [1, 0, 1]], &Device::Cpu).unwrap();
    let (once, twice) = (Standardise::new(4).unwrap(), Standardise::new(4).unwrap());
    let (y, z) = (once.forward_train_collected(&x).unwrap(), twice.forward_train(&x).unwrap());
    assert_eq!(bits(&y), bits(&z));
    let y = once.forward_train_collected_masked(&x, &mask).unwrap();
    assert_eq!(bits(&y), bits(&twice.forward_train_masked(&x, &mask).unwrap()));
    twice.collect(&x).unwrap();
    twice.collect_masked(&x, &mask).unwrap();
    for layer in [&once, &twice] {
        layer.commit().unwrap();
    }
    for ((name, one), (_, two)) in once.named_tensors().into_iter().zip(twice.named_tensors()) {
        assert_eq!(bits(&one), bits(&two), "{name}");
    }
}
