// An inverted residual block: a 1 x 1 convolution that widens, a depthwise one, and a 1 x 1 convolution that narrows. Without
// the first one (kWidens) the depthwise convolution reads the image, and channels of the image are the hidden ones.
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
constexpr int kVector = kWords * 2;
constexpr int kGroupsD = kChunk / kVector;
constexpr int kStrips = (kTileW + kWide - 1) / kWide;
constexpr int kSpan = (kWide - 1) * kStrideW + kTapsW;
constexpr bool kRagged = ((kStrips - 1) * kWide) * kStrideW + kSpan > kSeenW;
constexpr int kQuads = kShare / 4;
constexpr int kFinish = (kQuads + kThreads - 1) / kThreads;
typedef vec_t<unsigned, kWords> pack_t;
typedef vec_t<element_t, 4> four_t;

struct Tensors {
  const element_t *x, *widen, *taps, *narrow, *residual;
  element_t* y;
  long long image, image_residual, image_to;  // elements from one image to the next
};

#ifdef INGOT_HOST
INGOT_INLINE void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b) { ingot_host_mma<element_t>(d, a, b); }
#else
INGOT_INLINE void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b) { multiply_halves<kHalf>(d, a, b); }
#endif

// The two numbers of a word.
INGOT_INLINE void unpack(float& low, float& high, unsigned word) {
  if constexpr (!kHalf) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
  } else {
#ifdef INGOT_HOST
    low = ingot_half_value((unsigned short)word);
    high = ingot_half_value((unsigned short)(word >> 16));
#else
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}"
        : "=f"(low), "=f"(high)
        : "r"(word));
#endif
  }
}
INGOT_INLINE void unpack(float (&to)[kVector], const pack_t& from) {
#pragma unroll
  for (int i = 0; i < kWords; ++i) unpack(to[2 * i], to[2 * i + 1], from.v[i]);
}

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
#pragma unroll 8
  for (int at = 0; at < kRows * kPieces; at += kThreads) {
    const int i = at + threadIdx.x, row = i / kPieces, piece = i % kPieces;
    if (kRows * kPieces % kThreads != 0 && i >= kRows * kPieces) break;
    bool inside = true;
    const element_t* const from = ask(row, piece, inside);
    copy_async<16>(base + place(row) + piece * 16, from, inside);
  }
}

INGOT_INLINE int of_image(int row) { return row * kPitchX; }
INGOT_INLINE void bring_weights(unsigned char* base, const Tensors& t, int first) {
  if constexpr (kWidens)
    bring<kSlice, kDepth / 8>(base + kWiden, of_image, [&](int row, int piece, bool& inside) {
      inside = first + row < kHidden && piece * 8 < kChannels;
      return t.widen + (inside ? (first + row) * kChannels + piece * 8 : 0);
    });
  bring<kTapsH * kTapsW, kSlice / 8>(base + kTaps, [](int tap) { return tap * kSlice * 2; }, [&](int tap, int piece, bool& inside) {
    inside = first + piece * 8 < kHidden;
    const int at = tap / kTapsW * kWeightH + tap % kTapsW * kWeightW;
    return t.taps + (inside ? at + first + piece * 8 : 0);
  });
  bring<kColsPadded, kSlice / 8>(base + kNarrow, [](int row) { return row * kPitchW; }, [&](int row, int piece, bool& inside) {
    inside = row < kCols && first + piece * 8 < kHidden;
    return t.narrow + (inside ? row * kHidden + first + piece * 8 : 0);
  });
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
  constexpr int kPieces = kChunk / 8, kMargin = kSeenW - kBoxW;
  for (int i = threadIdx.x; i < kSeenH * kMargin * kPieces; i += kThreads) {
    const int piece = i % kPieces, at = i / kPieces % kMargin, line = i / kPieces / kMargin;
    const int column = at < kBoxLeft ? at : at + kBoxW;
    store_vec((unsigned*)(hidden + (line * kSeenW + column) * kPitchH + piece * 16), vec_t<unsigned, 4>{{0, 0, 0, 0}});
  }
}

