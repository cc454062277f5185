//! Pooled conditioning and its state.

use candle_conditioning::{Error, Pooled, PooledConfig, Source};
use candle_core::{DType, Device, IndexOp, Tensor, Var};
use faer::Mat;
use proptest::prelude::*;

use crate::support::*;

fn pooled(source: Source, t: f64, d: usize) -> Pooled {
    Pooled::new(PooledConfig { strength: t, source, ..PooledConfig::default() }, d, &Device::Cpu)
        .unwrap()
}

fn ok(x: &Tensor) -> Result<Tensor, Error> {
    Ok(x.clone())
}

fn state(pooled: &Pooled) -> (Vec<f64>, f64) {
    let tensors = pooled.named_tensors();
    assert_eq!((tensors[0].0, tensors[1].0), ("running_gram", "running_weight"));
    (values(&tensors[0].1), tensors[1].1.to_scalar().unwrap())
}

/// X^T X / R by its definition.
fn gram(x: &Tensor) -> Vec<f64> {
    let d = x.dims()[x.rank() - 1];
    let X = matrix(&x.reshape(((), d)).unwrap());
    let G = X.transpose() * &X * faer::Scale(1.0 / X.nrows() as f64);
    values(&tensor(G.as_ref()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn pooled_tokens_get_the_shifted_spectrum(
        seed: u64, d in 1usize..=16, more in 0usize..=30, e in 0.0..4.0f64, t in 0.05..2.0f64,
    ) {
        // M^T G M = E diag((sigma_i + t sigma_1)^2) E^T, read off the pooled tokens themselves.
        let (rows, kappa) = (d + more, 10f64.powf(e));
        let X = with_kappa(seed, rows, d, kappa);
        let config = PooledConfig {
            strength: t, source: Source::Current, floor: TAU, ..PooledConfig::default()
        };
        let y = Pooled::new(config, d, &Device::Cpu).unwrap().forward_train(&tensor(X.as_ref())).unwrap();
        let wanted: Vec<f64> = singular_values(&X).iter().map(|s| s + t).collect();
        // The Gram matrix squares kappa: sigma_i is good to 1e-16 kappa^2, relatively.
        assert_close(&singular_values(&matrix(&y)), &wanted, EXACT + 1e-15 * kappa * kappa, 1.0 + t);
        // One sequence pooled over itself is the paper's own map.
        let own = oracle(&X, t);
        assert_close(&values(&y), &values(&tensor(own.as_ref())), EXACT + 1e-14 * kappa * kappa, 1.0 + t);
    }
}

/// M = I + t sigma_1 E diag(1 / max(sigma_i, floor sigma_1)) E^T from the singular value decomposition of the tokens, with
/// directions that they do not have: in one piece and in several, with one block of reflectors and several.
#[test]
fn weak_and_absent_directions_are_stretched_to_the_floor() {
    let (t, rows) = (0.3, 300);
    for (d, rank) in [(16, 9), (40, 40), (96, 50), (192, 113), (200, 1)] {
        for floor in [1e-3, 0.1] {
            let right = with_kappa(2, rank, d, 100.0);
            let X = normal_matrix(1, rows, rank) * &right;
            let config =
                PooledConfig { strength: t, source: Source::Current, floor, ..Default::default() };
            let layer = Pooled::new(config, d, &Device::Cpu).unwrap();
            layer.observe(&tensor(X.as_ref())).unwrap();
            let svd = X.thin_svd().unwrap();
            let (V, top) = (svd.V(), svd.S()[0]);
            let wanted = Mat::from_fn(d, d, |i, j| {
                let along = |k: usize| {
                    let sigma = if k < rank { svd.S()[k] } else { 0.0 };
                    V[(i, k)] * V[(j, k)] * top / sigma.max(floor * top)
                };
                f64::from(u8::from(i == j)) + t * (0..d).map(along).sum::<f64>()
            });
            let found = values(&layer.fold().unwrap());
            assert_close(
                &found,
                &values(&tensor(wanted.as_ref())),
                1e-14 / (floor * floor),
                1.0 / floor,
            );
        }
    }
}

/// Rows of padding keep their bits, also those of NaN, and the others have those of tokens without padding.
#[test]
fn padding_of_f32_tokens_is_nobodys_concern() {
    let x = normal(3, &[2, 5, 24]).to_dtype(DType::F32).unwrap();
    let layer = pooled(Source::Earlier, 0.3, 24);
    layer.observe(&x).unwrap();
    let wanted = layer.forward(&x).unwrap();
    let padding = (Tensor::ones((2, 3, 24), DType::F32, &Device::Cpu).unwrap() * f64::NAN).unwrap();
    let padded = Tensor::cat(&[&x, &padding], 1).unwrap();
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 1, 0, 0, 0]; 2], &Device::Cpu).unwrap();
    let y = layer.forward_masked(&padded, &mask).unwrap();
    assert_eq!(bits(&y.narrow(1, 0, 5).unwrap()), bits(&wanted));
    assert_eq!(bits(&y.narrow(1, 5, 3).unwrap()), bits(&padding));
}

