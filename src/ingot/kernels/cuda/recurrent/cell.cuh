// One recurrent layer: what a thread does for the elements of the state that are its own.
//
// The blocks of a group share a direction and a tile of the batch; each has some units of the hidden state for itself and
// keeps their rows of R. After every step the blocks exchange the state: each writes what it has to the shared memory of
// all blocks of its cluster; where a group is no cluster, to device memory.

// What a unit adds to its gates.
struct Unit {
  float bias[kGates];
  float after;  // GRU: bias of the product that the reset gate multiplies
  float peephole[3];
};
// kWide elements of the state side by side, in one row of the batch.
struct Cell {
  int row, unit, length;  // length: steps of the row; 0 where there is no such element
  const element_t* x;     // the inputs' part of the gates, and the results, at the first point in time
  element_t* y;
  float h[kWide], c[kWide];
  float g[kWide][kGates];  // the inputs' part of the gates at one step
};

INGOT_INLINE Unit unit_of(const Layer& layer, int direction, int unit) {
  Unit made;
  const bool inside = unit < kHidden;
  made.after = 0.0f;
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
    made.bias[g] = 0.0f;
    if (kBias && inside) {
      const element_t* bias = layer.bias + direction * layer.bias_direction;
      const float own = (float)bias[(long long)(g * kHidden + unit) * layer.bias_column];
      const float state = (float)bias[(long long)((kGates + g) * kHidden + unit) * layer.bias_column];
      const bool apart = kResetAfter && g == 2;
      made.bias[g] = apart ? own : own + state;
      if (apart) made.after = state;
    }
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    made.peephole[i] = 0.0f;
    if (kPeephole && inside)
      made.peephole[i] = (float)layer.peephole[direction * layer.peephole_direction +
                                               (long long)(i * kHidden + unit) * layer.peephole_column];
  }
  return made;
}

INGOT_INLINE bool exists(const Cell& cell, int e) { return kHidden % kWide == 0 || cell.unit + e < kHidden; }
INGOT_INLINE bool is_there(const Layer& layer, const Cell& cell) {
  return cell.row < layer.rows && cell.unit < kHidden;
}

INGOT_INLINE void begin(const Layer& layer, int direction, Cell& cell, int row, int unit) {
  cell.row = row, cell.unit = unit, cell.length = 0;
#pragma unroll
  for (int e = 0; e < kWide; ++e) {
    cell.h[e] = cell.c[e] = 0.0f;
#pragma unroll
    for (int g = 0; g < kGates; ++g) cell.g[e][g] = 0.0f;
  }
  if (!is_there(layer, cell)) return;
  cell.x = layer.x + row * layer.x_row + (direction * kGates * kHidden + unit) * layer.x_column;
  cell.y = layer.y + direction * layer.y_direction + row * layer.y_row + unit * layer.y_column;
  cell.length = layer.steps;
  if (kLengths) cell.length = min(max((int)layer.lengths[row * layer.lengths_row], 0), layer.steps);
#pragma unroll
  for (int e = 0; e < kWide; ++e) {
    if (kFirstState && exists(cell, e))
      cell.h[e] = (float)layer.h0[direction * layer.h0_direction + row * layer.h0_row + (unit + e) * layer.h0_column];
    if (kFirstCell && exists(cell, e))
      cell.c[e] = (float)layer.c0[direction * layer.c0_direction + row * layer.c0_row + (unit + e) * layer.c0_column];
  }
}

// Where in time a row is at a step.
INGOT_INLINE int time_of(const Cell& cell, int direction, int step) {
  return step < cell.length && (kReverse >> direction & 1) ? cell.length - 1 - step : step;
}

