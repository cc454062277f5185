#!/usr/bin/env bash
# Every check of CI, cheapest first. One local command equals CI.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

# Where there is MPI, all is built with it: a build of its own would compile most dependencies once more, since the
# bindings ask for other features of them. So would lints of the hub on their own; what stands in for it without the feature
# is compiled by the tests, and not linted.
features="" linted=experiments/hub
if command -v mpicc > /dev/null && command -v mpirun > /dev/null; then features=experiments/mpi linted+=,experiments/mpi; fi

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --features "$linted" --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --features "$linted" --locked

step "tests (the README's command)"
cargo test --workspace --features "$features" --locked
if [ -z "$features" ]; then
  echo "NOT CHECKED: several processes, as there is no MPI on this machine (Debian: libopenmpi-dev openmpi-bin libclang-dev)"
fi

step "the hub and parquet, against a hub on loopback"
# Dependencies that are not optimised are built again in a third of the time.
cargo test -p conditioned-data --features hub --profile hub --locked --test main -- hub:: parquet::

step "types of the CUDA build, without CUDA"
scripts/check_cuda_types.sh
