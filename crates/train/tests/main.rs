//! Tests of `conditioned-train`, one module per topic.

// Test helpers outside `#[test]` functions panic like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod adamw;
mod checkpoint;
mod collective;
mod corruption;
#[path = "../../data/tests/support/corruption.rs"]
mod damage;
mod ema;
mod fit;
mod gradient;
mod length;
mod muon;
mod parity;
mod plan;
mod record;
mod resume;
mod settings;
mod support;

#[global_allocator]
static ALLOCATOR: damage::Counting = damage::Counting;
