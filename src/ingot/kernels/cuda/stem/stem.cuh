// A convolution over an image of few channels, and the pooling behind it.
//
// A block keeps the rows of the image that its results need in shared memory, as 16-bit elements, channels innermost.
// There a row of a window is a run of words, and the lanes of a warp read the words that the tensor core wants of them
// straight from the image: no gathered matrix is written anywhere. Weights lie beside it, output channels
// innermost, in the permutation that wgmma and ldmatrix read without conflicts.
//
// A warp multiplies sixteen pixels of one row at a time. With a pooling a lane's two pixels are neighbours, a warp goes
// down its columns, and the maximum over rows and pixels is taken in registers; the pixel to the left is
// the neighbouring lane's. Channels are dealt out so that a lane's results for one pixel lie side by side.

#ifndef INGOT_MEMBER
#define INGOT_MEMBER __device__ __forceinline__
#endif

constexpr int kThreads = 32 * kWarps;
constexpr int kWeightRows = 16 * kSteps;
constexpr int kGroupsWide = kRowPixels / kLoad;
constexpr int kGroupElements = kLoad * kPixel;

// ---- two 16-bit floats in a word

INGOT_INLINE unsigned packed(float low, float high) {
#ifdef INGOT_HOST
  return element_t(low).bits | (unsigned)element_t(high).bits << 16;
#else
  unsigned word;
  if constexpr (kHalf)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#endif
}
INGOT_INLINE element_t element(unsigned word, int which) {
  element_t x;
  x.bits = (unsigned short)(which ? word >> 16 : word & 0xffffu);
  return x;
}
// The larger of each; a NaN is passed over, as in the pooling kernels.
INGOT_INLINE unsigned larger(unsigned a, unsigned b) {
#ifdef INGOT_HOST
  return packed(ingot_larger<float>(element(a, 0), element(b, 0)), ingot_larger<float>(element(a, 1), element(b, 1)));
#else
  unsigned word;
  if constexpr (kHalf)
    asm("max.f16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
  else
    asm("max.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
  return word;
#endif
}
constexpr unsigned kLowest = kHalf ? 0xfc00fc00u : 0xff80ff80u;

// ---- which column of the product is which output channel

// Eights of columns go together in pieces of four, then two, then one: lane t of a quad holds the t-th part of a piece.
INGOT_MEMBER constexpr int piece_size(int j) { return j < kTilesN / 4 * 4 ? 4 : j < kTilesN / 2 * 2 ? 2 : 1; }
INGOT_MEMBER constexpr int piece_first(int j) {
  return j < kTilesN / 4 * 4 ? j / 4 * 4 : j < kTilesN / 2 * 2 ? kTilesN / 4 * 4 : kTilesN / 2 * 2;
}
// The first of the two channels that lane t of a quad holds of eight columns j.
INGOT_MEMBER constexpr int channel_of(int j, int t) {
  return piece_first(j) * 8 + t * 2 * piece_size(j) + (j - piece_first(j)) * 2;
}
INGOT_INLINE int column_of(int channel) {  // of an even one
  const int first = piece_first(channel / 8), size = piece_size(channel / 8), local = channel - first * 8;
  return (first + local % (2 * size) / 2) * 8 + local / (2 * size) * 2;
}
INGOT_MEMBER constexpr int weight_offset(int k, int column) {  // bytes
  return (column / 64 * kWeightRows + k) * 128 + ((column / 8 % 8) ^ (k % 8)) * 16 + column % 8 * 2;
}

// ---- loading

INGOT_INLINE void load_weights(const element_t* from, unsigned char* weights) {
  constexpr int kWidth = kWeightVector ? 8 : 2;
#pragma unroll 4
  for (int i = threadIdx.x; i < kWeightRows * kTilesN * 8 / kWidth; i += kThreads) {
    const int k = i / (kTilesN * 8 / kWidth), channel = i % (kTilesN * 8 / kWidth) * kWidth;
    const int at = kOrder[k];
    vec_t<element_t, kWidth> x;
    if (kWeightVector && at >= 0) {
      x = load_vec<kWidth>(from + at + channel);
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        x.v[e].bits = 0;
        if (at >= 0 && channel + e < kOutputs) x.v[e] = from[at + (long long)(channel + e) * kWeightStride];
      }
    }
#pragma unroll
    for (int e = 0; e < kWidth; e += 2)
      *reinterpret_cast<unsigned*>(weights + weight_offset(k, column_of(channel + e))) =
          x.v[e].bits | (unsigned)x.v[e + 1].bits << 16;
  }
}

typedef vec_t<image_t, kLoad> Raw[kBatch][kChannels];

struct Corner {
  int y, x;  // of the first pixel of the image in shared memory
};

INGOT_INLINE bool in_image(const Corner& at, int i, int& y, int& x) {
  const int row = i / kGroupsWide;
  y = at.y + row, x = at.x + i % kGroupsWide * kLoad;
  return row < kNeededRows && y >= 0 && y < kHeight && x >= 0 && x < kWidth;
}
INGOT_INLINE void read_image(Raw& raw, const Stem& stem, const image_t* from, const Corner& at, int first) {
#pragma unroll
  for (int u = 0; u < kBatch; ++u) {
    int y, x;
    const int i = first + u * kThreads;
    if (i < kImageRows * kGroupsWide && in_image(at, i, y, x)) stem.read(raw[u], from, y, x);
  }
}
INGOT_INLINE void keep_image(const Raw& raw, const Stem& stem, unsigned* tile, const Corner& at, int first) {
  constexpr int kUnit = kGroupElements % 8 == 0 ? 8 : kGroupElements % 4 == 0 ? 4 : kGroupElements % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int u = 0; u < kBatch; ++u) {
    int y, x;
    const int i = first + u * kThreads;
    if (i >= kImageRows * kGroupsWide) return;
    element_t made[kGroupElements];
    if (in_image(at, i, y, x)) {
      stem.make(made, raw[u]);
    } else {
#pragma unroll
      for (int e = 0; e < kGroupElements; ++e) made[e].bits = 0;
    }
    element_t* to = reinterpret_cast<element_t*>(tile + i / kGroupsWide * kPitch) + i % kGroupsWide * kGroupElements;
#pragma unroll
    for (int e = 0; e < kGroupElements; e += kUnit) {
      vec_t<element_t, kUnit> part;
#pragma unroll
      for (int k = 0; k < kUnit; ++k) part.v[k] = made[e + k];
      store_vec<kUnit>(to + e, part);
    }
  }
}

