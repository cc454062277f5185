//! What BERT and Crammed BERT share: words conditioned at one of three places, and rows of hidden
//! states.

use candle_core::{Device, Module, Result, Tensor};
use conditioned_nn::{LayerNorm, Mode, Pass, embedding};

use crate::bert::BertInput;
use crate::conditioning::{Placement, Table, Tokens};
use crate::stem::{Stem, Way};

/// LN(place(W\[ids\])), conditioned at one of three places: the words, what `place` makes of them by
/// adding positions, or behind the layer norm.
#[derive(Debug)]
pub(crate) struct Embedding {
    words: Table,
    norm: LayerNorm,
    stem: Stem,
}

impl Embedding {
    /// Over the word table (V, C).
    pub(crate) fn new(words: Tensor, norm: LayerNorm, stem: Stem) -> Result<Self> {
        Ok(Self { words: stem.words(words)?, norm, stem })
    }

    /// The word table (V, C).
    pub(crate) fn words(&self) -> &Tensor {
        self.words.weight()
    }

    /// What is done to the tokens.
    pub(crate) fn stem(&self) -> &Stem {
        &self.stem
    }

    /// The tokens that enter the first layer, (B, N, C), before dropout; `added` are the tables from
    /// which `place` adds rows to the words (B, N, C).
    pub(crate) fn forward(
        &self,
        ids: &Tensor,
        added: &[&Tensor],
        place: impl Fn(&Tensor) -> Result<Tensor>,
        way: Way<'_>,
    ) -> Result<Tensor> {
        self.stem.check(ids)?;
        let (words, tables) = (self.words.rows(ids, way)?, self.tables(added));
        let words = self.stem.at(Placement::BeforePosition, words, &tables, way)?;
        let x = self.stem.at(Placement::AfterPosition, place(&words)?, &tables, way)?;
        self.stem.at(Placement::AfterNorm, self.norm.forward(&x)?, &tables, way)
    }

    /// The tables whose rows add up to the tokens.
    fn tables<'a>(&'a self, added: &[&'a Tensor]) -> Vec<&'a Tensor> {
        [&[self.words()], added].concat()
    }

    /// The word table as it enters the sum, conditioned (V, C): for methods that fold.
    pub(crate) fn folded_words(&self, added: &[&Tensor]) -> Result<Tensor> {
        self.stem.fold(&self.words.embeddings()?, &self.tables(added))
    }

    /// The rows of `table`, which are added to the words, as an evaluation conditions them.
    pub(crate) fn fold_positions(&self, table: &Tensor, added: &[&Tensor]) -> Result<Tensor> {
        self.stem.fold_positions(table, &self.tables(added))
    }
}

/// A pass over texts with their padding.
pub(crate) fn pass_over(input: &BertInput, mode: Mode) -> Pass<'_> {
    Pass::from(mode).padded(input.padding.as_ref())
}

/// The real tokens of all sequences on both sides of the conditioning, (R, C), of an embedding in evaluation
/// mode.
pub(crate) fn real_tokens(
    input: &BertInput,
    embed: impl Fn(Way<'_>) -> Result<Tensor>,
) -> Result<Tokens> {
    let conditioned = Way::Conditioned(pass_over(input, Mode::Eval));
    Ok(Tokens {
        plain: real(&embed(Way::Plain)?, input)?,
        conditioned: real(&embed(conditioned)?, input)?,
    })
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
    let rows = Tensor::from_vec(rows, (b, per_sequence), &Device::Cpu)?;
    embedding(&rows, &x.reshape(((), c))?)
}
