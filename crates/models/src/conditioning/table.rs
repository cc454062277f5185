//! Embedding tables that are conditioned as a whole.

use candle_conditioning::ConditionedTable;
use candle_core::{Result, Tensor};
use conditioned_nn::embedding;

use super::Method;
use super::none::Identity;
use super::token_map::{State, TokenMap, TokenMethod};
use crate::stem::Way;

/// The method on the side of the tokens, to which nothing is done: see [`Table`].
#[derive(Debug, Clone, Copy)]
pub(super) struct ConditionedTables {
    pub(super) strength: f64,
}

impl TokenMethod for ConditionedTables {
    fn strength(&self) -> Option<f64> {
        Some(self.strength)
    }

    fn leak(&self) -> Option<&'static str> {
        None
    }

    fn is_frozen_map(&self) -> bool {
        true
    }

    fn map(&self, _: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(Identity))
    }
}

/// A table of embeddings W (V, C), conditioned as a whole where the method says so.
#[derive(Debug)]
pub(crate) enum Table {
    Plain(Tensor),
    Conditioned(ConditionedTable),
}

impl Table {
    /// Over W, shared with the variable that trains it.
    pub(crate) fn new(weight: Tensor, method: Method) -> Result<Self> {
        Ok(match method {
            Method::Table { strength } => {
                Self::Conditioned(ConditionedTable::new(weight, strength)?)
            }
            _ => Self::Plain(weight),
        })
    }

    /// W: what a tied head multiplies with.
    pub(crate) fn weight(&self) -> &Tensor {
        match self {
            Self::Plain(weight) => weight,
            Self::Conditioned(table) => table.weight(),
        }
    }

    /// The embeddings of ids (..) -> (.., C).
    pub(crate) fn rows(&self, ids: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.by(way, embedding(ids, self.weight())?)
    }

    /// The embeddings `first..first + count`: (count, C).
    pub(crate) fn range(&self, first: usize, count: usize, way: Way<'_>) -> Result<Tensor> {
        self.by(way, self.weight().narrow(0, first, count)?)
    }

    /// The whole table of embeddings: (V, C).
    pub(crate) fn embeddings(&self) -> Result<Tensor> {
        self.condition(self.weight().clone())
    }

    /// A training pass follows W, which the step before it has moved; evaluation builds its model anew.
    fn by(&self, way: Way<'_>, rows: Tensor) -> Result<Tensor> {
        match (way, self) {
            (Way::Plain, _) => return Ok(rows),
            (Way::Conditioned(pass), Self::Conditioned(table)) if pass.mode.is_train() => {
                table.refresh()?;
            }
            _ => {}
        }
        self.condition(rows)
    }

    fn condition(&self, rows: Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(_) => Ok(rows),
            Self::Conditioned(table) => Ok(table.condition(&rows)?),
        }
    }
}