INGOT_INLINE void fetch(const Layer& layer, int direction, Cell& cell, int step) {
  if (step >= cell.length) return;
  const element_t* at = cell.x + time_of(cell, direction, step) * layer.x_time;
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
    if constexpr (kWideInput) {
      const vec_t<element_t, kWide> both = load_vec<kWide>(at + g * kHidden);
#pragma unroll
      for (int e = 0; e < kWide; ++e) cell.g[e][g] = (float)both.v[e];
    } else {
#pragma unroll
      for (int e = 0; e < kWide; ++e)
        cell.g[e][g] = exists(cell, e) ? (float)at[(g * kHidden + e) * layer.x_column] : 0.0f;
    }
  }
}

INGOT_INLINE float bounded(float x) { return kClip ? ingot_max(ingot_min(x, kBound), -kBound) : x; }

// The state of an element after a step, by the products of R with the state before it.
INGOT_INLINE void advance(const Unit& unit, int direction, const float (&x)[kGates], const float (&s)[kGates], float& h,
                          float& c) {
#if INGOT_CELL == 4
  const float i = gate_f(direction, bounded(x[0] + unit.bias[0] + s[0] + unit.peephole[0] * c));
  const float f =
      kCoupled ? 1.0f - i : gate_f(direction, bounded(x[2] + unit.bias[2] + s[2] + unit.peephole[2] * c));
  c = f * c + i * gate_g(direction, bounded(x[3] + unit.bias[3] + s[3]));
  const float o = gate_f(direction, bounded(x[1] + unit.bias[1] + s[1] + unit.peephole[1] * c));
  h = o * gate_h(direction, c);
#elif INGOT_CELL == 3
  const float z = gate_f(direction, bounded(x[0] + unit.bias[0] + s[0]));
  const float r = gate_f(direction, bounded(x[1] + unit.bias[1] + s[1]));
  const float n = gate_g(direction, bounded(x[2] + unit.bias[2] + r * (s[2] + unit.after)));
  h = (1.0f - z) * n + z * h;
#else
  h = gate_f(direction, bounded(x[0] + unit.bias[0] + s[0]));
#endif
}

#if INGOT_CELL == 3
// GRU whose reset gate is applied to the state: the first half of a step keeps the update gate in place of its input and
// gives what the second half multiplies with R.
INGOT_INLINE float reset(const Unit& unit, int direction, float (&x)[kGates], const float (&s)[kGates], float h) {
  x[0] = gate_f(direction, bounded(x[0] + unit.bias[0] + s[0]));
  return gate_f(direction, bounded(x[1] + unit.bias[1] + s[1])) * h;
}
INGOT_INLINE void advance_reset(const Unit& unit, int direction, const float (&x)[kGates], float s, float& h) {
  const float n = gate_g(direction, bounded(x[2] + unit.bias[2] + s));
  h = (1.0f - x[0]) * n + x[0] * h;
}
#endif

INGOT_INLINE void record(const Layer& layer, int direction, const Cell& cell, int step) {
  if (!kSequence || !is_there(layer, cell)) return;
  element_t* at = cell.y + time_of(cell, direction, step) * layer.y_time;
  const bool inside = step < cell.length;
  if constexpr (kWideOutput) {
    vec_t<element_t, kWide> both;
#pragma unroll
    for (int e = 0; e < kWide; ++e) both.v[e] = element_t(inside ? cell.h[e] : 0.0f);
    store_vec<kWide>(at, both);
  } else {
#pragma unroll
    for (int e = 0; e < kWide; ++e)
      if (exists(cell, e)) at[e * layer.y_column] = element_t(inside ? cell.h[e] : 0.0f);
  }
}

INGOT_INLINE void finish(const Layer& layer, int direction, const Cell& cell) {
  if (!is_there(layer, cell)) return;
#pragma unroll
  for (int e = 0; e < kWide; ++e) {
    const long long unit = cell.unit + e;
    if (!exists(cell, e)) continue;
    if (kLastState)
      layer.yh[direction * layer.yh_direction + cell.row * layer.yh_row + unit * layer.yh_column] =
          element_t(cell.h[e]);
    if (kLastCell)
      layer.yc[direction * layer.yc_direction + cell.row * layer.yc_row + unit * layer.yc_column] =
          element_t(cell.c[e]);
  }
}

