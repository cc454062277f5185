#!/usr/bin/env bash
# Type-checks the workspace with feature `cuda` on a machine without CUDA: a stub stands in for
# nvcc. The tests of `check_cuda.sh` are among what is checked. It has a target folder of its own, since a real build would reuse the stub's empty kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
stub=$(mktemp -d)
trap 'rm -rf "$stub"' EXIT
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
# With MPI, the sums by NCCL too.
features=cuda
if command -v mpicc > /dev/null; then features=cuda,nccl; else echo "NOT CHECKED: types of NCCL, without MPI"; fi
PATH="$stub:$PATH" NVCC="$stub/nvcc" CUDA_COMPUTE_CAP=80 CUDARC_CUDA_VERSION=12080 \
  cargo check --workspace --tests --features "$features" --locked --target-dir target/cuda-types
