//! The sibling methods, by the identities that define them.

use candle_conditioning::{
    Error, PreconditionedAttention, SpectralConditioning, TokenGraying, WeightConditioning,
    condition_number,
};
use candle_core::{D, DType, Device, Tensor};

use crate::support::*;

const SVD: TokenGraying = TokenGraying::SVD;
const DCT: TokenGraying = TokenGraying::DCT;

fn row_norms(x: &Tensor) -> Vec<f64> {
    values(&x.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap())
}

#[test]
fn graying_by_svd_takes_kappa_to_a_power() {
    for (n, d) in [(6, 10), (10, 6), (7, 7)] {
        let X = with_kappa(1, n, d, 1e4);
        let y = SVD.forward(&(tensor(X.as_ref()) * 3.0).unwrap()).unwrap();
        let wanted: Vec<f64> = singular_values(&X).iter().map(|s| 3.0 * s.powf(0.6)).collect();
        assert_close(&singular_values(&matrix(&y)), &wanted, 1e-10, 3.0);
    }
}

#[test]
fn graying_with_power_one_returns_the_tokens() {
    let x = normal(2, &[2, 7, 5]);
    for one in [TokenGraying::Svd { epsilon: 1.0 }, TokenGraying::Dct { epsilon: 1.0 }] {
        assert_close(&values(&one.forward(&x).unwrap()), &values(&x), EXACT, 10.0);
    }
}

#[test]
fn graying_by_dct_powers_the_coefficients_of_a_cosine() {
    // One constant and one cosine along the tokens: two coefficients, whose ratio is taken to eps.
    let cosine = |i: usize| (std::f64::consts::PI * (i as f64 + 0.5) * 2.0 / 8.0).cos();
    let column = |small: f64| {
        let values = (0..8).map(|i| 1.0 + small * cosine(i)).collect::<Vec<f64>>();
        Tensor::from_vec(values, (8, 1), &Device::Cpu).unwrap()
    };
    // Orthonormal coefficients sqrt(8) and small * 2: the ratio in that basis.
    let ratio = |small: f64| small * 2.0 / 8f64.sqrt();
    let epsilon = 0.5;
    let y = TokenGraying::Dct { epsilon }.forward(&column(0.01)).unwrap();
    let wanted = column(ratio(0.01).powf(epsilon) * 8f64.sqrt() / 2.0);
    // The other coefficients are rounding, 1e-17, and are taken to eps as well.
    assert_close(&values(&y), &values(&wanted), 1e-7, 1.0);
}

#[test]
fn graying_leaves_padding_out_and_alone() {
    let mut entries = normal_values(9, 2 * 5 * 3);
    (entries[14], entries[29]) = (f64::NAN, f64::INFINITY);
    let x = Tensor::from_vec(entries, (2, 5, 3), &Device::Cpu).unwrap();
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 0], [1, 1, 0, 0, 0]], &Device::Cpu).unwrap();
    for graying in [SVD, DCT] {
        let y = graying.forward_masked(&x, &mask).unwrap();
        for (i, length) in [(0, 4), (1, 2)] {
            let sequence = |x: &Tensor, from, count| {
                bits(&x.narrow(0, i, 1).unwrap().narrow(1, from, count).unwrap())
            };
            let alone = x.narrow(0, i, 1).unwrap().narrow(1, 0, length).unwrap();
            let alone = graying.forward(&alone).unwrap();
            assert_eq!(sequence(&y, 0, length), bits(&alone), "{graying:?}");
            assert_eq!(sequence(&y, length, 5 - length), sequence(&x, length, 5 - length));
        }
        assert!(matches!(graying.forward(&x), Err(Error::NonFinite { .. })));
    }
    let above = TokenGraying::Svd { epsilon: 1.5 };
    assert!(matches!(above.forward(&x), Err(Error::Fraction { setting: "epsilon", .. })));
}

