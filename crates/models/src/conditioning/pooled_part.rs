//! Controls: one part of the pooled method alone, for the question which part of it works.

use candle_conditioning::{Pooled, PooledConfig, Source};
use candle_core::{Result, Tensor};
use conditioned_nn::Mode;
use serde::{Deserialize, Serialize};

use super::pooled::Statistics;
use super::token_map::{Pass, State, TokenMap, TokenMethod, on_tokens};

/// A part of Y = X M.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PooledPart {
    /// The directions without their scale, times a factor f of its own:
    /// `Y = (f / s) X M`, `s^2 = tr(M G M) / tr(G)`.
    Directions {
        /// f > 0.
        factor: f64,
    },
    /// What M does to the gradient, not to the tokens: `Y = X`, `dL/dX = dL/dY M`.
    Gradient,
    /// Y = X M whose G stands still after some forward passes of training.
    Frozen {
        /// Forward passes of training that G follows.
        steps: u64,
    },
}

/// A part of the pooled method with its settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartOfPooled(pub(super) PooledConfig, pub(super) PooledPart);

impl TokenMethod for PartOfPooled {
    fn strength(&self) -> Option<f64> {
        match self.1 {
            PooledPart::Directions { factor } => Some(factor),
            PooledPart::Gradient | PooledPart::Frozen { .. } => self.0.strength(),
        }
    }

    fn leak(&self) -> Option<&'static str> {
        self.0.leak()
    }

    fn is_frozen_map(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        if self.0.source == Source::Current {
            candle_core::bail!(
                "a part of the pooled method takes earlier batches (source `earlier`)"
            );
        }
        match self.1 {
            PooledPart::Directions { factor } if !(factor > 0.0 && factor.is_finite()) => {
                candle_core::bail!("factor {factor}: must be above 0 and finite")
            }
            _ => Ok(()),
        }
    }

    fn map(&self, state: &State<'_>) -> Result<Box<dyn TokenMap>> {
        self.validate()?;
        Ok(Box::new(Part { statistics: Statistics::new(self.0, state)?, part: self.1 }))
    }
}

#[derive(Debug)]
struct Part {
    statistics: Statistics,
    part: PooledPart,
}

impl TokenMap for Part {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, pass: Pass<'_>) -> Result<Tensor> {
        let follows = match (pass.mode, self.part) {
            (Mode::Eval, PooledPart::Gradient) => return Ok(x.clone()),
            (Mode::Eval, _) => false,
            (Mode::Train { step, .. }, PooledPart::Frozen { steps }) => step < steps,
            (Mode::Train { .. }, _) => true,
        };
        self.statistics.with(pass, |pooled| {
            let y = conditioned(pooled, x, mask, follows)?;
            match self.part {
                PooledPart::Frozen { .. } => Ok(y),
                // The parentheses are zero: the value is that of x.
                PooledPart::Gradient => x.detach() + (&y - y.detach())?,
                PooledPart::Directions { factor } => {
                    on_tokens((y * (factor / pooled.norm_matched_scale()?))?, x, mask)
                }
            }
        })
    }

    fn recalibrate(&self, batches: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<()> {
        match self.part {
            PooledPart::Frozen { .. } => Ok(()),
            PooledPart::Directions { .. } | PooledPart::Gradient => {
                Ok(self.statistics.pooled.recalibrate(batches)?)
            }
        }
    }

    fn discard(&self) {
        self.statistics.pooled.discard();
    }

    fn has_state(&self) -> bool {
        true
    }
}

/// X M, with tokens collected where G follows them.
fn conditioned(
    pooled: &Pooled,
    x: &Tensor,
    mask: Option<&Tensor>,
    follows: bool,
) -> Result<Tensor> {
    Ok(match (mask, follows) {
        (None, false) => pooled.forward(x)?,
        (Some(mask), false) => pooled.forward_masked(x, mask)?,
        (None, true) => pooled.forward_train_collected(x)?,
        (Some(mask), true) => pooled.forward_train_collected_masked(x, mask)?,
    })
}
