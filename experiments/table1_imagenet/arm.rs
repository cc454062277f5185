//! Rows and arms: what is compared.

use anyhow::Result;
use conditioned_models::conditioning::Method;
use experiments::named;
use serde::{Deserialize, Serialize};

/// A row of the paper's table. ViT and DeiT are the same network; they differ by recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// Plain training.
    Vit,
    /// Mixup, cutmix, label smoothing, drop path, EMA.
    Deit,
}

/// What is done to the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arm {
    /// Nothing.
    Baseline,
    /// Nothing; the tables start at the scale that makes kappa of the first batch smallest.
    Init,
    /// The paper: per sequence.
    Conditioned,
    /// Ours: one matrix from the pooled Gram.
    Pooled,
    /// Control: the scale of `conditioned` without its directions.
    NormMatched,
    /// The paper's Theorem 4.4 to the letter: per sequence with t = 1.
    Theorem,
    /// Control: per-channel standardisation in the same place.
    Standardised,
}

impl Row {
    /// All rows.
    pub(crate) const ALL: [Self; 2] = [Self::Vit, Self::Deit];

    /// The name on the command line and in paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vit => "vit",
            Self::Deit => "deit",
        }
    }
}

impl Arm {
    /// All arms.
    pub(crate) const ALL: [Self; 7] = [
        Self::Baseline,
        Self::Init,
        Self::Conditioned,
        Self::Pooled,
        Self::NormMatched,
        Self::Theorem,
        Self::Standardised,
    ];

    /// The arms that run unless others are asked for.
    pub(crate) const DEFAULT: [Self; 4] =
        [Self::Baseline, Self::Init, Self::Conditioned, Self::Pooled];

    /// The name on the command line and in paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Init => "init",
            Self::Conditioned => "conditioned",
            Self::Pooled => "pooled",
            Self::NormMatched => "norm-matched",
            Self::Theorem => "theorem",
            Self::Standardised => "standardised",
        }
    }

    /// The method at strength `t`.
    ///
    /// # Errors
    /// When `t` is negative or not finite.
    pub(crate) fn method(self, t: f64) -> Result<Method> {
        Ok(match self {
            Self::Baseline | Self::Init => Method::None,
            Self::Conditioned => Method::per_sequence(t)?,
            Self::Pooled => Method::pooled(t)?,
            Self::NormMatched => Method::norm_matched(t)?,
            Self::Theorem => Method::per_sequence(1.0)?,
            Self::Standardised => Method::Standardised,
        })
    }
}

named!(Row, "model");
named!(Arm, "arm");
