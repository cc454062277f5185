//! One binary for all integration tests: linking candle once is enough.
// Matrices are single capitals; clippy.toml allows unwrap in test functions, not in their helpers.
#![allow(non_snake_case, clippy::unwrap_used)]

mod config;
mod controls;
mod gradients;
mod identities;
mod inputs;
mod pooled;
mod spectrum;
mod support;
