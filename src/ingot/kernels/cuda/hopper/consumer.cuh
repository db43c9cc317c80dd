// The consumers: warpgroups that multiply out of the stages and finish tiles.

INGOT_MEMBER constexpr unsigned long long descriptor_form(int row_bytes, int lead, int stride) {
  // Layout: no permutation 0, within 128 bytes 1, within 64 bytes 2, within 32 bytes 3.
  return (unsigned long long)(row_bytes == 128 ? 1 : row_bytes == 64 ? 2 : row_bytes == 32 ? 3 : 0) << 62 |
         (unsigned long long)(stride >> 4) << 32 | (unsigned long long)(lead >> 4) << 16;
}
// Depth contiguous: eight rows make a pattern; without permutation the next 16 bytes of the depth are a slice away.
constexpr unsigned long long kFormA = descriptor_form(kRowBytes, kRowBytes == 16 ? kSliceA : 16, 8 * kRowBytes);
constexpr unsigned long long kFormB = kColumnsInner
                                          ? descriptor_form(128, kSlice * 128, 1024)
                                          : descriptor_form(kRowBytes, kRowBytes == 16 ? kSliceB : 16, 8 * kRowBytes);

INGOT_INLINE unsigned long long descriptor(unsigned long long form, unsigned address) {
  return form | (unsigned long long)((address & 0x3ffff) >> 4);
}
INGOT_MEMBER constexpr int depth_offset(int step, int slice_bytes) {
  return kRowBytes == 16 ? 2 * step * slice_bytes
                         : step / (kRowBytes / 32) * slice_bytes + step % (kRowBytes / 32) * 32;
}
INGOT_MEMBER constexpr int depth_offset_a(int step) {
  return depth_offset(step, kSlide ? kSpread * kRowBytes : kSliceA);
}
INGOT_MEMBER constexpr int depth_offset_b(int step) {
  return kColumnsInner ? step / (kSlice / 16) * kSliceB + step % (kSlice / 16) * 2048 : depth_offset(step, kSliceB);
}

INGOT_INLINE void release(unsigned base, int stage, int lane) {
  if (lane == 0) {
    if (kCluster == 1) {
      barrier_arrive(empty_barrier(base, stage));
    } else {
#pragma unroll
      for (int rank = 0; rank < kCluster; ++rank) barrier_arrive_at(empty_barrier(base, stage), rank);
    }
  }
}

// The results of a warp are finished in chunks of 16 rows and kChunk columns. What the epilogue reads for a chunk is
// fetched kHeld chunks ahead, for the first ones before the products.
constexpr int kChunksWide = kTileN / kChunk;
constexpr int kChunks = kUnits * kChunksWide;
typedef Epilogue::Fetched Held[kHeld][kPasses];

struct Corner {
  int row, col, z;  // of the warp's first chunk
};

INGOT_INLINE int chunk_row(const Corner& at, int chunk, int pass, int lane) {
  return at.row + chunk / kChunksWide * 64 + pass * kPassRows + lane / kLanes;
}
INGOT_INLINE int chunk_col(const Corner& at, int chunk, int lane) {
  return at.col + chunk % kChunksWide * kChunk + lane % kLanes * kLaneColumns;
}

// Of two products of integers each has sums of its own: they meet when they are finished.
typedef sum_t Accumulators[kRescaled ? 2 : 1][kUnits][kTileN / 2];

// Adds what a first product of integers has for a lane's columns, brought to the scales of the one beside it.
INGOT_INLINE void add_first(sum_t (&values)[kLaneColumns], const sum_t* first, const float (&by)[kLaneColumns], int pass) {
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i)
    values[i] += (sum_t)__float2int_rn((float)first[i / 2 * 4 + pass * 2 + i % 2] * by[i]);
}
template <class E> INGOT_INLINE void load_quotients(float (&to)[kLaneColumns], const E& epilogue, int col) {
  if constexpr (kRescaled) epilogue.quotients(to, col);  // a template: other epilogues have none
}

