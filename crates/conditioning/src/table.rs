//! An embedding table that is conditioned as a whole.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Module, Tensor};
use faer::Mat;

use crate::blocks::check_channels;
use crate::conditioner::checked_strength;
use crate::gram::GramSum;
use crate::map::inverse_root_map;
use crate::op::{Backward, attach};
use crate::pooled_config::POOLED_FLOOR;
use crate::product::product;
use crate::{Error, Result};

/// A table of embeddings as a parametrisation: it looks up rows of W M and trains W.
///
/// ```text
/// M = I + t sigma_1 (W^T W)^(-1/2)       (d, d),   W: (V, d) the raw table
/// embeddings of ids = W[ids] M           the whole table W M has kappa <= (1 + t)/t
/// dL/dW = dL/d(W M) M                    M is a constant for the gradient
/// ```
///
/// It depends on no sequence, so it is causal; in return it bounds kappa of the table and not of any
/// X. Directions with sigma_i below [`POOLED_FLOOR`] sigma_1, of W, get a part that falls with
/// sigma_i, as in [`Pooled`](crate::Pooled).
///
/// *Refresh.* M is computed by [`ConditionedTable::new`] and then only by
/// [`ConditionedTable::refresh`]: between two calls the map is linear and W M drifts with W. Refresh
/// once per optimiser step, after it, or as seldom as kappa of [`ConditionedTable::table`] allows; and
/// before evaluation and before a checkpoint: M is no state of its own, so a resumed run starts from
/// the M of the saved W.
///
/// A head tied to the table takes the raw W ([`ConditionedTable::weight`]).
///
/// Source: ours; the causal variant of the paper's C that needs no statistics of the data.
#[derive(Debug)]
pub struct ConditionedTable {
    weight: Tensor,
    strength: f64,
    M: Mutex<Arc<Mat<f64>>>,
}

impl ConditionedTable {
    /// Over W: (V, d), shared and not copied: give it the variable's tensor to train it.
    ///
    /// # Errors
    ///
    /// An invalid strength; another rank or dtype; NaN or infinity in W; no convergence.
    pub fn new(weight: Tensor, strength: f64) -> Result<Self> {
        checked_strength(strength)?;
        if weight.rank() != 2 {
            let (found, expected) = (weight.shape().clone(), "(vocabulary, channels)".to_string());
            return Err(Error::Shape { tensor: "weight", found, expected });
        }
        let M = Mutex::new(matrix_of(&weight, strength)?);
        Ok(Self { weight, strength, M })
    }

    /// Computes M from W as it is now.
    ///
    /// # Errors
    ///
    /// NaN or infinity in W; no convergence. M then stays as it was.
    pub fn refresh(&self) -> Result<()> {
        let M = matrix_of(&self.weight, self.strength)?;
        *self.M.lock().unwrap_or_else(PoisonError::into_inner) = M;
        Ok(())
    }

    /// W, as it was given.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// t.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// The whole table W M: (V, d).
    ///
    /// # Errors
    ///
    /// NaN or infinity in W; a result beyond the range of its dtype.
    pub fn table(&self) -> Result<Tensor> {
        self.condition(&self.weight)
    }

    /// The rows W\[ids\] M: ids (..) of u8, u32 or i64 -> (.., d).
    ///
    /// # Errors
    ///
    /// Those of candle for ids out of range; those of [`ConditionedTable::table`].
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = self.weight.index_select(&ids.flatten_all()?, 0)?; // (n, d)
        let mut shape = ids.dims().to_vec();
        shape.push(self.weight.dim(1)?);
        Ok(self.condition(&rows)?.reshape(shape)?)
    }

    /// Rows of W that were looked up elsewhere, times M: (..., n, d) -> the same shape.
    ///
    /// # Errors
    ///
    /// Those of [`ConditionedTable::table`]; another number of channels.
    pub fn condition(&self, rows: &Tensor) -> Result<Tensor> {
        check_channels(rows, self.weight.dim(1)?)?;
        if self.strength == 0.0 {
            return Ok(rows.clone());
        }
        let M = self.M.lock().unwrap_or_else(PoisonError::into_inner).clone();
        attach(rows, product("weight", rows, None, &M)?, Backward::Product { M, mask: None })
    }
}

fn matrix_of(weight: &Tensor, t: f64) -> Result<Arc<Mat<f64>>> {
    let d = weight.dim(1)?;
    // The mean instead of the sum only scales G, and M does not depend on its scale.
    inverse_root_map(
        "weight",
        &GramSum::of_named("weight", weight, None, d)?.mean()?,
        d,
        t,
        POOLED_FLOOR,
    )
}

impl Module for ConditionedTable {
    fn forward(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.forward(ids)?)
    }
}
