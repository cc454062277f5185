#!/usr/bin/env bash
# Runs the op and model tests that need a CUDA GPU: every layer and model on the GPU against the CPU.
# Needs the CUDA toolkit and a GPU, and says so where there is none (exit 2: nothing was checked).
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in nvidia-smi nvcc; do
  if ! command -v "$tool" > /dev/null; then
    echo "check_cuda: no $tool on this machine, so NOTHING was checked" >&2
    exit 2
  fi
done
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
cargo test -p conditioned-nn -p conditioned-models --features conditioned-models/cuda --locked \
  --test suite -- gpu
