//! The spectrum of each sequence flattened by a power.

use candle_conditioning::TokenGraying;
use candle_core::{Result, Tensor};

use super::token_map::{Pass, State, TokenMap, TokenMethod};

impl TokenMethod for TokenGraying {
    fn leak(&self) -> Option<&'static str> {
        Some("the spectrum is that of the whole sequence")
    }

    fn is_frozen_map(&self) -> bool {
        false
    }

    fn validate(&self) -> Result<()> {
        Ok(TokenGraying::validate(self)?)
    }

    fn map(&self, _: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(*self))
    }
}

impl TokenMap for TokenGraying {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, _: Pass<'_>) -> Result<Tensor> {
        Ok(match mask {
            None => TokenGraying::forward(self, x)?,
            Some(mask) => self.forward_masked(x, mask)?,
        })
    }
}
