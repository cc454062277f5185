//! What every model can be asked.

use std::cell::OnceCell;
use std::fmt::Debug;

use candle_core::{Result, Tensor};
use conditioned_nn::{Mode, Pass, Probe, Seen};

use crate::conditioning::Tokens;
use crate::stem::{Stem, Way, flat};

/// A model of any family.
pub trait Model: Debug + Send + Sync {
    /// Images (B, channels, H, W) to logits (B, K), or ids (B, N) to logits (B, N, V) or, by an encoder
    /// without head, hidden states (B, N, C).
    ///
    /// # Errors
    /// When the input does not fit the model.
    fn forward(&self, input: &Tensor, pass: Pass<'_>) -> Result<Tensor>;

    /// Images or ids to the tokens that enter the first block, (B, N, C) or (B, H, W, C): at each place where
    /// tokens can be conditioned they go through [`Model::stem`], by `way`.
    ///
    /// # Errors
    /// As [`Model::forward`].
    fn embed(&self, input: &Tensor, way: Way<'_>) -> Result<Tensor>;

    /// What is done to the tokens in front of the first block.
    fn stem(&self) -> &Stem;

    /// Tokens before and after conditioning, and tokens, queries, keys, values and attention of every layer, in an
    /// evaluation of `input`; nothing of the model moves.
    ///
    /// # Errors
    /// As [`Model::forward`].
    fn probe(&self, input: &Tensor) -> Result<Seen> {
        let probe = Probe::default();
        self.forward(input, Pass::probed(&probe))?;
        Ok(probe.take())
    }

    /// The tokens that enter the first block in evaluation mode, (B, N, C), without and with conditioning.
    ///
    /// # Errors
    /// As [`Model::forward`].
    fn tokens(&self, input: &Tensor) -> Result<Tokens> {
        Ok(Tokens {
            plain: flat(&self.embed(input, Way::Plain)?)?,
            conditioned: flat(&self.embed(input, Way::Conditioned(Mode::Eval.into()))?)?,
        })
    }
}

impl dyn Model {
    /// Replaces the running averages of the conditioning, if it has any, by those over `batches` of inputs:
    /// precise statistics for an evaluation. Without running averages no batch is taken.
    ///
    /// # Errors
    /// The first error among the batches, as it is; when an input does not fit, or the state is read-only.
    pub fn recalibrate<E>(
        &self,
        batches: impl IntoIterator<Item = std::result::Result<Tensor, E>>,
    ) -> std::result::Result<(), E>
    where
        E: From<candle_core::Error>,
    {
        // The first error of the batches ends the sum and is handed out as it is.
        let mut failed = None;
        let mut tokens = batches.into_iter().map_while(|batch| match batch {
            Ok(input) => Some(self.conditioned_tokens(&input)),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let recalibrated = self.stem().recalibrate(&mut tokens);
        match failed {
            Some(error) => Err(error),
            None => Ok(recalibrated?),
        }
    }

    /// The X that the conditioning acts on, (B, N, C).
    fn conditioned_tokens(&self, input: &Tensor) -> Result<Tensor> {
        let cell = OnceCell::new();
        self.embed(input, Way::Keep(&cell))?;
        match cell.into_inner() {
            Some(x) => Ok(x),
            None => candle_core::bail!("the embedding has no place {:?}", self.stem().placement()),
        }
    }
}
