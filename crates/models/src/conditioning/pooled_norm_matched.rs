//! Control: tokens scaled by one number to the norm that the pooled method gives them.

use candle_conditioning::PooledConfig;
use candle_core::{Result, Tensor};

use super::pooled::Statistics;
use super::token_map::{Pass, State, TokenMap, TokenMethod, on_tokens};

/// f^2 = tr(M G M) / tr(G) with the G and M of these settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct PooledNormMatched(pub(super) PooledConfig);

impl TokenMethod for PooledNormMatched {
    fn strength(&self) -> Option<f64> {
        self.0.strength()
    }

    fn leak(&self) -> Option<&'static str> {
        self.0.leak()
    }

    fn is_frozen_map(&self) -> bool {
        true
    }

    fn map(&self, state: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(Scaled { statistics: Statistics::new(self.0, state)? }))
    }
}

/// Y = f X.
#[derive(Debug)]
struct Scaled {
    statistics: Statistics,
}

impl TokenMap for Scaled {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, pass: Pass<'_>) -> Result<Tensor> {
        let train = pass.mode.is_train();
        self.statistics.with(pass, |pooled| {
            let scaled = (x * pooled.norm_matched_scale()?)?;
            match mask {
                _ if !train => {}
                None => pooled.collect(x)?,
                Some(mask) => pooled.collect_masked(x, mask)?,
            }
            on_tokens(scaled, x, mask)
        })
    }

    fn recalibrate(&self, batches: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<()> {
        Ok(self.statistics.pooled.recalibrate(batches)?)
    }

    fn discard(&self) {
        self.statistics.pooled.discard();
    }

    fn has_state(&self) -> bool {
        true
    }
}
