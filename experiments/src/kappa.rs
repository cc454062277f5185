//! Condition numbers of tokens, as records name them.
//!
//! | metric | of |
//! | --- | --- |
//! | `kappa_sequence_plain`, `kappa_sequence_conditioned` | each sequence; the median over sequences |
//! | `kappa_pooled_plain`, `kappa_pooled_conditioned` | the tokens of all sequences, stacked |
//!
//! Plain is X, what would enter the first block without the arm; conditioned is what does.

use candle_conditioning::condition_number;
use candle_core::{Result, Tensor};
use conditioned_models::conditioning::Tokens;
use conditioned_train::Metrics;

use conditioned_report::statistics::median;

/// The median over sequences of kappa, tokens (B, N, C).
///
/// # Errors
/// When the tokens have another shape or are not finite.
pub fn median_of_sequences(tokens: &Tensor) -> Result<f64> {
    let kappas: Vec<f64> = condition_number(tokens)?.to_vec1()?;
    Ok(median(&kappas).unwrap_or(f64::NAN))
}

/// kappa of all tokens stacked, tokens (.., C).
///
/// # Errors
/// When the tokens are not finite.
pub fn pooled(tokens: &Tensor) -> Result<f64> {
    let channels = tokens.dim(candle_core::D::Minus1)?;
    condition_number(&tokens.reshape(((), channels))?)?.to_scalar()
}

/// Adds kappa of each sequence, tokens (B, N, C) on both sides.
///
/// # Errors
/// As [`median_of_sequences`].
pub fn add_of_sequences(metrics: &mut Metrics, tokens: &Tokens) -> Result<()> {
    for (side, tokens) in [("plain", &tokens.plain), ("conditioned", &tokens.conditioned)] {
        metrics.insert(format!("kappa_sequence_{side}"), median_of_sequences(tokens)?);
    }
    Ok(())
}

/// Adds kappa of all tokens stacked.
///
/// # Errors
/// As [`pooled`].
pub fn add_pooled(metrics: &mut Metrics, tokens: &Tokens) -> Result<()> {
    for (side, tokens) in [("plain", &tokens.plain), ("conditioned", &tokens.conditioned)] {
        metrics.insert(format!("kappa_pooled_{side}"), pooled(tokens)?);
    }
    Ok(())
}