// Hidden channels of all pixels that are seen; zero outside of the image, where the depthwise convolution pads.
INGOT_INLINE void widen(unsigned char* base, int chunk, int top, int left) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* const bias = (const float*)(base + kBiasWiden) + chunk * kChunk;
#pragma unroll 1
  for (int unit = warp; unit < kUnitsE; unit += kWarps) {
    const int tile = unit / kGroupsE, col = unit % kGroupsE * 16 * kWideE;
    float sums[2 * kWideE][4];
#pragma unroll
    for (int i = 0; i < 2 * kWideE; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
    const unsigned a_at = row_of_a(shared_address(base + kImage) + tile * 16 * kPitchX, kPitchX);
    const unsigned b_at = row_of_b(shared_address(base + kWiden) + (chunk * kChunk + col) * kPitchX, kPitchX);
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      unsigned a[4];
      load_matrices(a, a_at + k * 32);
#pragma unroll
      for (int n = 0; n < kWideE; ++n) {
        unsigned b[4];
        load_matrices(b, b_at + n * 16 * kPitchX + k * 32);
        multiply(sums[2 * n], a, b);
        multiply(sums[2 * n + 1], a, b + 2);
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
        const int c = col + n * 8 + lane % 4 * 2;
        const unsigned word = packed<kHalf>(widened(sums[n][half * 2] + bias[c]), widened(sums[n][half * 2 + 1] + bias[c + 1]));
        *(unsigned*)(to + n * 16) = inside ? word : 0u;
      }
    }
  }
}

// The depthwise convolution: a thread makes kWide pixels side by side of kVector channels.
INGOT_INLINE void spread(unsigned char* base, int chunk, int count) {
  const unsigned char* const hidden = base + kHiddenTile;
  for (int i = threadIdx.x; i < kGroupsD * kStrips * kTileH; i += kThreads) {
    const int channel = i % kGroupsD * kVector, strip = i / kGroupsD % kStrips * kWide, line = i / kGroupsD / kStrips;
    const unsigned char* const taps = base + kTaps + (chunk * kChunk + channel) * 2;
    const float* const bias = (const float*)(base + kBiasSpread) + chunk * kChunk + channel;
    float sums[kWide][kVector];
#pragma unroll
    for (int j = 0; j < kWide; ++j)
#pragma unroll
      for (int k = 0; k < kVector; ++k) sums[j][k] = bias[k];
#pragma unroll
    for (int y = 0; y < kTapsH; ++y) {
      float pixels[kSpan][kVector];
#pragma unroll
      for (int j = 0; j < kSpan; ++j) {
        int column = strip * kStrideW + j;
        if (kRagged && column >= kSeenW) column = kSeenW - 1;
        const int at = ((line * kStrideH + y) * kSeenW + column) * kPitchH + channel * 2;
        unpack(pixels[j], load_vec<kWords>((const unsigned*)(hidden + at)));
      }
#pragma unroll
      for (int x = 0; x < kTapsW; ++x) {
        float tap[kVector];
        unpack(tap, load_vec<kWords>((const unsigned*)(taps + (y * kTapsW + x) * kSlice * 2)));
#pragma unroll
        for (int j = 0; j < kWide; ++j)
#pragma unroll
          for (int k = 0; k < kVector; ++k) sums[j][k] = fmaf(pixels[j * kStrideW + x][k], tap[k], sums[j][k]);
      }
    }
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      if (strip + j >= kTileW) break;
      pack_t made;
#pragma unroll
      for (int k = 0; k < kWords; ++k) made.v[k] = packed<kHalf>(spread_out(sums[j][2 * k]), spread_out(sums[j][2 * k + 1]));
      // Channels beyond the last are multiplied by zeros: they may be anything but infinite.
      if (kPadded && chunk * kChunk + channel >= count) made = pack_t{};
      store_vec((unsigned*)(base + kSpreadTile + (line * kTileW + strip + j) * kPitchH + channel * 2), made);
    }
  }
}

