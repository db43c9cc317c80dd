// A depthwise convolution of floats: a thread makes kRows by kWide pixels of kVector channels, in registers.
//
// What lies outside of the image is zero. Taps are weights: they are here before the kernel waits, if there is room.

constexpr int kSpan = (kWide - 1) * kStrideW + kTapsW;  // pixels of a row that a thread sees
constexpr int kInputRows = (kRows - 1) * kStrideH + kTapsH;
constexpr int kWords = kVector * kItem / 4;
typedef vec_t<unsigned, kWords> pack_t;

INGOT_INLINE pack_t load_pack(const element_t* p) { return load_vec<kWords>(reinterpret_cast<const unsigned*>(p)); }

// The numbers of one access. Halves come out of their word in pairs: one instruction each.
INGOT_INLINE void unpack(float (&to)[kVector], const pack_t& from) {
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const unsigned word = from.v[i];
    if constexpr (kItem == 4) {
      to[i] = __uint_as_float(word);
    } else if constexpr (!kHalf) {
      to[2 * i] = __uint_as_float(word << 16);
      to[2 * i + 1] = __uint_as_float(word & 0xffff0000u);
    } else {
#ifdef INGOT_HOST
      to[2 * i] = ingot_half_value((unsigned short)word);
      to[2 * i + 1] = ingot_half_value((unsigned short)(word >> 16));
#else
      asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}"
          : "=f"(to[2 * i]), "=f"(to[2 * i + 1])
          : "r"(word));
#endif
    }
  }
}

typedef pack_t Taps[kTapsH][kTapsW];

INGOT_INLINE void read_taps(Taps& taps, const element_t* w) {
#pragma unroll
  for (int y = 0; y < kTapsH; ++y)
#pragma unroll
    for (int x = 0; x < kTapsW; ++x) taps[y][x] = load_pack(w + y * kWeightH + x * kWeightW);
}

// Adds what row ``line`` of those that the thread sees gives to its results.
INGOT_INLINE void add_row(float (&sums)[kRows][kWide][kVector], const Taps& taps, const element_t* w,
                          const pack_t (&packs)[kSpan], int line) {
  float pixels[kSpan][kVector];
#pragma unroll
  for (int j = 0; j < kSpan; ++j) unpack(pixels[j], packs[j]);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const int y = line - row * kStrideH;
    if (y < 0 || y >= kTapsH) continue;
#pragma unroll
    for (int x = 0; x < kTapsW; ++x) {
      float tap[kVector];
      unpack(tap, kHold ? taps[kHold ? y : 0][kHold ? x : 0] : load_pack(w + y * kWeightH + x * kWeightW));
#pragma unroll
      for (int next = 0; next < kWide; ++next)
#pragma unroll
        for (int k = 0; k < kVector; ++k)
          sums[row][next][k] = fmaf(pixels[next * kStrideW + x][k], tap[k], sums[row][next][k]);
    }
  }
}

INGOT_INLINE int within(int at, int size) { return at < 0 ? 0 : (at < size ? at : size - 1); }

INGOT_INLINE void depthwise(const element_t* x, const element_t* w, const Epilogue& epilogue, long long image_step,
                            int total) {
  const int index = blockIdx.x * kBlock + threadIdx.x;
  if (index >= total) return;
  const int group = index % kGroups, place = index / kGroups;
  const int column = place % kParts * kWide, line = place / kParts % kLines * kRows, image = place / kParts / kLines;
  const element_t* const weights = w + group * kVector;
  Taps taps;
  if (kHold) read_taps(taps, weights);
  pdl_wait();
  pdl_trigger();
  Epilogue::Columns columns;
  epilogue.columns(columns, group * kVector, 0);
  Epilogue::Fetched held[kRows][kWide];
  float sums[kRows][kWide][kVector];
#pragma unroll
  for (int row = 0; row < kRows; ++row)
#pragma unroll
    for (int next = 0; next < kWide; ++next) {
      const int result = (image * kOutHeight + line + row) * kOutWidth + column + next;
      if (line + row < kOutHeight && column + next < kOutWidth) epilogue.fetch(held[row][next], result, group * kVector, 0);
#pragma unroll
      for (int k = 0; k < kVector; ++k) sums[row][next][k] = 0.0f;
    }
  const int left = column * kStrideW - kPadW, top = line * kStrideH - kPadH;
  const element_t* const from = x + image * image_step + group * kVector;
  // All of them are on their way before the first is used; outside of the image the nearest pixel, which becomes zero.
  pack_t packs[kInputRows][kSpan];
#pragma unroll
  for (int i = 0; i < kInputRows; ++i)
#pragma unroll
    for (int j = 0; j < kSpan; ++j)
      packs[i][j] = load_pack(from + within(top + i, kHeight) * kRowStep + within(left + j, kWidth) * kColumnStep);
#pragma unroll
  for (int i = 0; i < kInputRows; ++i) {
#pragma unroll
    for (int j = 0; j < kSpan; ++j) {
      const bool inside = top + i >= 0 && top + i < kHeight && left + j >= 0 && left + j < kWidth;
#pragma unroll
      for (int k = 0; k < kWords; ++k) packs[i][j].v[k] = inside ? packs[i][j].v[k] : 0u;
    }
    add_row(sums, taps, weights, packs[i], i);
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row)
#pragma unroll
    for (int next = 0; next < kWide; ++next) {
      const int result = (image * kOutHeight + line + row) * kOutWidth + column + next;
      if (line + row < kOutHeight && column + next < kOutWidth)
        epilogue.finish(held[row][next], columns, sums[row][next], result, group * kVector, 0);
    }
}
