// Self-attention of one head a block, tile by tile, so that no matrix of scores is kept: y = softmax(Q K^T / sqrt(D)) V and
// its gradient, in bf16 with f32 sums, for heads of width D (32 or 64).
//
// Packed tokens (n, 3 C) hold queries, keys and values side by side, C = heads D. The first `real` of a sequence are tokens,
// the others padding, which is not seen and gets zeros. A block of four warps has a tile of 64 rows, each warp 16 of them,
// and goes through the tiles of the other side in order. Products are those of tensor cores.
//
// Source: Dao, "FlashAttention-2", 2023 (arXiv 2307.08691), Algorithms 1 and 2. As nothing is added up by atomics here, the
// gradient of queries has blocks of its own, which take P and dP again.

// Rows of a tile, and keys of one.
#define TILE 64

// d += a b of a warp, on tensor cores: a (16, 16), b (16, 8), d (16, 8). With lane = 4 g + t, a thread holds
//   a: rows g and g + 8 at columns 2 t, 2 t + 1 (a[0], a[1]) and at 2 t + 8, 2 t + 9 (a[2], a[3]),
//   b: column g at rows 2 t, 2 t + 1 (b0) and at 2 t + 8, 2 t + 9 (b1),
//   d: row g (d[0], d[1]) and row g + 8 (d[2], d[3]) at columns 2 t, 2 t + 1.
// On the CPU the tests have a `product` of their own.
#ifdef __CUDACC__
__device__ inline void product(float *d, const unsigned int *a, unsigned int b0, unsigned int b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

struct alignas(16) Eight { unsigned int pairs[4]; };

// A tile as it is, and one with rows and columns exchanged; rows are padded so that a warp that reads meets no bank twice.
template <int D> struct alignas(16) Rows { bf16 at[TILE][D + 8]; };

template <int D> struct alignas(16) Columns { bf16 at[D][TILE + 8]; };

// Where row `row` lies in line `c` of `Columns`: groups of eight change places, for the banks' sake again.
__device__ inline int turned(int c, int row) { return row ^ (c / 8 % 8 * 8); }

__device__ inline unsigned int pair_at(const bf16 *x) { return *(const unsigned int *)x; }

__device__ inline unsigned int pair_of(float low, float high) {
  return (unsigned int)narrow<bf16>(low).bits | ((unsigned int)narrow<bf16>(high).bits << 16);
}

__device__ inline float low_of(unsigned int pair) { return __uint_as_float(pair << 16); }

__device__ inline float high_of(unsigned int pair) { return __uint_as_float(pair & 0xffff0000u); }

// The 16 rows of this warp among the tile from row `first`, as left operands, of n rows x with this stride; zeros behind
// the last one.
template <int D>
__device__ inline void rows_of_warp(const bf16 *x, int stride, int first, int n, unsigned int (*a)[4]) {
  int row = first + (int)threadIdx.x / 32 * 16 + lane() / 4, column = lane() % 4 * 2;
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int of = row + i % 2 * 8;
      a[k][i] = of < n ? pair_at(x + (long long)of * stride + 16 * k + i / 2 * 8 + column) : 0u;
    }
  }
}

// The tile from row `first` of n rows x with this stride, to one or both of its forms; zeros behind the last row.
template <int D>
__device__ inline void load_tile(const bf16 *x, int stride, int first, int n, Rows<D> *rows, Columns<D> *columns) {
  for (int i = (int)threadIdx.x; i < TILE * D / 8; i += (int)blockDim.x) {
    int row = i / (D / 8), column = i % (D / 8) * 8;
    Eight eight = {{0u, 0u, 0u, 0u}};
    if (first + row < n) eight = *(const Eight *)(x + (long long)(first + row) * stride + column);
    if (rows != nullptr) *(Eight *)&rows->at[row][column] = eight;
    if (columns != nullptr) {
#pragma unroll
      for (int c = 0; c < 8; c++) {
        unsigned short bits = (unsigned short)(eight.pairs[c / 2] >> (c % 2 * 16));
        columns->at[column + c][turned(column + c, row)] = bf16{bits};
      }
    }
  }
}

// s = a x^T for the 64 rows of a tile x.
template <int D> __device__ inline void against_rows(float (*s)[4], const unsigned int (*a)[4], const Rows<D> &x) {
  int row = lane() / 4, column = lane() % 4 * 2;
#pragma unroll
  for (int j = 0; j < TILE / 8; j++) {
    s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      const bf16 *b = &x.at[8 * j + row][16 * k + column];
      product(s[j], a[k], pair_at(b), pair_at(b + 8));
    }
  }
}

