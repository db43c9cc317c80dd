"""Text before every generated kernel: storage types, vector accesses, programmatic launch.

``compile_cuda`` puts it in front of what it compiles. No CUDA header is included, because NVRTC
alone ships none. With INGOT_HOST defined the same text is host C++ (tests run kernels on the CPU;
the host runtime before it then supplies threadIdx, __syncthreads and the like).
"""

from __future__ import annotations

_TYPES = r"""
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

#ifdef INGOT_HOST
#define INGOT_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(ingot_dynamic_shared)
#define INGOT_INLINE static inline
#else
#define INGOT_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#define INGOT_INLINE static __device__ __forceinline__
INGOT_INLINE unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
#endif
#define INGOT_MEMBER __device__ __forceinline__

// IEEE half and bfloat16 as they lie in memory; arithmetic is in float.
INGOT_INLINE unsigned short ingot_half_bits(float x) {
#ifdef INGOT_HOST
  return ingot_host_half_bits(x);
#else
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#endif
}
INGOT_INLINE float ingot_half_value(unsigned short bits) {
#ifdef INGOT_HOST
  return ingot_host_half_value(bits);
#else
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
#endif
}
INGOT_INLINE unsigned short ingot_bfloat_bits(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  unsigned int bits = __float_as_uint(x);
  if (x != x) return 0x7fff;
  return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // to nearest, ties to even
#endif
}
INGOT_INLINE float ingot_bfloat_value(unsigned short bits) { return __uint_as_float((unsigned int)bits << 16); }

struct half_t {
  unsigned short bits;
  half_t() = default;
#ifdef INGOT_HOST
  explicit half_t(float x) : bits(ingot_half_bits(x)) {}
  operator float() const { return ingot_half_value(bits); }
#else
  __device__ __forceinline__ explicit half_t(float x) : bits(ingot_half_bits(x)) {}
  __device__ __forceinline__ operator float() const { return ingot_half_value(bits); }
#endif
};
struct bf16_t {
  unsigned short bits;
  bf16_t() = default;
#ifdef INGOT_HOST
  explicit bf16_t(float x) : bits(ingot_bfloat_bits(x)) {}
  operator float() const { return ingot_bfloat_value(bits); }
#else
  __device__ __forceinline__ explicit bf16_t(float x) : bits(ingot_bfloat_bits(x)) {}
  __device__ __forceinline__ operator float() const { return ingot_bfloat_value(bits); }
#endif
};
"""

