#!/usr/bin/env bash
# Every check of CI, cheapest first. One local command equals CI.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

# Where there is MPI, all is built with it: a build of its own would compile most dependencies once more, since the
# bindings ask for other features of them.
features="" linted=experiments/hub,experiments/cuda
if command -v mpicc > /dev/null && command -v mpirun > /dev/null; then
  features=experiments/mpi linted+=,experiments/mpi,experiments/nccl
fi

step "format"
cargo fmt --all --check

# In one pass with all features, those of a GPU among them, whose tests are compiled nowhere else. What stands in for a
# feature that is off is compiled by the tests below, and not linted.
step "lints, and types of the CUDA build without CUDA"
scripts/with_cuda_stub.sh cargo clippy --workspace --all-targets --features "$linted" --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" scripts/with_cuda_stub.sh cargo doc --workspace --no-deps --features "$linted" --locked

step "tests (the README's command)"
cargo test --workspace --features "$features" --locked
if [ -z "$features" ]; then
  echo "NOT CHECKED: several processes, as there is no MPI on this machine (Debian: libopenmpi-dev openmpi-bin libclang-dev)"
fi

step "the hub and parquet, against a hub on loopback"
# Dependencies that are not optimised are built again in a third of the time.
cargo test -p conditioned-data --features hub --profile hub --locked --test main -- hub:: parquet::