// y += p x for p (16, 64), the numbers of a warp, and a tile x (64, D).
template <int D> __device__ inline void add_product(float (*y)[4], const float (*p)[4], const Columns<D> &x) {
  int c = lane() / 4, row = lane() % 4 * 2;
#pragma unroll
  for (int k = 0; k < TILE / 16; k++) {
    unsigned int a[4] = {pair_of(p[2 * k][0], p[2 * k][1]), pair_of(p[2 * k][2], p[2 * k][3]),
                         pair_of(p[2 * k + 1][0], p[2 * k + 1][1]), pair_of(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      const bf16 *b = x.at[8 * j + c];
      int first = 16 * k + row;
      product(y[j], a, pair_at(b + turned(8 * j + c, first)), pair_at(b + turned(8 * j + c, first + 8)));
    }
  }
}

// The rows of a warp times a number each, to those of n rows of `out` with this stride.
template <int D>
__device__ inline void write_rows(bf16 *out, int stride, int first, int n, const float (*y)[4], float low, float high) {
  int row = first + (int)threadIdx.x / 32 * 16 + lane() / 4, column = lane() % 4 * 2;
#pragma unroll
  for (int j = 0; j < D / 8; j++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int of = row + 8 * half;
      float by = half == 0 ? low : high;
      if (of < n) {
        unsigned int pair = pair_of(y[j][2 * half] * by, y[j][2 * half + 1] * by);
        *(unsigned int *)(out + (long long)of * stride + 8 * j + column) = pair;
      }
    }
  }
}

// Over the four threads that share a row; every one gets the result.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The head of a block and its tile; of causal attention the longest tiles come first.
struct Place { int tile, head; long long sequence; };

__device__ inline Place place_of(long long block, int n, int heads, bool causal) {
  int tiles = (n + TILE - 1) / TILE, tile = (int)(block % tiles);
  return Place{causal ? tiles - 1 - tile : tile, (int)(block / tiles % heads), block / tiles / heads};
}

// One past the last key that a query sees.
__device__ inline int seen_by(int query, int real, bool causal) { return causal ? min(real, query + 1) : real; }

// One past the last key that a tile of queries sees: none if all of them are padding.
__device__ inline int seen_by_tile(int first, int real, bool causal) {
  return first < real ? seen_by(first + TILE - 1, real, causal) : 0;
}

// y (B, n, C), and behind it in f32 what the gradient needs: for each sequence, head and token the binary logarithm l of the
// sum of 2^(score log2(e)), and for each sequence its `real`. lengths: (B), or null without padding.
template <int D>
__device__ void attention(const bf16 *qkv, const unsigned int *lengths, bf16 *out, int n, int c, float scale, bool causal,
                          int heads) {
  __shared__ Rows<D> keys;
  __shared__ Columns<D> values;
  Place at = place_of(blockIdx.x, n, heads, causal);
  long long sequences = (long long)gridDim.x / ((n + TILE - 1) / TILE) / heads;
  int real = lengths == nullptr ? n : (int)lengths[at.sequence];
  float *logarithms = (float *)(out + sequences * n * c);
  if (at.tile == 0 && at.head == 0 && threadIdx.x == 0) logarithms[sequences * heads * n + at.sequence] = (float)real;
  logarithms += (at.sequence * heads + at.head) * n;
  qkv += at.sequence * n * 3 * c + at.head * D;
  int first = at.tile * TILE, query = first + (int)threadIdx.x / 32 * 16 + lane() / 4, column = lane() % 4 * 2;
  const float unseen = -__uint_as_float(0x7f800000u), binary = scale * 1.44269504f;
  unsigned int q[D / 16][4];
  rows_of_warp<D>(qkv, 3 * c, first, real, q);
  float y[D / 8][4] = {}, largest[2] = {unseen, unseen}, sum[2] = {0.0f, 0.0f};
  int end = seen_by_tile(first, real, causal);
  for (int from = 0; from < end; from += TILE) {
    __syncthreads();
    load_tile<D>(qkv + c, 3 * c, from, real, &keys, nullptr);
    load_tile<D>(qkv + 2 * c, 3 * c, from, real, nullptr, &values);
    __syncthreads();
    float s[TILE / 8][4];
    against_rows<D>(s, q, keys);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int seen = seen_by(query + 8 * half, real, causal) - from - column;
      float top = largest[half];
#pragma unroll
      for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          s[j][i] = 8 * j + i % 2 < seen ? s[j][i] * binary : unseen;
          top = fmaxf(top, s[j][i]);
        }
      }
      // Every query sees the first key, padding too, so that this is a number.
      top = row_max(top);
      float shrink = exp2f(largest[half] - top);
      largest[half] = top;
      sum[half] *= shrink;
