// A depthwise convolution of bytes, with up to three taps along the width.
//
// A thread makes kRows by two pixels of eight channels. A word that is loaded holds four channels of one pixel; the words
// of four neighbouring pixels are turned into four words of one channel each, whose bytes are pixels. One instruction then
// multiplies a channel's taps with as many pixels and adds up. With stride 1 the second pixel's are the same bytes, one further.
// What lies outside of the image is zero.

constexpr int kSpan = kStrideW == 1 ? 4 : 5;  // pixels of a row that two results see
constexpr int kInputRows = (kRows - 1) * kStrideH + kTapsH;
typedef vec_t<unsigned, 2> eight_t;

INGOT_INLINE unsigned pick(unsigned a, unsigned b, unsigned order) {
#ifdef INGOT_HOST
  const unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned word = 0;
  for (int i = 0; i < 4; ++i) word |= (unsigned)(both >> 8 * (order >> 4 * i & 7) & 0xff) << 8 * i;
  return word;
#else
  return __byte_perm(a, b, order);
#endif
}
// Byte k of four words becomes word k.
INGOT_INLINE void turn(unsigned (&to)[4], unsigned a, unsigned b, unsigned c, unsigned d) {
  const unsigned ab = pick(a, b, 0x5140), cd = pick(c, d, 0x5140), above = pick(a, b, 0x7362), beyond = pick(c, d, 0x7362);
  to[0] = pick(ab, cd, 0x5410);
  to[1] = pick(ab, cd, 0x7632);
  to[2] = pick(above, beyond, 0x5410);
  to[3] = pick(above, beyond, 0x7632);
}
INGOT_INLINE int dot(unsigned pixels, unsigned taps, int sum) {
#ifdef INGOT_HOST
  for (int i = 0; i < 4; ++i) {
    const int tap = (signed char)(taps >> 8 * i);
    sum += tap * (kSigned ? (int)(signed char)(pixels >> 8 * i) : (int)(unsigned char)(pixels >> 8 * i));
  }
#else
  if (kSigned)
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(pixels), "r"(taps));
  else
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(pixels), "r"(taps));
#endif
  return sum;
}

typedef unsigned Taps[kTapsH][8];

INGOT_INLINE void read_taps(Taps& taps, const signed char* weights) {
#pragma unroll
  for (int y = 0; y < kTapsH; ++y) {
    eight_t words[3];
#pragma unroll
    for (int x = 0; x < 3; ++x) {
      words[x] = eight_t{{0, 0}};
      if (x < kTapsW) words[x] = load_vec<2>(reinterpret_cast<const unsigned*>(weights + y * kWeightH + x * kWeightW));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned turned[4];
      turn(turned, words[0].v[half], words[1].v[half], words[2].v[half], 0);
#pragma unroll
      for (int k = 0; k < 4; ++k) taps[y][half * 4 + k] = turned[k];
    }
  }
}

// Adds what row ``line`` of those that the thread sees gives to its results.
INGOT_INLINE void add_row(int (&sums)[kRows][2][8], const Taps& taps, const eight_t (&pixels)[kSpan], int line) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    unsigned first[4], second[4];
    turn(first, pixels[0].v[half], pixels[1].v[half], pixels[2].v[half], pixels[3].v[half]);
    if (kStrideW != 1) turn(second, pixels[2].v[half], pixels[3].v[half], pixels[kSpan - 1].v[half], 0);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const unsigned next = kStrideW == 1 ? first[k] >> 8 : second[k];
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const int y = line - row * kStrideH, channel = half * 4 + k;
        if (y < 0 || y >= kTapsH) continue;
        sums[row][0][channel] = dot(first[k], taps[y][channel], sums[row][0][channel]);
        sums[row][1][channel] = dot(next, taps[y][channel], sums[row][1][channel]);
      }
    }
  }
}

INGOT_INLINE void depthwise(const byte_t* x, const signed char* w, const Epilogue& epilogue, long long image_step,
                            int total) {
  const int index = blockIdx.x * kBlock + threadIdx.x;
  if (index >= total) return;
  const int group = index % kGroups, place = index / kGroups;
  const int column = place % kPairs * 2, line = place / kPairs % kLines * kRows, image = place / kPairs / kLines;
  Taps taps;
  read_taps(taps, w + group * 8);
  pdl_wait();
  pdl_trigger();
  Epilogue::Columns columns;
  epilogue.columns(columns, group * 8, 0);
  Epilogue::Fetched held[kRows][2];
  int sums[kRows][2][8];
#pragma unroll
  for (int row = 0; row < kRows; ++row)
#pragma unroll
    for (int next = 0; next < 2; ++next) {
      const int result = (image * kOutHeight + line + row) * kOutWidth + column + next;
      if (line + row < kOutHeight && column + next < kOutWidth) epilogue.fetch(held[row][next], result, group * 8, 0);
#pragma unroll
      for (int k = 0; k < 8; ++k) sums[row][next][k] = 0;
    }
  const int left = column * kStrideW - kPadW, top = line * kStrideH - kPadH;
  const byte_t* from = x + image * image_step + group * 8;
#pragma unroll
  for (int i = 0; i < kInputRows; ++i) {
    const bool inside = top + i >= 0 && top + i < kHeight;
    eight_t pixels[kSpan];
#pragma unroll
    for (int j = 0; j < kSpan; ++j) {
      pixels[j] = eight_t{{0, 0}};
      if (inside && left + j >= 0 && left + j < kWidth)
        pixels[j] = load_vec<2>(reinterpret_cast<const unsigned*>(from + (top + i) * kRowStep + (left + j) * kColumnStep));
    }
    add_row(sums, taps, pixels, i);
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row)
#pragma unroll
    for (int next = 0; next < 2; ++next) {
      const int result = (image * kOutHeight + line + row) * kOutWidth + column + next;
      if (line + row < kOutHeight && column + next < kOutWidth)
        epilogue.finish(held[row][next], columns, sums[row][next], result, group * 8, 0);
    }
}
