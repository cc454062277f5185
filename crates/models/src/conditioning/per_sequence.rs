//! Y = X + t sigma_1 U V^T of each sequence.

use candle_conditioning::Conditioner;
use candle_core::{Result, Tensor};

use super::token_map::{Pass, State, TokenMap, TokenMethod};

impl TokenMethod for Conditioner {
    fn strength(&self) -> Option<f64> {
        Some(Conditioner::strength(self))
    }

    fn leak(&self) -> Option<&'static str> {
        Some("C is computed from the whole sequence")
    }

    fn is_frozen_map(&self) -> bool {
        false
    }

    fn map(&self, _: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(*self))
    }
}

impl TokenMap for Conditioner {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, _: Pass<'_>) -> Result<Tensor> {
        Ok(match mask {
            None => Conditioner::forward(self, x)?,
            Some(mask) => self.forward_masked(x, mask)?,
        })
    }
}
