// What candle lacks on CUDA, or does in many passes over memory. T is float or bf16. A warp of 32 threads shares a row
// unless the kernel says otherwise.

__device__ inline int warp_row() { return (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32); }

struct Statistics { float mean, r; };

// The mean of a row, or zero, and r = 1 / sqrt(mean of the squares of x - mean + eps).
template <bool CENTRED> __device__ inline Statistics statistics_of(const float *x, int width, float eps) {
  float mean = 0.0f;
  if (CENTRED) {
    for (int c = lane(); c < width; c += 32) mean += x[c];
    mean = warp_sum(mean) / width;
  }
  float squares = 0.0f;
  for (int c = lane(); c < width; c += 32) squares += (x[c] - mean) * (x[c] - mean);
  return Statistics{mean, 1.0f / sqrtf(warp_sum(squares) / width + eps)};
}

// y = (x - mean) r w + b.
extern "C" __global__ void layer_norm_rows(const float *x, const float *w, const float *b, float *out, int rows, int width,
                                           float eps, float, float, float) {
  int row = warp_row();
  if (row >= rows) return;
  long long start = (long long)row * width;
  Statistics of = statistics_of<true>(x + start, width, eps);
  for (int c = lane(); c < width; c += 32) out[start + c] = (x[start + c] - of.mean) * of.r * w[c] + b[c];
}

// y = x r w.
extern "C" __global__ void rms_norm_rows(const float *x, const float *w, float *out, int rows, int width, float eps, float,
                                         float, float) {
  int row = warp_row();
  if (row >= rows) return;
  long long start = (long long)row * width;
  Statistics of = statistics_of<false>(x + start, width, eps);
  for (int c = lane(); c < width; c += 32) out[start + c] = x[start + c] * of.r * w[c];
}

// With h = g w and n = (x - mean) r: dx = r (h - mean(h) - n mean(h n)), without mean(h) where there is no mean. Behind dx
// come mean and r of each row.
template <bool CENTRED>
__device__ void norm_input(const float *x, const float *w, const float *g, float *out, int rows, int width, float eps) {
  int row = warp_row();
  if (row >= rows) return;
  long long start = (long long)row * width;
  x += start;
  g += start;
  Statistics of = statistics_of<CENTRED>(x, width, eps);
  float mean = of.mean, r = of.r;
  float sum = 0.0f, along = 0.0f;
  for (int c = lane(); c < width; c += 32) {
    float h = g[c] * w[c];
    sum += h;
    along += h * (x[c] - mean) * r;
  }
  sum = CENTRED ? warp_sum(sum) / width : 0.0f;
  along = warp_sum(along) / width;
  for (int c = lane(); c < width; c += 32) out[start + c] = r * (g[c] * w[c] - sum - (x[c] - mean) * r * along);
  if (lane() == 0) {
    float *statistics = out + (long long)rows * width + 2ll * row;
    statistics[0] = mean;
    statistics[1] = r;
  }
}

extern "C" __global__ void layer_norm_input(const float *x, const float *w, const float *g, float *out, int rows,
                                            int width, float eps, float, float, float) {
  norm_input<true>(x, w, g, out, rows, width, eps);
}

extern "C" __global__ void rms_norm_input(const float *x, const float *w, const float *g, float *out, int rows,
                                          int width, float eps, float, float, float) {
  norm_input<false>(x, w, g, out, rows, width, eps);
}

// Sums of g n and of g over the rows of a part: (parts, 2, width). Blocks of 256 threads: 32 channels by 8 rows.
extern "C" __global__ void norm_parameters(const float *x, const float *g, const float *statistics, float *out, int rows,
                                           int width, float part_rows, float, float, float) {
  __shared__ float products[256], sums[256];
  int tiles = (width + 31) / 32;
  int part = (int)blockIdx.x / tiles, c = (int)blockIdx.x % tiles * 32 + lane();
  int end = min(rows, (part + 1) * (int)part_rows);
  float product = 0.0f, sum = 0.0f;
  if (c < width) {
    for (int row = part * (int)part_rows + (int)threadIdx.x / 32; row < end; row += 8) {
      long long at = (long long)row * width + c;
      product += g[at] * (x[at] - statistics[2ll * row]) * statistics[2ll * row + 1];
      sum += g[at];
    }
  }
  products[threadIdx.x] = product;
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < 32 && c < width) {
    for (int other = 1; other < 8; other++) {
      product += products[threadIdx.x + 32 * other];
      sum += sums[threadIdx.x + 32 * other];
    }
    out[(long long)part * 2 * width + c] = product;
    out[((long long)part * 2 + 1) * width + c] = sum;
  }
}

// y = softmax(scale x) of what a query sees: all of a row or, with `queries` queries a matrix, the last of them all and
// each one before it one less.
template <typename T>
__device__ void softmax_rows(const T *x, T *y, int rows, int width, float scale, int queries) {
  int row = warp_row();
  if (row >= rows) return;
  x += (long long)row * width;
  y += (long long)row * width;
  int seen = queries == 0 ? width : width - queries + 1 + row % queries;
  float largest = -__uint_as_float(0x7f800000u);
  for (int c = lane(); c < seen; c += 32) largest = fmaxf(largest, wide(x[c]));
  largest = warp_max(largest);
  float sum = 0.0f;
  for (int c = lane(); c < seen; c += 32) sum += expf(scale * (wide(x[c]) - largest));
  sum = warp_sum(sum);
  for (int c = lane(); c < width; c += 32) {
    y[c] = narrow<T>(c < seen ? expf(scale * (wide(x[c]) - largest)) / sum : 0.0f);
  }
}