#[test]
fn nan_is_refused_before_the_first_observation_as_after_it() {
    let layer = pooled(Source::Earlier, 0.3, 3);
    let x = Tensor::new(&[[[1.0, 2.0, 3.0], [1.0, f64::NAN, 0.0]]], &Device::Cpu).unwrap();
    let padding = Tensor::new(&[[1u8, 0]], &Device::Cpu).unwrap();
    for step in 0..2 {
        for result in [layer.forward(&x), layer.forward_train(&x)] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("x is NaN at batch 0, token 1, channel 1"), "{step}: {error}");
        }
        // Padding may be anything.
        layer.forward_masked(&x, &padding).unwrap();
        layer.observe(&normal(1, &[2, 4, 3])).unwrap();
    }
}

#[test]
fn fold_is_what_forward_applies() {
    let layer = pooled(Source::Earlier, 0.3, 5);
    assert_eq!(matrix(&layer.fold().unwrap()), Mat::<f64>::identity(5, 5));
    layer.observe(&normal(1, &[4, 6, 5])).unwrap();
    let x = normal(2, &[3, 7, 5]);
    let folded = x.reshape((21, 5)).unwrap().matmul(&layer.fold().unwrap()).unwrap();
    assert_close(&values(&layer.forward(&x).unwrap()), &values(&folded), EXACT, 10.0);
}

#[test]
fn tokens_in_f32_are_multiplied_in_f32() {
    for (seed, d) in [(30, 5), (31, 48), (32, 200)] {
        let X = with_kappa(seed, 3 * d, d, 1e3);
        let x = tensor(X.as_ref()).to_dtype(DType::F32).unwrap();
        let layer = pooled(Source::Earlier, 0.3, d);
        layer.observe(&x).unwrap();
        let M = matrix(&layer.fold().unwrap());
        let X = matrix(&x);
        let absolute = |A: &Mat<f64>| Mat::from_fn(A.nrows(), A.ncols(), |i, j| A[(i, j)].abs());
        let (wanted, size) = (&X * &M, absolute(&X) * absolute(&M));
        let y = matrix(&layer.forward(&x).unwrap());
        for i in 0..3 * d {
            for j in 0..d {
                let error = (y[(i, j)] - wanted[(i, j)]).abs();
                let bound = single_product(d) * size[(i, j)];
                assert!(error <= bound, "d = {d}, ({i}, {j}): {error:e} > {bound:e}");
            }
        }
    }
}

