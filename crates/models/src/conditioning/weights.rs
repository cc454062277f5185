//! What is done to the weights of queries, keys and values.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_conditioning::{SpectralConditioning, WeightConditioning};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::Mode;
use conditioned_nn::store::FIXED_BUFFER;
use serde::{Deserialize, Serialize};

/// What is done to the weights W_q, W_k and W_v, each (C, C), of every layer. Causal.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightMethod {
    /// Nothing.
    #[default]
    None,
    /// W + C with a fixed C without gradient: Spectral Conditioning.
    ///
    /// The C of [`SpectralConditioning::Exact`] is that of the weights before the first step, so also
    /// of weights that were read from a file by then. It is kept as a buffer `spectral_conditioning`
    /// (f32) beside the weight, and saved and resumed with it.
    Spectral(SpectralConditioning),
    /// Every row over its norm, one row an output, in every pass and with the gradient through the
    /// norm: Weight Conditioning.
    Weight,
}

impl WeightMethod {
    /// Whether nothing is done.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Checks what the type cannot.
    ///
    /// # Errors
    /// When lambda is negative or not finite.
    pub(crate) fn validate(&self) -> Result<()> {
        match self {
            Self::Spectral(form) if form.validate().is_err() => candle_core::bail!(
                "spectral conditioning: {form:?} must have a finite lambda, 0 or more"
            ),
            _ => Ok(()),
        }
    }
}

/// How the matrices (C, C) of queries, keys and values lie in one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// (C, C) or (3C, C): one below the other, a row an output.
    Rows,
    /// (C, 3C): side by side, a column an output, as in GPT-2.
    Columns,
    /// (3C, C): a row an output, and for each of H heads its rows of queries, keys and values, as in
    /// Crammed BERT.
    Heads(usize),
}

impl Packing {
    /// As [`Packing::Rows`], one below the other.
    pub(crate) fn unpack(self, weight: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rows => Ok(weight.clone()),
            Self::Columns => weight.t(),
            Self::Heads(heads) => {
                let (rows, c) = weight.dims2()?;
                let weight = weight.reshape((heads, 3, c / heads, c))?;
                weight.transpose(0, 1)?.reshape((rows, c))
            }
        }
    }

    /// The inverse of [`Packing::unpack`].
    fn pack(self, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rows => Ok(rows.clone()),
            Self::Columns => rows.t()?.contiguous(),
            Self::Heads(heads) => {
                let (n, c) = rows.dims2()?;
                let rows = rows.reshape((3, heads, c / heads, c))?;
                rows.transpose(0, 1)?.reshape((n, c))
            }
        }
    }

    /// The C of each matrix, packed as the weight is.
    fn correction(self, form: SpectralConditioning, weight: &Tensor) -> Result<Tensor> {
        let rows = self.unpack(&weight.detach())?;
        let (n, c) = rows.dims2()?;
        let corrections = (0..n / c)
            .map(|k| Ok(form.correction(&rows.narrow(0, k * c, c)?.contiguous()?)?))
            .collect::<Result<Vec<_>>>()?;
        self.pack(&Tensor::cat(&corrections, 0)?)
    }
}

/// The method on one tensor of weights.
#[derive(Debug)]
pub(crate) struct WeightMap {
    packing: Packing,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    None,
    /// W + C with a C that the configuration alone tells.
    Fixed(Tensor),
    Exact(Exact),
    Rows,
}

impl WeightMap {
    /// For `weight`, whose name in `vb` is `weight`: state lies beside it.
    pub(crate) fn new(
        method: WeightMethod,
        packing: Packing,
        weight: &Tensor,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let kind = match method {
            WeightMethod::None => Kind::None,
            WeightMethod::Spectral(SpectralConditioning::Exact) => {
                Kind::Exact(Exact::new(weight, vb)?)
            }
            WeightMethod::Spectral(form) => Kind::Fixed(packing.correction(form, weight)?),
            WeightMethod::Weight => Kind::Rows,
        };
        Ok(Self { packing, kind })
    }

    /// The weight that multiplies, packed as `weight` is, attached to its graph.
    pub(crate) fn apply(&self, weight: &Tensor, mode: Mode) -> Result<Tensor> {
        match &self.kind {
            Kind::None => Ok(weight.clone()),
            Kind::Fixed(correction) => weight + correction,
            Kind::Exact(exact) => weight + exact.correction(self.packing, weight, mode)?,
            Kind::Rows => match self.packing {
                Packing::Columns => WeightConditioning.forward(&weight.t()?)?.t(),
                Packing::Rows | Packing::Heads(_) => Ok(WeightConditioning.forward(weight)?),
            },
        }
    }
}

/// The C of exact Spectral Conditioning: a buffer that is zero until the first training pass.
#[derive(Debug)]
struct Exact {
    buffer: Tensor,
    /// Whether the buffer is known to hold C.
    known: AtomicBool,
}

impl Exact {
    fn new(weight: &Tensor, vb: &VarBuilder) -> Result<Self> {
        let zero = Init::Const(0.0);
        let buffer = vb.get_with_hints_dtype(weight.shape(), FIXED_BUFFER, zero, DType::F32)?;
        Ok(Self { buffer, known: AtomicBool::new(false) })
    }

    /// C. The first training pass computes it from the weight that it finds and keeps it; an evaluation
    /// that comes before it takes the same and keeps nothing.
    fn correction(&self, packing: Packing, weight: &Tensor, mode: Mode) -> Result<Tensor> {
        if !self.known.load(Ordering::Relaxed) {
            if self.is_zero()? {
                let correction = packing.correction(SpectralConditioning::Exact, weight)?;
                let correction = correction.to_dtype(DType::F32)?;
                if !mode.is_train() {
                    return correction.to_dtype(weight.dtype());
                }
                if !self.buffer.is_variable() {
                    candle_core::bail!(
                        "{FIXED_BUFFER} cannot be written: the model is built over frozen tensors; \
                         train one that is built over a store"
                    );
                }
                Var::from_tensor(&self.buffer)?.set(&correction)?;
            }
            self.known.store(true, Ordering::Relaxed);
        }
        self.buffer.detach().to_dtype(weight.dtype())
    }

    fn is_zero(&self) -> Result<bool> {
        let largest = self.buffer.detach().abs()?.max_all()?;
        Ok(largest.to_device(&Device::Cpu)?.to_scalar::<f32>()? == 0.0)
    }
}
