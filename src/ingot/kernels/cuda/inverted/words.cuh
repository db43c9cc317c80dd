// The two numbers of a word of 16-bit floats.
template <bool kHalfFloats> INGOT_INLINE void unpack(float& low, float& high, unsigned word) {
  if constexpr (!kHalfFloats) {
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

// Both numbers of a word of 16-bit floats, bounded; NaN stays.
template <bool kHalfFloats, bool kUpper> INGOT_INLINE unsigned bounded(unsigned word, unsigned bound) {
#ifdef INGOT_HOST
  unsigned result = 0;
  for (int i = 0; i < 32; i += 16) {
    const unsigned short a = (unsigned short)(word >> i), b = (unsigned short)(bound >> i);
    const float x = kHalfFloats ? ingot_half_value(a) : ingot_bfloat_value(a);
    const float y = kHalfFloats ? ingot_half_value(b) : ingot_bfloat_value(b);
    result |= (unsigned)((kUpper ? x > y : x < y) ? b : a) << i;
  }
  return result;
#else
  unsigned result;
  if constexpr (kHalfFloats && kUpper) asm("min.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(word), "r"(bound));
  if constexpr (kHalfFloats && !kUpper) asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(word), "r"(bound));
  if constexpr (!kHalfFloats && kUpper) asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(word), "r"(bound));
  if constexpr (!kHalfFloats && !kUpper) asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(word), "r"(bound));
  return result;
#endif
}
