// An inverted residual block: a 1 x 1 convolution that widens, a depthwise one, and a 1 x 1 convolution that narrows.
// Without the first one (kWidens) the depthwise convolution reads the image, whose channels are the hidden ones.
//
// A cluster of kCluster blocks makes kTileH by kTileW pixels of one image's result; each block has kSlice of the hidden
// channels, in kChunks parts of kChunk. It widens all pixels that its taps see (those at the tile's edges are made by
// the neighbours too), keeps them in shared memory, and adds what its channels give to the result; these sums meet in
// the blocks' shared memory, each of which finishes kShare of them.

constexpr int kWarps = kThreads / 32;
constexpr int kPitchX = kDepth * 2 + 16;    // bytes of a row in shared memory: pieces of eight rows lie in other banks
constexpr int kPitchH = kChunk * 2 + 16;
constexpr int kPitchW = kSlice * 2 + 16;
constexpr int kPixels = kSeenH * kBoxW;     // of the image, that the tile's taps see
static_assert(kWidens || kChunks == 1, "an image that is not widened is in shared memory as a whole");
constexpr int kRowTiles = (kPixels + 15) / 16;
constexpr int kGroupsE = kChunk / (16 * kWideE);
constexpr int kUnitsE = kRowTiles * kGroupsE;
constexpr int kResults = kTileH * kTileW;
constexpr int kResultTiles = (kResults + 15) / 16;
constexpr int kColTiles = kColsPadded / 16;
constexpr int kUnitsP = (kResultTiles * kColTiles + kWarps - 1) / kWarps;
constexpr int kUnitsD = (kResultTiles + kTall - 1) / kTall * (kChunk / 16);
constexpr int kQuads = kShare / 4;
constexpr int kFinish = (kQuads + kThreads - 1) / kThreads;
typedef vec_t<element_t, 4> four_t;

struct Tensors {
  const element_t *x, *widen, *taps, *narrow, *bias_widen, *bias_spread, *bias_narrow, *residual;
  element_t* y;
  long long image, image_residual, image_to;  // elements from one image to the next
};

#ifdef INGOT_HOST
INGOT_INLINE void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b) {
  ingot_host_mma<element_t>(d, a, b);
}
INGOT_INLINE void multiply_half(float (&d)[4], unsigned low, unsigned high, unsigned column) {
  const unsigned a[4] = {low, high, 0u, 0u}, b[2] = {column, 0u};
  ingot_host_mma<element_t>(d, a, b);
}
#else
INGOT_INLINE void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b) {
  multiply_halves<kHalf>(d, a, b);
}
// Half of the depth: two words of A and one of B.
INGOT_INLINE void multiply_half(float (&d)[4], unsigned low, unsigned high, unsigned column) {
  if constexpr (kHalf)
    multiply_eight_deep(d, low, high, column);
  else
    multiply_eight_deep_bfloat(d, low, high, column);
}
#endif

// Sixteen rows by 32 bytes of the depth, as operand A; sixteen columns of operand B.
INGOT_INLINE unsigned row_of_a(unsigned base, int pitch) {
  const int lane = threadIdx.x % 32;
  return base + (lane / 8 % 2 * 8 + lane % 8) * pitch + lane / 16 * 16;
}
INGOT_INLINE unsigned row_of_b(unsigned base, int pitch) {
  const int lane = threadIdx.x % 32;
  return base + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
}

// Rows of pieces of 16 bytes into shared memory, row by row at place(row): ask(row, piece, inside) is where one lies.
template <int kRows, int kPieces, typename Place, typename Ask>
INGOT_INLINE void bring(unsigned char* to, const Place& place, const Ask& ask) {
  const unsigned base = shared_address(to);
#pragma unroll 4
  for (int at = 0; at < kRows * kPieces; at += kThreads) {
    const int i = at + threadIdx.x, row = i / kPieces, piece = i % kPieces;
    if (kRows * kPieces % kThreads != 0 && i >= kRows * kPieces) break;
    bool inside = true;
    const element_t* const from = ask(row, piece, inside);
    copy_async<16>(base + place(row) + piece * 16, from, inside);
  }
}

