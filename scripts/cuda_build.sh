#!/usr/bin/env bash
# Builds the programs and the GPU tests for CUDA, and packs them for a machine with a GPU and without Rust:
#
#   scripts/cuda_build.sh [FOLDER]              # FOLDER: target/cuda unless given
#
# A machine without the CUDA toolkit gets one from PyPI's wheels (scripts/cuda_toolkit.sh, x86_64, 1.2 GB in
# ~/.cache); no GPU and no driver are needed. CUDA_COMPUTE_CAP names the GPUs: 90, unless set, is Hopper. candle's kernels take most of the time: see docs/GPU.md. Leaves FOLDER/gpu.tar.xz:
#
#   bin/              links to the launcher for each program, which says in one line what a machine lacks
#   libexec/          the programs, and the tests of layers and models (suite-nn, suite-models)
#   gpu_check.py      checks and measures on the GPU, with what it needs
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-target/cuda}" && cd "${1:-target/cuda}" && pwd)
programs=(table1-imagenet table2-coco table3-lra table4-glue table5-tinystories)

if ! command -v nvcc > /dev/null; then
  toolkit=$(scripts/cuda_toolkit.sh)
  eval "$toolkit"
fi
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
# Kernels of candle on every core.
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
# A target folder of its own: kernels of the stub in with_cuda_stub.sh must never get here.
export CARGO_TARGET_DIR=$out/build

bins=()
for program in "${programs[@]}"; do bins+=(--bin "$program"); done
# The kernels of our own, which NVRTC compiles on the GPU's machine.
cat crates/nn/src/cuda/{common,kernels,attention}.cu | nvcc --ptx -arch=compute_80 -o /dev/null -x cu -
cargo build --release --locked --features cuda -p experiments "${bins[@]}" --example train-step
tests=$(cargo test --release --locked --no-run --message-format json --test suite \
  -p conditioned-nn -p conditioned-models --features conditioned-models/cuda)
test_of() { # PACKAGE
  python3 -c '
import json, sys
lines = [json.loads(line) for line in sys.stdin if line.startswith("{")]
print(next(line["executable"] for line in lines
           if line.get("executable") and line["target"]["name"] == "suite" and sys.argv[1] in line["package_id"]))
' "$1" <<< "$tests"
}

pack=$out/pack
rm -rf "$pack"
mkdir -p "$pack/bin" "$pack/libexec"
for program in "${programs[@]}"; do cp "$out/build/release/$program" "$pack/libexec/"; done
cp "$out/build/release/examples/train-step" "$pack/libexec/"
cp "$(test_of conditioned-nn)" "$pack/libexec/suite-nn"
cp "$(test_of conditioned-models)" "$pack/libexec/suite-models"
strip "$pack"/libexec/*
cp scripts/gpu_launcher.sh "$pack/launcher"
for program in "$pack"/libexec/*; do ln -s ../launcher "$pack/bin/$(basename "$program")"; done
cp scripts/{gpu_check,compare_pytorch,machine}.py "$pack/"

# The programs share most of their bytes: one dictionary over all of them, which takes 5 GB of memory here and half a
# GB to unpack.
XZ_OPT="--threads=1 --lzma2=preset=6,dict=$((512 << 20))" tar -C "$pack" -cJf "$out/gpu.tar.xz" .
ls -l "$out/gpu.tar.xz"
