//! Mixed precision: matrix products in half the bits.

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// In what dtype a training pass multiplies matrices.
///
/// In [`Precision::Bf16`] a [`Sequence`](crate::Sequence) takes
///
/// | layer | in |
/// | --- | --- |
/// | linear maps, convolutions but for depthwise and transposed ones | bf16, tokens and weights |
/// | attention of whole sequences, GELU | bf16 after such a layer; softmax adds in f32 |
/// | all others: norms, layer scale, dropout, attention in windows, among channels and by landmarks, pooling | f32 |
/// | the sum over a residual connection | f32 |
///
/// where f32 is the dtype of the parameters, f64 in a model of f64. [`linear_cross_entropy`](crate::linear_cross_entropy)
/// multiplies in bf16 and has its loss in f32. The gradient of a weight is one product in bf16, rounded, and is then added
/// up and used in f32.
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

    /// `x` in the dtype of `like`, where it may have lost bits to a product.
    pub(crate) fn whole(self, x: &Tensor, like: &Tensor) -> Result<Tensor> {
        match self {
            Self::Full => Ok(x.clone()),
            Self::Bf16 => x.to_dtype(like.dtype()),
        }
    }

    /// What is multiplied for `x`.
    pub(crate) fn factor(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Full => Ok(x.clone()),
            Self::Bf16 => x.to_dtype(DType::BF16),
        }
    }
}