// Steps ``from`` to ``to``; the last one's product is still under way afterwards.
INGOT_INLINE void multiply_steps(sum_t (&acc)[kUnits][kTileN / 2], unsigned base, int group, int lane, int from, int to,
                                 int& stage, unsigned& phase, int& previous) {
  const unsigned first_row = kPing ? 0 : group * kUnits * 64 * kRowBytes;
  for (int step = from; step < to; ++step) {
    barrier_wait(full_barrier(base, stage), phase);
    const unsigned a = base + stage * kStageBytes + first_row, b = base + (kKeep ? kOffsetKept + step * kStepB : stage * kStageBytes + kOffsetB);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) pin(acc[u]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        wgmma(acc[u], descriptor(kFormA, a + depth_offset_a(k) + u * 64 * kRowBytes),
              descriptor(kFormB, b + depth_offset_b(k)), (step - from | k) != 0);
    wgmma_commit();
#pragma unroll
    for (int u = 0; u < kUnits; ++u) pin(acc[u]);
    wgmma_wait<1>();  // the step before has been read
    if (step > 0) release(base, previous, lane);
    previous = stage;
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
}

INGOT_INLINE void multiply(Accumulators& acc, const Problem& p, unsigned base, int group, int lane, int& stage,
                           unsigned& phase) {
  int previous = 0;
  if (kRescaled) multiply_steps(acc[0], base, group, lane, 0, p.first, stage, phase, previous);
  multiply_steps(acc[kRescaled], base, group, lane, kRescaled ? p.first : 0, p.steps, stage, phase, previous);
  if (kPing) {
    if (lane == 0) barrier_arrive(turn_barrier(base, 1 - group));
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < (kRescaled ? 2 : 1) * kUnits; ++i) pin(acc[i / kUnits][i % kUnits]);
  release(base, previous, lane);
}

INGOT_INLINE void fetch(Held& held, const Epilogue& epilogue, const Corner& at, int chunk, int lane) {
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass)
    epilogue.fetch(held[chunk % kHeld][pass], chunk_row(at, chunk, pass, lane), chunk_col(at, chunk, lane), at.z);
}

// What the epilogue reads for whole columns is asked for before the products, if its registers are few: once where a
// block's columns are always the same. So are the quotients of two products' scales.
constexpr int kColumnRegisters = (int)sizeof(Epilogue::Columns) / 4 * kChunksWide;
constexpr int kSumRegisters = kUnits * kTileN / (kRescaled ? 1 : 2);
constexpr bool kColumnsAreFew = kColumnRegisters <= 64 && kColumnRegisters + kSumRegisters <= 128;
constexpr bool kColumnsStay = kKeep > 0 && kColumnsAreFew;
constexpr bool kColumnsHeld =
    kColumnsStay || (kColumnsAreFew && kColumnRegisters + kSumRegisters + (int)sizeof(Held) / 4 <= kFreeRegisters);
struct Whole {
  Epilogue::Columns columns[kColumnsHeld ? kChunksWide : 1];
  float quotients[kRescaled && kColumnsHeld ? kChunksWide : 1][kLaneColumns];
};
INGOT_INLINE void hold_columns(Whole& to, const Epilogue& epilogue, const Corner& at, int lane) {
  if constexpr (kColumnsHeld) {
#pragma unroll
    for (int chunk = 0; chunk < kChunksWide; ++chunk) {
      epilogue.columns(to.columns[chunk], chunk_col(at, chunk, lane), at.z);
      if constexpr (kRescaled) load_quotients(to.quotients[chunk], epilogue, chunk_col(at, chunk, lane));
    }
  }
}

