//! The distributions that parameters are drawn from, each from a seeded stream of its own.
//!
//! candle draws from a generator that cannot be seeded on the CPU, so values are drawn here on the
//! host and handed over finished.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Truncation of every normal distribution, in absolute units: `trunc_normal_(std, a=-2, b=2)` as
/// timm and Hugging Face initialise a ViT. At std 0.02 it never acts; at std 1 it cuts 5 %.
const TRUNCATION: f64 = 2.0;

/// A `std`-normal initialisation, truncated at +-2 (absolute), as timm's `trunc_normal_`.
pub fn normal(std: f64) -> Init {
    Init::Randn { mean: 0.0, stdev: std }
}

/// PyTorch's default for the weight and bias of a `Linear` with `fan_in` inputs:
/// uniform in +-1/sqrt(fan_in).
pub fn torch_default(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// The stream of the parameter `name` under the root `seed`: ChaCha8 keyed by
/// BLAKE3(seed, name), a pair of versioned algorithms.
pub(crate) fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("conditioned-nn parameter initialisation v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Draws a tensor of `shape` from `init`.
///
/// Values are drawn in `f64` and rounded to `dtype`, so the same seed gives the same parameters up
/// to rounding in every precision.
pub(crate) fn sample(
    init: Init,
    shape: &Shape,
    dtype: DType,
    device: &Device,
    mut rng: ChaCha8Rng,
) -> Result<Tensor> {
    let mut draw: Box<dyn FnMut() -> f64> = match init {
        Init::Const(value) => Box::new(move || value),
        Init::Uniform { lo, up } => Box::new(move || rng.random_range(lo..up)),
        Init::Randn { mean, stdev } => Box::new(move || truncated_normal(mean, stdev, &mut rng)),
        Init::Kaiming { dist, fan, non_linearity } => {
            let std = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => Box::new(move || truncated_normal(0.0, std, &mut rng)),
                NormalOrUniform::Uniform => {
                    let bound = 3f64.sqrt() * std;
                    Box::new(move || rng.random_range(-bound..bound))
                }
            }
        }
    };
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| draw()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// A normal draw, repeated until it lies within +-[`TRUNCATION`] of zero.
///
/// A mean or deviation for which almost nothing lies there ends after 64 tries with the nearest
/// bound, so that no configuration hangs.
fn truncated_normal(mean: f64, std: f64, rng: &mut ChaCha8Rng) -> f64 {
    let mut value = mean;
    for _ in 0..64 {
        let z: f64 = rng.sample(StandardNormal);
        value = mean + std * z;
        if value.abs() <= TRUNCATION {
            return value;
        }
    }
    value.clamp(-TRUNCATION, TRUNCATION)
}
