#!/usr/bin/env bash
# Runs a command of cargo that only checks types, such as `cargo clippy --features experiments/cuda`, on a machine without
# CUDA: a stub stands in for nvcc. It has a target folder of its own, since a real build would reuse the stub's empty kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/cuda-types
mkdir -p "$target/stub"
# Absolute, as build scripts run elsewhere; and always the same path, as cargo builds the kernels again when it changes.
CARGO_TARGET_DIR=$(cd "$target" && pwd)
export CARGO_TARGET_DIR
stub=$CARGO_TARGET_DIR/stub
cat > "$stub/nvcc" <<'STUB'
#!/usr/bin/env bash
out="" dir="" src="" ptx=0
while [ $# -gt 0 ]; do
  case "$1" in
    --version)
      printf 'nvcc\nx\nx\nCuda compilation tools, release 12.8, V12.8.93\n'
      exit 0
      ;;
    -o) out="$2"; shift ;;
    --output-directory) dir="$2"; shift ;;
    --ptx) ptx=1 ;;
    *.cu) src="$1" ;;
  esac
  shift
done
if [ -n "$out" ]; then : > "$out"; fi
if [ "$ptx" = 1 ]; then : > "$dir/$(basename "${src%.cu}").ptx"; fi
STUB
chmod +x "$stub/nvcc"
PATH="$stub:$PATH" NVCC="$stub/nvcc" CUDA_COMPUTE_CAP=80 CUDARC_CUDA_VERSION=12080 "$@"
