//! Y = X M with one matrix M for all sequences, from the pooled Gram.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_conditioning::{Pooled, PooledConfig, Source};
use candle_core::{Result, Tensor};
use conditioned_nn::Mode;

use super::token_map::{Pass, State, TokenMap, TokenMethod};

impl TokenMethod for PooledConfig {
    fn strength(&self) -> Option<f64> {
        Some(self.strength)
    }

    fn leak(&self) -> Option<&'static str> {
        match self.source {
            Source::Earlier => None,
            Source::Current => Some("the statistics of a training step are those of its own batch"),
        }
    }

    fn is_frozen_map(&self) -> bool {
        true
    }

    fn map(&self, state: &State<'_>) -> Result<Box<dyn TokenMap>> {
        Ok(Box::new(PooledMap { statistics: Statistics::new(*self, state)? }))
    }
}

#[derive(Debug)]
struct PooledMap {
    statistics: Statistics,
}

impl TokenMap for PooledMap {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>, pass: Pass<'_>) -> Result<Tensor> {
        self.statistics.with(pass, |pooled| {
            Ok(match (mask, pass.mode.is_train()) {
                (None, false) => pooled.forward(x)?,
                (Some(mask), false) => pooled.forward_masked(x, mask)?,
                (None, true) => pooled.forward_train_collected(x)?,
                (Some(mask), true) => pooled.forward_train_collected_masked(x, mask)?,
            })
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

/// Pooled statistics that begin with the tables whose rows add up to X.
///
/// Before the first batch M must know the tokens, and in a causal model not from the batch itself.
/// The first training pass stores the Gram matrix of the tables as the first observation. An
/// evaluation that comes before it takes the same matrix and stores nothing.
#[derive(Debug)]
pub(super) struct Statistics {
    pub(super) pooled: Pooled,
    channels: usize,
    /// The latest forward pass of training that had statistics: those behind it need not ask, which waits for a GPU.
    begun: Mutex<Option<u64>>,
    /// What evaluations before the first observation take.
    provisional: Mutex<Option<Provisional>>,
}

/// Statistics of tables, and the values that these had.
#[derive(Debug, Clone)]
struct Provisional {
    tables: Vec<Tensor>,
    pooled: Arc<Pooled>,
}

impl Statistics {
    /// Over the buffers `running_gram` and `running_weight`.
    pub(super) fn new(config: PooledConfig, state: &State<'_>) -> Result<Self> {
        let state = state.on(Pooled::state_device);
        let gram = state.buffer("running_gram", &[state.channels, state.channels], 0.0)?;
        let weight = state.buffer("running_weight", &[], 0.0)?;
        let pooled = Pooled::with_state(config, gram, weight)?;
        let (provisional, begun) = Default::default();
        Ok(Self { pooled, channels: state.channels, provisional, begun })
    }

    /// Runs `work` with the statistics that a pass takes, and ends the optimiser step with its last pass.
    pub(super) fn with<R>(
        &self,
        pass: Pass<'_>,
        work: impl FnOnce(&Pooled) -> Result<R>,
    ) -> Result<R> {
        let Pass { tables, mode } = pass;
        if !tables.is_empty() && !self.has_begun(mode) {
            let is_new = self.pooled.observations()? == 0.0;
            match mode {
                Mode::Eval if is_new => return work(&*self.provisional(tables)?),
                Mode::Eval => {}
                Mode::Train { step, .. } => {
                    if is_new {
                        self.pooled.start_from_tables(tables)?;
                    }
                    *self.lock_begun() = Some(step);
                }
            }
        }
        let result = work(&self.pooled)?;
        if pass.ends_step() {
            self.pooled.commit()?;
        }
        Ok(result)
    }

    /// Whether a pass before this one of training had statistics.
    fn has_begun(&self, mode: Mode) -> bool {
        let Mode::Train { step, .. } = mode else { return false };
        let mut begun = self.lock_begun();
        let goes_on = begun.is_some_and(|begun| begun < step);
        if goes_on {
            *begun = Some(step);
        }
        goes_on
    }

    fn lock_begun(&self) -> MutexGuard<'_, Option<u64>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statistics of `tables`, computed anew only when their values have changed.
    fn provisional(&self, tables: &[&Tensor]) -> Result<Arc<Pooled>> {
        let lock = || self.provisional.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        if let Some(known) = known
            && same(&known.tables, tables)?
        {
            return Ok(known.pooled);
        }
        let copies =
            tables.iter().map(|table| table.detach().copy()).collect::<Result<Vec<_>>>()?;
        let pooled = Pooled::new(*self.pooled.config(), self.channels, tables[0].device())?;
        pooled.start_from_tables(&copies.iter().collect::<Vec<_>>())?;
        let pooled = Arc::new(pooled);
        *lock() = Some(Provisional { tables: copies, pooled: pooled.clone() });
        Ok(pooled)
    }
}

/// Whether tables of the same shapes hold the same values.
fn same(known: &[Tensor], tables: &[&Tensor]) -> Result<bool> {
    if known.len() != tables.len() {
        return Ok(false);
    }
    for (known, table) in known.iter().zip(tables) {
        if known.dims() != table.dims() || known.eq(*table)?.min_all()?.to_scalar::<u8>()? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