// ---- the product of sixteen pixels

// Where a lane's first pixel finds its word of a group: four words of a row, four rows, or two by two.
struct Lanes {
  const unsigned* across;
  const unsigned* down;
  const unsigned* square;
};
INGOT_INLINE Lanes lanes_at(const unsigned* tile, int lane) {
  const unsigned* at = tile + kStart + lane / 4 * kQuadStep;
  const int t = lane % 4, row = kDilation * kPitch;
  return {at + t, at + t * row, at + (t & 1) + (t >> 1) * row};
}
typedef unsigned Words[kSteps][4];
INGOT_INLINE void load_words(Words& a, const Lanes& at, int offset);
INGOT_INLINE void multiply(float (&acc)[4 * kTilesN], const Lanes& at, int offset, const unsigned char* weights,
                           int lane);

// ---- results

typedef vec_t<float, 2> Columns[kColumnTensors ? kColumnTensors : 1];
INGOT_INLINE void columns_at(Columns& columns, const float* table, int channel) {
#pragma unroll
  for (int i = 0; i < kColumnTensors; ++i) columns[i] = load_vec<2>(table + i * kTilesN * 8 + channel);
}

template <int kFirst, int kSize>
INGOT_INLINE void store_piece(result_t* to, const result_t (&x)[2 * kTilesN], int t) {
  constexpr int kWide = kStore < 2 * kSize ? kStore : 2 * kSize;
  const int channel = kFirst * 8 + t * 2 * kSize;
#pragma unroll
  for (int i = 0; i < 2 * kSize; i += kWide) {
    vec_t<result_t, kWide> part;
#pragma unroll
    for (int k = 0; k < kWide; ++k) part.v[k] = x[kFirst * 2 + i + k];
    if (kOutputs % 8 == 0 || channel + i < kOutputs) store_vec<kWide>(to + channel + i, part);
  }
}
template <int kFirst> INGOT_INLINE void store_pixel(result_t* to, const result_t (&x)[2 * kTilesN], int t) {
  if constexpr (kFirst < kTilesN) {
    store_piece<kFirst, piece_size(kFirst)>(to, x, t);
    store_pixel<kFirst + piece_size(kFirst)>(to, x, t);
  }
}

INGOT_INLINE result_t* result_at(result_t* to, int row, int col) { return to + row * kRowStride + col * kColStride; }

// A warp's columns of all rows of the block: rows of the convolution one after another, two or three to a result.
INGOT_INLINE void pool_rows(const Stem& stem, const unsigned* tile, const unsigned char* weights, const float* table,
                            result_t* to, int first_row, int first_col) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane / 4, t = lane % 4;
  const int col = 2 * first_col + kFirstColumn + warp * kWarpPixels + 2 * quad;
  const bool inside[2] = {col >= 0 && col < kConvWidth, col + 1 >= 0 && col + 1 < kConvWidth};
  const int result_col = first_col + warp * (kWarpPixels / 2) + quad - (kPool == 3);
  const bool writes = result_col < kResultWidth && (kPool == 2 || quad > 0);
  const int rows = kResultHeight - first_row < kRows ? kResultHeight - first_row : kRows;
  const Lanes at = lanes_at(tile + warp * kWarpPixels * kStep, lane);
  unsigned run[2 * kTilesN];
