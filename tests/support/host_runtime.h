// What a CUDA kernel finds around it, on the CPU: every thread of a block is a fibre, and a barrier or
// a shuffle hands the processor to the next one. Blocks run one after another, so __shared__ is static; those of a
// cluster run together, and have only dynamic shared memory of their own.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <cstdlib>
#include <ucontext.h>
#include <utility>
#define INGOT_HOST 1
#define __device__
#define __host__
#define __global__
#define __constant__
#define __shared__ static
#define __restrict__ __restrict
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
enum { INGOT_SHARED = 256 << 10, INGOT_TOGETHER = 16, INGOT_MOST = 4096 };
alignas(1024) static unsigned char ingot_shared_of[INGOT_TOGETHER][INGOT_SHARED];
static unsigned char* ingot_dynamic_shared = ingot_shared_of[0];

static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static inline int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
static inline long long __double_as_longlong(double x) { long long bits; memcpy(&bits, &x, 8); return bits; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline double __longlong_as_double(long long bits) { double x; memcpy(&x, &bits, 8); return x; }
static inline unsigned short ingot_host_half_bits(float x) {
  unsigned bits = __float_as_uint(x), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return (unsigned short)0x7fff;
  if (rest >= 0x477ff000u) return (unsigned short)(sign | 0x7c00u);
  if (rest < 0x38800000u)  // subnormal: 2^-24 is one unit; adding 0.5 lets the FPU round to that
    return (unsigned short)(sign | (__float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000u));
  unsigned rounded = rest + 0xfffu + ((rest >> 13) & 1u);
  return (unsigned short)(sign | ((rounded - 0x38000000u) >> 13));
}
static inline float ingot_host_half_value(unsigned short half) {
  unsigned sign = (unsigned)(half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest < 0x400u) return (sign ? -1.0f : 1.0f) * (float)rest * 5.9604644775390625e-8f;
  return __uint_as_float(sign | ((rest << 13) + 0x38000000u));
}

// Fibres: one per thread of the block. `waiting` says at which kind of point a thread stopped.
enum IngotState { INGOT_READY, INGOT_AT_GROUP, INGOT_AT_BLOCK, INGOT_AT_WARP, INGOT_DONE };
struct IngotFibre { ucontext_t context; IngotState state; unsigned index; };
static IngotFibre ingot_fibres[INGOT_MOST];
static ucontext_t ingot_scheduler;
static unsigned ingot_current;
static bool ingot_fibred;
static void (*ingot_entry)(void**);
static void** ingot_arguments;
static int ingot_deadlock;

static inline void ingot_stop(IngotState state) {
  if (!ingot_fibred) { ingot_deadlock = 1; return; }
  ingot_fibres[ingot_current].state = state;
  swapcontext(&ingot_fibres[ingot_current].context, &ingot_scheduler);
}
static inline void __syncthreads() { ingot_stop(INGOT_AT_BLOCK); }
static inline void __syncwarp(unsigned = 0xffffffffu) { ingot_stop(INGOT_AT_WARP); }
static inline void ingot_sync_group() { ingot_stop(INGOT_AT_GROUP); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

static unsigned long long ingot_exchange[INGOT_MOST];
static unsigned long long ingot_votes[INGOT_MOST];
template <typename T> static inline T ingot_swap(T value, unsigned source_lane) {
  unsigned warp = ingot_current & ~31u;
  memcpy(&ingot_exchange[ingot_current], &value, sizeof(T));
  ingot_stop(INGOT_AT_WARP);
  T result;
  memcpy(&result, &ingot_exchange[warp + source_lane], sizeof(T));
  ingot_stop(INGOT_AT_WARP);
  return result;
}
template <typename T> static inline T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  unsigned own = ingot_current & 31u;
  return ingot_swap(value, (own & ~(unsigned)(width - 1)) | ((unsigned)lane & (unsigned)(width - 1)));
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  unsigned own = ingot_current & 31u, other = own ^ (unsigned)mask;
  return ingot_swap(value, (other / width) <= (own / width) ? other : own);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T value, unsigned delta, int width = 32) {
  unsigned own = ingot_current & 31u;
  return ingot_swap(value, (own & (width - 1)) + delta < (unsigned)width ? own + delta : own);
}
template <typename T> static inline T __shfl_up_sync(unsigned, T value, unsigned delta, int width = 32) {
  unsigned own = ingot_current & 31u;
  return ingot_swap(value, (own & (width - 1)) >= delta ? own - delta : own);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned warp = ingot_current & ~31u, result = 0;
  ingot_votes[ingot_current] = predicate != 0;
  ingot_stop(INGOT_AT_WARP);
  for (unsigned i = 0; i < 32; ++i)
    if (warp + i < blockDim.x && (mask >> i & 1u) && ingot_votes[warp + i]) result |= 1u << i;
  ingot_stop(INGOT_AT_WARP);
  return result;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
static inline int __syncthreads_count(int predicate) {
  ingot_votes[ingot_current] = predicate != 0;
  ingot_stop(INGOT_AT_BLOCK);
  int total = 0;
  const unsigned first = ingot_current / blockDim.x * blockDim.x;
  for (unsigned i = 0; i < blockDim.x; ++i) total += (int)ingot_votes[first + i];
  ingot_stop(INGOT_AT_BLOCK);
  return total;
}
static inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
static inline int __syncthreads_and(int predicate) { return __syncthreads_count(predicate) == (int)blockDim.x; }

// One processor runs all fibres, so plain read-modify-write is atomic.
template <typename T, typename U> static inline T atomicAdd(T* p, U x) { T old = *p; *p = (T)(old + (T)x); return old; }
template <typename T, typename U> static inline T atomicMax(T* p, U x) { T old = *p; if ((T)x > old) *p = (T)x; return old; }
template <typename T, typename U> static inline T atomicMin(T* p, U x) { T old = *p; if ((T)x < old) *p = (T)x; return old; }
template <typename T, typename U> static inline T atomicExch(T* p, U x) { T old = *p; *p = (T)x; return old; }
template <typename T, typename U> static inline T atomicOr(T* p, U x) { T old = *p; *p = old | (T)x; return old; }
template <typename T, typename U> static inline T atomicAnd(T* p, U x) { T old = *p; *p = old & (T)x; return old; }
template <typename T> static inline T atomicCAS(T* p, T compare, T x) { T old = *p; if (old == compare) *p = x; return old; }
static inline unsigned atomicInc(unsigned* p, unsigned limit) { unsigned old = *p; *p = old >= limit ? 0 : old + 1; return old; }
template <typename T> static inline T __ldg(const T* p) { return *p; }
template <typename T> static inline T __ldcg(const T* p) { return *p; }
template <typename T> static inline T __ldcs(const T* p) { return *p; }
template <typename T> static inline void __stcs(T* p, T x) { *p = x; }
template <typename A, typename B> static inline auto min(A a, B b) -> decltype(a + b) { return a < b ? a : b; }
template <typename A, typename B> static inline auto max(A a, B b) -> decltype(a + b) { return a > b ? a : b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf expf
#define __logf logf
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }

// mma.m16n8k16 of 16-bit floats, m16n8k32 of bytes: d += a * b over the fragments that the lanes of a warp hold.
// Element k of the depth of one of eight rows (or columns): `low` and `high` are its words for the halves of the depth.
static unsigned ingot_words[INGOT_MOST][6];
template <typename T> static inline T ingot_host_element(unsigned warp, unsigned line, unsigned k, unsigned low, unsigned high) {
  const unsigned byte = k * sizeof(T);
  T x;
  memcpy(&x, (unsigned char*)&ingot_words[warp + line * 4 + byte / 4 % 4][byte < 16 ? low : high] + byte % 4, sizeof(T));
  return x;
}
template <typename A, typename B = A, typename S>
static inline void ingot_host_mma(S (&d)[4], const unsigned (&a)[4], const unsigned* b) {
  const unsigned warp = ingot_current & ~31u, lane = ingot_current & 31u;
  memcpy(ingot_words[ingot_current], a, 16);
  memcpy(ingot_words[ingot_current] + 4, b, 8);
  ingot_stop(INGOT_AT_WARP);
  for (unsigned i = 0; i < 4; ++i)
    for (unsigned k = 0; k < 32 / sizeof(A); ++k)
      d[i] += (S)ingot_host_element<A>(warp, lane / 4, k, i / 2, 2 + i / 2) *
              (S)ingot_host_element<B>(warp, lane % 4 * 2 + i % 2, k, 4, 5);
  ingot_stop(INGOT_AT_WARP);
}

static void ingot_fibre_main() {
  ingot_entry(ingot_arguments);
  ingot_fibres[ingot_current].state = INGOT_DONE;
  swapcontext(&ingot_fibres[ingot_current].context, &ingot_scheduler);
}
static bool ingot_release(unsigned begin, unsigned end, IngotState state) {
  bool any = false;
  for (unsigned t = begin; t < end; ++t) {
    if (ingot_fibres[t].state == INGOT_DONE) continue;
    if (ingot_fibres[t].state != state) return false;
    any = true;
  }
  for (unsigned t = begin; t < end && any; ++t)
    if (ingot_fibres[t].state == state) ingot_fibres[t].state = INGOT_READY;
  return any;
}
// The blocks from blockIdx on along x, `together` of them.
static void ingot_run_fibres(unsigned together) {
  const size_t stack = 64 << 10;
  static char* stacks = (char*)malloc(stack * INGOT_MOST);
  const unsigned count = blockDim.x * together, first = blockIdx.x;
  for (unsigned t = 0; t < count; ++t) {
    ingot_votes[t] = 0;
    getcontext(&ingot_fibres[t].context);
    ingot_fibres[t].context.uc_stack.ss_sp = stacks + t * stack;
    ingot_fibres[t].context.uc_stack.ss_size = stack;
    ingot_fibres[t].context.uc_link = nullptr;
    ingot_fibres[t].state = INGOT_READY;
    makecontext(&ingot_fibres[t].context, ingot_fibre_main, 0);
  }
  for (;;) {
    unsigned done = 0;
    for (unsigned t = 0; t < count; ++t) {
      if (ingot_fibres[t].state == INGOT_READY) {
        ingot_current = t;
        threadIdx = {t % blockDim.x, 0, 0};
        blockIdx.x = first + t / blockDim.x;
        ingot_dynamic_shared = ingot_shared_of[t / blockDim.x];
        swapcontext(&ingot_scheduler, &ingot_fibres[t].context);
      }
      done += ingot_fibres[t].state == INGOT_DONE;
    }
    if (done == count) return;
    bool moved = false;
    for (unsigned w = 0; w < count; w += 32) moved |= ingot_release(w, w + 32 < count ? w + 32 : count, INGOT_AT_WARP);
    bool passed = moved;
    for (unsigned b = 0; b < count && !moved; b += blockDim.x) passed |= ingot_release(b, b + blockDim.x, INGOT_AT_BLOCK);
    if (!passed && !ingot_release(0, count, INGOT_AT_GROUP)) { ingot_deadlock = 2; return; }
  }
}
template <typename... A, size_t... I>
static void ingot_unpack(void (*f)(A...), void** p, std::index_sequence<I...>) { f(*reinterpret_cast<A*>(p[I])...); }
template <typename... A> static void ingot_apply(void (*f)(A...), void** p) {
  ingot_unpack(f, p, std::index_sequence_for<A...>());
}
template <typename... A> static int ingot_arity(void (*)(A...)) { return sizeof...(A); }
// Runs one launch. 0: done; 1: a barrier in a kernel said to have none; 2: threads wait for each other for ever;
// 3: wrong number of arguments. `together`: blocks along x that wait for each other.
static int ingot_launch(void (*entry)(void**), void** arguments, const unsigned* grid, unsigned threads, int fibred,
                        unsigned together) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads, 1, 1};
  ingot_entry = entry, ingot_arguments = arguments, ingot_fibred = fibred != 0, ingot_deadlock = 0;
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; x += together) {
        blockIdx = {x, y, z};
        if (ingot_fibred) memset(ingot_shared_of, 0xff, (size_t)together * INGOT_SHARED);
        if (ingot_fibred) ingot_run_fibres(together);
        for (unsigned t = 0; t < threads && !ingot_fibred; ++t) {
          threadIdx = {t, 0, 0};
          entry(arguments);
        }
        if (ingot_deadlock) return ingot_deadlock;
      }
  return 0;
}
