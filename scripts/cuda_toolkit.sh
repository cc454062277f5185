#!/usr/bin/env bash
# Lays out a CUDA 13.0 toolkit from PyPI's wheels, for building on a machine without a GPU or a CUDA
# toolkit, and prints the environment to build with. Idempotent:
#
#   eval "$(scripts/cuda_toolkit.sh [FOLDER])"        # FOLDER: $HOME/.cache/cuda-toolkit unless given
#
# Only `export` lines go to standard output. Pinned to cuda-toolkit 13.0.2, which is what PyTorch
# 2.11.0+cu130 brings; a newer nvcc writes a PTX version that a 580 driver (CUDA 13.0) refuses.
# CUDA_EXTRAS="cudnn nccl" adds those libraries.
set -euo pipefail

root=${1:-$HOME/.cache/cuda-toolkit}
extras=${CUDA_EXTRAS:-}
python=${PYTHON:-python3}
cap=${CUDA_COMPUTE_CAP:-90}

wheels=(
  nvidia-cuda-nvcc==13.0.88    # nvcc, ptxas, fatbinary, cudafe++
  nvidia-nvvm==13.0.88         # cicc, libdevice
  nvidia-cuda-crt==13.0.88     # include/crt
  nvidia-cuda-runtime==13.0.96 # cuda.h, cuda_runtime.h, libcudart
  nvidia-cuda-cccl==13.0.85    # cub, thrust, libcu++ (cuda_fp16.h asks for nv/target)
  nvidia-cublas==13.1.0.3
  nvidia-curand==10.4.0.35
  nvidia-cuda-nvrtc==13.0.88
)
libraries=(cudart cublas cublasLt curand nvrtc)
for extra in $extras; do
  case $extra in
    cudnn) wheels+=(nvidia-cudnn-cu13==9.19.0.56) libraries+=(cudnn) ;;
    nccl) wheels+=(nvidia-nccl-cu13==2.28.9) libraries+=(nccl) ;;
    *) echo "cuda_toolkit: unknown extra $extra (cudnn, nccl)" >&2; exit 2 ;;
  esac
done

say() { echo "cuda_toolkit: $*" >&2; }
for tool in gcc g++ "$python"; do
  command -v "$tool" > /dev/null || { say "no $tool on this machine"; exit 2; }
done
if [ "$(uname -m)" != x86_64 ]; then say "only for x86_64"; exit 2; fi

mkdir -p "$root"
root=$(cd "$root" && pwd)
venv=$root/venv
stamp=$root/.done
want=$(printf '%s\n' "${wheels[@]}" "$(sha256sum "$0" | cut -d' ' -f1)")

if [ "$(cat "$stamp" 2> /dev/null)" != "$want" ]; then
  rm -f "$stamp"
  if [ ! -x "$venv/bin/python" ]; then "$python" -m venv "$venv"; fi
  say "installing ${#wheels[@]} wheels into $venv"
  "$venv/bin/python" -m pip install --quiet --no-deps --no-compile --no-cache-dir --only-binary=:all: "${wheels[@]}" >&2
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  cu=$site/nvidia/cu13
  for part in bin/nvcc bin/ptxas nvvm/bin/cicc nvvm/libdevice include/cuda.h include/crt include/cccl; do
    [ -e "$cu/$part" ] || { say "the wheels lack $part"; exit 1; }
  done

  # nvcc finds its parts from its own real place, so the folders are links, not copies.
  for part in bin nvvm; do ln -sfn "$cu/$part" "$root/$part"; done
  mkdir -p "$root/include" "$root/lib64"
  for header in "$cu"/include/* "$site"/nvidia/{cudnn,nccl}/include/*.h; do
    if [ -e "$header" ]; then ln -sfn "$header" "$root/include/$(basename "$header")"; fi
  done
  for file in "$cu"/lib/*.a "$cu"/lib/*.so.* "$site"/nvidia/{cudnn,nccl}/lib/*.so.*; do
    if [ -e "$file" ]; then ln -sfn "$file" "$root/lib64/$(basename "$file")"; fi
  done
  # The names that -l asks for.
  for library in "${libraries[@]}"; do
    file=$(find "$root/lib64" -maxdepth 1 -name "lib$library.so.*" | sort | head -1)
    [ -n "$file" ] || { say "the wheels lack lib$library.so.*"; exit 1; }
    ln -sfn "$(basename "$file")" "$root/lib64/lib$library.so"
  done
  ln -sfn lib64 "$root/lib"

  # The driver's library comes with a driver, in no wheel: a stand-in to link against, with every
  # function of cuda.h and the same soname. It is for the linker alone and aborts when called.
  stubs=$root/lib64/stubs
  mkdir -p "$stubs"
  printf '%s\n' '#define __CUDA_API_VERSION_INTERNAL 1' '#include <cuda.h>' '#include <cudaProfiler.h>' \
    | gcc -E -P -x c -I "$root/include" - 2> /dev/null > "$stubs/cuda.i" \
    || printf '#define __CUDA_API_VERSION_INTERNAL 1\n#include <cuda.h>\n' | gcc -E -P -x c -I "$root/include" - > "$stubs/cuda.i"
  printf '#include <cuda.h>\n' | gcc -E -P -x c -I "$root/include" - >> "$stubs/cuda.i"
  {
    echo '#include <stdio.h>'
    echo '#include <stdlib.h>'
    echo 'static void stub(const char *name) {'
    echo '  fprintf(stderr, "libcuda stub: %s called, but this library is for linking alone\n", name);'
    echo '  abort();'
    echo '}'
    grep -oE '\bcu[A-Z][A-Za-z0-9_]* *\(' "$stubs/cuda.i" | tr -d ' (' | sort -u \
      | sed 's/.*/void &(void) { stub("&"); }/'
  } > "$stubs/cuda.c"
  gcc -shared -fPIC -O1 -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so" "$stubs/cuda.c"
  rm -f "$stubs/cuda.i"
  say "libcuda stub: $(grep -c '^void cu' "$stubs/cuda.c") functions"

  # nvcc behind a store of what it has compiled: cargo runs the build script of candle-kernels (the
  # longest part by far) again for every profile, feature set and target folder.
  mkdir -p "$root/cached/bin" "$root/store"
  for part in include lib64 nvvm; do ln -sfn "../$part" "$root/cached/$part"; done
  cat > "$root/cached/bin/nvcc" << 'WRAPPER'
