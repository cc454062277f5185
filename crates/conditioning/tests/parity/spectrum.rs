//! Spectra against NumPy's decomposition of the same f32 numbers: fixture by `make_spectrum_fixture.py`.

use std::collections::BTreeMap;

use candle_conditioning::{Spectrum, spectra};
use candle_core::{Device, Tensor, safetensors};

use crate::support::*;

/// Relative. Each decomposition moves singular values by some 1e-15 sigma_1, which is 1e-9 of the least one at
/// kappa 1e6; with a factor of 1000. Rounding the numbers to f32 moves that kappa by 1e-3.
const NUMPY: f64 = 1e-6;

/// Beyond this kappa is rounding, in f64.
const RESOLVED: f64 = 1e14;

/// The matrices by name, in the order of their names, and NumPy's measures of each.
fn fixture() -> Vec<(String, Tensor, Vec<f64>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/spectra.safetensors");
    let mut tensors = safetensors::load(path, &Device::Cpu).unwrap();
    let mut names: Vec<String> =
        tensors.keys().filter(|name| !name.ends_with(".measures")).cloned().collect();
    names.sort();
    let of_name = |name: String| {
        let measures = values(&tensors.remove(&format!("{name}.measures")).unwrap());
        let x = tensors.remove(&name).unwrap();
        (name, x, measures)
    };
    names.into_iter().map(of_name).collect()
}

fn spectrum(x: &Tensor) -> Spectrum {
    spectra(x).unwrap().remove(0)
}

/// In the order of the fixture.
fn measures(spectrum: &Spectrum) -> [f64; 6] {
    [
        spectrum.condition_number(),
        spectrum.effective_condition_number(),
        spectrum.effective_rank(),
        spectrum.spectral_norm(),
        spectrum.entropy(),
        spectrum.rank() as f64,
    ]
}

#[test]
fn every_measure_is_that_of_numpy() {
    let fixture = fixture();
    assert!(fixture.len() > 20);
    for (name, x, wanted) in fixture {
        let found = measures(&spectrum(&x));
        assert_eq!(wanted.len(), found.len());
        for (i, (f, w)) in found.into_iter().zip(wanted).enumerate() {
            let agrees = if w.is_finite() { (f - w).abs() <= NUMPY * w } else { f > RESOLVED };
            assert!(agrees, "{name}, measure {i}: {f:e}, NumPy {w:e}");
        }
    }
}

#[test]
fn a_spectrum_depends_neither_on_its_batch_nor_on_threads() {
    let mut by_shape: BTreeMap<Vec<usize>, Vec<Tensor>> = BTreeMap::new();
    for (_, x, _) in fixture() {
        by_shape.entry(x.dims().to_vec()).or_default().push(x);
    }
    for (shape, matrices) in by_shape {
        let alone: Vec<Spectrum> = matrices.iter().map(spectrum).collect();
        let batch = Tensor::stack(&matrices, 0).unwrap();
        for threads in [1, 2, 3, 8] {
            let found = conditioned_threads::with_count(threads, || spectra(&batch).unwrap());
            // Equal numbers of which none is a negative zero: equal bits.
            assert!(found == alone, "{shape:?} in a batch, {threads} threads");
            let bits =
                |s: &[Spectrum]| s.iter().flat_map(measures).map(f64::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&alone), "{shape:?}, {threads} threads");
        }
    }
}