#pragma unroll
  for (int i = 0; i < 2 * kTilesN; ++i) run[i] = kLowest;
  for (int i = 0; i < 2 * rows + (kPool == 3); ++i) {
    float acc[4 * kTilesN];
    __syncwarp();
    multiply(acc, at, i * kStrideH * kPitch, weights, lane);
    const int row = 2 * first_row - kPoolTop + i;
    const bool row_inside = row >= 0 && row < kConvHeight;
    const bool last = (i & 1) == (kPool == 2);  // of the rows of a result, or the first of the next
    unsigned out[kTilesN];
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
      Columns columns;
      columns_at(columns, table, channel_of(j, t));
      unsigned now[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float* x = acc + 4 * j + 2 * h;
        now[h] = packed(stem.middle(x[0], columns, 0), stem.middle(x[1], columns, 1));
        if (!row_inside || !inside[h]) now[h] = kLowest;
      }
      const unsigned both[2] = {larger(run[2 * j], now[0]), larger(run[2 * j + 1], now[1])};
      out[j] = larger(both[0], both[1]);
      if (kPool == 3 && last) out[j] = larger(out[j], __shfl_up_sync(~0u, both[1], 4));
      run[2 * j] = last ? (kPool == 3 ? now[0] : kLowest) : both[0];
      run[2 * j + 1] = last ? (kPool == 3 ? now[1] : kLowest) : both[1];
    }
    if (!last || !writes || (kPool == 3 && i == 0)) continue;
    result_t values[2 * kTilesN];
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
      Columns columns;
      columns_at(columns, table, channel_of(j, t));
      values[2 * j] = stem.after(element(out[j], 0), columns, 0);
      values[2 * j + 1] = stem.after(element(out[j], 1), columns, 1);
    }
    store_pixel<0>(result_at(to, first_row + (kPool == 3 ? i / 2 - 1 : i / 2), result_col), values, t);
  }
}

// Without a pooling the tiles of a block are dealt out to its warps.
INGOT_INLINE void plain_rows(const Stem& stem, const unsigned* tile, const unsigned char* weights, const float* table,
                             result_t* to, int first_row, int first_col) {
  const int lane = threadIdx.x % 32, quad = lane / 4, t = lane % 4;
  const Lanes at = lanes_at(tile, lane);
  constexpr int kTotal = kRows * kWide, kRounds = (kTotal + kWarps - 1) / kWarps;
  for (int i = 0; i < kRounds; ++i) {
    const int number = i * kWarps + (int)threadIdx.x / 32;
    const int own = number < kTotal ? number : kTotal - 1;  // warps of a group multiply together
    const int row = first_row + own / kWide, col = first_col + own % kWide * kWarpPixels + quad;
    float acc[4 * kTilesN];
    __syncwarp();
    multiply(acc, at, own / kWide * kStrideH * kPitch + own % kWide * kWarpPixels * kStep, weights, lane);
    if (number >= kTotal || row >= kResultHeight) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (col + 8 * h >= kResultWidth) continue;
      result_t values[2 * kTilesN];
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        Columns columns;
        columns_at(columns, table, channel_of(j, t));
        const float* x = acc + 4 * j + 2 * h;
        values[2 * j] = stem.result(stem.middle(x[0], columns, 0));
        values[2 * j + 1] = stem.result(stem.middle(x[1], columns, 1));
      }
      store_pixel<0>(result_at(to, row, col + 8 * h), values, t);
    }
  }
}

// ---- the whole kernel

INGOT_INLINE void run_stem(const Stem& stem) {
  INGOT_DYNAMIC_SHARED(unsigned char, memory);
  unsigned char* weights = memory + (1024 - (unsigned)(unsigned long long)memory % 1024) % 1024;
  float* table = reinterpret_cast<float*>(weights + kWeightBytes);
  unsigned* tile = reinterpret_cast<unsigned*>(weights + kWeightBytes + kTableBytes);
  const int block = blockIdx.x;
  const int first_col = block % kBlocksWide * kColumns, first_row = block / kBlocksWide % kBlocksHigh * kRows;
  const int image = block / (kBlocksWide * kBlocksHigh);
  const Corner at = {(kPool ? 2 * first_row - kPoolTop : first_row) * kStrideH - kTop,
                     (kPool ? 2 * first_col : first_col) * kStrideW + kFirstX};
  const image_t* from = stem.image(image);
  Raw raw;
  pdl_wait();
  int first = threadIdx.x;
  read_image(raw, stem, from, at, first);  // weights arrive in the same time
  load_weights(stem.weights(), weights);
  for (int i = threadIdx.x; i < kTilesN * 8; i += kThreads) stem.fill(table, i);
  keep_image(raw, stem, tile, at, first);
  for (first += kBatch * kThreads; first < kImageRows * kGroupsWide; first += kBatch * kThreads) {
    read_image(raw, stem, from, at, first);
    keep_image(raw, stem, tile, at, first);
  }
  pdl_trigger();
#if !defined(INGOT_HOST) && defined(INGOT_WARPGROUPS)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // wgmma reads weights as the copy engine would
#endif
  __syncthreads();
  if constexpr (kPool != 0)
    pool_rows(stem, tile, weights, table, stem.to(image), first_row, first_col);
  else
    plain_rows(stem, tile, weights, table, stem.to(image), first_row, first_col);
}