// dx = scale y (g - sum(g y)).
template <typename T>
__device__ void softmax_gradient(const T *y, const T *g, T *out, int rows, int width, float scale) {
  int row = warp_row();
  if (row >= rows) return;
  long long start = (long long)row * width;
  float along = 0.0f;
  for (int c = lane(); c < width; c += 32) along += wide(g[start + c]) * wide(y[start + c]);
  along = warp_sum(along);
  for (int c = lane(); c < width; c += 32) {
    out[start + c] = narrow<T>(scale * wide(y[start + c]) * (wide(g[start + c]) - along));
  }
}

// Phi(x), or 1 / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), and the derivative of x times it.
__device__ inline float gelu_gate(float x, bool by_tanh) {
  if (!by_tanh) return 0.5f + 0.5f * erff(x * 0.70710678f);
  return 1.0f / (1.0f + expf(-1.59576912f * x * (1.0f + 0.044715f * x * x)));
}

__device__ inline float gelu_slope(float x, bool by_tanh) {
  float gate = gelu_gate(x, by_tanh);
  if (!by_tanh) return gate + x * 0.39894228f * expf(-0.5f * x * x);
  return gate + x * gate * (1.0f - gate) * 1.59576912f * (1.0f + 0.134145f * x * x);
}

// y = x + b, element by element of (rows, width).
template <typename T> __device__ void add_bias(const T *x, const T *b, T *y, int rows, int width) {
  long long n = (long long)rows * width, step = (long long)gridDim.x * blockDim.x;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += step) {
    // In 32 bits, which hold every place: division in 64 takes several times as long.
    y[i] = narrow<T>(wide(x[i]) + wide(b[(unsigned int)i % (unsigned int)width]));
  }
}

// Elements one by one: `rows` of them.
template <typename T> __device__ void gelu_forward(const T *x, T *y, int rows, bool by_tanh) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < rows; i += (long long)gridDim.x * blockDim.x) {
    y[i] = narrow<T>(wide(x[i]) * gelu_gate(wide(x[i]), by_tanh));
  }
}

template <typename T> __device__ void gelu_gradient(const T *x, const T *g, T *out, int rows, bool by_tanh) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < rows; i += (long long)gridDim.x * blockDim.x) {
    out[i] = narrow<T>(wide(g[i]) * gelu_slope(wide(x[i]), by_tanh));
  }
}

// x or nothing times `scale` for each group of `width` elements, by the stream of mode.rs: SplitMix64 at the number of the
// group, of which the upper 24 bits decide.
template <typename T>
__device__ void masked(const T *x, T *y, int rows, int width, unsigned int least, float scale, unsigned long long key) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < rows; i += (long long)gridDim.x * blockDim.x) {
    unsigned long long z = key + ((unsigned long long)((unsigned int)i / (unsigned int)width) + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    y[i] = narrow<T>(wide(x[i]) * ((unsigned int)(z >> 40) >= least ? scale : 0.0f));
  }
}

// Row i of the result is row ids[i] of x.
extern "C" __global__ void rows_by_id(const float *x, const unsigned int *ids, float *out, int rows, int width, float, float,
                                      float, float) {
  int row = warp_row();
  if (row >= rows) return;
  const float *from = x + (long long)ids[row] * width;
  for (int c = lane(); c < width; c += 32) out[(long long)row * width + c] = from[c];
}

// Row i of the result is the sum of the rows places[j] of g, j from starts[i] to starts[i + 1], in order. A warp has 32
// columns of a row.
extern "C" __global__ void sums_by_id(const float *g, const unsigned int *places, const unsigned int *starts, float *out,
                                      int rows, int width, float, float, float, float) {
  int tiles = (width + 31) / 32;
  long long warp = blockIdx.x * (long long)(blockDim.x / 32) + threadIdx.x / 32;
  long long row = warp / tiles;
  int c = (int)(warp % tiles) * 32 + lane();
  if (row >= rows || c >= width) return;
  float sum = 0.0f;
  for (unsigned int j = starts[row]; j < starts[row + 1]; j++) sum += g[(long long)places[j] * width + c];
  out[row * width + c] = sum;
}

