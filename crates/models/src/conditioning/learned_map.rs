//! Control: a map of the tokens that is learned like any other weight.

use candle_core::{Result, Tensor};

use super::token_map::{Pass, State, TokenMap, TokenMethod, on_tokens};

/// Y = X + X W.
#[derive(Debug, Clone, Copy)]
pub(super) struct LearnedMap;

impl TokenMethod for LearnedMap {
    fn leak(&self) -> Option<&'static str> {
        None
    }

    fn is_frozen_map(&self) -> bool {
        true
    }

    fn map(&self, state: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(Map { weight: state.weight("map.weight")? }))
    }
}

/// W (C, C), zero at first, so that weight decay draws the map to the identity.
#[derive(Debug)]
struct Map {
    weight: Tensor,
}

impl TokenMap for Map {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, _: Pass<'_>) -> Result<Tensor> {
        on_tokens((x + x.broadcast_matmul(&self.weight)?)?, x, mask)
    }
}
