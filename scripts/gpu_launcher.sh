#!/usr/bin/env bash
# Starts the program of its own name in ../libexec, which needs NVIDIA's driver and CUDA's libraries, or says in one
# line what of them is missing. Without a driver such a program would not even start.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=$(basename "$0")
program=$here/libexec/$name

missing() { ldd "$program" | sed -n 's/^[[:space:]]*\([^ ]*\) => not found$/\1/p' | tr '\n' ' '; }

libraries=$(missing)
if [ -n "$libraries" ] && [ "$libraries" != "libcuda.so.1 " ]; then
  # Wheels of PyTorch, or of CUDA alone, bring them too.
  wheels=$(python3 -c '
import glob
try:
    import nvidia
    print(":".join(path for root in nvidia.__path__ for path in sorted(glob.glob(root + "/*/lib"))))
except ImportError:
    pass' 2> /dev/null || true)
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}${wheels:+$wheels:}/usr/local/cuda/lib64
  libraries=$(missing)
fi
case " $libraries" in
  *" libcuda.so.1 "*)
    echo "error: $name is a build for NVIDIA GPUs, and this machine has no driver for one (libcuda.so.1)" >&2
    exit 1
    ;;
  " ") exec "$program" "$@" ;;
  *)
    echo "error: $name needs CUDA 13, and this machine lacks $libraries(pip install nvidia-cublas nvidia-curand nvidia-cuda-runtime 'nvidia-cuda-nvrtc==13.0.*')" >&2
    exit 1
    ;;
esac
