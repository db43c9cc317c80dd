// What the tensor cores multiply 16-bit floats with, and how these lie in registers.
//
// A fragment of A is 16 rows of 32 bytes of the depth: a[0], a[1] the first 16 bytes of rows 0 to 7 and 8 to 15, a[2], a[3]
// the second. One of B is 8 columns of 32 bytes: b[0], b[1]. Sums: d[0], d[1] two columns of a row, d[2], d[3] of the row
// eight below.

// Two numbers as 16-bit floats in a word, the first one lower.
template <bool kHalf> INGOT_INLINE unsigned packed(float low, float high) {
#if defined(INGOT_HOST) || __CUDA_ARCH__ < 800
  return kHalf ? ingot_half_bits(low) | (unsigned)ingot_half_bits(high) << 16
               : ingot_bfloat_bits(low) | (unsigned)ingot_bfloat_bits(high) << 16;
#else
  unsigned word;
  if constexpr (kHalf)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#endif
}

#ifndef INGOT_HOST

// Four matrices of 8 rows of 16 bytes; lane i says where row i % 8 of matrix i / 8 lies.
INGOT_INLINE void load_matrices(unsigned (&to)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
// The same with rows and columns exchanged.
INGOT_INLINE void load_matrices_across(unsigned (&to)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

// Fragments of float16 (kHalf) or bfloat16, from sm_80 on.
template <bool kHalf> INGOT_INLINE void multiply_halves(float* d, const unsigned (&a)[4], const unsigned* b) {
#define INGOT_MMA(type)                                                                 \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                   \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"   \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (kHalf)
    INGOT_MMA("f16");
  else
    INGOT_MMA("bf16");
#undef INGOT_MMA
}
// Of fragments of float16 half of the depth, as sm_75 takes them: two words of A and one of B.
INGOT_INLINE void multiply_eight_deep(float* d, unsigned low, unsigned high, unsigned column) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(low), "r"(high), "r"(column));
}
// The same of bfloat16, from sm_80 on.
INGOT_INLINE void multiply_eight_deep_bfloat(float* d, unsigned low, unsigned high, unsigned column) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(low), "r"(high), "r"(column));
}

#endif
