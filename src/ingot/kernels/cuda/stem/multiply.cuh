// The product of sixteen pixels with all weights: by warpgroups, by warps, or (for tests on the host) one by one.

#if defined(INGOT_HOST)

INGOT_INLINE void multiply(float (&acc)[4 * kTilesN], const Lanes& at, int offset, const unsigned char* weights,
                           int lane) {
  const int t = lane % 4;
  for (int i = 0; i < 4 * kTilesN; ++i) acc[i] = 0.0f;
  for (int k = 0; k < kWeightRows; ++k)
    for (int h = 0; h < 2; ++h) {
      const int group = k / 8, holder = k % 8 / 2;
      unsigned own[4];
      load_words(own, at, offset, group / 2);
      const unsigned word = at.across[offset - t + kCells[group * 4 + holder] + h * kHalfStep];
      if (holder == t && word != own[group % 2 * 2 + h]) acc[0] = NAN;  // lanes and order disagree
      for (int i = 0; i < 2 * kTilesN; ++i) {
        const int column = i / 2 * 8 + 2 * t + i % 2;
        element_t weight;
        memcpy(&weight, weights + weight_offset(k, column), 2);
        acc[i / 2 * 4 + 2 * h + i % 2] += (float)element(word, k % 2) * (float)weight;
      }
    }
}

#elif defined(INGOT_WARPGROUPS)

INGOT_INLINE void multiply(float (&acc)[4 * kTilesN], const Lanes& at, int offset, const unsigned char* weights,
                           int lane) {
  // Rows of 128 bytes, permuted within eight of them; sixteen rows of the depth at a time.
  const unsigned long long form = 1ull << 62 | (unsigned long long)(1024 >> 4) << 32 |
                                  (unsigned long long)(kWeightRows * 128 >> 4) << 16;
  const unsigned long long b = form | (unsigned long long)((shared_address(weights) & 0x3ffff) >> 4);
  unsigned a[kSteps][4];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) load_words(a[s], at, offset, s);
  pin(acc);
#pragma unroll
  for (int s = 0; s < kSteps; ++s)
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[s][i])::"memory");
  wgmma_fence();
#pragma unroll
  for (int s = 0; s < kSteps; ++s) wgmma_words(acc, a[s], b + s * (2048 >> 4), s != 0);
  wgmma_commit();
  wgmma_wait<0>();
  pin(acc);
#pragma unroll
  for (int s = 0; s < kSteps; ++s)
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" ::"r"(a[s][i]) : "memory");
}

#else

INGOT_INLINE void multiply_eight(float* d, const unsigned (&a)[4], const unsigned* b) {
#if __CUDA_ARCH__ < 800 || defined(INGOT_SM75)
#pragma unroll
  for (int h = 0; h < 2; ++h) multiply_eight_deep(d, a[2 * h], a[2 * h + 1], b[h]);
#else
  multiply_halves<kHalf>(d, a, b);
#endif
}

INGOT_INLINE void multiply(float (&acc)[4 * kTilesN], const Lanes& at, int offset, const unsigned char* weights,
                           int lane) {
  const unsigned base = shared_address(weights) + lane % 16 * 128;
  const unsigned swap = (unsigned)((lane / 16) ^ (lane % 8)) << 4;
#pragma unroll
  for (int i = 0; i < 4 * kTilesN; ++i) acc[i] = 0.0f;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    unsigned a[4];
    load_words(a, at, offset, s);
#pragma unroll
    for (int j = 0; j < kTilesN; j += 2) {
      unsigned b[4];
      const unsigned from = base + (j / 8 * kWeightRows + s * 16) * 128 + ((unsigned)(j % 8 << 4) ^ swap);
      load_matrices_across(b, from);
      multiply_eight(acc + 4 * j, a, b);
      if (j + 1 < kTilesN) multiply_eight(acc + 4 * j + 4, a, b + 2);
    }
  }
}

#endif
