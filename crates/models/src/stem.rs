//! Conditioning in front of the first block, for all models: where it acts, and on what.
//!
//! An embedding has up to three places, in this order:
//!
//! ```text
//! words or patches                 Placement::BeforePosition
//!   + positions, class token       Placement::AfterPosition
//!   -> layer norm                  Placement::AfterNorm
//! ```
//!
//! A model sends its tokens through `Stem::at` at each place that it has, and one of the calls acts.

use std::cell::OnceCell;

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Mode, Padding, Pass, embedding};

use crate::architecture::{Architecture, Input};
use crate::conditioning::{ConditioningConfig, Method, Placement, Table, TokenConditioner};

/// Which places an embedding has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// Whether its tokens are sums of rows of tables, which can be conditioned themselves.
    pub(crate) tables: bool,
    /// Whether positions or a class token are added in front of the first block.
    pub(crate) positions: bool,
    /// Whether it ends with a layer norm.
    pub(crate) norm: bool,
}

impl Places {
    /// Refuses a configuration that contradicts itself, or acts where `model` has no such place.
    ///
    /// # Errors
    /// Names the model, the setting, and what to take.
    pub(crate) fn check(self, config: &ConditioningConfig, model: &str) -> Result<()> {
        config.validate()?;
        match config.placement {
            Placement::AfterNorm if !self.norm => candle_core::bail!(
                "{model}: its embedding has no layer norm; take placement after-position"
            ),
            Placement::BeforePosition if !self.positions => candle_core::bail!(
                "{model}: it has no position table; take placement after-position"
            ),
            _ => {}
        }
        if !self.tables && matches!(config.method, Method::Table { .. }) {
            candle_core::bail!(
                "{model}: patches are not rows of a table; conditioned tables are for models of text"
            );
        }
        Ok(())
    }
}

/// How tokens go through an embedding.
#[derive(Debug, Clone, Copy)]
pub enum Way<'a> {
    /// As configured.
    Conditioned(Pass<'a>),
    /// Without conditioning.
    Plain,
    /// Without conditioning; the cell gets what would be conditioned, X (B, N, C).
    Keep(&'a OnceCell<Tensor>),
}

impl<'a> Way<'a> {
    /// The pass of layers in front of the conditioning; an evaluation unless the tokens are conditioned.
    ///
    /// It is in full precision: conditioning would lift what rounding to bf16 leaves in weak directions.
    pub(crate) fn pass(self) -> Pass<'a> {
        match self {
            Self::Conditioned(pass) => Pass { mode: pass.mode.in_full_precision(), ..pass },
            Self::Plain | Self::Keep(_) => Mode::Eval.into(),
        }
    }
}

/// What is done to the tokens of one model in front of its first block.
#[derive(Debug)]
pub struct Stem {
    model: &'static str,
    input: Input,
    config: ConditioningConfig,
    conditioner: TokenConditioner,
}

impl Stem {
    /// For tokens of width `channels`; its state lies in `conditioner` of `vb`, the root of the model.
    ///
    /// # Errors
    /// When the state cannot be created.
    pub(crate) fn new(
        architecture: &impl Architecture,
        channels: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let config = architecture.conditioning();
        Ok(Self {
            model: architecture.family().name,
            input: architecture.input(),
            config,
            conditioner: TokenConditioner::new(config, channels, vb.pp("conditioner"))?,
        })
    }

    /// Where the tokens are conditioned.
    pub fn placement(&self) -> Placement {
        self.config.placement
    }

    /// Refuses images of another shape than the model takes, and ids that are not (B, N).
    ///
    /// # Errors
    /// Names the model, what came and what it takes.
    pub(crate) fn check(&self, input: &Tensor) -> Result<()> {
        let (model, dims) = (self.model, input.dims());
        match (self.input, dims) {
            (Input::Images { channels, side, .. }, [_, c, h, w])
                if (*c, *h, *w) == (channels, side, side) => {}
            (Input::Images { channels, side, .. }, _) => candle_core::bail!(
                "{model}: images {dims:?}; it takes (B, {channels}, {side}, {side})"
            ),
            (Input::Ids { .. }, [_, _]) => {}
            (Input::Ids { .. }, _) => candle_core::bail!("{model}: ids {dims:?}; it takes (B, N)"),
        }
        Ok(())
    }

    /// The table (V, C) whose rows are looked up, conditioned where the method says so.
    ///
    /// # Errors
    /// When the table is not finite.
    pub(crate) fn words(&self, weight: Tensor) -> Result<Table> {
        Table::new(weight, self.config.method)
    }

    /// The same of the table (N, C) whose rows are added, left alone where the words alone are conditioned.
    ///
    /// # Errors
    /// As [`Stem::words`].
    pub(crate) fn positions(&self, weight: Tensor) -> Result<Table> {
        match self.config.placement {
            Placement::BeforePosition => Ok(Table::Plain(weight)),
            Placement::AfterPosition | Placement::AfterNorm => self.words(weight),
        }
    }