template <int kCount, int kAll> INGOT_INLINE void bring_bias(unsigned char* to, const element_t* bias, int first) {
  bring<kCount / 8, 1>(to, [](int row) { return row * 16; }, [&](int row, int, bool& inside) {
    inside = first + row * 8 < kAll;
    return bias + (inside ? first + row * 8 : 0);
  });
}

INGOT_INLINE int of_image(int row) { return row * kPitchX; }
INGOT_INLINE void bring_weights(unsigned char* base, const Tensors& t, int first) {
  if constexpr (kWidens)
    bring<kSlice, kDepth / 8>(base + kWiden, of_image, [&](int row, int piece, bool& inside) {
      inside = first + row < kHidden && piece * 8 < kChannels;
      return t.widen + (inside ? (first + row) * kChannels + piece * 8 : 0);
    });
  const auto of_tap = [](int tap) { return tap * kSlice * 2; };
  bring<kTapsH * kTapsW, kSlice / 8>(base + kTaps, of_tap, [&](int tap, int piece, bool& inside) {
    inside = first + piece * 8 < kHidden;
    const int at = tap / kTapsW * kWeightH + tap % kTapsW * kWeightW;
    return t.taps + (inside ? at + first + piece * 8 : 0);
  });
  const auto of_column = [](int col) { return col * kPitchW; };
  bring<kColsPadded, kSlice / 8>(base + kNarrow, of_column, [&](int col, int piece, bool& inside) {
    inside = col < kCols && first + piece * 8 < kHidden;
    return t.narrow + (inside ? col * kHidden + first + piece * 8 : 0);
  });
  if (kHasBiasWiden) bring_bias<kSlice, kHidden>(base + kBiasWiden, t.bias_widen, first);
  if (kHasBiasSpread) bring_bias<kSlice, kHidden>(base + kBiasSpread, t.bias_spread, first);
  if (kHasBiasNarrow) bring_bias<kColsPadded, kCols>(base + kBiasNarrow, t.bias_narrow, 0);
  copies_commit();
}

// All pixels that are seen, zero outside of the image: as rows of the first product's operand, or as the hidden tile.
INGOT_INLINE void bring_image(unsigned char* base, const Tensors& t, int image, int top, int left, int first) {
  const auto pixel_of = [&](int pixel, int channel, bool& inside) {
    const int y = top + pixel / kBoxW, x = left + kBoxLeft + pixel % kBoxW;
    inside = inside && (unsigned)y < (unsigned)kHeight && (unsigned)x < (unsigned)kWidth && channel < kChannels;
    return t.x + (inside ? image * t.image + y * kRowStep + x * kColumnStep + channel : 0);
  };
  if constexpr (kWidens) {
    bring<kRowTiles * 16, kDepth / 8>(base + kImage, of_image, [&](int pixel, int piece, bool& inside) {
      inside = pixel < kPixels;
      return pixel_of(pixel, piece * 8, inside);
    });
  } else {
    const auto place = [](int pixel) { return (pixel / kBoxW * kSeenW + kBoxLeft + pixel % kBoxW) * kPitchH; };
    bring<kPixels, kSlice / 8>(base + kHiddenTile, place, [&](int pixel, int piece, bool& inside) {
      return pixel_of(pixel, first + piece * 8, inside);
    });
  }
  copies_commit();
}

// The columns of the hidden tile that lie beside the image, whatever the tile, are zero.
INGOT_INLINE void clear_margins(unsigned char* hidden) {
  constexpr int kPieces = kChunk / 8, kMargin = kSeenW > kBoxW ? kSeenW - kBoxW : 1;
  for (int i = threadIdx.x; i < kSeenH * kMargin * kPieces; i += kThreads) {
    const int piece = i % kPieces, at = i / kPieces % kMargin, line = i / kPieces / kMargin;
    const int column = at < kBoxLeft ? at : at + kBoxW;
    store_vec((unsigned*)(hidden + (line * kSeenW + column) * kPitchH + piece * 16), vec_t<unsigned, 4>{{0, 0, 0, 0}});
  }
}

