//! Mixed precision: matrix products in half the bits.

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// In what dtype a training pass multiplies matrices.
///
/// | in it | always in the dtype of the parameters |
/// | --- | --- |
/// | linear maps and convolutions, with copies of their weights | the parameters and their gradients |
/// | attention and GELU of what those give | norms, layer scale, biases of attention, softmax next to one |
/// | the head of [`linear_cross_entropy`](crate::linear_cross_entropy) | sums over a residual connection, the loss |
///
/// Weights are copied in every pass, so an optimiser moves the ones of full precision. Evaluations are in full
/// precision. bf16 has the range of f32 and eight bits of it: gradients need no scale.
///
/// On a CPU bf16 is slower than f32, and only there to try what a GPU will do: products are taken in f32 and rounded.
///
/// Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018; Kalamkar et al., "A Study of BFLOAT16 for Deep
/// Learning Training", 2019.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Precision {
    /// The dtype of the parameters.
    #[default]
    #[serde(rename = "f32")]
    Full,
    /// bf16.
    #[serde(rename = "bf16")]
    Bf16,
}

impl Precision {
    /// Whether products are taken as the tensors are.
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }

    /// What is multiplied for `x`.
    pub(crate) fn factor(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Full => Ok(x.clone()),
            Self::Bf16 => x.to_dtype(DType::BF16),
        }
    }
}
