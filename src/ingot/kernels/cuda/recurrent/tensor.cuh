// Products of R with the state by tensor cores (m16n8k16), for 16-bit floats.
//
// A warp has eight units, sixteen rows of the batch and one of kSplit parts of the depth; the sums of the parts meet in
// shared memory. Its part of R stays in registers for all steps, or lies in shared memory in the order of the
// registers. So does the state, wherever it is exchanged: what a lane holds of the results is what the same lane of every
// warp wants as an operand of the next step.

constexpr int kSteps = (kHidden + 15) / 16;  // of the depth
constexpr int kPart = (kSteps + kSplit - 1) / kSplit;
constexpr int kGroups = kUnits / 8;
constexpr int kTiles = kBatch / 16;
constexpr int kSlot = kTiles * kSteps * 128;  // words of a slot of the exchange
constexpr int kKept = kGates * kPart;         // operands of R that a warp has

struct Place {
  int lane, group, tile, part;
};
constexpr bool kFar = INGOT_GROUP == 2;  // the exchange is in device memory
typedef vec_t<unsigned, 2> Pair;

INGOT_INLINE void multiply_tile(float (&d)[4], const vec_t<unsigned, 4>& a, const Pair& b) {
#ifdef INGOT_HOST
  ingot_host_mma<element_t>(d, a.v, b.v);
#else
  multiply_halves<kHalf>(d, a.v, b.v);
#endif
}

// Two elements of a row of R side by side.
INGOT_INLINE unsigned two_weights(const Layer& layer, int direction, int gate, int unit, int k) {
  if constexpr (kVector) {
    const vec_t<element_t, 2> both = weights_at<2>(layer, direction, gate, unit, k);
    return both.v[0].bits | (unsigned)both.v[1].bits << 16;
  }
  return weight(layer, direction, gate, unit, k).bits |
         (unsigned)weight(layer, direction, gate, unit, k + 1).bits << 16;
}
INGOT_INLINE Pair operand(const Layer& layer, int direction, int gate, int first, int step, int lane) {
  const int unit = first + lane / 4, k = 16 * step + lane % 4 * 2;
  Pair made;
  made.v[0] = two_weights(layer, direction, gate, unit, k);
  made.v[1] = two_weights(layer, direction, gate, unit, k + 8);
  return made;
}

// R of a warp: operand `i` of gate `g` is of step part * kPart + i.
struct Weights {
  Pair own[kHeld == 2 ? kKept : 1];
  const Pair* shared;
  const Layer* layer;
  int direction, first;
};
INGOT_INLINE Pair operand_of(const Weights& weights, const Place& at, int gate, int i) {
  if constexpr (kHeld == 2) return weights.own[gate * kPart + i];
  if constexpr (kHeld == 1)
    return weights.shared[((at.group * kSteps + at.part * kPart + i) * kGates + gate) * 32 + at.lane];
  return operand(*weights.layer, weights.direction, gate, weights.first, at.part * kPart + i, at.lane);
}
INGOT_INLINE void keep_weights(const Layer& layer, int direction, Weights& weights, const Place& at, Pair* shared) {
  weights.shared = shared, weights.layer = &layer, weights.direction = direction;
  weights.first = blockIdx.x * kUnits + 8 * at.group;
  if constexpr (kHeld == 2) {
#pragma unroll
    for (int g = 0; g < kGates; ++g)
#pragma unroll
      for (int i = 0; i < kPart; ++i)
        weights.own[g * kPart + i] = operand(layer, direction, g, weights.first, at.part * kPart + i, at.lane);
  } else if constexpr (kHeld == 1) {
    for (int i = threadIdx.x / 32; i < kGroups * kSteps * kGates; i += kThreads / 32)
      shared[i * 32 + at.lane] = operand(layer, direction, i % kGates, blockIdx.x * kUnits + i / kGates / kSteps * 8,
                                         i / kGates % kSteps, at.lane);
  }
}

// Sums over the depth of the gates kFirst to kLast - 1; whole in the warps of part 0.
template <int kFirst, int kLast>
INGOT_INLINE void multiply(float (&sums)[kGates][4], const Weights& weights, const unsigned* state, float* parts,
                           const Place& at) {
  vec_t<unsigned, 4> a[kPart];
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    const int step = at.part * kPart + i;
    if (step < kSteps) a[i] = receive(state + ((at.tile * kSteps + step) * 32 + at.lane) * 4);
  }
#pragma unroll
  for (int g = 0; g < kGates; ++g)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[g][j] = 0.0f;
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    if (at.part * kPart + i < kSteps) {
#pragma unroll
      for (int g = kFirst; g < kLast; ++g) multiply_tile(sums[g], a[i], operand_of(weights, at, g, i));
    }
  }
  if constexpr (kSplit > 1) {
    const int pair = at.tile * kGroups + at.group;
    auto slot = [&](int part, int g, int j) {
      return (((part - 1) * kTiles * kGroups + pair) * kGates * 4 + g * 4 + j) * 32 + at.lane;
    };
#pragma unroll
    for (int g = kFirst; g < kLast; ++g)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (at.part) parts[slot(at.part, g, j)] = sums[g][j];
    __syncthreads();
    if (at.part == 0) {
#pragma unroll
      for (int part = 1; part < kSplit; ++part)
#pragma unroll
        for (int g = kFirst; g < kLast; ++g)
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[g][j] += parts[slot(part, g, j)];
    }
  }
}