/// (value, batch, token, channel) of a number that is not finite.
fn non_finite(result: Result<Tensor, Error>) -> (f64, usize, usize, usize) {
    match result {
        Err(Error::NonFinite { value, batch, token, channel, .. }) => {
            (value, batch, token, channel)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_f32_cannot_hold_is_named_or_computed_in_f64() {
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        let layer = pooled(Source::Earlier, 1.0, 4);
        layer.observe(&normal(33, &[9, 4])).unwrap();
        let mut entries = normal_values(34, 2 * 300 * 4);
        entries[4 * 511 + 2] = f64::NEG_INFINITY;
        entries[4 * 513 + 1] = f64::NAN;
        let x = Tensor::from_vec(entries, (2, 300, 4), &Device::Cpu).unwrap();
        let x = x.to_dtype(dtype).unwrap();
        assert_eq!(non_finite(layer.forward(&x)), (f64::NEG_INFINITY, 1, 211, 2));
        // Padding may hold anything, and does not count as a token.
        let mut mask = vec![1u8; 600];
        (mask[3], mask[511]) = (0, 0);
        let mask = Tensor::from_vec(mask, (2, 300), &Device::Cpu).unwrap();
        let found = non_finite(layer.forward_masked(&x, &mask));
        assert!(found.0.is_nan() && (found.1, found.2, found.3) == (1, 213, 1), "{found:?}");

        let largest = match dtype {
            DType::F16 => 6e4,
            DType::F64 => 1.7e308,
            _ => 3.3e38,
        };
        let x = Tensor::full(largest, (3, 4), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let stretch = pooled(Source::Earlier, 1.0, 4);
        stretch.observe(&tensor(Mat::<f64>::identity(4, 4).as_ref())).unwrap();
        match stretch.forward(&x) {
            Err(Error::Overflow { dtype: found, batch: 0, token: 0, channel: 0, .. }) => {
                assert_eq!(found, dtype);
            }
            other => panic!("{other:?}"),
        }
    }
    // (1, -1) M = (3.5 - 1.5, 1.5 - 3.5): 3.5 times the largest number is beyond f32, twice is not.
    let layer = pooled(Source::Earlier, 1.0, 2);
    layer.observe(&Tensor::new(&[[1f64, -1.0], [0.25, 0.25]], &Device::Cpu).unwrap()).unwrap();
    let large = 1.2 * 2f64.powi(126);
    let x = Tensor::new(&[[large, -large]], &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let y = values(&layer.forward(&x).unwrap());
    assert_close(&y, &[2.0 * large, -2.0 * large], epsilon(DType::F32), 2.0 * large);
}

#[test]
fn earlier_starts_as_the_identity_and_never_looks_at_its_batch() {
    let layer = pooled(Source::Earlier, 1.0, 4);
    let (first, second) = (normal(3, &[2, 5, 4]), normal(4, &[2, 5, 4]));
    assert_eq!(bits(&layer.forward_train(&first).unwrap()), bits(&first));
    assert_eq!(bits(&layer.forward(&first).unwrap()), bits(&first));
    layer.observe(&first).unwrap();
    let y = layer.forward_train(&second).unwrap();
    // Other values in the last token leave all tokens before it alone.
    let changed = Tensor::cat(&[&second.narrow(1, 0, 4).unwrap(), &normal(5, &[2, 1, 4])], 1);
    let z = layer.forward_train(&changed.unwrap()).unwrap();
    assert_eq!(bits(&y.narrow(1, 0, 4).unwrap()), bits(&z.narrow(1, 0, 4).unwrap()));
}

#[test]
fn current_uses_this_batch_in_training_and_the_average_in_evaluation() {
    let layer = pooled(Source::Current, 1.0, 4);
    let (first, second) = (normal(6, &[3, 5, 4]), normal(7, &[3, 5, 4]));
    layer.observe(&first).unwrap();
    let other = pooled(Source::Earlier, 1.0, 4);
    other.observe(&second).unwrap();
    assert_eq!(
        bits(&layer.forward_train(&second).unwrap()),
        bits(&other.forward(&second).unwrap())
    );
    assert_ne!(bits(&layer.forward(&second).unwrap()), bits(&other.forward(&second).unwrap()));
}

#[test]
fn observing_in_the_same_call_changes_nothing() {
    for (source, t) in [(Source::Current, 1.0), (Source::Earlier, 1.0), (Source::Current, 0.0)] {
        let (one, two) = (pooled(source, t, 20), pooled(source, t, 20));
        for seed in 21..24 {
            let x = normal(seed, &[2, 15, 20]);
            let y = two.forward_train(&x).unwrap();
            two.observe(&x).unwrap();
            assert_eq!(bits(&one.forward_train_observed(&x).unwrap()), bits(&y));
            assert_eq!(state(&one), state(&two));
            let mask: Vec<u8> = (0..30).map(|i| u8::from(i < 20)).collect();
            let mask = Tensor::from_vec(mask, (2, 15), &Device::Cpu).unwrap();
            let y = two.forward_train_masked(&x, &mask).unwrap();
            two.observe_masked(&x, &mask).unwrap();
            assert_eq!(bits(&one.forward_train_observed_masked(&x, &mask).unwrap()), bits(&y));
            assert_eq!(state(&one), state(&two));
        }
    }
}

#[test]
fn the_batches_of_a_step_share_m_and_move_the_average_once() {
    let (one, two) = (pooled(Source::Earlier, 1.0, 3), pooled(Source::Earlier, 1.0, 3));
    let first = normal(40, &[9, 3]);
    one.observe(&first).unwrap();
    two.observe(&first).unwrap();
    let before = state(&two);
    let (x, mask) = (
        normal(41, &[3, 4, 3]),
        Tensor::new(&[[1u8, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], &Device::Cpu).unwrap(),
    );
    let whole = one.forward_train_observed_masked(&x, &mask).unwrap();
    for (from, count) in [(0, 1), (1, 2)] {
        let part = x.narrow(0, from, count).unwrap();
        let y = two.forward_train_collected_masked(&part, &mask.narrow(0, from, count).unwrap());
        assert_eq!(bits(&y.unwrap()), bits(&whole.narrow(0, from, count).unwrap()));
        assert_eq!(state(&two), before, "the average stands still within a step");
    }
    two.commit().unwrap();
    // The same outer products, added in another order.
    assert_close(&state(&two).0, &state(&one).0, EXACT, 1.0);
    assert_eq!((state(&one).1, state(&two).1), (2.0, 2.0));

    let after = state(&two);
    two.commit().unwrap();
    two.collect(&first).unwrap();
    two.discard();
    two.commit().unwrap();
    assert_eq!(state(&two), after, "nothing is left to observe");
    assert!(matches!(two.collect_masked(&x, &mask.zeros_like().unwrap()), Err(Error::NoTokens)));
}

#[test]
fn the_running_average() {
    let config = PooledConfig { momentum: 0.25, ..PooledConfig::default() };
    let layer = Pooled::new(config, 3, &Device::Cpu).unwrap();
    let (first, second) = (normal(8, &[2, 5, 3]), normal(9, &[4, 3]));
    layer.observe(&first).unwrap();
    assert_close(&state(&layer).0, &gram(&first), EXACT, 1.0);
    layer.observe(&second).unwrap();
    let wanted: Vec<f64> =
        gram(&first).iter().zip(gram(&second)).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
    assert_close(&state(&layer).0, &wanted, EXACT, 1.0);
    assert_eq!(layer.observations().unwrap(), 2.0);
}

#[test]
fn recalibration_is_the_gram_of_all_tokens() {
    let layer = pooled(Source::Current, 1.0, 3);
    layer.observe(&normal(10, &[6, 3])).unwrap();
    let batches = [normal(11, &[4, 5, 3]), normal(12, &[2, 3]), normal(13, &[1, 9, 3])];
    layer.recalibrate(batches.iter().map(ok)).unwrap();
    let all: Vec<Tensor> = batches.iter().map(|b| b.reshape(((), 3)).unwrap()).collect();
    assert_close(&state(&layer).0, &gram(&Tensor::cat(&all, 0).unwrap()), EXACT, 1.0);
    assert_eq!(state(&layer).1, 2.0);
    assert!(matches!(
        layer.recalibrate(std::iter::empty::<Result<_, Error>>()),
        Err(Error::NoTokens)
    ));
    let failing = [Err(candle_core::Error::msg("lost"))];
    assert!(layer.recalibrate(failing).unwrap_err().to_string().contains("lost"));
}

#[test]
fn a_frozen_instance_follows_the_training_one() {
    let gram = Var::zeros((4, 4), DType::F64, &Device::Cpu).unwrap();
    let weight = Var::zeros((), DType::F64, &Device::Cpu).unwrap();
    let config = PooledConfig::default();
    let training =
        Pooled::with_state(config, gram.as_tensor().clone(), weight.as_tensor().clone()).unwrap();
    let frozen =
        Pooled::with_state(config, gram.as_detached_tensor(), weight.as_detached_tensor()).unwrap();
    let x = normal(14, &[3, 6, 4]);
    for step in 0..3 {
        assert_eq!(bits(&frozen.forward(&x).unwrap()), bits(&training.forward(&x).unwrap()));
        training.observe(&normal(20 + step, &[3, 6, 4])).unwrap();
    }
    // A checkpoint restored behind our back, with the count that stands there already.
    let before = bits(&frozen.forward(&x).unwrap());
    gram.set(&Tensor::eye(4, DType::F64, &Device::Cpu).unwrap()).unwrap();
    assert_ne!(bits(&frozen.forward(&x).unwrap()), before);

    assert!(matches!(frozen.observe(&x), Err(Error::ReadOnly { tensor: "running_gram" })));
    assert!(matches!(frozen.recalibrate([ok(&x)]), Err(Error::ReadOnly { .. })));
}

#[test]
fn state_is_saved_and_loaded_by_name() {
    let (layer, copy) = (pooled(Source::Earlier, 1.0, 3), pooled(Source::Earlier, 1.0, 3));
    layer.observe(&normal(15, &[8, 3])).unwrap();
    copy.load(layer.named_tensors()).unwrap();
    assert_eq!(state(&copy), state(&layer));
    layer.load(layer.named_tensors()).unwrap();
    assert_eq!(state(&copy), state(&layer));

    let mut tensors = layer.named_tensors();
    let weight = tensors.pop().unwrap().1;
    assert!(matches!(copy.load(tensors.clone()), Err(Error::MissingTensor("running_weight"))));
    tensors.push(("weight", weight));
    assert!(matches!(copy.load(tensors), Err(Error::UnknownTensor { .. })));
    let other = pooled(Source::Earlier, 1.0, 2);
    assert!(matches!(other.load(layer.named_tensors()), Err(Error::Shape { .. })));
}

#[test]
fn padding_is_left_out_and_left_alone() {
    let x = normal(16, &[2, 4, 3]);
    let mask = Tensor::new(&[[1u8, 1, 1, 0], [1, 0, 0, 0]], &Device::Cpu).unwrap();
    let real = Tensor::new(&[0u32, 1, 2, 4], &Device::Cpu).unwrap();
    let real = x.reshape((8, 3)).unwrap().index_select(&real, 0).unwrap();
    let layer = pooled(Source::Current, 1.0, 3);
    let y = layer.forward_train_masked(&x, &mask).unwrap();
    let alone = layer.forward_train(&real).unwrap();
    assert_close(&values(&y.i((0, ..3)).unwrap()), &values(&alone)[..9], EXACT, 10.0);
    assert_eq!(bits(&y.i((1, 1..)).unwrap()), bits(&x.i((1, 1..)).unwrap()));
    layer.observe_masked(&x, &mask).unwrap();
    assert_close(&state(&layer).0, &gram(&real), EXACT, 1.0);
    let z = layer.forward_masked(&x, &mask).unwrap();
    assert_close(&values(&z), &values(&y), EXACT, 10.0);
    let none = mask.zeros_like().unwrap();
    assert!(matches!(layer.observe_masked(&x, &none), Err(Error::NoTokens)));
}

#[test]
fn the_gram_has_the_same_bits_on_any_number_of_threads() {
    let x = normal(17, &[900, 8]).to_dtype(DType::F32).unwrap();
    let run = |threads| {
        conditioned_threads::with_count(threads, || {
            let layer = pooled(Source::Earlier, 1.0, 8);
            layer.observe(&x).unwrap();
            state(&layer).0
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn the_floor_limits_the_stretch_of_directions_not_seen() {
    // Tokens in a plane of three dimensions, then one outside it.
    let seen = Tensor::new(&[[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]], &Device::Cpu).unwrap();
    let new = Tensor::new(&[[0.0, 0.0, 1e-3]], &Device::Cpu).unwrap();
    for floor in [1e-7, 1e-2] {
        let config = PooledConfig { strength: 0.3, floor, ..PooledConfig::default() };
        let layer = Pooled::new(config, 3, &Device::Cpu).unwrap();
        layer.observe(&seen).unwrap();
        let wanted = 1e-3 * (1.0 + 0.3 / floor);
        assert_close(&values(&layer.forward(&new).unwrap())[2..], &[wanted], EXACT, wanted);
        // What lies above the floor does not depend on it: singular values 1 and 0.5 plus 0.3.
        let found = singular_values(&matrix(&layer.forward(&seen).unwrap()));
        assert_close(&found, &[1.3, 0.8], EXACT, 1.0);
    }
}

#[test]
fn a_start_from_tables_is_the_gram_of_all_sums_of_their_rows() {
    let centred = |seed, rows| {
        let W = normal(seed, &[rows, 3]);
        W.broadcast_sub(&W.mean_keepdim(0).unwrap()).unwrap()
    };
    let (words, positions) = (centred(30, 7), centred(31, 4));
    let all = words.unsqueeze(1).unwrap().broadcast_add(&positions.unsqueeze(0).unwrap()).unwrap();
    let layer = pooled(Source::Earlier, 1.0, 3);
    layer.start_from_tables(&[&words, &positions]).unwrap();
    let (found, weight) = state(&layer);
    assert_close(&found, &gram(&all), EXACT, 1.0);
    assert_eq!(weight, 1.0);
    assert!(matches!(layer.start_from_tables(&[]), Err(Error::NoTokens)));
    let narrow = layer.start_from_tables(&[&normal(32, &[5, 2])]);
    assert!(matches!(narrow, Err(Error::Shape { .. })));
}

#[test]
fn broken_state_is_an_error_and_no_hang() {
    let layer = pooled(Source::Earlier, 1.0, 2);
    let gram = Tensor::full(f64::NAN, (2, 2), &Device::Cpu).unwrap();
    let weight = Tensor::new(1f64, &Device::Cpu).unwrap();
    layer.load([("running_gram", gram), ("running_weight", weight)]).unwrap();
    assert!(matches!(layer.forward(&normal(20, &[3, 2])), Err(Error::Statistic { .. })));
}

#[test]
fn what_is_refused() {
    let layer = pooled(Source::Current, 1.0, 3);
    assert!(matches!(layer.forward_train(&normal(18, &[2, 4])), Err(Error::Shape { .. })));
    assert!(matches!(layer.observe(&normal(18, &[3])), Err(Error::Shape { .. })));
    let nan = Tensor::new(&[[1.0, f64::NAN, 0.0]], &Device::Cpu).unwrap();
    assert!(matches!(layer.observe(&nan), Err(Error::NonFinite { channel: 1, .. })));
    let huge = Tensor::full(1e300, (2, 3), &Device::Cpu).unwrap();
    assert!(matches!(layer.observe(&huge), Err(Error::Statistic { .. })));
    assert!(matches!(layer.forward_train(&huge), Err(Error::Statistic { .. })));
    let single = Tensor::zeros((3, 3), DType::F32, &Device::Cpu).unwrap();
    let weight = Tensor::new(0f64, &Device::Cpu).unwrap();
    let result = Pooled::with_state(PooledConfig::default(), single, weight);
    assert!(matches!(result, Err(Error::Dtype { tensor: "running_gram", .. })));
}

#[test]
fn strength_zero_and_zero_tokens_return_the_same_bits() {
    let x = normal(19, &[2, 4, 3]);
    for source in [Source::Earlier, Source::Current] {
        let layer = pooled(source, 0.0, 3);
        layer.observe(&x).unwrap();
        assert_eq!(bits(&layer.forward_train(&x).unwrap()), bits(&x));
        assert_eq!(bits(&layer.forward(&x).unwrap()), bits(&x));
    }
    let zero = x.zeros_like().unwrap();
    let y = pooled(Source::Current, 1.0, 3).forward_train(&zero).unwrap();
    assert_eq!(values(&y), values(&zero));
}
