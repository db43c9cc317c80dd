// One recurrent layer: what a thread does for the elements of the state that are its own.
//
// The blocks of a group share a direction and a tile of the batch; each has some units of the hidden state for itself and
// keeps their rows of R. After every step the blocks exchange the state: a group of one block in shared memory, others
// through device memory and a barrier of the group.

// What a unit adds to its gates.
struct Unit {
  float bias[kGates];
  float after;  // GRU: bias of the product that the reset gate multiplies
  float peephole[3];
};
// One element of the state.
struct Cell {
  int row, unit, length;  // length: steps of its row; 0 where there is no such element
  float h, c;
  float x[kGates];  // the inputs' part of the gates
};

INGOT_INLINE Unit unit_of(const Layer& layer, int direction, int unit) {
  Unit made;
  const bool inside = unit < kHidden;
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
    made.bias[g] = 0.0f;
    if (kBias && inside) {
      const element_t* bias = layer.bias + direction * layer.bias_direction;
      const float own = (float)bias[(long long)(g * kHidden + unit) * layer.bias_column];
      const float state = (float)bias[(long long)((kGates + g) * kHidden + unit) * layer.bias_column];
      if (kResetAfter && g == 2) {
        made.bias[g] = own;
        made.after = state;
      } else {
        made.bias[g] = own + state;
      }
    }
  }
  if (!(kBias && inside && kResetAfter)) made.after = 0.0f;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    made.peephole[i] = 0.0f;
    if (kPeephole && inside)
      made.peephole[i] = (float)layer.peephole[direction * layer.peephole_direction +
                                               (long long)(i * kHidden + unit) * layer.peephole_column];
  }
  return made;
}

INGOT_INLINE void begin(const Layer& layer, int direction, Cell& cell, int row, int unit) {
  const bool inside = row < layer.rows && unit < kHidden;
  cell.row = row, cell.unit = unit, cell.length = 0, cell.h = 0.0f, cell.c = 0.0f;
  if (!inside) return;
  cell.length = layer.steps;
  if (kLengths) cell.length = min(max((int)layer.lengths[row * layer.lengths_row], 0), layer.steps);
  if (kFirstState)
    cell.h = (float)layer.h0[direction * layer.h0_direction + row * layer.h0_row + unit * layer.h0_column];
  if (kFirstCell)
    cell.c = (float)layer.c0[direction * layer.c0_direction + row * layer.c0_row + unit * layer.c0_column];
}

INGOT_INLINE bool exists(const Layer& layer, const Cell& cell) { return cell.row < layer.rows && cell.unit < kHidden; }

// Where in time a row is at a step.
INGOT_INLINE int time_of(const Cell& cell, int direction, int step) {
  return step < cell.length && (kReverse >> direction & 1) ? cell.length - 1 - step : step;
}

INGOT_INLINE void fetch(const Layer& layer, int direction, Cell& cell, int step) {
  const bool inside = step < cell.length;
  const element_t* at = layer.x + time_of(cell, direction, step) * layer.x_time + cell.row * layer.x_row +
                        (direction * kGates * kHidden + cell.unit) * layer.x_column;
#pragma unroll
  for (int g = 0; g < kGates; ++g) cell.x[g] = inside ? (float)at[g * kHidden * layer.x_column] : 0.0f;
}

INGOT_INLINE float bounded(float x) { return kClip ? ingot_max(ingot_min(x, kBound), -kBound) : x; }

// The state after a step, by the products of R with the state before it.
INGOT_INLINE void advance(const Unit& unit, int direction, Cell& cell, const float (&s)[kGates]) {
#if INGOT_CELL == 4
  const float i = gate_f(direction, bounded(cell.x[0] + unit.bias[0] + s[0] + unit.peephole[0] * cell.c));
  const float f = kCoupled ? 1.0f - i
                           : gate_f(direction, bounded(cell.x[2] + unit.bias[2] + s[2] + unit.peephole[2] * cell.c));
  const float g = gate_g(direction, bounded(cell.x[3] + unit.bias[3] + s[3]));
  const float c = f * cell.c + i * g;
  const float o = gate_f(direction, bounded(cell.x[1] + unit.bias[1] + s[1] + unit.peephole[1] * c));
  cell.c = c;
  cell.h = o * gate_h(direction, c);
#elif INGOT_CELL == 3
  const float z = gate_f(direction, bounded(cell.x[0] + unit.bias[0] + s[0]));
  const float r = gate_f(direction, bounded(cell.x[1] + unit.bias[1] + s[1]));
  const float n = gate_g(direction, bounded(cell.x[2] + unit.bias[2] + r * (s[2] + unit.after)));
  cell.h = (1.0f - z) * n + z * cell.h;
#else
  cell.h = gate_f(direction, bounded(cell.x[0] + unit.bias[0] + s[0]));
#endif
}

#if INGOT_CELL == 3
// GRU whose reset gate is applied to the state: the first half of a step keeps the update gate and gives what the second
// half multiplies with R.
INGOT_INLINE float reset(const Unit& unit, int direction, Cell& cell, const float (&s)[kGates]) {
  cell.x[0] = gate_f(direction, bounded(cell.x[0] + unit.bias[0] + s[0]));
  return gate_f(direction, bounded(cell.x[1] + unit.bias[1] + s[1])) * cell.h;
}
INGOT_INLINE void advance_reset(const Unit& unit, int direction, Cell& cell, float s) {
  const float n = gate_g(direction, bounded(cell.x[2] + unit.bias[2] + s));
  cell.h = (1.0f - cell.x[0]) * n + cell.x[0] * cell.h;
}
#endif

INGOT_INLINE void record(const Layer& layer, int direction, const Cell& cell, int step) {
  if (!kSequence || !exists(layer, cell)) return;
  const long long at = time_of(cell, direction, step) * layer.y_time + direction * layer.y_direction +
                       cell.row * layer.y_row + cell.unit * layer.y_column;
  layer.y[at] = element_t(step < cell.length ? cell.h : 0.0f);
}

INGOT_INLINE void finish(const Layer& layer, int direction, const Cell& cell) {
  if (!exists(layer, cell)) return;
  if (kLastState)
    layer.yh[direction * layer.yh_direction + cell.row * layer.yh_row + cell.unit * layer.yh_column] =
        element_t(cell.h);
  if (kLastCell)
    layer.yc[direction * layer.yc_direction + cell.row * layer.yc_row + cell.unit * layer.yc_column] =
        element_t(cell.c);
}

// An element of R, zero outside.
INGOT_INLINE element_t weight(const Layer& layer, int direction, int gate, int unit, int k) {
  if (unit >= kHidden || k >= kHidden) return element_t(0.0f);
  return layer.r[direction * layer.r_direction + (gate * kHidden + unit) * layer.r_row + k * layer.r_column];
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

// Sixteen bytes that another block wrote.
INGOT_INLINE vec_t<unsigned, 4> load_shared_state(const unsigned* at) {
#if defined(INGOT_HOST) || INGOT_GROUP == 0
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
