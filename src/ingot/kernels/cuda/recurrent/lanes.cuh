// Products of R with the state by ordinary multiplications, for any type.
//
// A thread has one unit and kRows rows of the batch; kSplit lanes side by side share them and divide the depth, whose
// sums are added by shuffles. R lies in shared memory in its own type, the state beside it as float32.

constexpr int kFew = kRows < kSplit ? 1 : kRows / kSplit;  // cells of a thread
constexpr int kTiles = kBatch / kRows;
constexpr int kDepth = (kHidden + 4 * kSplit - 1) / (4 * kSplit) * (4 * kSplit);
constexpr int kWidth = (kHidden + 3) / 4 * 4;  // of the state in device memory
constexpr bool kFar = INGOT_GROUP == 2;  // the exchange is in device memory
constexpr int kSlots = kFar ? 1 : kTwoHalves ? 3 : 2;
constexpr int kSlot = kBatch * kStatePitch;  // elements of a slot

struct Weights {
  const element_t* shared;  // first row of the thread's unit
  const Layer* layer;
  int direction, unit;
};

INGOT_INLINE vec_t<float, 4> four_weights(const Weights& weights, int gate, int k) {
  vec_t<float, 4> made;
  if constexpr (kResident) {
    const vec_t<element_t, 4> kept = load_vec<4>(weights.shared + gate * kUnits * kWeightPitch + k);
#pragma unroll
    for (int i = 0; i < 4; ++i) made.v[i] = (float)kept.v[i];
  } else if constexpr (kVector) {
    const vec_t<element_t, 4> far = weights_at<4>(*weights.layer, weights.direction, gate, weights.unit, k);
#pragma unroll
    for (int i = 0; i < 4; ++i) made.v[i] = (float)far.v[i];
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      made.v[i] = (float)weight(*weights.layer, weights.direction, gate, weights.unit, k + i);
  }
  return made;
}

// Sums over the depth of the gates kFirst to kLast - 1, whole in every lane.
template <int kFirst, int kLast>
INGOT_INLINE void multiply(float (&sums)[kGates][kRows], const Weights& weights, const float* state, int part) {
#pragma unroll
  for (int g = 0; g < kGates; ++g)
#pragma unroll
    for (int j = 0; j < kRows; ++j) sums[g][j] = 0.0f;
#pragma unroll 2
  for (int k = 4 * part; k < kDepth; k += 4 * kSplit) {
    vec_t<float, 4> h[kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) h[j] = load_vec<4>(state + j * kTiles * kStatePitch + k);
#pragma unroll
    for (int g = kFirst; g < kLast; ++g) {
      const vec_t<float, 4> w = four_weights(weights, g, k);
#pragma unroll
      for (int j = 0; j < kRows; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[g][j] += w.v[i] * h[j].v[i];
    }
  }
#pragma unroll
  for (int g = kFirst; g < kLast; ++g)
#pragma unroll
    for (int j = 0; j < kRows; ++j)
#pragma unroll
      for (int lanes = 1; lanes < kSplit; lanes *= 2) sums[g][j] += __shfl_xor_sync(0xffffffffu, sums[g][j], lanes);
}

// The sums for cell number `which` of this lane.
INGOT_INLINE void pick(float (&s)[kGates], const float (&sums)[kGates][kRows], int part, int which) {
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
    s[g] = 0.0f;
#pragma unroll
    for (int j = 0; j < kRows; ++j)
      if (j / kSplit == which && j % kSplit == part) s[g] = sums[g][j];
  }
}

INGOT_INLINE void keep_weights(const Layer& layer, int direction, int first, element_t* weights) {
  if constexpr (kResident) {
    constexpr int kStep = kVector ? 4 : 1, kPieces = kDepth / kStep;
#pragma unroll 4
    for (int i = threadIdx.x; i < kGates * kUnits * kPieces; i += kThreads) {
      const int row = i / kPieces, k = i % kPieces * kStep, gate = row / kUnits, unit = first + row % kUnits;
      if constexpr (kVector)
        store_vec<4>(weights + row * kWeightPitch + k, weights_at<4>(layer, direction, gate, unit, k));
      else
        weights[row * kWeightPitch + k] = weight(layer, direction, gate, unit, k);
    }
  }
}

// The state of the group's tile as it is in device memory to shared memory.
INGOT_INLINE void gather(float* state, const float* from) {
  if constexpr (kFar) {
    for (int i = threadIdx.x; i < kBatch * (kWidth / 4); i += kThreads) {
      const int row = i / (kWidth / 4), k = i % (kWidth / 4) * 4;
      const vec_t<unsigned, 4> words = receive(reinterpret_cast<const unsigned*>(from + row * kWidth + k));
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (k + e < kHidden) state[row * kStatePitch + k + e] = __uint_as_float(words.v[e]);
    }
    __syncthreads();
  }
}

