// What all kernels need. NVRTC compiles this file together with one of the others when the first kernel of that one runs;
// the tests compile all for the CPU (tests/suite/cuda_kernels).
//
// Every kernel takes up to three inputs, its result, two sizes and four numbers. Tensors are contiguous, and sums are
// float. Each result is the work of one thread or of sums in a fixed order: no atomics.

struct bf16 { unsigned short bits; };

__device__ inline float wide(float x) { return x; }

__device__ inline float wide(bf16 x) { return __uint_as_float((unsigned int)x.bits << 16); }

template <typename T> __device__ inline T narrow(float x);

template <> __device__ inline float narrow<float>(float x) { return x; }

// To the nearest, ties to even.
template <> __device__ inline bf16 narrow<bf16>(float x) {
  unsigned int bits = __float_as_uint(x);
  bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  bits = nan ? bits | 0x00400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  return bf16{(unsigned short)(bits >> 16)};
}

// Over the 32 threads of a warp; every one gets the result.
__device__ inline float warp_sum(float x) {
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

__device__ inline float warp_max(float x) {
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}

__device__ inline int lane() { return (int)(threadIdx.x % 32); }