// Over a block of up to 1024 threads; every one gets the result. `shared` holds one number for each warp.
__device__ inline float block_sum(float x, float *shared) {
  x = warp_sum(x);
  if (lane() == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = warp_sum(lane() < (int)blockDim.x / 32 ? shared[lane()] : 0.0f);
  __syncthreads();
  return x;
}

__device__ inline float block_max(float x, float *shared) {
  x = warp_max(x);
  if (lane() == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = warp_max(lane() < (int)blockDim.x / 32 ? shared[lane()] : shared[0]);
  __syncthreads();
  return x;
}

// A block for each row of logits, of which the first `classes` count: (loss, l) with l = log of the sum of exp(x) and
// loss = l - x[label].
template <typename T>
__device__ void cross_entropy_rows(const T *x, const unsigned int *labels, float *out, int classes, int width) {
  __shared__ float shared[32];
  long long row = blockIdx.x;
  x += row * width;
  float largest = -__uint_as_float(0x7f800000u);
  for (int c = (int)threadIdx.x; c < classes; c += (int)blockDim.x) largest = fmaxf(largest, wide(x[c]));
  largest = block_max(largest, shared);
  float sum = 0.0f;
  for (int c = (int)threadIdx.x; c < classes; c += (int)blockDim.x) sum += expf(wide(x[c]) - largest);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) {
    float l = largest + logf(sum);
    out[2 * row] = l - wide(x[labels[row]]);
    out[2 * row + 1] = l;
  }
}

// dx = s (exp(x - l) - [c = label]) from (s, l) of each row; 0 behind the classes.
template <typename T>
__device__ void cross_entropy_gradient(const T *x, const unsigned int *labels, const float *scales, T *out, int classes,
                                       int width) {
  long long row = blockIdx.x;
  float scale = scales[2 * row], l = scales[2 * row + 1];
  for (int c = (int)threadIdx.x; c < width; c += (int)blockDim.x) {
    float target = (unsigned int)c == labels[row] ? 1.0f : 0.0f;
    float dx = c < classes ? scale * (expf(wide(x[row * width + c]) - l) - target) : 0.0f;
    out[row * width + c] = narrow<T>(dx);
  }
}

#define OF_TYPE(T)                                                                                                      \
  extern "C" __global__ void softmax_rows_##T(const T *x, T *out, int rows, int width, float scale, float queries,      \
                                              float, float) {                                                           \
    softmax_rows<T>(x, out, rows, width, scale, (int)queries);                                                          \
  }                                                                                                                     \
  extern "C" __global__ void softmax_gradient_##T(const T *y, const T *g, T *out, int rows, int width, float scale,     \
                                                  float, float, float) {                                                \
    softmax_gradient<T>(y, g, out, rows, width, scale);                                                                 \
  }                                                                                                                     \
  extern "C" __global__ void add_bias_##T(const T *x, const T *b, T *out, int rows, int width, float, float, float,      \
                                          float) {                                                                      \
    add_bias<T>(x, b, out, rows, width);                                                                                \
  }                                                                                                                     \
  extern "C" __global__ void gelu_forward_##T(const T *x, T *out, int rows, int, float by_tanh, float, float, float) {  \
    gelu_forward<T>(x, out, rows, by_tanh != 0.0f);                                                                     \
  }                                                                                                                     \
  extern "C" __global__ void gelu_gradient_##T(const T *x, const T *g, T *out, int rows, int, float by_tanh, float,     \
                                               float, float) {                                                          \
    gelu_gradient<T>(x, g, out, rows, by_tanh != 0.0f);                                                                 \
  }                                                                                                                     \
  extern "C" __global__ void masked_##T(const T *x, T *out, int rows, int width, float least, float scale, float low,      \
                                        float high) {                                                                   \
    unsigned long long key = ((unsigned long long)__float_as_uint(high) << 32) | __float_as_uint(low);                  \
    masked<T>(x, out, rows, width, (unsigned int)least, scale, key);                                                    \
  }                                                                                                                     \
  extern "C" __global__ void cross_entropy_rows_##T(const T *x, const unsigned int *labels, float *out, int classes,    \
                                                    int width, float, float, float, float) {                            \
    cross_entropy_rows<T>(x, labels, out, classes, width);                                                              \
  }                                                                                                                     \
  extern "C" __global__ void cross_entropy_gradient_##T(const T *x, const unsigned int *labels, const float *scales,    \
                                                        T *out, int classes, int width, float, float, float, float) {   \
    cross_entropy_gradient<T>(x, labels, scales, out, classes, width);                                                  \
  }

OF_TYPE(float)
OF_TYPE(bf16)

// AdamW, in place and element by element: m <- m + a (s g - m).
extern "C" __global__ void adamw_first(const float *g, float *m, int rows, int, float a, float s, float, float) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < rows; i += (long long)gridDim.x * blockDim.x) {
    m[i] += a * (s * g[i] - m[i]);
  }
}

// v <- b v + a (s g)^2.
extern "C" __global__ void adamw_second(const float *g, float *v, int rows, int, float b, float a, float s, float) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < rows; i += (long long)gridDim.x * blockDim.x) {
    v[i] = b * v[i] + a * (s * g[i]) * (s * g[i]);
  }
}

// theta <- decay theta - rate m / (sqrt(v) / root + eps).
extern "C" __global__ void adamw_parameter(const float *m, const float *v, float *theta, int rows, int, float decay,
                                           float rate, float root, float eps) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < rows; i += (long long)gridDim.x * blockDim.x) {
    theta[i] = decay * theta[i] - rate * m[i] / (sqrtf(v[i]) / root + eps);
  }
}