INGOT_INLINE void run_tile(const Layer& layer, const Weights& weights, const Unit& own, float* state, int tile,
                           Barrier& barrier) {
  const int direction = weights.direction, part = threadIdx.x % kSplit, low = threadIdx.x / kSplit % kLow;
  const int inner = threadIdx.x / kSplit / kLow, place = inner / kUnits * kLow + low;
  float* far = layer.exchange + (long long)(direction * layer.tiles + tile) * (kTwoHalves ? 3 : 2) * kBatch * kWidth;
  Cell cells[kFew];
#pragma unroll
  for (int i = 0; i < kFew; ++i) {
    const int row = part + i * kSplit;
    begin(layer, direction, cells[i], row < kRows ? tile * kBatch + row * kTiles + place : layer.rows, weights.unit);
  }
  // Writes what every thread has of a state to a slot of the exchange.
  auto give = [&](int slot, const float (&values)[kFew]) {
#pragma unroll
    for (int i = 0; i < kFew; ++i) {
      const int row = (part + i * kSplit) * kTiles + place;
      if (part + i * kSplit >= kRows || weights.unit >= kHidden) continue;
      float* at = kFar ? far + (slot * kBatch + row) * kWidth : state + slot * kSlot + row * kStatePitch;
      send<1>(reinterpret_cast<unsigned*>(at + weights.unit), {{__float_as_uint(values[i])}});
    }
  };
  // The slot of the exchange as this thread reads it.
  auto take = [&](int slot) {
    gather(state, far + slot * kBatch * kWidth);
    return state + (kFar ? 0 : slot * kSlot) + place * kStatePitch;
  };
  float values[kFew];
#pragma unroll
  for (int i = 0; i < kFew; ++i) values[i] = cells[i].h[0];
  give(1, values);
  arrive(barrier);
#pragma unroll
  for (int i = 0; i < kFew; ++i) fetch(layer, direction, cells[i], 0);
  wait(barrier);
  for (int step = 0; step < layer.steps; ++step) {
    float sums[kGates][kRows], s[kGates];
    const float* before = take(step & 1 ^ 1);
#if INGOT_CELL == 3
    if constexpr (kTwoHalves) {
      multiply<0, 2>(sums, weights, before, part);
#pragma unroll
      for (int i = 0; i < kFew; ++i) {
        pick(s, sums, part, i);
        values[i] = reset(own, direction, cells[i].g[0], s, cells[i].h[0]);
      }
      give(2, values);
      arrive(barrier);
      wait(barrier);
      multiply<2, 3>(sums, weights, take(2), part);
    } else
#endif
    {
      multiply<0, kGates>(sums, weights, before, part);
    }
#pragma unroll
    for (int i = 0; i < kFew; ++i) {
      pick(s, sums, part, i);
      if (step < cells[i].length) {
#if INGOT_CELL == 3
        if constexpr (kTwoHalves)
          advance_reset(own, direction, cells[i].g[0], s[2], cells[i].h[0]);
        else
#endif
          advance(own, direction, cells[i].g[0], s, cells[i].h[0], cells[i].c[0]);
      }
      record(layer, direction, cells[i], step);
      values[i] = cells[i].h[0];
    }
    if (step + 1 == layer.steps) break;
    give(step & 1, values);
    arrive(barrier);
#pragma unroll
    for (int i = 0; i < kFew; ++i) fetch(layer, direction, cells[i], step + 1);
    wait(barrier);
  }
#pragma unroll
  for (int i = 0; i < kFew; ++i) finish(layer, direction, cells[i]);
}

INGOT_INLINE void run_layer(const Layer& layer) {
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  element_t* kept = reinterpret_cast<element_t*>(shared);
  float* state = reinterpret_cast<float*>(shared + kWeightBytes);
  const int direction = blockIdx.z, first = blockIdx.x * kUnits;
  const int unit = threadIdx.x / kSplit / kLow % kUnits;
  if constexpr (!kWeightsEarly) pdl_wait();
  keep_weights(layer, direction, first, kept);
  for (int i = threadIdx.x; i < kSlots * kSlot; i += kThreads) state[i] = 0.0f;
  if constexpr (kWeightsEarly) pdl_wait();
  meet();
  const Weights weights = {kept + unit * kWeightPitch, &layer, direction, first + unit};
  const Unit own = unit_of(layer, direction, first + unit);
  Barrier barrier = {layer.counters + kCounters * (blockIdx.y * kDirections + direction), 0};
  for (int tile = blockIdx.y; tile < layer.tiles; tile += gridDim.y) {
    run_tile(layer, weights, own, state, tile, barrier);
    __syncthreads();
  }
  leave(barrier);
}
