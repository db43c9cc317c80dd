"""CUDA kernels that see of a tensor what :mod:`ingot.precision.histogram` keeps of it, bin for bin.

Four of them: the range of the finite numbers, the bins, merging bins in pairs, and sums and magnitudes of channels.
All results but the sums are integers or bits of floats, so that no order of the threads changes them; a channel's sum
is one block's work, in an order that is always the same.
"""

from __future__ import annotations

from ingot.kernels.api import Target
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.precision.histogram import BINS

THREADS = 256
"""Per block, of all kernels but that which merges."""
MERGING = 1024
SHARED = 2 * BINS * 4
"""Dynamic shared memory of the kernel that counts, bytes: what every target has."""
RANGE, COUNT, MERGE, CHANNELS = "ingot_range", "ingot_count", "ingot_merge", "ingot_channels"

_SIZES = f"""
#define BINS {BINS}
#define THREADS {THREADS}
#define MERGING {MERGING}
#define EACH (BINS / MERGING)
"""
_KERNELS = """
INGOT_INLINE bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
// An unsigned number that grows with x.
INGOT_INLINE unsigned ordered(float x) {
  unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// keys[0]: the least ordered(x), keys[1]: the least ordered(-x), both 0xffffffff before.
// odd: the count of NaN and infinite numbers.
extern "C" __global__ void __launch_bounds__(THREADS) ingot_range(
    const float* __restrict__ x, long long n, unsigned* keys, unsigned long long* odd) {
  unsigned low = 0xffffffffu, high = 0xffffffffu, others = 0;
  for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < n; i += (long long)gridDim.x * THREADS) {
    float value = x[i];
    if (is_finite(value)) {
      unsigned up = ordered(value), down = ordered(-value);
      low = up < low ? up : low;
      high = down < high ? down : high;
    } else {
      ++others;
    }
  }
  for (int step = 16; step > 0; step >>= 1) {
    unsigned a = __shfl_xor_sync(0xffffffffu, low, step), b = __shfl_xor_sync(0xffffffffu, high, step);
    low = a < low ? a : low;
    high = b < high ? b : high;
    others += __shfl_xor_sync(0xffffffffu, others, step);
  }
  if (threadIdx.x % 32 == 0) {
    if (low != 0xffffffffu) {
      atomicMin(keys, low);
      atomicMin(keys + 1, high);
    }
    if (others) atomicAdd(odd, (unsigned long long)others);
  }
}

// Multiplied, then added, each rounded: as on the host, where nothing is fused.
extern "C" __global__ void __launch_bounds__(THREADS) ingot_count(
    const float* __restrict__ x, long long n, float factor, unsigned long long* counts) {
  INGOT_DYNAMIC_SHARED(unsigned, bins);
  for (int i = threadIdx.x; i < 2 * BINS; i += THREADS) bins[i] = 0;
  __syncthreads();
  unsigned middle = 0;  // most numbers behind a ReLU: not all threads should queue for one bin
  for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < n; i += (long long)gridDim.x * THREADS) {
    float value = x[i];
    if (!is_finite(value)) continue;
    int place = (int)__fadd_rn(__fmul_rn(value, factor), (float)BINS);
    place = place < 0 ? 0 : place > 2 * BINS - 1 ? 2 * BINS - 1 : place;
    if (place == BINS) ++middle;
    else atomicAdd(bins + place, 1u);
  }
  if (middle) atomicAdd(bins + BINS, middle);
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * BINS; i += THREADS)
    if (bins[i]) atomicAdd(counts + i, (unsigned long long)bins[i]);
}

// One block: pairs of bins become one, in the middle, as many times as it is asked.
extern "C" __global__ void __launch_bounds__(MERGING) ingot_merge(unsigned long long* counts, int times) {
  for (int turn = 0; turn < times; ++turn) {
    unsigned long long pair[EACH];
    for (int i = 0; i < EACH; ++i) {
      int at = 2 * (threadIdx.x + i * MERGING);
      pair[i] = counts[at] + counts[at + 1];
    }
    __syncthreads();
    for (int i = 0; i < EACH; ++i) {
      int at = threadIdx.x + i * MERGING;
      counts[at < BINS / 2 ? at : at + BINS] = 0;
      counts[BINS / 2 + at] = pair[i];
    }
    __syncthreads();
  }
}

// x [outer, channels, inner], a block for each channel. largest: bits of |x|, which grow with it, NaN above all.
extern "C" __global__ void __launch_bounds__(THREADS) ingot_channels(
    const float* __restrict__ x, long long outer, long long inner, double* total, unsigned* largest) {
  __shared__ double sums[THREADS / 32];
  __shared__ unsigned mosts[THREADS / 32];
  double sum = 0;
  unsigned most = 0;
  for (long long i = threadIdx.x; i < outer * inner; i += THREADS) {
    float value = x[(i / inner * gridDim.x + blockIdx.x) * inner + i % inner];
    unsigned bits = __float_as_uint(value) & 0x7fffffffu;
    sum += value;
    most = bits > most ? bits : most;
  }
  for (int step = 16; step > 0; step >>= 1) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
    unsigned other = __shfl_xor_sync(0xffffffffu, most, step);
    most = other > most ? other : most;
  }
  if (threadIdx.x % 32 == 0) {
    sums[threadIdx.x / 32] = sum;
    mosts[threadIdx.x / 32] = most;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < THREADS / 32; ++i) {
      sum += sums[i];
      most = mosts[i] > most ? mosts[i] : most;
    }
    total[blockIdx.x] += sum;
    if (most > largest[blockIdx.x]) largest[blockIdx.x] = most;
  }
}
"""
SOURCE = _SIZES + _KERNELS


def statistics_cubin(target: Target) -> bytes:
    """The kernels for ``target``. Raises IngotError where NVRTC is missing or too old for it."""
    return compile_cuda(SOURCE, COUNT, target).cubin
