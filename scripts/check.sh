#!/usr/bin/env bash
# Every check of CI, cheapest first. One local command equals CI.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

step "tests (the README's command)"
cargo test --workspace --locked

step "the hub and parquet, against a hub on loopback"
# The whole workspace, so that candle is not built again with other features.
cargo clippy --workspace --all-targets --features experiments/hub --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc -p conditioned-data --no-deps --features hub --locked
cargo test --workspace --features experiments/hub --locked --test main -- hub:: parquet::

step "types of the CUDA build, without CUDA"
scripts/check_cuda_types.sh
