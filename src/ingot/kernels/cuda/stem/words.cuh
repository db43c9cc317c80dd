// Two 16-bit floats in a word.

typedef vec_t<float, 2> ColumnPair;

INGOT_INLINE element_t element(unsigned word, int which) {
  element_t x;
  x.bits = (unsigned short)(which ? word >> 16 : word & 0xffffu);
  return x;
}
// The larger of each; a NaN is passed over, as in the pooling kernels.
INGOT_INLINE unsigned larger(unsigned a, unsigned b) {
#if defined(INGOT_HOST) || __CUDA_ARCH__ < 800
  return packed<kHalf>(ingot_larger<float>(element(a, 0), element(b, 0)),
                       ingot_larger<float>(element(a, 1), element(b, 1)));
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