#pragma unroll
      for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          s[j][i] = exp2f(s[j][i] - top);
          sum[half] += s[j][i];
        }
      }
#pragma unroll
      for (int j = 0; j < D / 8; j++) {
        y[j][2 * half] *= shrink;
        y[j][2 * half + 1] *= shrink;
      }
    }
    add_product<D>(y, s, values);
  }
  float by[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    bool is_real = query + 8 * half < real;
    sum[half] = row_sum(sum[half]);
    by[half] = is_real ? 1.0f / sum[half] : 0.0f;
    if (column == 0 && is_real) logarithms[query + 8 * half] = largest[half] + log2f(sum[half]);
  }
  write_rows<D>(out + at.sequence * n * c + at.head * D, c, first, n, y, by[0], by[1]);
}

// p = 2^(s binary - l) where the key is seen and 0 where not, and s = p (dp - along): the gradient of the scores.
__device__ inline void score_gradient(float *p, float *s, float dp, float binary, float l, float along, bool seen) {
  *p = seen ? exp2f(*s * binary - l) : 0.0f;
  *s = *p * (dp - along);
}

// The gradient of the queries of a tile: dQ = scale dS K.
template <int D>
__device__ void query_gradient(const bf16 *qkv, const bf16 *y, const bf16 *g, const float *logarithms, bf16 *out, int first,
                               int real, int n, int c, float scale, bool causal, Rows<D> &keys, Columns<D> &turned_keys,
                               Rows<D> &values) {
  int query = first + (int)threadIdx.x / 32 * 16 + lane() / 4, column = lane() % 4 * 2;
  const float binary = scale * 1.44269504f;
  unsigned int q[D / 16][4], dy[D / 16][4], output[D / 16][4];
  rows_of_warp<D>(qkv, 3 * c, first, real, q);
  rows_of_warp<D>(g, c, first, real, dy);
  rows_of_warp<D>(y, c, first, real, output);
  // along = sum(P dP) = sum(y dy) of each query.
  float along[2] = {0.0f, 0.0f}, l[2];
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      along[i % 2] += low_of(dy[k][i]) * low_of(output[k][i]) + high_of(dy[k][i]) * high_of(output[k][i]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    along[half] = row_sum(along[half]);
    l[half] = query + 8 * half < real ? logarithms[query + 8 * half] : 0.0f;
  }
  float dq[D / 8][4] = {};
  int end = seen_by_tile(first, real, causal);
  for (int from = 0; from < end; from += TILE) {
    __syncthreads();
    load_tile<D>(qkv + c, 3 * c, from, real, &keys, &turned_keys);
    load_tile<D>(qkv + 2 * c, 3 * c, from, real, &values, nullptr);
    __syncthreads();
    float s[TILE / 8][4], dp[TILE / 8][4];
    against_rows<D>(s, q, keys);
    against_rows<D>(dp, dy, values);
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int of = query + i / 2 * 8, key = from + 8 * j + column + i % 2;
        float p;
        bool seen = of < real && key < seen_by(of, real, causal);
        score_gradient(&p, &s[j][i], dp[j][i], binary, l[i / 2], along[i / 2], seen);
      }
    }
    add_product<D>(dq, s, turned_keys);
  }
  write_rows<D>(out, 3 * c, first, n, dq, scale, scale);
}

