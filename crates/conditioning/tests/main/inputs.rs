//! Dtypes, layouts, masks, membership in a batch, and what is refused.

use candle_conditioning::{Conditioner, Error, NormMatched};
use candle_core::{DType, Device, Module, Tensor};

use crate::support::*;

fn condition(x: &Tensor) -> Tensor {
    Conditioner::default().forward(x).unwrap()
}

#[test]
fn every_float_dtype_is_the_rounded_f64_result() {
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let x = normal(1, &[2, 6, 9]).to_dtype(dtype).unwrap();
        let wanted = condition(&x.to_dtype(DType::F64).unwrap()).to_dtype(dtype).unwrap();
        assert_eq!(condition(&x).dtype(), dtype);
        assert_eq!(bits(&condition(&x)), bits(&wanted), "{dtype:?}");
    }
}

#[test]
fn scales_across_the_range_of_each_dtype() {
    let cases = [(DType::F16, -20, 10), (DType::BF16, -120, 120), (DType::F32, -120, 120)];
    for (dtype, low, high) in cases.into_iter().chain([(DType::F64, -1000, 1000)]) {
        let x = normal(2, &[5, 8]);
        for exponent in [low, high] {
            let scaled = x.affine(2f64.powi(exponent), 0.0).unwrap().to_dtype(dtype).unwrap();
            let wide = scaled.to_dtype(DType::F64).unwrap().affine(2f64.powi(-exponent), 0.0);
            let wanted = values(&condition(&wide.unwrap()));
            let found: Vec<f64> =
                values(&condition(&scaled)).iter().map(|v| v * 2f64.powi(-exponent)).collect();
            // Subnormal halves have fewer digits: an absolute step of 2^-24.
            let step = if dtype == DType::F16 { 2f64.powi(-24 - exponent) } else { 0.0 };
            let size = wanted.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            assert_close(&found, &wanted, epsilon(dtype).max(step).max(EXACT), size);
        }
    }
}

#[test]
fn strided_views_equal_their_copies() {
    let x = normal(3, &[4, 7, 5]);
    for view in [
        x.transpose(1, 2).unwrap(),
        x.transpose(0, 1).unwrap(),
        x.narrow(1, 2, 4).unwrap(),
        x.narrow(0, 1, 2).unwrap(),
        x.get(2).unwrap().t().unwrap(),
    ] {
        assert_eq!(bits(&condition(&view)), bits(&condition(&view.copy().unwrap())));
    }
}

#[test]
fn a_sequence_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    // Small sizes take the eigenvectors, larger ones only for the weak sequences.
    for shape in [[7, 11, 13], [7, 40, 64], [7, 64, 40]] {
        let x = normal(4, &shape);
        let decay: Vec<f64> = (0..shape[2]).map(|c| 1e-5f64.powf(c as f64 / 40.0)).collect();
        let weak = (x.broadcast_mul(&Tensor::new(decay, &Device::Cpu).unwrap())).unwrap();
        let mixed = Tensor::cat(&[x, weak], 0).unwrap().to_dtype(DType::F32).unwrap();
        let run = |threads| conditioned_threads::with_count(threads, || bits(&condition(&mixed)));
        let together = run(1);
        assert_eq!(together, run(3));
        let alone: Vec<u64> =
            (0..14).flat_map(|b| bits(&condition(&mixed.get(b).unwrap()))).collect();
        assert_eq!(together, alone);
    }
}

/// x with rows scattered among padding that holds garbage, and the mask.
fn padded(x: &Tensor, positions: &[usize], length: usize) -> (Tensor, Tensor) {
    let d = x.dim(1).unwrap();
    let mut rows = vec![f64::NAN; length * d];
    let mut mask = vec![0u8; length];
    for (row, &at) in values(x).chunks(d).zip(positions) {
        rows[at * d..(at + 1) * d].copy_from_slice(row);
        mask[at] = 1;
    }
    rows.iter_mut().step_by(3).filter(|v| v.is_nan()).for_each(|v| *v = -0.0);
    let x = Tensor::from_vec(rows, (length, d), &Device::Cpu).unwrap();
    (x, Tensor::from_vec(mask, length, &Device::Cpu).unwrap())
}