#[test]
fn graying_of_zero_and_of_what_is_not_finite() {
    let zero = Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
    let nan = Tensor::new(&[[1.0, f64::NAN]], &Device::Cpu).unwrap();
    for graying in [SVD, DCT] {
        assert_eq!(values(&graying.forward(&zero).unwrap()), values(&zero));
        assert!(matches!(graying.forward(&nan), Err(Error::NonFinite { .. })));
        let weights = normal(4, &[3, 4]);
        let x = normal(3, &[3, 4]);
        let found = gradient(&x, &weights, |x| graying.forward(x).unwrap());
        assert_eq!(found, values(&weights));
    }
    let invalid = TokenGraying::Svd { epsilon: 0.0 };
    assert!(matches!(invalid.forward(&zero), Err(Error::Fraction { .. })));
    assert!(serde_json::from_str::<TokenGraying>(r#"{"svd":{"epsilon":2}}"#).is_err());
    assert_eq!(serde_json::from_str::<TokenGraying>(r#"{"svd":{"epsilon":0.6}}"#).unwrap(), SVD);
}

#[test]
fn spectral_conditioning() {
    let w = tensor(with_kappa(5, 9, 4, 1e3).as_ref());
    let exact = (&w + SpectralConditioning::Exact.correction(&w).unwrap()).unwrap();
    assert!(values(&condition_number(&exact).unwrap())[0] <= 2.0 + 1e-6);
    let C = SpectralConditioning::default().correction(&w.to_dtype(DType::F32).unwrap()).unwrap();
    let eye = |i: usize, j: usize| if i == j { 10.0 } else { 0.0 };
    assert_eq!(C.dtype(), DType::F32);
    assert_eq!(values(&C), (0..36).map(|at| eye(at / 4, at % 4)).collect::<Vec<_>>());
    let invalid = SpectralConditioning::Identity { lambda: f64::NAN };
    assert!(matches!(invalid.correction(&w), Err(Error::Strength(_))));
    let batch = w.unsqueeze(0).unwrap();
    assert!(matches!(SpectralConditioning::Exact.correction(&batch), Err(Error::Shape { .. })));
    let json = serde_json::to_string(&SpectralConditioning::default()).unwrap();
    assert_eq!(json, r#"{"identity":{"lambda":10.0}}"#);
}

#[test]
fn weight_conditioning_gives_rows_of_unit_norm_and_is_differentiated() {
    let w = normal(6, &[5, 7]);
    let found = row_norms(&WeightConditioning.forward(&w).unwrap());
    assert_close(&found, &[1.0; 5], EXACT, 1.0);
    // The scale of a row does not matter.
    let scaled =
        w.broadcast_mul(&Tensor::new(&[[1f64], [2.], [3.], [4.], [0.1]], &Device::Cpu).unwrap());
    let (a, b) = (WeightConditioning.forward(&w), WeightConditioning.forward(&scaled.unwrap()));
    assert_close(&values(&a.unwrap()), &values(&b.unwrap()), EXACT, 1.0);
    let weights = normal(7, &[5, 7]);
    let f = |x: &Tensor| WeightConditioning.forward(x).unwrap();
    assert_close(&gradient(&w, &weights, f), &differences(&w, &weights, f), DIFFERENCES, 1.0);
    let zero = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(values(&WeightConditioning.forward(&zero).unwrap()), [0.0; 6]);
    assert!(gradient(&zero, &zero.ones_like().unwrap(), f).iter().all(|g| g.is_finite()));
}

#[test]
fn preconditioned_attention_scales_each_row_by_a_constant() {
    let a = normal(8, &[2, 3, 4, 5]);
    let y = PreconditionedAttention.forward(&a).unwrap();
    // eps = 1e-8 is missing from a norm of about 2.
    assert_close(&row_norms(&y), &[1.0; 24], 1e-7, 1.0);
    let weights = normal(9, &[2, 3, 4, 5]);
    let found = gradient(&a, &weights, |a| PreconditionedAttention.forward(a).unwrap());
    let norms = row_norms(&a);
    let wanted: Vec<f64> =
        values(&weights).iter().enumerate().map(|(i, w)| w / (norms[i / 5] + 1e-8)).collect();
    assert_close(&found, &wanted, EXACT, 1.0);
    // Causal: other rows have no say.
    let part = PreconditionedAttention.forward(&a.narrow(2, 0, 2).unwrap()).unwrap();
    assert_eq!(bits(&part), bits(&y.narrow(2, 0, 2).unwrap()));
    let zero = Tensor::zeros((2, 3), DType::F16, &Device::Cpu).unwrap();
    assert_eq!(values(&PreconditionedAttention.forward(&zero).unwrap()), [0.0; 6]);
}
