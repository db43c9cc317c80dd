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

constexpr int kThreads = 32 * kWarps;
constexpr int kWeightRows = 16 * kSteps;
constexpr int kGroupsWide = kRowPixels / kLoad;
constexpr int kGroupElements = kLoad * kPixel;

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
template <unsigned kFirst, unsigned kSize> INGOT_INLINE unsigned column_in(unsigned channel) {
  const unsigned local = channel - kFirst * 8;
  return (kFirst + local % (8 * kSize) % (2 * kSize) / 2) * 8 + local % (8 * kSize) / (2 * kSize) * 2;
}
INGOT_INLINE unsigned column_of(unsigned channel) {  // of an even one
  if (kTilesN % 4 == 0 || channel < kTilesN / 4 * 32) return column_in<0, 4>(channel) + channel / 32 * 32;
  if (kTilesN % 2 == 0 || channel < kTilesN / 2 * 16) return column_in<kTilesN / 4 * 4, 2>(channel);
  return column_in<kTilesN / 2 * 2, 1>(channel);
}
INGOT_MEMBER constexpr unsigned weight_offset(unsigned k, unsigned column) {  // bytes
  return (column / 64 * kWeightRows + k) * 128 + ((column / 8 % 8) ^ (k % 8)) * 16 + column % 8 * 2;
}

// ---- loading

// Weights as they lie: for every element of the window a run of output channels, eight (or two) of which a thread takes.
constexpr unsigned kRun = kWeightVector ? 8 : 2;
constexpr unsigned kRuns = kTilesN * 8 / kRun;
constexpr int kWeightItems = (kSources * kRuns + kThreads - 1) / kThreads;
constexpr int kWeightBatch = kWeightItems < 5 ? kWeightItems : 5;
typedef vec_t<unsigned, kRun / 2> WeightBatch[kWeightBatch];

INGOT_INLINE void read_weights(WeightBatch& batch, const element_t* from, int first) {
#pragma unroll
  for (int u = 0; u < kWeightBatch; ++u) {
    const unsigned i = (first + u) * kThreads + threadIdx.x, channel = i % kRuns * kRun;
    if (i >= kSources * kRuns) continue;
    const element_t* at = from + weight_source(i / kRuns);
    if constexpr (kWeightVector) {
      batch[u] = load_vec<kRun / 2>(reinterpret_cast<const unsigned*>(at + channel));
    } else {
      const unsigned low = channel < kOutputs ? at[(long long)channel * kWeightStride].bits : 0;
      const unsigned high = channel + 1 < kOutputs ? at[(long long)(channel + 1) * kWeightStride].bits : 0;
      batch[u].v[0] = low | high << 16;
    }
  }
}
INGOT_INLINE void keep_weights(const WeightBatch& batch, unsigned char* weights, int first) {
#pragma unroll
  for (int u = 0; u < kWeightBatch; ++u) {
    const unsigned i = (first + u) * kThreads + threadIdx.x, channel = i % kRuns * kRun;
    if (i >= kSources * kRuns) continue;
    const unsigned k = kPlace[i / kRuns];
#pragma unroll
    for (unsigned e = 0; e < kRun / 2; ++e)
      *reinterpret_cast<unsigned*>(weights + weight_offset(k, column_of(channel + 2 * e))) = batch[u].v[e];
  }
}
// The elements of the depth that no element of the window has.
INGOT_INLINE void clear_weights(unsigned char* weights) {
  for (unsigned i = threadIdx.x; i < kZeros * kTilesN * 4; i += kThreads)
    *reinterpret_cast<unsigned*>(weights + weight_offset(kZero[i / (kTilesN * 4)], i % (kTilesN * 4) * 2)) = 0;
}

// The lanes of a warp go along a row of the image, or along some rows where they are short.
constexpr int kRowsAtOnce = 32 / kLanesWide;
constexpr int kRowStep = kWarps * kRowsAtOnce;
constexpr int kPasses = (kGroupsWide + kLanesWide - 1) / kLanesWide;
constexpr int kGroupWords = (kGroupElements + 1) / 2;
typedef vec_t<image_t, kLoad> Raw[kBatch][kPasses][kChannels];

struct Corner {
  int y, x;  // of the first pixel of the image in shared memory
};

