//! One binary for all integration tests: linking candle once is enough.
// Matrices are single capitals; clippy.toml allows unwrap in test functions, not in their helpers.
#![allow(non_snake_case, clippy::unwrap_used)]

mod bounds;
mod config;
mod contract;
mod controls;
mod gradients;
mod identities;
mod inputs;
mod orthogonal;
#[path = "../parity/mod.rs"]
mod parity;
mod polar;
mod pooled;
mod siblings;
mod spectrum;
mod support;
mod table;