// An element of R, zero outside.
INGOT_INLINE element_t weight(const Layer& layer, int direction, int gate, int unit, int k) {
  if (unit >= kHidden || k >= kHidden) return element_t(0.0f);
  return layer.r[direction * layer.r_direction + (gate * kHidden + unit) * layer.r_row + k * layer.r_column];
}

// kCount of them side by side in a row of R that allows it.
template <int kCount>
INGOT_INLINE vec_t<element_t, kCount> weights_at(const Layer& layer, int direction, int gate, int unit, int k) {
  const bool inside = unit < kHidden && k < kHidden;
  const long long at = direction * layer.r_direction + (gate * kHidden + unit) * layer.r_row + k;
  vec_t<element_t, kCount> made = load_vec<kCount>(layer.r + (inside ? at : 0));
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (!inside) made.v[i] = element_t(0.0f);
  return made;
}

// ---- the barrier of a group

struct Barrier {
  unsigned* counter;  // of the group in device memory; a second one follows it
  unsigned target;
};

// What this thread wrote is to be seen by the group; wait() lets nobody through before all have arrived.
INGOT_INLINE void arrive(Barrier& barrier) {
#if !defined(INGOT_HOST) && INGOT_GROUP == 1
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#elif !defined(INGOT_HOST) && INGOT_GROUP == 2
  __syncthreads();
  barrier.target += kBlocks;
  if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(barrier.counter) : "memory");
#endif
}
INGOT_INLINE void wait(Barrier& barrier) {
#if INGOT_GROUP == 0
  __syncthreads();
#elif defined(INGOT_HOST)
  ingot_sync_group();
#elif INGOT_GROUP == 1
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  if (threadIdx.x == 0) {
    unsigned seen;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(barrier.counter) : "memory");
    } while (seen < barrier.target);
  }
  __syncthreads();
#endif
}
// Leaves the counters zero for the next launch.
INGOT_INLINE void leave(Barrier& barrier) {
#if !defined(INGOT_HOST) && INGOT_GROUP == 2
  if (threadIdx.x == 0 && atomicAdd(barrier.counter + 1, 1u) == kBlocks - 1) {
    barrier.counter[0] = 0;
    barrier.counter[1] = 0;
  }
#endif
}

// Sixteen bytes of the exchange, which other blocks may have written.
INGOT_INLINE vec_t<unsigned, 4> receive(const unsigned* at) {
#if defined(INGOT_HOST) || INGOT_GROUP != 2
  return load_vec<4>(at);
#else
  vec_t<unsigned, 4> made;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(made.v[0]), "=r"(made.v[1]), "=r"(made.v[2]), "=r"(made.v[3])
               : "l"(at)
               : "memory");
  return made;
#endif
}
// One or two words to the same place of the exchange of every block of the group.
template <int kWords> INGOT_INLINE void send(unsigned* at, const vec_t<unsigned, kWords>& words) {
#if INGOT_GROUP != 1
  store_vec<kWords>(at, words);
#elif defined(INGOT_HOST)
  for (int block = 0; block < kBlocks; ++block)
    store_vec<kWords>(reinterpret_cast<unsigned*>(ingot_shared_of[block] +
                                                  (reinterpret_cast<unsigned char*>(at) - ingot_dynamic_shared)),
                      words);
#else
  const unsigned own = (unsigned)__cvta_generic_to_shared(at);
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    unsigned far;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far) : "r"(own), "r"((blockIdx.x + i) % kBlocks));
    if constexpr (kWords == 2)
      asm volatile("st.shared::cluster.v2.u32 [%0], {%1, %2};" ::"r"(far), "r"(words.v[0]), "r"(words.v[1]) : "memory");
    else
      asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(far), "r"(words.v[0]) : "memory");
  }
#endif
}
// Before the first send: the other blocks are there, and have cleared their exchange.
INGOT_INLINE void meet() {
#if defined(INGOT_HOST) && INGOT_GROUP == 1
  ingot_sync_group();
#elif INGOT_GROUP == 1
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