// A row's two sums of a fragment, and those of the row eight below, start from the bias of their columns.
template <bool kHas> INGOT_INLINE void begin_with(float (&sums)[4], const unsigned char* bias) {
  sums[0] = sums[1] = 0.0f;
  if (kHas) unpack<kHalf>(sums[0], sums[1], *(const unsigned*)(bias + threadIdx.x % 4 * 4));
  sums[2] = sums[0];
  sums[3] = sums[1];
}

// Hidden channels of all pixels that are seen; zero outside of the image, where the depthwise convolution pads.
INGOT_INLINE void widen(unsigned char* base, int chunk, int top, int left) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned char* const bias = base + kBiasWiden + chunk * kChunk * 2;
#pragma unroll 1
  for (int unit = warp; unit < kUnitsE; unit += kWarps) {
    const int tile = unit / kGroupsE, col = unit % kGroupsE * 16 * kWideE;
    float sums[2 * kWideE][4];
#pragma unroll
    for (int n = 0; n < 2 * kWideE; ++n) begin_with<kHasBiasWiden>(sums[n], bias + (col + n * 8) * 2);
    const unsigned a_at = row_of_a(shared_address(base + kImage) + tile * 16 * kPitchX, kPitchX);
    const unsigned b_at = row_of_b(shared_address(base + kWiden) + (chunk * kChunk + col) * kPitchX, kPitchX);
    unsigned a[2][4], b[2][kWideE][4];  // of this step of the depth, and of the next
#pragma unroll
    for (int k = -1; k < kDepth / 16; ++k) {
      if (k + 1 < kDepth / 16) {
        load_matrices(a[(k + 1) % 2], a_at + (k + 1) * 32);
#pragma unroll
        for (int n = 0; n < kWideE; ++n) load_matrices(b[(k + 1) % 2][n], b_at + n * 16 * kPitchX + (k + 1) * 32);
      }
      if (k < 0) continue;
#pragma unroll
      for (int n = 0; n < kWideE; ++n) {
        multiply(sums[2 * n], a[k % 2], b[k % 2][n]);
        multiply(sums[2 * n + 1], a[k % 2], b[k % 2][n] + 2);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pixel = tile * 16 + half * 8 + lane / 4, line = pixel / kBoxW, column = kBoxLeft + pixel % kBoxW;
      if (pixel >= kPixels) continue;
      const bool inside = (unsigned)(top + line) < (unsigned)kHeight && (unsigned)(left + column) < (unsigned)kWidth;
      unsigned char* const to = base + kHiddenTile + (line * kSeenW + column) * kPitchH + (col + lane % 4 * 2) * 2;
#pragma unroll
      for (int n = 0; n < 2 * kWideE; ++n) {
        const unsigned word = widened_pair(sums[n][half * 2], sums[n][half * 2 + 1]);
        *(unsigned*)(to + n * 16) = inside ? word : 0u;
      }
    }
  }
}

// The depthwise convolution of sixteen pixels and eight channels: for each tap a product with a matrix that has the
// channels' weights in its diagonal and zeros elsewhere. Each warp makes kTall times sixteen pixels of 16 channels.
INGOT_INLINE void spread(unsigned char* base, int chunk, int count) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool diagonal = lane / 8 == lane % 4;  // its word of the matrix: rows lane % 4 * 2 and next, column lane / 4
  const unsigned mask = diagonal ? (lane / 4 % 2 == 0 ? 0xffffu : 0xffff0000u) : 0u;
#pragma unroll 1
  for (int unit = warp; unit < kUnitsD; unit += kWarps) {
    const int channel = unit % (kChunk / 16) * 16, tile = unit / (kChunk / 16) * kTall;
    const unsigned* const taps = (const unsigned*)(base + kTaps + (chunk * kChunk + channel) * 2) + lane / 8;
    float sums[kTall][2][4];
    unsigned from[kTall];
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      const int own = (tile + i) * 16 + lane % 16, pixel = own < kResults ? own : kResults - 1;
      const int at = pixel / kTileW * kStrideH * kSeenW + pixel % kTileW * kStrideW;
      from[i] = shared_address(base + kHiddenTile) + at * kPitchH + channel * 2 + lane / 16 * 16;
#pragma unroll
      for (int n = 0; n < 2; ++n)
        begin_with<kHasBiasSpread>(sums[i][n], base + kBiasSpread + (chunk * kChunk + channel + n * 8) * 2);
    }