// Turns the accumulators' layout into eight consecutive columns per lane, through memory of this warp's own.
INGOT_INLINE void stage(const sum_t* d, sum_t* staging, int lane) {
  __syncwarp();
  // The halves of some groups of eight columns change places, so that no banks collide when a lane reads both.
#pragma unroll
  for (int j = 0; j < kChunk / 8; ++j) {
    const int swap = 4 * (kLanes == 8 ? j >> 2 & 1 : (lane >> 2) & 1);
    sum_t* to = staging + lane / 4 * kPitch + j * 8 + (lane % 4 * 2 ^ swap);
    store_vec<2>(to, pair_t{{d[4 * j], d[4 * j + 1]}});
    store_vec<2>(to + 8 * kPitch, pair_t{{d[4 * j + 2], d[4 * j + 3]}});
  }
  __syncwarp();
}
INGOT_INLINE void take(sum_t (&values)[kLaneColumns], const sum_t* d, const sum_t* staging, int pass, int lane) {
  if (kDealt) {
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) values[i] = d[i / 2 * 4 + pass * 2 + i % 2];
    return;
  }
  const int half = (lane >> 2) & 1;
  const sum_t* from = staging + (pass * kPassRows + lane / kLanes) * kPitch + lane % kLanes * 8;
  const vec_t<sum_t, 4> x = load_vec<4>(from + 4 * half), y = load_vec<4>(from + 4 - 4 * half);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[i] = x.v[i];
    values[4 + i] = y.v[i];
  }
}

INGOT_INLINE void finish(const Accumulators& acc, Held& held, Whole& whole, const Problem& p, const Epilogue& epilogue,
                         sum_t* staging, const Corner& at, int lane) {
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    if (at.row + chunk / kChunksWide * 64 >= p.rows) continue;
    const int col = chunk_col(at, chunk, lane);
    constexpr int kLast = kColumnsHeld ? kChunksWide : 1;
    Epilogue::Columns& columns = whole.columns[chunk % kLast];
    if (!kColumnsHeld) epilogue.columns(columns, col, at.z);
    const sum_t* d = &acc[kRescaled][chunk / kChunksWide][chunk % kChunksWide * (kChunk / 2)];
    float (&by)[kLaneColumns] = whole.quotients[kRescaled ? chunk % kLast : 0];
    if (!kColumnsHeld) load_quotients(by, epilogue, col);
    if (!kDealt) stage(d, staging, lane);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      sum_t values[kLaneColumns];
      take(values, d, staging, pass, lane);
      if (kRescaled)
        add_first(values, &acc[0][chunk / kChunksWide][chunk % kChunksWide * (kChunk / 2)], by, pass);
      epilogue.finish(held[chunk % kHeld][pass], columns, values, chunk_row(at, chunk, pass, lane), col, at.z);
    }
    if (chunk + kHeld < kChunks) fetch(held, epilogue, at, chunk + kHeld, lane);
  }
}

INGOT_INLINE void consume(const Problem& p, const Epilogue& epilogue, unsigned base, unsigned char* shared, int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  sum_t* staging = reinterpret_cast<sum_t*>(shared + kOffsetStaging + (group * 4 + warp) * kStaging);
  const int total = tiles_of(p), stride = gridDim.x / kBlocks;
  Accumulators acc;
  Held held;
  pdl_wait();
  if (kKeep > 0 && blockIdx.x < total) barrier_wait(kept_barrier(base), 0);
  int turn = kPing ? group : 0;
  Whole whole;
  if (kColumnsStay && (int)blockIdx.x < total) hold_columns(whole, epilogue, {0, place_of(p, blockIdx.x).col, 0}, lane);
  for (int tile = blockIdx.x / kBlocks + turn * stride; tile < total; tile += stride * (kPing ? 2 : 1)) {
    const Place place = place_of(p, tile);
    const Corner at = {place.row + (kPing ? 0 : group * kUnits * 64) + warp * 16, place.col, place.z};
    int stage = turn * p.steps % kStages;
    unsigned phase = turn * p.steps / kStages & 1;
#pragma unroll
    for (int chunk = 0; chunk < kHeld; ++chunk) fetch(held, epilogue, at, chunk, lane);
    if (!kColumnsStay) hold_columns(whole, epilogue, at, lane);
    if (kPing) barrier_wait(turn_barrier(base, group), ((turn >> 1) + (group == 0)) & 1);
    multiply(acc, p, base, group, lane, stage, phase);
    finish(acc, held, whole, p, epilogue, staging, at, lane);
    turn += kPing ? 2 : 1;
  }
}
