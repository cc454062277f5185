//! `Gradient::Full` against the derivative of PyTorch's SVD: fixture by `make_fixture.py`.

mod spectrum;

use candle_conditioning::{Conditioner, Gradient};
use candle_core::{Device, safetensors};

use crate::support::*;

/// kappa = 20 of the test matrices times the derivative's 1 / gap = 25, both squared by PyTorch's
/// formula, times 1e-16.
const PARITY: f64 = 1e-10;

#[test]
fn full_is_the_derivative_of_the_svd() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/full_gradient.safetensors");
    let fixture = safetensors::load(path, &Device::Cpu).unwrap();
    for index in 0..5 {
        let (x, g) = (&fixture[&format!("{index}.x")], &fixture[&format!("{index}.g")]);
        for t in [0.3, 1.0] {
            let conditioner = Conditioner::default().with_strength(t).unwrap();
            let conditioner = conditioner.with_gradient(Gradient::Full);
            let y = conditioner.forward(x).unwrap();
            let wanted = values(&fixture[&format!("{index}.y.{t:?}")]);
            assert_close(&values(&y), &wanted, PARITY, 1.0);
            let found = gradient(x, g, |x| conditioner.forward(x).unwrap());
            let wanted = values(&fixture[&format!("{index}.dx.{t:?}")]);
            let size = wanted.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            assert_close(&found, &wanted, PARITY, size);
        }
    }
}
