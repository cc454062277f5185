//! Control: each channel standardised over the batch.

use candle_conditioning::Standardise;
use candle_core::{Result, Tensor};

use super::token_map::{Pass, State, TokenMap, TokenMethod};

/// The method without its state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standardised;

impl TokenMethod for Standardised {
    fn leak(&self) -> Option<&'static str> {
        Some("the statistics of a training step are those of its own batch")
    }

    fn is_frozen_map(&self) -> bool {
        // The mean is subtracted: an affine map, for which the tables have no place.
        false
    }

    fn map(&self, state: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(Standardise::with_state(
            state.buffer("running_mean", &[state.channels], 0.0)?,
            state.buffer("running_var", &[state.channels], 1.0)?,
            state.buffer("running_weight", &[], 0.0)?,
        )?))
    }
}

impl TokenMap for Standardise {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, pass: Pass<'_>) -> Result<Tensor> {
        let y = match (mask, pass.mode.is_train()) {
            (None, false) => Standardise::forward(self, x)?,
            (Some(mask), false) => self.forward_masked(x, mask)?,
            (None, true) => self.forward_train_collected(x)?,
            (Some(mask), true) => self.forward_train_collected_masked(x, mask)?,
        };
        if pass.ends_step() {
            self.commit()?;
        }
        Ok(y)
    }

    fn recalibrate(&self, batches: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<()> {
        Ok(Standardise::recalibrate(self, batches)?)
    }

    fn discard(&self) {
        Standardise::discard(self);
    }

    fn has_state(&self) -> bool {
        true
    }
}