#pragma unroll
    for (int y = 0; y < kTapsH; ++y)
#pragma unroll
      for (int x = 0; x < kTapsW; ++x) {
        const unsigned* const words = taps + (y * kTapsW + x) * (kSlice / 2);
        const unsigned first = words[0] & mask, second = words[4] & mask;
#pragma unroll
        for (int i = 0; i < kTall; ++i) {
          unsigned a[4];
          load_matrices(a, from[i] + (y * kSeenW + x) * kPitchH);
          multiply_half(sums[i][0], a[0], a[1], first);
          multiply_half(sums[i][1], a[2], a[3], second);
        }
      }
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      if (tile + i >= kResultTiles) break;
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int row = (tile + i) * 16 + half * 8 + lane / 4, c = channel + n * 8 + lane % 4 * 2;
          unsigned word = spread_pair(sums[i][n][half * 2], sums[i][n][half * 2 + 1]);
          // Channels beyond the last are multiplied by zeros: they may be anything but infinite.
          if (kPadded && chunk * kChunk + c >= count) word = 0u;
          *(unsigned*)(base + kSpreadTile + row * kPitchH + c * 2) = word;
        }
    }
  }
}

typedef float Sums[kUnitsP][2][4];

// What a chunk of hidden channels gives to the result. All of a warp's units go along the depth together; those behind
// the last one are made again of its operands, and nobody reads them.
INGOT_INLINE void narrow(Sums& sums, unsigned char* base, int chunk) {
  unsigned a_at[kUnitsP], b_at[kUnitsP];
#pragma unroll
  for (int i = 0; i < kUnitsP; ++i) {
    const int last = kResultTiles * kColTiles - 1, own = threadIdx.x / 32 + i * kWarps, unit = own < last ? own : last;
    a_at[i] = row_of_a(shared_address(base + kSpreadTile) + unit / kColTiles * 16 * kPitchH, kPitchH);
    b_at[i] = row_of_b(shared_address(base + kNarrow) + unit % kColTiles * 16 * kPitchW + chunk * kChunk * 2, kPitchW);
  }
#pragma unroll
  for (int k = 0; k < kChunk / 16; ++k) {
    unsigned a[4], b[kUnitsP][4];
#pragma unroll
    for (int i = 0; i < kUnitsP; ++i) load_matrices(b[i], b_at[i] + k * 32);
#pragma unroll
    for (int i = 0; i < kUnitsP; ++i) {
      if (i == 0 || kResultTiles > 1) load_matrices(a, a_at[i] + k * 32);
      multiply(sums[i][0], a, b[i]);
      multiply(sums[i][1], a, b[i] + 2);
    }
  }
}

// Hands each sum to the block that finishes it, four side by side: of two lanes one has those of the upper row of both.
INGOT_INLINE void hand_over(const Sums& sums, float* got, unsigned barrier, unsigned rank) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool odd = lane % 2 == 1;
#pragma unroll
  for (int i = 0; i < kUnitsP; ++i) {
    const int unit = warp + i * kWarps;
    if (unit >= kResultTiles * kColTiles) break;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float(&own)[4] = sums[i][n];
      const float first = __shfl_xor_sync(0xffffffffu, odd ? own[0] : own[2], 1);
      const float second = __shfl_xor_sync(0xffffffffu, odd ? own[1] : own[3], 1);
      const sums_t four = odd ? sums_t{{first, second, own[2], own[3]}} : sums_t{{own[0], own[1], first, second}};
      const int pixel = unit / kColTiles * 16 + lane / 4 + (odd ? 8 : 0);
      const int col = unit % kColTiles * 16 + n * 8 + lane % 4 / 2 * 4;
      if (pixel >= kResults || col >= kCols) continue;
      const int at = pixel * kCols + col;
      put_quad(got + rank * kShare + at % kShare, at / kShare, barrier, four);
    }
  }
}

