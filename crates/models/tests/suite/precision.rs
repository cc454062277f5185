//! Models whose matrices are multiplied in bf16, against the same ones in f32.

use candle_core::{DType, Result, Tensor};
use conditioned_models::conditioning::{Method, Placement};
use conditioned_nn::{Mode, Pass, Precision, backward};

use crate::registry::{TRAIN, batch, families, loss, setup, with};

/// Eight bits, 4e-3, through all layers of a model whose parameters are far from where training would leave them;
/// relative to the norm. A gradient that is missing, or there twice, is 1 off.
const MIXED_TOLERANCE: f64 = 0.4;

/// Gradients below this part of the largest are sums of larger terms, or zero by nature.
const SMALL: f64 = 0.02;

#[test]
fn mixed_precision_is_near_full_precision() -> Result<()> {
    let mixed = Mode::Train { seed: 1, step: 3, last: true, precision: Precision::Bf16 };
    for (family, network) in families()? {
        for method in [Method::None, Method::pooled_earlier(0.3)?] {
            let network = with(&network, method, Placement::AfterPosition);
            let input = batch(&network, 3, DType::F32)?;
            let run = |mode: Mode| {
                let (model, store) = setup(&network, DType::F32)?;
                let output = model.forward(&input, Pass::from(mode))?;
                let grads = backward(loss(&output)?)?;
                let mut found = vec![("the output".to_string(), output)];
                for (name, var) in store.parameters() {
                    found.push((name, grads.get(&var).expect("a gradient").clone()));
                }
                Ok::<_, candle_core::Error>(found)
            };
            let norm = |x: &Tensor| {
                x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>().map(f64::sqrt)
            };
            let (got, want) = (run(mixed)?, run(TRAIN)?);
            let gradients = want[1..].iter().map(|(_, gradient)| norm(gradient));
            let largest = gradients.collect::<Result<Vec<_>>>()?.into_iter().fold(0.0, f64::max);
            let mut rounded = false;
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                assert_eq!(got.dtype(), DType::F32, "{family}: {name}");
                let d = norm(&(got - want)?)? / norm(want)?.max(SMALL * largest);
                assert!(d < MIXED_TOLERANCE, "{family}: {name} is {d} off");
                // f32 alone would be at 1e-5.
                rounded |= d > 1e-4;
            }
            assert!(rounded, "{family}: nothing was rounded to bf16");
        }
    }
    Ok(())
}