_QUANTIZED = r"""
// Float times a factor to a narrow integer: bounded, then to nearest, halves to even, plus a zero point. Beside
// 1.5 * 2^23 floats are whole, and their last bits those of the integer: two bytes of the result are right, what is
// above them is to be cut off.
INGOT_INLINE int ingot_rounded(float x, float factor) {
#ifdef INGOT_HOST
  const float product = x * factor;
#else
  const float product = __fmul_rn(x, factor);  // rounded as a quotient is: halves are to be halves
#endif
  return (int)__float_as_uint(product + 12582912.0f);
}
INGOT_INLINE int ingot_quantized(float x, float factor, float low, float high, int zero) {
  return ingot_rounded(fminf(fmaxf(x, low), high), factor) + zero;
}
// The same for bytes: what of the range from its first number x is, then so many steps of all ``span``.
INGOT_INLINE int ingot_saturated(float x, float share, float first, float span, float shifted) {
#ifdef INGOT_HOST
  const float part = fminf(fmaxf(x * share + first, 0.0f), 1.0f);
#else
  float part;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(part) : "f"(x), "f"(share), "f"(first));
#endif
  return (int)__float_as_uint(fmaf(part, span, shifted));
}
// Byte k of a word, less the zero point.
template <bool kSigned> INGOT_INLINE float ingot_byte(unsigned word, int k, int zero) {
#ifdef INGOT_HOST
  const int byte = kSigned ? (int)(signed char)(word >> 8 * k) : (int)(unsigned char)(word >> 8 * k);
#else
  int byte;  // one byte chosen, the others its sign or zero
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(byte) : "r"(word), "r"(0), "r"(kSigned ? 0x8880 + 0x1111 * k : 0x4440 + k));
#endif
  return (float)(byte - zero);
}
// Four bytes, each the last of an integer.
INGOT_INLINE unsigned ingot_pack(int a, int b, int c, int d) {
#ifdef INGOT_HOST
  return (a & 0xffu) | (b & 0xffu) << 8 | (c & 0xffu) << 16 | (unsigned)d << 24;
#else
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
#endif
}

// FP8 with four bits of exponent and three of mantissa, without infinities; what is out of range becomes 448.
INGOT_INLINE unsigned char ingot_e4m3_bits(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  unsigned short pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return (unsigned char)pair;
#else
  const unsigned bits = __float_as_uint(x), sign = bits >> 24 & 0x80u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return (unsigned char)(sign | 0x7fu);
  if (rest >= 0x43e00000u) return (unsigned char)(sign | 0x7eu);
  if (rest < 0x3c800000u)  // subnormal: 2^-9 is one unit, also of the floats behind 16384
    return (unsigned char)(sign | (__float_as_uint(__uint_as_float(rest) + 16384.0f) - 0x46800000u));
  const unsigned rounded = rest + 0x7ffffu + (rest >> 20 & 1u);
  return (unsigned char)(sign | (rounded - 0x3c000000u) >> 20);
#endif
}
INGOT_INLINE float ingot_e4m3_value(unsigned char bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  unsigned halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((unsigned short)bits));
  return ingot_half_value((unsigned short)halves);
#else
  const unsigned sign = (unsigned)(bits & 0x80u) << 24, rest = bits & 0x7fu;
  if (rest == 0x7fu) return NAN;
  if (rest < 8u) return (sign ? -0.001953125f : 0.001953125f) * (float)rest;
  return __uint_as_float(sign | ((rest << 20) + 0x3c000000u));
#endif
}
// Two of them, the second in the upper byte.
INGOT_INLINE unsigned ingot_e4m3_pair(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  unsigned short pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(b), "f"(a));
  return pair;
#else
  return ingot_e4m3_bits(a) | (unsigned)ingot_e4m3_bits(b) << 8;
#endif
}
// Number k of the four in a word.
INGOT_INLINE float ingot_e4m3_of(unsigned word, int k) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  unsigned halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((unsigned short)(word >> 16 * (k / 2))));
  return ingot_half_value((unsigned short)(halves >> 16 * (k % 2)));
#else
  return ingot_e4m3_value((unsigned char)(word >> 8 * k));
#endif
}
struct e4m3_t {
  unsigned char bits;
  e4m3_t() = default;
#ifdef INGOT_HOST
  explicit e4m3_t(float x) : bits(ingot_e4m3_bits(x)) {}
  operator float() const { return ingot_e4m3_value(bits); }
#else
  __device__ __forceinline__ explicit e4m3_t(float x) : bits(ingot_e4m3_bits(x)) {}
  __device__ __forceinline__ operator float() const { return ingot_e4m3_value(bits); }
#endif
};
"""

_HELPERS = r"""
// N elements that are loaded and stored by one instruction of 1, 2, 4, 8 or 16 bytes.
template <typename T, int N> struct alignas(sizeof(T) * N >= 16 ? 16 : sizeof(T) * N) vec_t { T v[N]; };
template <int N, typename T> INGOT_INLINE vec_t<T, N> load_vec(const T* p) {
  return *reinterpret_cast<const vec_t<T, N>*>(p);
}
template <int N, typename T> INGOT_INLINE void store_vec(T* p, const vec_t<T, N>& x) {
  *reinterpret_cast<vec_t<T, N>*>(p) = x;
}

// The larger and the smaller number; NaN if either is NaN.
template <typename T> INGOT_INLINE T ingot_max(T a, T b) { return (a > b || a != a) ? a : b; }
template <typename T> INGOT_INLINE T ingot_min(T a, T b) { return (a < b || a != a) ? a : b; }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <> __device__ __forceinline__ float ingot_max<float>(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
template <> __device__ __forceinline__ float ingot_min<float>(float a, float b) {
  float c;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
#endif

// Sigmoid, and GELU; by one instruction, off by 2^-11 of a tangent, where what comes of them is rounded to long steps.
#if defined(INGOT_COARSE)
INGOT_INLINE float ingot_tangent(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
INGOT_INLINE float ingot_logistic(float x) { return fmaf(0.5f, ingot_tangent(0.5f * x), 0.5f); }
INGOT_INLINE float ingot_gelu(float x) {
  const float half = 0.5f * x;
  return fmaf(half, ingot_tangent(x * fmaf(0.0356774081f, x * x, 0.797884561f)), half);
}
#else
INGOT_INLINE float ingot_logistic(float x) { return 1.0f / (1.0f + expf(-x)); }
INGOT_INLINE float ingot_gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.707106781186547524f)); }
#endif

// Programmatic dependent launch: wait for the kernels before, let the ones after start.
INGOT_INLINE void pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
INGOT_INLINE void pdl_trigger() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
"""

PRELUDE = _TYPES + _QUANTIZED + _HELPERS
