// The usual activations, to a few units in the last place of numbers that are not small against one.
INGOT_INLINE float logistic(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
INGOT_INLINE float hyperbolic_tangent(float x) {
  const float square = x * x;
  const float small = x + x * square * (-0.333333333f + square * (0.133333333f + square * (-0.0539682540f +
                                                                                           square * 0.0218694885f)));
  const float large = 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x));
  return square < 0.0625f ? small : large;
}
