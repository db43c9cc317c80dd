"""Device functions that map kernels call."""

from __future__ import annotations

MAP_HELPERS = """
// N elements by accesses of W.
template <int N, int W, typename T> INGOT_INLINE vec_t<T, N> ingot_load(const T* p) {
  vec_t<T, N> x;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    const vec_t<T, W> part = load_vec<W>(p + i);
#pragma unroll
    for (int k = 0; k < W; ++k) x.v[i + k] = part.v[k];
  }
  return x;
}
template <int N, int W, typename T> INGOT_INLINE void ingot_store(T* p, const vec_t<T, N>& x) {
#pragma unroll
  for (int i = 0; i < N; i += W) {
    vec_t<T, W> part;
#pragma unroll
    for (int k = 0; k < W; ++k) part.v[k] = x.v[i + k];
    store_vec(p + i, part);
  }
}

// Indices brought into [0, n).
template <typename I, typename N> INGOT_INLINE I ingot_clamp(I i, N n) { return i < 0 ? 0 : i < n ? i : (I)(n - 1); }
template <typename I, typename N> INGOT_INLINE I ingot_wrap(I i, N n) {
  const I r = i % (I)n;
  return r < 0 ? r + (I)n : r;
}
template <typename I, typename N> INGOT_INLINE I ingot_reflect(I i, N n) {
  if (n == 1) return 0;
  const I period = 2 * ((I)n - 1), r = (i < 0 ? -i : i) % period;
  return r < (I)n ? r : period - r;
}
template <typename I, typename V, typename N> INGOT_INLINE I ingot_index(V value, N n) {
  const V i = value < 0 ? (V)(value + (V)n) : value;
  return i < 0 ? 0 : i < (V)n ? (I)i : (I)(n - 1);
}

// Resize: halves go down; the cubic convolution kernel.
INGOT_INLINE float ingot_round_down(float x) { return x == (float)(long long)x + 0.5f ? floorf(x) : roundf(x); }
INGOT_INLINE float ingot_cubic(float x, float a) {
  const float s = fabsf(x);
  if (s <= 1.0f) return ((a + 2.0f) * s - (a + 3.0f)) * s * s + 1.0f;
  return s < 2.0f ? ((a * s - 5.0f * a) * s + 8.0f * a) * s - 4.0f * a : 0.0f;
}
"""
