//! The contract of `Conditioner` over everything that a tensor of tokens can be, all at once.

use candle_conditioning::{Conditioner, Error};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::identities::{Kind, build, kappa_over_rank, kinds};
use crate::support::*;

/// A dtype with the exponents of the scales at which tokens and their conditioned form fit into it.
fn dtypes() -> impl Strategy<Value = (DType, i32)> {
    prop_oneof![
        (Just(DType::F32), -110i32..=110),
        (Just(DType::F64), -900i32..=900),
        (Just(DType::F16), -8i32..=10),
        (Just(DType::BF16), -110i32..=110),
    ]
}

/// 1 to 64, evenly in the logarithm.
fn size() -> impl Strategy<Value = usize> {
    (0.0..=6.0f64).prop_map(|e| 2f64.powf(e).round() as usize)
}

/// How the tensor lies in memory.
#[derive(Debug, Clone, Copy)]
enum View {
    Contiguous,
    Transposed,
    Narrowed,
    Matrix,
}

fn views() -> impl Strategy<Value = View> {
    prop_oneof![
        Just(View::Contiguous),
        Just(View::Transposed),
        Just(View::Narrowed),
        Just(View::Matrix)
    ]
}

/// x: (B, N, d) with the same entries and other strides, or its first matrix (N, d).
fn seen_as(x: &Tensor, view: View) -> Tensor {
    match view {
        View::Contiguous => x.clone(),
        View::Transposed => {
            x.transpose(1, 2).unwrap().contiguous().unwrap().transpose(1, 2).unwrap()
        }
        View::Narrowed => {
            let n = x.dim(1).unwrap();
            Tensor::cat(&[x, x, x], 1).unwrap().narrow(1, n, n).unwrap()
        }
        View::Matrix => x.get(0).unwrap(),
    }
}

fn sequences(x: &Tensor) -> Vec<Tensor> {
    if x.rank() == 2 {
        return vec![x.clone()];
    }
    (0..x.dim(0).unwrap()).map(|b| x.get(b).unwrap()).collect()
}

/// The sequence in f64 and in units of 2^exponent.
fn unscaled(x: &Tensor, exponent: i32) -> faer::Mat<f64> {
    let x = x.to_dtype(DType::F64).unwrap();
    matrix(&(x * 2f64.powi(-exponent)).unwrap())
}

