//! What BERT and Crammed BERT share: words conditioned at one of three places, and rows of hidden
//! states.

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{LayerNorm, Mode, Padding, embedding};

use crate::bert::BertInput;
use crate::conditioning::{ConditioningConfig, Placement, Table, TokenConditioner, Tokens};

/// LN(place(W\[ids\])), conditioned at one of three places: the words, what `place` makes of them by
/// adding positions, or behind the layer norm.
#[derive(Debug)]
pub(crate) struct Embedding {
    words: Table,
    norm: LayerNorm,
    placement: Placement,
    conditioner: TokenConditioner,
}

impl Embedding {
    /// Over the word table (V, C); `vb` holds the state of the conditioner.
    pub(crate) fn new(
        words: Tensor,
        norm: LayerNorm,
        config: ConditioningConfig,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Self {
            conditioner: TokenConditioner::new(config, words.dim(1)?, vb)?,
            words: Table::new(words, config.method)?,
            norm,
            placement: config.placement,
        })
    }

    /// The word table (V, C).
    pub(crate) fn words(&self) -> &Tensor {
        self.words.weight()
    }

    /// Where the tokens are conditioned.
    pub(crate) fn placement(&self) -> Placement {
        self.placement
    }

    /// The tokens that enter the first layer, (B, N, C), before dropout; `added` are the tables from
    /// which `place` adds rows to the words (B, N, C).
    pub(crate) fn forward(
        &self,
        input: &BertInput,
        added: &[&Tensor],
        place: impl Fn(&Tensor) -> Result<Tensor>,
        mode: Mode,
    ) -> Result<Tensor> {
        self.words.refresh(mode)?;
        let condition = |x: Tensor| self.condition(&x, input.padding.as_ref(), added, mode);
        let mut x = self.words.rows(&input.ids)?;
        if self.placement == Placement::BeforePosition {
            x = condition(x)?;
        }
        x = place(&x)?;
        if self.placement == Placement::AfterPosition {
            x = condition(x)?;
        }
        x = self.norm.forward(&x)?;
        if self.placement == Placement::AfterNorm {
            x = condition(x)?;
        }
        Ok(x)
    }

    /// The same in evaluation mode, without and with conditioning, (R, C): real tokens of all
    /// sequences.
    pub(crate) fn tokens(
        &self,
        input: &BertInput,
        added: &[&Tensor],
        place: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tokens> {
        let words = embedding(&input.ids, self.words())?;
        let plain = self.norm.forward(&place(&words)?)?;
        let conditioned = self.forward(input, added, place, Mode::Eval)?;
        Ok(Tokens { plain: real(&plain, input)?, conditioned: real(&conditioned, input)? })
    }

    /// X -> Y, (.., C), for the tokens of the place that is conditioned.
    fn condition(
        &self,
        x: &Tensor,
        padding: Option<&Padding>,
        added: &[&Tensor],
        mode: Mode,
    ) -> Result<Tensor> {
        let tables = match self.placement {
            Placement::BeforePosition => vec![self.words()],
            Placement::AfterPosition => [&[self.words()], added].concat(),
            // A layer norm of independent rows has no formula for its statistics.
            Placement::AfterNorm => Vec::new(),
        };
        self.conditioner.forward(x, padding, &tables, mode)
    }

    /// The word table as it enters the sum, conditioned (V, C): for methods that fold.
    pub(crate) fn folded_words(&self, added: &[&Tensor]) -> Result<Tensor> {
        self.fold(&self.words.embeddings()?, added)
    }

    /// The rows of `table` as an evaluation conditions them.
    pub(crate) fn fold(&self, table: &Tensor, added: &[&Tensor]) -> Result<Tensor> {
        self.condition(table, None, added, Mode::Eval)
    }
}

/// The rows (R, C) of x (B, N, C) that are no padding.
fn real(x: &Tensor, input: &BertInput) -> Result<Tensor> {
    let (_, n, c) = x.dims3()?;
    let flat = x.reshape(((), c))?;
    let Some(padding) = &input.padding else { return Ok(flat) };
    let lengths = padding.lengths().iter().enumerate();
    let rows: Vec<u32> =
        lengths.flat_map(|(i, &length)| (i * n..i * n + length).map(|row| row as u32)).collect();
    flat.index_select(&Tensor::new(rows, x.device())?, 0)
}

/// The rows of x (B, N, C) at `positions` (B, M): (B, M, C).
pub(crate) fn rows_at(x: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let (b, n, c) = x.dims3()?;
    let positions: Vec<Vec<u32>> = positions.to_device(&Device::Cpu)?.to_vec2()?;
    let per_sequence = positions.first().map_or(0, Vec::len);
    if positions.len() != b {
        candle_core::bail!("bert: positions of {} sequences in a batch of {b}", positions.len());
    }
    if let Some(position) = positions.iter().flatten().find(|&&p| p as usize >= n) {
        candle_core::bail!("bert: position {position} in sequences of {n} tokens");
    }
    let rows = positions.iter().enumerate();
    let rows: Vec<u32> =
        rows.flat_map(|(i, row)| row.iter().map(move |p| (i * n) as u32 + p)).collect();
    let rows = Tensor::from_vec(rows, (b, per_sequence), x.device())?;
    embedding(&rows, &x.reshape(((), c))?)
}
