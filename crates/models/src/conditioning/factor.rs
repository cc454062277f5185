//! Control: every token times one number, which a head that is tied to the token table does not see.

use candle_core::{Result, Tensor};

use super::token_map::{Pass, State, TokenMap, TokenMethod, on_tokens};

/// Y = f X.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factor(pub(super) f64);

impl TokenMethod for Factor {
    fn strength(&self) -> Option<f64> {
        Some(self.0)
    }

    fn leak(&self) -> Option<&'static str> {
        None
    }

    fn is_frozen_map(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<()> {
        if self.0 > 0.0 && self.0.is_finite() {
            return Ok(());
        }
        candle_core::bail!("factor {}: must be above 0 and finite", self.0)
    }

    fn map(&self, _: &State<'_>) -> Result<Box<dyn TokenMap>> {
        self.validate()?;
        Ok(Box::new(*self))
    }
}

impl TokenMap for Factor {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, _: Pass<'_>) -> Result<Tensor> {
        on_tokens((x * self.0)?, x, mask)
    }
}