#!/usr/bin/env bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
nvcc=${CUDA_REAL_NVCC:-$root/bin/nvcc}
args=("$@")
kind='' out='' folder='' source=''
for ((i = 0; i < ${#args[@]}; i++)); do
  case ${args[i]} in
    -c) kind=object ;;
    --ptx) kind=ptx ;;
    -o) out=${args[i + 1]} args[i + 1]='' ;;
    --output-directory) folder=${args[i + 1]} args[i + 1]='' ;;
    *.cu) source=${args[i]} ;;
  esac
done
if [ "$kind" = ptx ] && [ -n "$folder" ]; then out=$folder/$(basename "${source%.cu}").ptx; fi
if [ -z "$kind" ] || [ -z "$out" ] || [ ! -d src ] || [ "$(dirname "$source")" = . ]; then exec "$nvcc" "$@"; fi
key=$({
  "$root/bin/nvcc" --version
  gcc --version
  printf '%s\n' "${args[@]}"
  find src -name '*.cu*' | LC_ALL=C sort | xargs cat -- "$source"
} | sha256sum | cut -d' ' -f1)
if [ ! -e "$root/store/$key" ]; then
  "$nvcc" "$@"
  copy=$(mktemp "$root/store/new.XXXXXX")
  cp "$out" "$copy"
  mv "$copy" "$root/store/$key"
else
  cp "$root/store/$key" "$out"
fi
WRAPPER
  chmod +x "$root/cached/bin/nvcc"

  # One real compilation, so that a broken layout fails here and says so.
  probe=$(mktemp -d)
  trap 'rm -rf "$probe"' EXIT
  printf '#include <cuda_fp16.h>\n#include <cuda_bf16.h>\nextern "C" __global__ void f(__nv_bfloat16 *x) { x[threadIdx.x] = __float2bfloat16(expf(__bfloat162float(x[0]))); }\n' > "$probe/f.cu"
  "$root/bin/nvcc" -ptx -arch="sm_$cap" -I "$root/include" -I "$root/include/cccl" -o "$probe/f.ptx" "$probe/f.cu"
  grep -q 'entry f' "$probe/f.ptx" || { say "nvcc wrote no kernel"; exit 1; }
  say "nvcc works: $(grep -E '^\.(version|target)' "$probe/f.ptx" | tr '\n' ' ')"
  printf '%s' "$want" > "$stamp"
fi

cat << VARS
export CUDA_HOME='$root' CUDA_PATH='$root' CUDA_ROOT='$root'
export NVCC='$root/cached/bin/nvcc' CUDA_COMPUTE_CAP='$cap'
export PATH='$root/bin':"\$PATH"
export LIBRARY_PATH='$root/lib64:$root/lib64/stubs'\${LIBRARY_PATH:+:\$LIBRARY_PATH}
VARS