struct Place {
  bool inside;
  int row, column, channel;
};
// Where the four results lie that a thread finishes in its turn.
INGOT_INLINE Place place_of(int turn, unsigned rank, int row, int column) {
  const int own = threadIdx.x + turn * kThreads, at = rank * kShare + own * 4, pixel = at / kCols;
  Place p;
  p.channel = at % kCols;
  p.row = row + pixel / kTileW;
  p.column = column + pixel % kTileW;
  p.inside = own < kQuads && pixel < kResults && p.row < kOutHeight && p.column < kOutWidth;
  return p;
}

INGOT_INLINE void run_inverted(const Tensors& t) {
  INGOT_DYNAMIC_SHARED(unsigned char, base);
  const unsigned rank = cluster_rank(), barrier = shared_address(base + kBarrier);
  // Every block of the cluster gives each of the sums that this one finishes.
  const int all = kResults * kCols - (int)rank * kShare, finished = all < 0 ? 0 : (all < kShare ? all : kShare);
  quads_expect(barrier, finished * kCluster * 4);
  others_arrive();
  const int place = (int)blockIdx.x / kCluster, image = place / (kTilesH * kTilesW);
  const int row = place / kTilesW % kTilesH * kTileH, column = place % kTilesW * kTileW;
  const int top = row * kStrideH - kPadH, left = column * kStrideW - kPadW, first = (int)rank * kSlice;
  const int count = kHidden - first < kSlice ? kHidden - first : kSlice;
  // Weights are no other kernel's result: they are here when the image is.
  bring_weights(base, t, first);
  if (kSeenW > kBoxW) clear_margins(base + kHiddenTile);
  pdl_wait();
  pdl_trigger();
  bring_image(base, t, image, top, left, first);
  four_t beside[kFinish];
#pragma unroll
  for (int i = 0; i < kFinish; ++i) {
    const Place p = place_of(i, rank, row, column);
    beside[i] = four_t{};
    const int at = p.row * kRowStepResidual + p.column * kColumnStepResidual + p.channel;
    if (kResidual && p.inside) beside[i] = load_vec<4>(t.residual + image * t.image_residual + at);
  }
  Sums sums;
#pragma unroll
  for (int i = 0; i < kUnitsP; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) sums[i][j / 4][j % 4] = 0.0f;
  copies_wait<0>();
  __syncthreads();
#pragma unroll 1
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    if constexpr (kWidens) {
      widen(base, chunk, top, left);
      __syncthreads();
    }
    spread(base, chunk, count);
    __syncthreads();
    narrow(sums, base, chunk);
  }
  float* const got = (float*)(base + kGot);
  if (kCluster > 1) others_wait();  // all blocks of the cluster have begun
  hand_over(sums, got, barrier, rank);
  quads_wait(barrier);
#pragma unroll
  for (int i = 0; i < kFinish; ++i) {
    const Place p = place_of(i, rank, row, column);
    if (!p.inside) continue;
    float total[4];
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      total[j] = total[j + 1] = 0.0f;
      const unsigned char* const bias = base + kBiasNarrow + (p.channel + j) * 2;
      if (kHasBiasNarrow) unpack<kHalf>(total[j], total[j + 1], *(const unsigned*)bias);
    }
#pragma unroll
    for (int k = 0; k < kCluster; ++k) {
      const sums_t part = load_vec<4>(got + k * kShare + (threadIdx.x + i * kThreads) * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) total[j] += part.v[j];
    }
    four_t made;
#pragma unroll
    for (int j = 0; j < 4; ++j) made.v[j] = element_t(narrowed(total[j], (float)beside[i].v[j]));
    store_vec(t.y + image * t.image_to + p.row * kRowStepTo + p.column * kColumnStepTo + p.channel, made);
  }
}
