//! The moving average against its formula.

use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use conditioned_nn::Store;
use conditioned_train::Ema;

use crate::support::{assert_close, noise, values};

/// Forty steps of three roundings.
const ROUNDING: f64 = 1e-14;
const DECAY: f64 = 0.6;
/// (1 + n)/(10 + n) passes 0.6 at n = 12.5: both branches are taken.
const UPDATES: usize = 40;

#[test]
fn the_average_follows_the_formula_and_buffers_are_copied() {
    let store = Store::new(1, DType::F64, &Device::Cpu);
    let vb = store.builder();
    vb.get_with_hints(2, "w", Init::Const(1.0)).unwrap();
    vb.get_with_hints(2, "running_gram", Init::Const(1.0)).unwrap();
    let (w, gram) = (store.get("w").unwrap(), store.get("running_gram").unwrap());
    let mut ema = Ema::new(&store, DECAY).unwrap();
    let mut wanted = 1.0;
    for n in 0..UPDATES {
        let theta = noise(n);
        w.set(&Tensor::new(&[theta, theta], &Device::Cpu).unwrap()).unwrap();
        ema.update().unwrap();
        let d = DECAY.min((1.0 + n as f64) / (10.0 + n as f64));
        wanted = d * wanted + (1.0 - d) * theta;
    }
    let averaged = ema.builder(&store).unwrap();
    let average = averaged.get(2, "w").unwrap();
    assert_close("average", &values(&average), &[wanted; 2], ROUNDING, ROUNDING);
    assert_close("parameter", &values(&w), &[noise(UPDATES - 1); 2], 0.0, 0.0);

    let copy = averaged.get(2, "running_gram").unwrap();
    gram.set(&Tensor::new(&[5.0, 5.0], &Device::Cpu).unwrap()).unwrap();
    assert_eq!(values(&copy), [1.0, 1.0], "a copy, taken when the builder was made");
    assert_eq!(values(&ema.builder(&store).unwrap().get(2, "running_gram").unwrap()), [5.0, 5.0]);
}

#[test]
fn the_state_comes_back() {
    let store = Store::new(1, DType::F32, &Device::Cpu);
    store.builder().get_with_hints(2, "w", Init::Const(1.0)).unwrap();
    let mut first = Ema::new(&store, DECAY).unwrap();
    store.get("w").unwrap().set(&Tensor::new(&[2f32, 3.0], &Device::Cpu).unwrap()).unwrap();
    first.update().unwrap();
    let saved = first.tensors();
    let mut second = Ema::new(&store, DECAY).unwrap();
    second.load(first.updates(), |_, _| Ok(saved[0].1.clone())).unwrap();
    first.update().unwrap();
    second.update().unwrap();
    assert_eq!(values(&second.tensors()[0].1), values(&first.tensors()[0].1));
    assert_eq!(second.updates(), 2);
}

#[test]
fn a_decay_of_one_is_refused() {
    let error = Ema::new(&Store::new(1, DType::F32, &Device::Cpu), 1.0).unwrap_err();
    assert_eq!(error.to_string(), "configuration: `ema` must lie in [0, 1), is 1");
}
