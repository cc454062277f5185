#![doc = include_str!("../README.md")]
//!
//! # The idea
//!
//! Attention multiplies the token matrix X with itself. If X is ill-conditioned, so are the attention
//! matrices and the least-squares problems that gradient descent solves through them. Write
//!
//! ```text
//! X = U S V^T   and add   C = t sigma_1 U V^T:   Y = X + C = U (S + t sigma_1 I) V^T.
//! ```
//!
//! Every singular value moves up by the same amount, no singular vector changes, and
//!
//! ```text
//! kappa(Y) = (sigma_1 + t sigma_1) / (sigma_min + t sigma_1) <= (1 + t)/t,   2 at t = 1.
//! ```
//!
//! ```text
//!  sigma_i of X: kappa = 1000          sigma_i of Y: kappa = 2
//!
//!                                      #
//!                                      # #
//!                                      # # #
//!                                      # # # # # # # #
//!  #                                   . . . . . . . . .
//!  # #                                 . . . . . . . . .    . = t sigma_1, added to every one
//!  # # #                               . . . . . . . . .
//!  # # # # # # # #                     . . . . . . . . .
//!  1 2 3 4 5 6 7 8 9                   1 2 3 4 5 6 7 8 9   i
//! ```
//!
//! C is larger than X: it has the norm t sigma_1 sqrt(rank). Where sigma_i is (nearly) zero its
//! singular vectors are arbitrary; the part added there is t sigma_1 min(1, sigma_i / (tau sigma_1))
//! with tau = 1e-7, so exact zeros stay and the bound holds over sigma_i >= tau sigma_1.
//!
//! # Notation
//!
//! | symbol | shape | meaning |
//! | --- | --- | --- |
//! | B, N, d | | sequences, tokens of a sequence, channels |
//! | R | | tokens of a whole batch |
//! | X, C, Y | (N, d) | tokens, correction, conditioned tokens |
//! | sigma_i | | singular values of X, largest first |
//! | kappa | | sigma_1 / sigma_min(N, d) |
//! | t | | strength; 1 is the theorem, 0 is off |
//! | tau | | [`TAU`] = 1e-7, where a direction counts as degenerate (pooled: the setting `floor`) |
//! | G | (d, d) | X^T X / R, the Gram matrix pooled over tokens |
//! | M | (d, d) | I + t sigma_1 G^(-1/2) |
//!
//! # From equation to function
//!
//! | equation | item |
//! | --- | --- |
//! | Y = X + C, Theorem 4.4 | [`Conditioner::forward`] |
//! | C without padding | [`Conditioner::forward_masked`] |
//! | dL/dX = dL/dY, or through C | [`Gradient`] |
//! | Y = X M | [`Pooled::forward`], [`Pooled::forward_train`] |
//! | M | [`Pooled::fold`] |
//! | Y = f X, f = norm of X + C over norm of X | [`NormMatched`] |
//! | Y = (X - mu) / sqrt(v + eps) | [`Standardise`] |
//! | sigma_i, kappa, rank | [`spectra`], [`condition_number`], [`effective_condition_number`] |
//! | sigma_1 by products alone | [`spectral_norm`] |
//! | U V^T, exact or iterative | [`orthogonalise`], [`Polar`] |
//! | W (I + t sigma_1 (W^T W)^(-1/2)) | [`ConditionedTable`] |
//! | f^2 = tr(M G M) / tr(G) | [`Pooled::norm_matched_scale`] |
//! | G = sum of W_k^T W_k / V_k, before the first batch | [`Pooled::start_from_tables`] |
//! | Proposition 4.2, both sides | [`bounds`] |
//!
//! # Siblings
//!
//! Methods of the same school that act elsewhere; they combine with conditioned tokens.
//!
//! | acts on | item | causal |
//! | --- | --- | --- |
//! | tokens | [`TokenGraying`], by SVD or DCT | no |
//! | tokens | [`NormMatched`], the control | no; [`Pooled::norm_matched_scale`] is |
//! | weights | [`SpectralConditioning`] | yes |
//! | weights | [`WeightConditioning`] | yes |
//! | attention | [`PreconditionedAttention`] | yes |
//!
//! # Per sequence or pooled
//!
//! [`Conditioner`] bounds kappa of *each* sequence and costs one eigenproblem a sequence, in evaluation
//! too; every token comes to depend on the whole sequence, which a causal model must not allow.
//! [`Pooled`] computes one matrix from the tokens of a batch or of all earlier ones. It bounds kappa of
//! the *pooled* tokens, stacked; the sequences themselves are usually worse (4 to 44 was measured where
//! the pooled bound was 4.3). In return it costs one product, is causal with [`Source::Earlier`], and
//! disappears into the model's weights once training ends.
//!
//! # Which way to the polar factor
//!
//! [`Polar::Exact`] takes the inverse root of the small Gram side in f64, from its tridiagonal form or,
//! beyond kappa(X) = 4096, from eigenproblems: kappa(Y) is right to 1e-6 for kappa(X) to 1e7.
//! [`Polar::Iterative`] needs matrix products alone, on any device and in f32: kappa(Y) <= 2.01 for
//! kappa(X) to 1e6. On the CPU the first is faster at every size and is what the default takes.
//!
//! # Dependencies
//!
//! candle-core for tensors; faer for eigenproblems, singular values and serial products; pulp
//! for the vector instructions of the processor; `conditioned-threads` for one sequence a thread; serde for configurations; thiserror for errors.
#![deny(missing_docs, unsafe_code)]
// Matrices are single capitals, as in the paper.
#![allow(non_snake_case)]

mod blocks;
pub mod bounds;
mod conditioner;
mod correction;
mod error;
mod exact;
mod express;
mod flat;
mod gram;
mod host;
mod householder;
mod inverse_root;
mod iterative;
mod iterative_map;
mod map;
mod norm_matched;
mod op;
mod orthogonal;
mod polar;
mod pooled;
mod pooled_config;
mod power;
mod preconditioned_attention;
mod product;
mod running;
mod spectral_conditioning;
mod spectrum;
mod standardise;
mod svd;
mod table;
mod token_graying;
mod tridiagonal;
mod weight_conditioning;

pub use conditioner::Conditioner;
pub use correction::Gradient;
pub use error::{Error, Result};
pub use exact::TAU;
pub use norm_matched::NormMatched;
pub use orthogonal::orthogonalise;
pub use polar::{Polar, TOLERANCE};
pub use pooled::Pooled;
pub use pooled_config::{POOLED_FLOOR, PooledConfig, Source};
pub use power::spectral_norm;
pub use preconditioned_attention::PreconditionedAttention;
pub use spectral_conditioning::SpectralConditioning;
pub use spectrum::{
    Spectrum, condition_number, effective_condition_number, spectra, spectra_masked,
};
pub use standardise::{EPSILON, MOMENTUM, Standardise};
pub use table::ConditionedTable;
pub use token_graying::TokenGraying;
pub use weight_conditioning::WeightConditioning;
