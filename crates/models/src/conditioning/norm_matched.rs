//! Control: each sequence scaled to the norm that the per-sequence method gives it.

use candle_conditioning::NormMatched;
use candle_core::{Result, Tensor};

use super::token_map::{Pass, State, TokenMap, TokenMethod};

impl TokenMethod for NormMatched {
    fn strength(&self) -> Option<f64> {
        Some(NormMatched::strength(self))
    }

    fn leak(&self) -> Option<&'static str> {
        Some("the scale is computed from the whole sequence")
    }

    fn is_frozen_map(&self) -> bool {
        false
    }

    fn map(&self, _: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(*self))
    }
}

impl TokenMap for NormMatched {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, _: Pass<'_>) -> Result<Tensor> {
        Ok(match mask {
            None => NormMatched::forward(self, x)?,
            Some(mask) => self.forward_masked(x, mask)?,
        })
    }
}
