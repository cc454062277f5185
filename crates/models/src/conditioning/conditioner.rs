//! The method of tokens in a model: steps, ramp and padding.

use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Mode, Padding};

use super::ConditioningConfig;
use super::token_map::{Pass, State, TokenMap};

/// The method of one model, with its state.
///
/// State lives in the model's store as buffers `running_*` (f64), so it is saved and resumed with the parameters.
#[derive(Debug)]
pub(crate) struct TokenConditioner {
    map: Box<dyn TokenMap>,
    ramp_steps: u64,
    /// The latest micro-batch of the optimiser step whose tokens are being collected; `None` between two steps.
    latest: Mutex<Option<u64>>,
}

impl TokenConditioner {
    /// The method for tokens of width `channels`.
    pub(crate) fn new(config: ConditioningConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let map = config.method.kind().map(&State::new(vb, channels))?;
        Ok(Self { map, ramp_steps: config.ramp_steps, latest: Mutex::new(None) })
    }

    /// X -> Y, (B, N, C). Padding takes no part and is left alone.
    ///
    /// The micro-batches of an optimiser step use the running averages as they stand, and the last one
    /// then moves them once, by the tokens of all. A step begins anew where the numbers of the
    /// micro-batches do not grow: what a step that was broken off had collected is dropped. They may have
    /// gaps, the micro-batches of other processes. An evaluation changes nothing.
    ///
    /// `tables` are those whose rows add up to X, where X is such a sum: pooled statistics begin
    /// with them.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        padding: Option<&Padding>,
        tables: &[&Tensor],
        mode: Mode,
    ) -> Result<Tensor> {
        if let Mode::Train { step, last, .. } = mode {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            let goes_on = latest.is_some_and(|latest| latest < step);
            *latest = (!last).then_some(step);
            if !goes_on {
                self.map.discard();
            }
        }
        let mask = padding.map(|padding| padding.mask(x.device())).transpose()?;
        let y = self.map.forward(x, mask.as_ref(), Pass { tables, mode })?;
        match mode {
            Mode::Train { step, .. } if step + 1 < self.ramp_steps => {
                let part = (step + 1) as f64 / self.ramp_steps as f64;
                x + ((y - x)? * part)?
            }
            _ => Ok(y),
        }
    }

    /// Replaces running averages by those over `batches` of X; nothing for methods without state.
    pub(crate) fn recalibrate(
        &self,
        batches: impl IntoIterator<Item = Result<Tensor>>,
    ) -> Result<()> {
        self.map.recalibrate(&mut batches.into_iter())
    }

    /// Whether evaluation uses running averages.
    pub(crate) fn has_state(&self) -> bool {
        self.map.has_state()
    }
}
