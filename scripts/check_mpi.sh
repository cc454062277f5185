#!/usr/bin/env bash
# Several processes that train one model: lints and tests of the feature `mpi`, by the mpirun of this machine.
# Says what is missing where there is none (exit 2: nothing was checked).
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in mpicc mpirun; do
  if ! command -v "$tool" > /dev/null; then
    echo "check_mpi: no $tool on this machine, so NOTHING was checked (Debian: libopenmpi-dev openmpi-bin libclang-dev)" >&2
    exit 2
  fi
done
mpirun --version | head -1
cargo clippy -p conditioned-train -p experiments --all-targets --features experiments/mpi --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc -p conditioned-train --no-deps --features mpi --locked
cargo test -p experiments --features mpi --locked --test mpi
