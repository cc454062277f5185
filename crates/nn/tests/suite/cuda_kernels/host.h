// Runs kernels of CUDA on the CPU, block after block: each thread of a block is a thread here, and a barrier holds them
// where a warp exchanges numbers or a block waits.
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __shared__ static

struct Index { unsigned int x; };
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;

// Of the block that runs.
static std::unique_ptr<std::barrier<>> whole_block;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static std::vector<float> exchange;

static void __syncthreads() { whole_block->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned int, float x, int distance) {
  std::barrier<> &warp = *warps[threadIdx.x / 32];
  exchange[threadIdx.x] = x;
  warp.arrive_and_wait();
  float other = exchange[threadIdx.x ^ distance];
  warp.arrive_and_wait();
  return other;
}

// What the threads of a block bring to a product of their warp: a[0..3], b0, b1.
static std::vector<unsigned int> operands;

static float half_of(unsigned int pair, int which) {
  unsigned int bits = which == 0 ? pair << 16 : pair & 0xffff0000u;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// d += a b as attention.cu says: the fragments of mma.m16n8k16 in the manual of PTX.
static void product(float *d, const unsigned int *a, unsigned int b0, unsigned int b1) {
  std::barrier<> &warp = *warps[threadIdx.x / 32];
  unsigned int *own = &operands[6 * threadIdx.x];
  for (int i = 0; i < 4; i++) own[i] = a[i];
  own[4] = b0;
  own[5] = b1;
  warp.arrive_and_wait();
  const unsigned int *of_warp = &operands[6 * (threadIdx.x / 32 * 32)];
  int lane = threadIdx.x % 32;
  for (int i = 0; i < 4; i++) {
    int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      unsigned int left = of_warp[6 * (row % 8 * 4 + k % 8 / 2) + row / 8 + k / 8 * 2];
      unsigned int right = of_warp[6 * (column * 4 + k % 8 / 2) + 4 + k / 8];
      d[i] += half_of(left, k % 2) * half_of(right, k % 2);
    }
  }
  warp.arrive_and_wait();
}

static float __uint_as_float(unsigned int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

static unsigned int __float_as_uint(float x) {
  unsigned int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

static int min(int a, int b) { return a < b ? a : b; }

// `threads` a multiple of 32. Each kernel has `inputs` inputs; see common.cu.
extern "C" void launch(void *kernel, int inputs, const void *a, const void *b, const void *c, void *out, int rows,
                       int width, const float *n, int blocks, int threads) {
  using One = void (*)(const void *, void *, int, int, float, float, float, float);
  using Two = void (*)(const void *, const void *, void *, int, int, float, float, float, float);
  using Three = void (*)(const void *, const void *, const void *, void *, int, int, float, float, float, float);
  gridDim.x = blocks;
  blockDim.x = threads;
  exchange.assign(threads, 0.0f);
  operands.assign(6 * threads, 0u);
  for (int block = 0; block < blocks; block++) {
    whole_block = std::make_unique<std::barrier<>>(threads);
    warps.clear();
    for (int warp = 0; warp < threads / 32; warp++) warps.push_back(std::make_unique<std::barrier<>>(32));
    std::vector<std::thread> running;
    for (int thread = 0; thread < threads; thread++) {
      running.emplace_back([=] {
        threadIdx.x = thread;
        blockIdx.x = block;
        if (inputs == 1) ((One)kernel)(a, out, rows, width, n[0], n[1], n[2], n[3]);
        if (inputs == 2) ((Two)kernel)(a, b, out, rows, width, n[0], n[1], n[2], n[3]);
        if (inputs == 3) ((Three)kernel)(a, b, c, out, rows, width, n[0], n[1], n[2], n[3]);
      });
    }
    for (std::thread &thread : running) thread.join();
  }
}