INGOT_INLINE int first_image_row() { return threadIdx.x / 32 * kRowsAtOnce + threadIdx.x % 32 / kLanesWide; }
INGOT_INLINE int image_group(int pass) { return (int)(threadIdx.x % kLanesWide) + pass * kLanesWide; }
INGOT_INLINE bool in_image(const Corner& at, int row, int pass) {
  const int y = at.y + row, x = at.x + image_group(pass) * kLoad;
  return row < kNeededRows && y >= 0 && y < kHeight && image_group(pass) < kGroupsWide && x >= 0 && x < kWidth;
}
INGOT_INLINE void read_image(Raw& raw, const Stem& stem, const image_t* from, const Corner& at, int row) {
#pragma unroll
  for (int u = 0; u < kBatch; ++u)
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass)
      if (in_image(at, row + u * kRowStep, pass))
        stem.read(raw[u][pass], from, at.y + row + u * kRowStep, at.x + image_group(pass) * kLoad);
}
INGOT_INLINE void keep_image(const Raw& raw, const Stem& stem, unsigned* tile, const Corner& at, int row) {
  constexpr int kUnit = kGroupElements % 8 == 0 ? 4 : kGroupElements % 4 == 0 ? 2 : 1;  // words
#pragma unroll
  for (int u = 0; u < kBatch; ++u)
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int own = row + u * kRowStep, group = image_group(pass);
      if (own >= kImageRows || group >= kGroupsWide) continue;
      unsigned words[kGroupWords];
#pragma unroll
      for (int i = 0; i < kGroupWords; ++i) words[i] = 0;
      if (in_image(at, own, pass)) stem.make(words, raw[u][pass]);
      element_t* to = reinterpret_cast<element_t*>(tile + own * kPitch) + group * kGroupElements;
      if constexpr (kGroupElements % 2 == 0) {
#pragma unroll
        for (int i = 0; i < kGroupWords; i += kUnit) {
          vec_t<unsigned, kUnit> part;
#pragma unroll
          for (int k = 0; k < kUnit; ++k) part.v[k] = words[i + k];
          store_vec<kUnit>(reinterpret_cast<unsigned*>(to) + i, part);
        }
      } else {
#pragma unroll
        for (int e = 0; e < kGroupElements; ++e) to[e] = element(words[e / 2], e % 2);
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
INGOT_INLINE void load_words(unsigned (&a)[4], const Lanes& at, int offset, int step);
INGOT_INLINE void multiply(float (&acc)[4 * kTilesN], const Lanes& at, int offset, const unsigned char* weights,
                           int lane);

// ---- results

typedef vec_t<float, 2> Columns[kColumnTensors ? kColumnTensors : 1];
INGOT_INLINE void columns_at(Columns& columns, const float* table, int channel) {
#pragma unroll
  for (int i = 0; i < kColumnTensors; ++i) columns[i] = load_vec<2>(table + i * kTilesN * 8 + channel);
}

// What a lane has of one pixel: words where the result has the operands' type, else elements.
template <int kFirst, int kSize> INGOT_INLINE void store_piece(result_t* to, const unsigned (&x)[kTilesN], int t) {
  constexpr int kWide = kStore < 2 * kSize ? kStore : 2 * kSize;
  const int channel = kFirst * 8 + t * 2 * kSize;
#pragma unroll
  for (int i = 0; i < 2 * kSize; i += kWide) {
    if (kOutputs % 8 != 0 && channel + i >= kOutputs) continue;
    if constexpr (kWide > 1) {
      vec_t<unsigned, kWide / 2> part;
#pragma unroll
      for (int k = 0; k < kWide / 2; ++k) part.v[k] = x[kFirst + i / 2 + k];
      store_vec<kWide / 2>(reinterpret_cast<unsigned*>(to + channel + i), part);
    } else {
      reinterpret_cast<element_t*>(to)[channel + i] = element(x[kFirst + i / 2], i % 2);
    }
  }
}
template <int kFirst, int kSize> INGOT_INLINE void store_piece(result_t* to, const result_t (&x)[2 * kTilesN], int t) {
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
template <int kFirst, typename T, int kCount> INGOT_INLINE void store_pixel(result_t* to, const T (&x)[kCount], int t) {
  if constexpr (kFirst < kTilesN) {
    store_piece<kFirst, piece_size(kFirst)>(to, x, t);
    store_pixel<kFirst + piece_size(kFirst)>(to, x, t);
  }
}

INGOT_INLINE result_t* result_at(result_t* to, int row, int col) { return to + row * kRowStride + col * kColStride; }

// One row of the convolution, of both pixels of a lane, as what is pooled. A row outside is below everything.
typedef unsigned RowWords[2 * kTilesN];
INGOT_INLINE void pooled_row(RowWords& now, const Stem& stem, const Lanes& at, int number, int first_row,
                             const unsigned char* weights, const float* table, int lane) {
  const int row = 2 * first_row - kPoolTop + number;
  if (row < 0 || row >= kConvHeight) {
#pragma unroll
    for (int i = 0; i < 2 * kTilesN; ++i) now[i] = kLowest;
    return;
  }
  float acc[4 * kTilesN];
  multiply(acc, at, number * kStrideH * kPitch, weights, lane);
#pragma unroll
  for (int j = 0; j < kTilesN; ++j) {
    Columns columns;
    columns_at(columns, table, channel_of(j, lane % 4));
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* x = acc + 4 * j + 2 * h;
      now[2 * j + h] = packed<kHalf>(stem.middle(x[0], columns, 0), stem.middle(x[1], columns, 1));
    }
  }
}
INGOT_INLINE void take_larger(RowWords& run, const RowWords& now) {
#pragma unroll
  for (int i = 0; i < 2 * kTilesN; ++i) run[i] = larger(run[i], now[i]);
}

// The maximum over the pixels of a row of windows, and what follows it.
INGOT_INLINE void store_pooled(const Stem& stem, const RowWords& rows, bool whole, const bool (&inside)[2], bool writes,
                               const float* table, result_t* to, int t) {
  unsigned out[kTilesN];
#pragma unroll
  for (int j = 0; j < kTilesN; ++j) {
    unsigned left = rows[2 * j], right = rows[2 * j + 1];
    if (!whole) {
      left = inside[0] ? left : kLowest;
      right = inside[1] ? right : kLowest;
    }
    out[j] = larger(left, right);
    if (kPool == 3) out[j] = larger(out[j], __shfl_up_sync(~0u, right, 4));
  }
  if (!writes) return;
  if constexpr (kAfter || !kPackedResult) {
    result_t values[2 * kTilesN];
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
      Columns columns;
      columns_at(columns, table, channel_of(j, t));
      const made_t low = stem.after((float)element(out[j], 0), columns, 0);
      const made_t high = stem.after((float)element(out[j], 1), columns, 1);
      if constexpr (kPackedResult)
        out[j] = packed<kHalf>(low, high);
      else
        values[2 * j] = stem.result(low), values[2 * j + 1] = stem.result(high);
    }
    if constexpr (kPackedResult)
      store_pixel<0>(to, out, t);
    else
      store_pixel<0>(to, values, t);
  } else {
    store_pixel<0>(to, out, t);
  }
}

// A warp's columns of all rows of the block: rows of the convolution one after another, two or three to a result.
INGOT_INLINE void pool_rows(const Stem& stem, const unsigned* tile, const unsigned char* weights, const float* table,
                            result_t* to, int first_row, int first_col) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane / 4, t = lane % 4;
  const int col = 2 * first_col + kFirstColumn + warp * kWarpPixels + 2 * quad;
  const bool inside[2] = {col >= 0 && col < kConvWidth, col + 1 >= 0 && col + 1 < kConvWidth};
  const bool whole = __all_sync(~0u, inside[0] && inside[1]);
  const int result_col = first_col + warp * (kWarpPixels / 2) + quad - (kPool == 3);
  const bool writes = result_col < kResultWidth && (kPool == 2 || quad > 0);
  const int rows = kResultHeight - first_row < kRows ? kResultHeight - first_row : kRows;
  const Lanes at = lanes_at(tile + warp * kWarpPixels * kStep, lane);
  RowWords run, now;
  if (kPool == 3) pooled_row(run, stem, at, 0, first_row, weights, table, lane);
  for (int i = 0; i < rows; ++i) {
    __syncwarp();
    if (kPool == 2) pooled_row(run, stem, at, 2 * i, first_row, weights, table, lane);
    pooled_row(now, stem, at, 2 * i + 1, first_row, weights, table, lane);
    take_larger(run, now);
    if (kPool == 3) {
      pooled_row(now, stem, at, 2 * i + 2, first_row, weights, table, lane);
      take_larger(run, now);
    }
    store_pooled(stem, run, whole, inside, writes, table, result_at(to, first_row + i, result_col), t);
#pragma unroll
    for (int k = 0; k < 2 * kTilesN; ++k) run[k] = now[k];  // the last row is the first of the next window
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
      unsigned words[kTilesN];
      result_t values[2 * kTilesN];
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        Columns columns;
        columns_at(columns, table, channel_of(j, t));
        const float* x = acc + 4 * j + 2 * h;
        const auto low = stem.middle(x[0], columns, 0), high = stem.middle(x[1], columns, 1);
        if constexpr (kPackedResult)
          words[j] = packed<kHalf>(low, high);
        else
          values[2 * j] = stem.result(low), values[2 * j + 1] = stem.result(high);
      }
      if constexpr (kPackedResult)
        store_pixel<0>(result_at(to, row, col + 8 * h), words, t);
      else
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
  const unsigned block = blockIdx.x;
  const int first_col = block % kBlocksWide * kColumns, first_row = block / kBlocksWide % kBlocksHigh * kRows;
  const int image = block / (kBlocksWide * kBlocksHigh);
  const Corner at = {(kPool ? 2 * first_row - kPoolTop : first_row) * kStrideH - kTop,
                     (kPool ? 2 * first_col : first_col) * kStrideW + kFirstX};
  const image_t* from = stem.image(image);
  Raw raw;
  WeightBatch batch;
  read_weights(batch, stem.weights(), 0);  // they do not depend on earlier kernels
  pdl_wait();
  int row = first_image_row();
  read_image(raw, stem, from, at, row);
  clear_weights(weights);
  keep_weights(batch, weights, 0);
  for (int first = kWeightBatch; first < kWeightItems; first += kWeightBatch) {
    read_weights(batch, stem.weights(), first);
    keep_weights(batch, weights, first);
  }
  for (int i = threadIdx.x; i < kTilesN * 8; i += kThreads) stem.fill(table, i);
  keep_image(raw, stem, tile, at, row);
  for (row += kBatch * kRowStep; row < kImageRows; row += kBatch * kRowStep) {
    read_image(raw, stem, from, at, row);
    keep_image(raw, stem, tile, at, row);
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