#[test]
fn padding_takes_no_part_and_keeps_its_bits() {
    let positions = [0, 1, 4, 7];
    let x = normal(5, &[4, 6]);
    let (long, mask) = padded(&x, &positions, 9);
    let conditioner = Conditioner::default();
    let control = NormMatched::new(conditioner);
    for (y, alone) in [
        (conditioner.forward_masked(&long, &mask).unwrap(), condition(&x)),
        (control.forward_masked(&long, &mask).unwrap(), control.forward(&x).unwrap()),
    ] {
        for at in 0..9 {
            let wanted = match positions.iter().position(|&p| p == at) {
                Some(row) => alone.get(row).unwrap(),
                None => long.get(at).unwrap(),
            };
            assert_eq!(bits(&y.get(at).unwrap()), bits(&wanted), "row {at}");
        }
    }
}

#[test]
fn masks_work_by_the_batch() {
    let x = normal(6, &[3, 5, 4]);
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], &Device::Cpu);
    let y = Conditioner::default().forward_masked(&x, &mask.unwrap()).unwrap();
    let row = |b: usize| x.get(b).unwrap();
    assert_eq!(bits(&y.get(0).unwrap()), bits(&condition(&row(0))));
    let real = condition(&row(1).narrow(0, 0, 2).unwrap());
    assert_eq!(bits(&y.get(1).unwrap().narrow(0, 0, 2).unwrap()), bits(&real));
    assert_eq!(bits(&y.get(2).unwrap()), bits(&row(2)));
}

#[test]
fn non_finite_values_are_named_by_position() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut values = normal_values(8, 2 * 3 * 4);
        (values[17], values[20]) = (bad, bad);
        let x = Tensor::from_vec(values, (2, 3, 4), &Device::Cpu).unwrap();
        match Conditioner::default().forward(&x) {
            Err(Error::NonFinite { tensor: "x", batch: 1, token: 1, channel: 1, value }) => {
                assert_eq!(value.to_bits(), bad.to_bits());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn results_beyond_the_dtype_are_an_error() {
    let x = Tensor::full(60_000f32, (4, 4), &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
    let result = Conditioner::default().forward(&x);
    assert!(matches!(result, Err(Error::Overflow { dtype: DType::F16, .. })), "{result:?}");
}

#[test]
fn wrong_shapes_and_dtypes_are_refused() {
    let conditioner = Conditioner::default();
    for shape in [&[4][..], &[2, 3, 4, 5]] {
        assert!(matches!(conditioner.forward(&normal(9, shape)), Err(Error::Shape { .. })));
    }
    let ids = Tensor::zeros((3, 4), DType::U32, &Device::Cpu).unwrap();
    assert!(matches!(conditioner.forward(&ids), Err(Error::Dtype { .. })));
    let x = normal(9, &[2, 3, 4]);
    let mask = Tensor::ones((3, 2), DType::U8, &Device::Cpu).unwrap();
    assert!(matches!(conditioner.forward_masked(&x, &mask), Err(Error::Shape { .. })));
    let mask = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(conditioner.forward_masked(&x, &mask), Err(Error::Dtype { .. })));
}

#[test]
fn it_is_a_candle_module_whose_errors_stay_readable() {
    let x = normal(10, &[3, 4]);
    assert_eq!(bits(&x.apply(&Conditioner::default()).unwrap()), bits(&condition(&x)));
    let nan = Tensor::new(&[[1.0, f64::NAN]], &Device::Cpu).unwrap();
    let error = Module::forward(&Conditioner::default(), &nan).unwrap_err().to_string();
    assert!(error.contains("x is NaN at batch 0, token 0, channel 1"), "{error}");
}

#[test]
fn empty_tensors_come_back_empty() {
    for shape in [[0, 3, 4], [2, 0, 4], [2, 3, 0]] {
        let x = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(condition(&x).dims(), shape);
    }
}