// The gradients of the keys and values of a tile: dK = scale dS^T Q, dV = P^T dy. Rows are keys here and columns queries.
template <int D>
__device__ void key_gradient(const bf16 *qkv, const bf16 *y, const bf16 *g, const float *logarithms, bf16 *out, int first,
                             int real, int n, int c, float scale, bool causal, Rows<D> &queries,
                             Columns<D> &turned_queries, Rows<D> &dy, Columns<D> &turned_dy, float *l, float *along) {
  int key = first + (int)threadIdx.x / 32 * 16 + lane() / 4, column = lane() % 4 * 2;
  const float binary = scale * 1.44269504f;
  unsigned int k[D / 16][4], v[D / 16][4];
  rows_of_warp<D>(qkv + c, 3 * c, first, real, k);
  rows_of_warp<D>(qkv + 2 * c, 3 * c, first, real, v);
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  // No query sees padding.
  int end = first < real ? real : 0;
  for (int from = causal ? first : 0; from < end; from += TILE) {
    __syncthreads();
    load_tile<D>(qkv, 3 * c, from, real, &queries, &turned_queries);
    load_tile<D>(g, c, from, real, &dy, &turned_dy);
    // Two threads a query, half of its width each.
    int query = from + (int)threadIdx.x / 2;
    float half = 0.0f;
    if (query < real) {
      long long start = (long long)query * c + (int)threadIdx.x % 2 * (D / 2);
      for (int i = 0; i < D / 2; i += 2) {
        unsigned int a = pair_at(y + start + i), b = pair_at(g + start + i);
        half += low_of(a) * low_of(b) + high_of(a) * high_of(b);
      }
    }
    half += __shfl_xor_sync(0xffffffffu, half, 1);
    if (threadIdx.x % 2 == 0) {
      along[threadIdx.x / 2] = half;
      l[threadIdx.x / 2] = query < real ? logarithms[query] : 0.0f;
    }
    __syncthreads();
    float p[TILE / 8][4], s[TILE / 8][4], dp[TILE / 8][4];
    against_rows<D>(s, k, queries);
    against_rows<D>(dp, v, dy);
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int of = 8 * j + column + i % 2;
        bool seen = from + of < real && key + i / 2 * 8 < seen_by(from + of, real, causal);
        score_gradient(&p[j][i], &s[j][i], dp[j][i], binary, l[of], along[of], seen);
      }
    }
    add_product<D>(dv, p, turned_dy);
    add_product<D>(dk, s, turned_queries);
  }
  write_rows<D>(out + c, 3 * c, first, n, dk, scale, scale);
  write_rows<D>(out + 2 * c, 3 * c, first, n, dv, 1.0f, 1.0f);
}

// The gradient of qkv for g = dL/dy, from what `attention` gave: half of the blocks for keys and values, half for queries.
template <int D>
__device__ void attention_gradient(const bf16 *qkv, const bf16 *y, const bf16 *g, bf16 *out, int n, int c, float scale,
                                   bool causal, int heads) {
  __shared__ Rows<D> first_rows, second_rows;
  __shared__ Columns<D> first_columns, second_columns;
  __shared__ float l[TILE], along[TILE];
  long long blocks = gridDim.x / 2, block = blockIdx.x % blocks;
  bool of_keys = blockIdx.x < blocks;
  // The first keys are seen by the most queries, the last queries see the most keys.
  Place at = place_of(block, n, heads, causal && !of_keys);
  long long sequences = blocks / ((n + TILE - 1) / TILE) / heads;
  const float *logarithms = (const float *)(y + sequences * n * c);
  int real = (int)logarithms[sequences * heads * n + at.sequence];
  logarithms += (at.sequence * heads + at.head) * n;
  long long packed = at.sequence * n * 3 * c + at.head * D, plain = at.sequence * n * c + at.head * D;
  if (of_keys) {
    key_gradient<D>(qkv + packed, y + plain, g + plain, logarithms, out + packed, at.tile * TILE, real, n, c, scale,
                    causal, first_rows, first_columns, second_rows, second_columns, l, along);
  } else {
    query_gradient<D>(qkv + packed, y + plain, g + plain, logarithms, out + packed, at.tile * TILE, real, n, c, scale,
                      causal, first_rows, first_columns, second_rows);
  }
}

#define OF_WIDTH(D)                                                                                                      \
  extern "C" __global__ void attention_##D(const bf16 *qkv, bf16 *out, int n, int c, float scale, float causal,          \
                                           float heads, float) {                                                         \
    attention<D>(qkv, nullptr, out, n, c, scale, causal != 0.0f, (int)heads);                                            \
  }                                                                                                                      \
  extern "C" __global__ void attention_padded_##D(const bf16 *qkv, const unsigned int *lengths, bf16 *out, int n, int c, \
                                                  float scale, float causal, float heads, float) {                       \
    attention<D>(qkv, lengths, out, n, c, scale, causal != 0.0f, (int)heads);                                            \
  }                                                                                                                      \
  extern "C" __global__ void attention_gradient_##D(const bf16 *qkv, const bf16 *y, const bf16 *g, bf16 *out, int n,     \
                                                    int c, float scale, float causal, float heads, float) {              \
    attention_gradient<D>(qkv, y, g, out, n, c, scale, causal != 0.0f, (int)heads);                                      \
  }

OF_WIDTH(32)
OF_WIDTH(64)