// What a lane has of a state to a slot of the exchange: half an operand of every warp.
INGOT_INLINE void give(unsigned* slot, const Place& at, int first, const float (&values)[4]) {
  const int eights = first / 8;
  if (eights / 2 >= kSteps) return;
  Pair words;
  words.v[0] = packed<kHalf>(values[0], values[1]);
  words.v[1] = packed<kHalf>(values[2], values[3]);
  send<2>(slot + ((at.tile * kSteps + eights / 2) * 32 + at.lane) * 4 + eights % 2 * 2, words);
}

INGOT_INLINE void run_tile(const Layer& layer, const Weights& weights, const Unit (&own)[2], unsigned* near,
                           float* parts, const Place& at, int tile, Barrier& barrier) {
  const int direction = weights.direction;
  unsigned* exchange = near;
  if constexpr (kFar)
    exchange = layer.exchange + (long long)(direction * layer.tiles + tile) * (kTwoHalves ? 3 : 2) * kSlot;
  const bool leads = at.part == 0;
  Cell cells[2];
  float values[4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = tile * kBatch + at.tile * 16 + at.lane / 4 + i * 8;
    begin(layer, direction, cells[i], leads ? row : layer.rows, weights.first + at.lane % 4 * 2);
    values[2 * i] = cells[i].h[0], values[2 * i + 1] = cells[i].h[1];
  }
  if (leads) give(exchange + kSlot, at, weights.first, values);
  arrive(barrier);
#pragma unroll
  for (int i = 0; i < 2; ++i) fetch(layer, direction, cells[i], 0);
  wait(barrier);
  for (int step = 0; step < layer.steps; ++step) {
    float sums[kGates][4], s[kGates];
    const unsigned* before = exchange + (step & 1 ^ 1) * kSlot;
#if INGOT_CELL == 3
    if constexpr (kTwoHalves) {
      multiply<0, 2>(sums, weights, before, parts, at);
      if (leads) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          Cell& cell = cells[j / 2];
          s[0] = sums[0][j], s[1] = sums[1][j], s[2] = 0.0f;
          values[j] = step < cell.length ? reset(own[j % 2], direction, cell.g[j % 2], s, cell.h[j % 2]) : 0.0f;
        }
        give(exchange + 2 * kSlot, at, weights.first, values);
      }
      arrive(barrier);
      wait(barrier);
      multiply<2, 3>(sums, weights, exchange + 2 * kSlot, parts, at);
    } else
#endif
    {
      multiply<0, kGates>(sums, weights, before, parts, at);
    }
    if (leads) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        Cell& cell = cells[j / 2];
        if (step < cell.length) {
#pragma unroll
          for (int g = 0; g < kGates; ++g) s[g] = sums[g][j];
#if INGOT_CELL == 3
          if constexpr (kTwoHalves)
            advance_reset(own[j % 2], direction, cell.g[j % 2], s[2], cell.h[j % 2]);
          else
#endif
            advance(own[j % 2], direction, cell.g[j % 2], s, cell.h[j % 2], cell.c[j % 2]);
        }
        values[j] = exists(cell, j % 2) ? cell.h[j % 2] : 0.0f;
      }
      if (step + 1 < layer.steps) give(exchange + (step & 1) * kSlot, at, weights.first, values);
    }
    if (step + 1 < layer.steps) arrive(barrier);
    if (leads) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        record(layer, direction, cells[i], step);
        fetch(layer, direction, cells[i], step + 1);
      }
    }
    if (step + 1 < layer.steps) wait(barrier);
  }
  if (leads) {
#pragma unroll
    for (int i = 0; i < 2; ++i) finish(layer, direction, cells[i]);
  }
}

INGOT_INLINE void run_layer(const Layer& layer) {
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  float* parts = reinterpret_cast<float*>(shared + kWeightBytes);
  unsigned* near = reinterpret_cast<unsigned*>(shared + kWeightBytes + kPartBytes);
  const int direction = blockIdx.z, warp = threadIdx.x / 32;
  const Place at = {(int)threadIdx.x % 32, warp % kGroups, warp / kGroups % kTiles, warp / kGroups / kTiles};
  Weights weights;
  if constexpr (!kWeightsEarly) pdl_wait();
  keep_weights(layer, direction, weights, at, reinterpret_cast<Pair*>(shared));
  if constexpr (kWeightsEarly) pdl_wait();
  meet();
  const int unit = weights.first + at.lane % 4 * 2;
  const Unit own[2] = {unit_of(layer, direction, unit), unit_of(layer, direction, unit + 1)};
  Barrier barrier = {layer.counters + kCounters * (blockIdx.y * kDirections + direction), 0};
  for (int tile = blockIdx.y; tile < layer.tiles; tile += gridDim.y) {
    run_tile(layer, weights, own, near, parts, at, tile, barrier);
    __syncthreads();
  }
  leave(barrier);
}
