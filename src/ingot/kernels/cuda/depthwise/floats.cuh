// A depthwise convolution of floats: a thread makes kRows by kWide pixels of kVector channels, in registers.
//
// What lies outside of the image is zero. Taps are weights: they are here before the kernel waits, if there is room.

constexpr int kSpan = (kWide - 1) * kStrideW + kTapsW;  // pixels of a row that a thread sees
constexpr int kInputRows = (kRows - 1) * kStrideH + kTapsH;
typedef vec_t<element_t, kVector> pack_t;
typedef pack_t Taps[kTapsH][kTapsW];

INGOT_INLINE void read_taps(Taps& taps, const element_t* w) {
#pragma unroll
  for (int y = 0; y < kTapsH; ++y)
#pragma unroll
    for (int x = 0; x < kTapsW; ++x) taps[y][x] = load_vec<kVector>(w + y * kWeightH + x * kWeightW);
}

// Adds what row ``line`` of those that the thread sees gives to its results.
INGOT_INLINE void add_row(float (&sums)[kRows][kWide][kVector], const Taps& taps, const element_t* w,
                          const pack_t (&pixels)[kSpan], int line) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const int y = line - row * kStrideH;
    if (y < 0 || y >= kTapsH) continue;
#pragma unroll
    for (int x = 0; x < kTapsW; ++x) {
      const pack_t tap = kHold ? taps[kHold ? y : 0][kHold ? x : 0] : load_vec<kVector>(w + y * kWeightH + x * kWeightW);
#pragma unroll
      for (int next = 0; next < kWide; ++next)
#pragma unroll
        for (int k = 0; k < kVector; ++k)
          sums[row][next][k] = fmaf((float)pixels[next * kStrideW + x].v[k], (float)tap.v[k], sums[row][next][k]);
    }
  }
}

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
#pragma unroll
  for (int i = 0; i < kInputRows; ++i) {
    const bool inside = top + i >= 0 && top + i < kHeight;
    pack_t pixels[kSpan];
#pragma unroll
    for (int j = 0; j < kSpan; ++j) {
      pixels[j] = pack_t{};
      if (inside && left + j >= 0 && left + j < kWidth)
        pixels[j] = load_vec<kVector>(from + (top + i) * kRowStep + (left + j) * kColumnStep);
    }
    add_row(sums, taps, weights, pixels, i);
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