/// x with `more` rows of padding scattered in, holding NaN, and its mask.
fn padded(x: &Tensor, more: usize, seed: u64) -> (Tensor, Tensor) {
    let (n, d) = x.dims2().unwrap();
    let mut order: Vec<usize> = (0..n + more).collect();
    order.sort_by_key(|&at| (at as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
    let mut real: Vec<usize> = order.into_iter().take(n).collect();
    real.sort_unstable();
    let nan = Tensor::full(f64::NAN, (1, d), &Device::Cpu).unwrap().to_dtype(x.dtype()).unwrap();
    let rows: Vec<Tensor> = (0..n + more)
        .map(|at| match real.binary_search(&at) {
            Ok(row) => x.narrow(0, row, 1).unwrap(),
            Err(_) => nan.clone(),
        })
        .collect();
    let mask: Vec<u8> = (0..n + more).map(|at| u8::from(real.binary_search(&at).is_ok())).collect();
    (Tensor::cat(&rows, 0).unwrap(), Tensor::from_vec(mask, n + more, &Device::Cpu).unwrap())
}

/// Bound, oracle and rounding of one sequence.
fn check(x: &Tensor, y: &Tensor, t: f64, exponent: i32) {
    let dtype = x.dtype();
    let (X, Y) = (unscaled(x, exponent), unscaled(y, exponent));
    let (rank, top) = (X.nrows().min(X.ncols()) as f64, singular_values(&X)[0]);
    // Rounding an entry costs at most epsilon / 2, relatively, or half a step among subnormals.
    let step = if dtype == DType::F16 { 2f64.powi(-25 - exponent) } else { 0.0 };
    let rounding = epsilon(dtype) / 2.0 * (1.0 + t) * top + step;
    let wanted = values(&tensor(oracle(&X, t).as_ref()));
    assert_close(&values(&tensor(Y.as_ref())), &wanted, 1.0, ORACLE * (1.0 + t) * top + rounding);
    if matches!(dtype, DType::F32 | DType::F64) {
        let bound = (1.0 + t) / t;
        let kappa = kappa_over_rank(&X, &Y);
        let rounding = epsilon(dtype) / 2.0 * rank.sqrt() * bound;
        assert!(kappa <= bound * (1.0 + BOUND + rounding), "{kappa} > {bound}");
    } else {
        // Halves: the bound holds before the final rounding, so that rounding must be the only one.
        let wide = Conditioner::default().with_strength(t).unwrap();
        let wide = wide.forward(&x.to_dtype(DType::F64).unwrap()).unwrap();
        assert_eq!(bits(y), bits(&wide.to_dtype(dtype).unwrap()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_kind_of_tokens(
        kind in kinds(), seed: u64, batch in 1usize..=3, n in size(), d in size(), view in views(),
        (dtype, exponent) in dtypes(), t in 0.1..3.0f64, more in 0usize..=4,
    ) {
        let each: Vec<Tensor> = (0..batch as u64)
            .map(|b| tensor(build(kind, seed.wrapping_add(b), n, d).as_ref()))
            .collect();
        let x = (Tensor::stack(&each, 0).unwrap() * 2f64.powi(exponent)).unwrap();
        let x = seen_as(&x.to_dtype(dtype).unwrap(), view);
        let conditioner = Conditioner::default().with_strength(t).unwrap();
        let y = conditioner.forward(&x).unwrap();
        prop_assert_eq!((y.dims(), y.dtype()), (x.dims(), dtype));
        for (x, y) in sequences(&x).iter().zip(sequences(&y)) {
            check(x, &y, t, exponent);
            let (long, mask) = padded(x, more, seed);
            let z = conditioner.forward_masked(&long, &mask).unwrap();
            let rows: Vec<u8> = mask.to_vec1().unwrap();
            let mut real = sequences(&y.unsqueeze(1).unwrap()).into_iter();
            for (at, row) in rows.iter().enumerate() {
                let found = bits(&z.get(at).unwrap());
                let wanted = if *row == 1 {
                    bits(&real.next().unwrap())
                } else {
                    bits(&long.get(at).unwrap())
                };
                prop_assert_eq!(found, wanted, "row {}", at);
            }
        }
        let off = conditioner.with_strength(0.0).unwrap();
        prop_assert_eq!(bits(&off.forward(&x).unwrap()), bits(&x));
    }

    #[test]
    fn what_is_not_finite_is_named(
        seed: u64, n in size(), d in size(), at: prop::sample::Index, which in 0usize..3,
        dtype in prop_oneof![Just(DType::F32), Just(DType::F64), Just(DType::F16), Just(DType::BF16)],
    ) {
        let mut entries = normal_values(seed, 2 * n * d);
        let at = at.index(entries.len());
        entries[at] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][which];
        let x = Tensor::from_vec(entries, (2, n, d), &Device::Cpu).unwrap();
        match Conditioner::default().forward(&x.to_dtype(dtype).unwrap()) {
            Err(Error::NonFinite { batch, token, channel, .. }) => {
                prop_assert_eq!((batch * n + token) * d + channel, at);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn a_thousand_tokens_or_channels() {
    for (seed, (n, d, kappa)) in
        [(1024, 48, 1e12), (48, 1024, 1e12), (1024, 300, 1e6), (1, 1024, 1.0), (1024, 1, 1.0)]
            .into_iter()
            .enumerate()
    {
        for dtype in [DType::F32, DType::BF16] {
            let x = tensor(build(Kind::Kappa(kappa), seed as u64, n, d).as_ref());
            let x = x.to_dtype(dtype).unwrap();
            check(&x, &Conditioner::default().forward(&x).unwrap(), 1.0, 0);
        }
    }
    let x = tensor(build(Kind::Kappa(1e3), 9, 1024, 1024).as_ref()).to_dtype(DType::F32).unwrap();
    check(&x, &Conditioner::default().forward(&x).unwrap(), 1.0, 0);
}
