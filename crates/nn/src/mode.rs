//! Training or evaluation, and the random streams of a training step.

use crate::Precision;

/// How a forward pass runs: an argument of every stochastic layer.
///
/// Randomness is a function of (seed, step, layer, element) and of nothing else, so a run that
/// resumes at any step repeats the same masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Evaluation: dropout and drop path are the identity, statistics are frozen.
    Eval,
    /// Training.
    Train {
        /// The root seed of the run.
        seed: u64,
        /// The number of forward passes (micro-batches) done before this one.
        step: u64,
        /// Whether this is the last micro-batch of an optimiser step; with one micro-batch a step,
        /// always. Statistics of the tokens of a whole step move here and stand still before.
        last: bool,
        /// In what dtype matrices are multiplied.
        precision: Precision,
    },
}

impl Mode {
    /// A training pass that is the only one of its optimiser step, in full precision.
    pub const fn train(seed: u64, step: u64) -> Self {
        Self::Train { seed, step, last: true, precision: Precision::Full }
    }

    /// The same in full precision.
    pub const fn in_full_precision(self) -> Self {
        match self {
            Self::Eval => Self::Eval,
            Self::Train { seed, step, last, .. } => {
                Self::Train { seed, step, last, precision: Precision::Full }
            }
        }
    }

    /// In what dtype matrices are multiplied: evaluations are in full precision.
    pub fn precision(self) -> Precision {
        match self {
            Self::Eval => Precision::Full,
            Self::Train { precision, .. } => precision,
        }
    }

    /// Whether this is a training pass.
    pub fn is_train(self) -> bool {
        matches!(self, Self::Train { .. })
    }
}

/// The key of a layer's random stream, from its parameter path (BLAKE3, first 8 bytes).
pub(crate) fn layer_key(path: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("conditioned-nn layer stream v1");
    hasher.update(path.as_bytes());
    let mut key = [0; 8];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(key)
}

/// SplitMix64's output function: a bijective mix of 64 bits (Steele, Lea & Flood 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The key of one (seed, step, layer) stream.
pub(crate) fn step_key(seed: u64, step: u64, layer: u64) -> u64 {
    mix(mix(mix(seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(step)).wrapping_add(layer))
}

/// Element `index` of the stream `key`, uniform in [0, 1): SplitMix64 at a random position.
pub(crate) fn uniform(key: u64, index: u64) -> f32 {
    let bits = mix(key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
}