typedef float Sums[kUnitsP][2][4];

// What a chunk of hidden channels gives to the result.
INGOT_INLINE void narrow(Sums& sums, unsigned char* base, int chunk) {
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kUnitsP; ++i) {
    const int unit = warp + i * kWarps;
    if (unit >= kResultTiles * kColTiles) break;
    const int tile = unit / kColTiles, col = unit % kColTiles * 16;
    const unsigned a_at = row_of_a(shared_address(base + kSpreadTile) + tile * 16 * kPitchH, kPitchH);
    const unsigned b_at = row_of_b(shared_address(base + kNarrow) + col * kPitchW + chunk * kChunk * 2, kPitchW);
#pragma unroll
    for (int k = 0; k < kChunk / 16; ++k) {
      unsigned a[4], b[4];
      load_matrices(a, a_at + k * 32);
      load_matrices(b, b_at + k * 32);
      multiply(sums[i][0], a, b);
      multiply(sums[i][1], a, b + 2);
    }
  }
}

// Hands each sum to the block that finishes it.
INGOT_INLINE void hand_over(const Sums& sums, float* got, unsigned rank) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kUnitsP; ++i) {
    const int unit = warp + i * kWarps;
    if (unit >= kResultTiles * kColTiles) break;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int pixel = unit / kColTiles * 16 + half * 8 + lane / 4, col = unit % kColTiles * 16 + n * 8 + lane % 4 * 2;
        if (pixel >= kResults || col >= kCols) continue;
        const int at = pixel * kCols + col;
        put_pair(got + rank * kShare + at % kShare, at / kShare, sums[i][n][half * 2], sums[i][n][half * 2 + 1]);
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

INGOT_INLINE void run_inverted(const Tensors& t, const Biases& biases) {
  INGOT_DYNAMIC_SHARED(unsigned char, base);
  others_arrive();
  const unsigned rank = cluster_rank();
  const int place = (int)blockIdx.x / kCluster, image = place / (kTilesH * kTilesW);
  const int row = place / kTilesW % kTilesH * kTileH, column = place % kTilesW * kTileW;
  const int top = row * kStrideH - kPadH, left = column * kStrideW - kPadW, first = (int)rank * kSlice;
  const int count = kHidden - first < kSlice ? kHidden - first : kSlice;
  // Weights are no other kernel's result: they are here when the image is.
  bring_weights(base, t, first);
  bring_biases(base, first, biases);
  if (kSeenW > kBoxW) clear_margins(base + kHiddenTile);
  pdl_wait();
  pdl_trigger();
  bring_image(base, t, image, top, left, first);
  four_t beside[kFinish];
#pragma unroll
  for (int i = 0; i < kFinish; ++i) {
    const Place p = place_of(i, rank, row, column);
    beside[i] = four_t{};
    if (kResidual && p.inside)
      beside[i] = load_vec<4>(t.residual + image * t.image_residual + p.row * kRowStepResidual + p.column * kColumnStepResidual + p.channel);
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
  hand_over(sums, got, rank);
  others_arrive();
  others_wait();
  const float* const bias = (const float*)(base + kBiasNarrow);
#pragma unroll
  for (int i = 0; i < kFinish; ++i) {
    const Place p = place_of(i, rank, row, column);
    if (!p.inside) continue;
    float total[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) total[j] = bias[p.channel + j];
#pragma unroll
    for (int k = 0; k < kCluster; ++k) {
      const vec_t<float, 4> part = load_vec<4>(got + k * kShare + (threadIdx.x + i * kThreads) * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) total[j] += part.v[j];
    }
    four_t made;
#pragma unroll
    for (int j = 0; j < 4; ++j) made.v[j] = element_t(narrowed(total[j], (float)beside[i].v[j]));
    store_vec(t.y + image * t.image_to + p.row * kRowStepTo + p.column * kColumnStepTo + p.channel, made);
  }
}