    /// The tokens (B, N, C) or (B, H, W, C) that come to `place`, conditioned if it is the configured one.
    ///
    /// `tables` are those whose rows add up to the tokens, the words' first, where there are any: pooled
    /// statistics begin with them.
    ///
    /// # Errors
    /// Those of the method.
    pub(crate) fn at(
        &self,
        place: Placement,
        x: Tensor,
        tables: &[&Tensor],
        way: Way<'_>,
    ) -> Result<Tensor> {
        if place != self.config.placement {
            return Ok(x);
        }
        match way {
            Way::Plain => Ok(x),
            Way::Keep(cell) => {
                drop(cell.set(flat(&x)?));
                Ok(x)
            }
            Way::Conditioned(Pass { mode, padding, probe }) => {
                let tokens = flat(&x)?;
                let y = self.conditioner.forward(&tokens, padding, self.summed(tables), mode)?;
                if let Some(probe) = probe {
                    probe.conditioned(tokens, y.clone());
                }
                y.reshape(x.shape())
            }
        }
    }

    /// The same of images (B, H, W, C) of several sizes, of which the first rows and columns of tokens are `real`:
    /// padding takes no part in what is done, and stays as it is.
    ///
    /// # Errors
    /// Those of the method.
    pub(crate) fn at_padded(
        &self,
        place: Placement,
        x: Tensor,
        real: &[[usize; 2]],
        way: Way<'_>,
    ) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        if place != self.config.placement || real.iter().all(|&size| size == [h, w]) {
            return self.at(place, x, &[], way);
        }
        let tokens = |image: usize| {
            let [rows, columns] = real[image];
            (0..rows).flat_map(move |y| (0..columns).map(move |x| ((image * h + y) * w + x) as u32))
        };
        let flat = x.reshape((b * h * w, c))?;
        let longest = real.iter().map(|[rows, columns]| rows * columns).max().unwrap_or(0);
        match way {
            Way::Plain => Ok(x),
            Way::Keep(cell) => {
                let ids: Vec<u32> = (0..b).flat_map(tokens).collect();
                let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
                drop(cell.set(embedding(&ids, &flat)?));
                Ok(x)
            }
            Way::Conditioned(pass) => {
                // The real tokens of each image as a padded sequence, and every token's place in the result, behind
                // which are the tokens as they came.
                let (mut ids, mut mask) = (Vec::new(), Vec::new());
                let mut back: Vec<u32> = (0..b * h * w).map(|i| (b * longest + i) as u32).collect();
                for image in 0..b {
                    for (k, id) in tokens(image).enumerate() {
                        ids.push(id);
                        back[id as usize] = (image * longest + k) as u32;
                    }
                    mask.extend((0..longest).map(|k| u8::from(image * longest + k < ids.len())));
                    ids.resize((image + 1) * longest, 0);
                }
                let mask = Tensor::from_vec(mask, (b, longest), &Device::Cpu)?;
                let padding = Padding::of(&mask)?;
                let ids = Tensor::from_vec(ids, (b, longest), &Device::Cpu)?;
                let pass = Way::Conditioned(pass.padded(Some(&padding)));
                let y = self.at(place, embedding(&ids, &flat)?, &[], pass)?;
                let y = Tensor::cat(&[y.reshape((b * longest, c))?, flat], 0)?;
                embedding(&Tensor::from_vec(back, (b, h, w), &Device::Cpu)?, &y)
            }
        }
    }

    /// Those of `tables` whose rows add up to X at the configured place.
    fn summed<'a>(&self, tables: &'a [&'a Tensor]) -> &'a [&'a Tensor] {
        match self.config.placement {
            Placement::BeforePosition => tables.get(..1).unwrap_or_default(),
            Placement::AfterPosition => tables,
            // A layer norm of independent rows has no formula for its statistics.
            Placement::AfterNorm => &[],
        }
    }

    /// Replaces running averages by those over `batches` of X; takes none for methods without state.
    ///
    /// # Errors
    /// The first error among the batches, or when the state is read-only.
    pub(crate) fn recalibrate(
        &self,
        batches: &mut dyn Iterator<Item = Result<Tensor>>,
    ) -> Result<()> {
        match self.conditioner.has_state() {
            true => self.conditioner.recalibrate(batches),
            false => Ok(()),
        }
    }

    /// Refuses what no table and no weight can take over from a layer.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub(crate) fn check_folds(&self) -> Result<()> {
        self.config.check_folds(self.model)
    }

    /// What an evaluation makes of rows (R, C) of words or patches, of which tokens are sums: a model without
    /// conditioning over them and [`Stem::fold_positions`] computes what this one does.
    ///
    /// # Errors
    /// When something is done to the output of attention, or what is done to a token depends on others.
    pub(crate) fn fold(&self, rows: &Tensor, tables: &[&Tensor]) -> Result<Tensor> {
        self.check_folds()?;
        if !self.config.method.is_frozen_map() {
            candle_core::bail!(
                "{}: what this method does to a token depends on other tokens; it cannot be folded into \
                 the weights",
                self.model
            );
        }
        self.conditioner.forward(rows, None, self.summed(tables), Mode::Eval)
    }

    /// The same of rows that are added to words or patches.
    ///
    /// # Errors
    /// As [`Stem::fold`].
    pub(crate) fn fold_positions(&self, rows: &Tensor, tables: &[&Tensor]) -> Result<Tensor> {
        match self.config.placement {
            Placement::BeforePosition => Ok(rows.clone()),
            Placement::AfterPosition | Placement::AfterNorm => self.fold(rows, tables),
        }
    }
}

/// Tokens as (B, N, C): channels-last images (B, H, W, C) are B sequences of H W tokens.
pub(crate) fn flat(x: &Tensor) -> Result<Tensor> {
    match x.rank() {
        4 => x.flatten(1, 2),
        _ => Ok(x.clone()),
    }
}
