// Tiles whose depth is dealt out among blocks (deal.cuh): what a block leaves of a tile's sums, and who adds them up.
//
// Consumers leave their accumulators as they lie in registers and go on; a warp beside the producer waits until they have
// arrived in memory, and raises the block's flag. The producer of the block that ends the tile waits for the flag, takes
// it down, and lets the copy engine bring those sums through the stages, behind the operands, as if they were further
// steps: its consumers add their own sums, then those of the blocks before, the nearest first, so that the result is the
// same every time. No two launches use a flag at the same time, for all of it is behind pdl_wait.
constexpr int kTileWarps = kTileM / (16 * kUnits);
constexpr int kWarpVectors = kUnits * kTileN / 8;  // of four sums a lane
constexpr int kVectorBytes = kTileWarps * 32 * 16;  // of all lanes

INGOT_MEMBER constexpr int vectors_in_a_stage() {
  int most = kStageBytes / kVectorBytes;
  if (most > kWarpVectors) most = kWarpVectors;
  while (most > 1 && kWarpVectors % most) --most;
  return most;
}
constexpr int kStageVectors = vectors_in_a_stage();
constexpr int kSumSteps = kWarpVectors / kStageVectors;
static_assert(kStageVectors * kVectorBytes <= kStageBytes, "a stage holds at least one of each lane's vectors");

struct Exchange {
  sum_t* sums;
  unsigned* flags;

  INGOT_MEMBER sum_t* sums_of(int block) const { return sums + (long long)block * (kWarpVectors * kVectorBytes / 4); }
};

INGOT_INLINE void leave(const sum_t (&acc)[kUnits][kTileN / 2], const Exchange& exchange, int warp, int lane) {
  sum_t* to = exchange.sums_of(blockIdx.x) + (warp * 32 + lane) * 4;
#pragma unroll
  for (int i = 0; i < kWarpVectors; ++i) {
    const sum_t* d = &acc[i / (kTileN / 8)][i % (kTileN / 8) * 4];
    store_vec<4>(to + i * (kVectorBytes / 4), vec_t<sum_t, 4>{{d[0], d[1], d[2], d[3]}});
  }
  asm volatile("bar.arrive 1, %0;" ::"n"(32 * kTileWarps + 32) : "memory");
}

// Of a warp beside the producer: raises the flag of what this block leaves.
INGOT_INLINE void raise_flag(const Problem& p, const Exchange& exchange) {
  const Deal deal = deal_of(tiles_of(p), p.steps, gridDim.x);
  Walk walk = walk_of(deal, blockIdx.x);
  Part part;
  if (!next_part(deal, walk, part) || part.begin + part.count == p.steps) return;
  asm volatile("bar.sync 1, %0;" ::"n"(32 * kTileWarps + 32) : "memory");
  if (threadIdx.x % 32 == 0)
    asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(exchange.flags + blockIdx.x) : "memory");
}

INGOT_INLINE void await_flag(unsigned* flag) {
  unsigned raised = 0;
  for (int i = 0; !raised; ++i) {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(raised) : "l"(flag) : "memory");
#ifdef INGOT_SPIN_LIMIT
    if (i > INGOT_SPIN_LIMIT) __trap();
#endif
  }
  asm volatile("st.relaxed.gpu.global.u32 [%0], 0;" ::"l"(flag) : "memory");
  asm volatile("fence.proxy.async;" ::: "memory");  // the copy engine is to read what others wrote
}

INGOT_INLINE void load_bytes(unsigned to, const void* from, unsigned barrier, int bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
      "r"(bytes), "r"(barrier)
      : "memory");
}

// The next block before ``block`` that has steps of the tile whose steps from ``left`` on are known; -1: nobody.
struct Givers {
  int block, left, start;
};
INGOT_INLINE Givers givers_of(const Deal& d, const Part& part) {
  const int start = part.tile * d.steps;
  const bool ends = part.begin + part.count == d.steps;
  return {(int)blockIdx.x, ends ? start + part.begin : start, start};
}
INGOT_INLINE bool next_giver(const Deal& d, Givers& givers) {
  while (givers.left > givers.start) {
    const int begin = range_begin(d, --givers.block), end = givers.left;
    givers.left = begin;
    if (begin < end) return true;
  }
  return false;
}

INGOT_INLINE void add_left(sum_t (&acc)[kUnits][kTileN / 2], const unsigned char* shared, unsigned base, int warp, int lane,
                           int& stage, unsigned& phase) {
#pragma unroll
  for (int step = 0; step < kSumSteps; ++step) {
    barrier_wait(full_barrier(base, stage), phase);
    const sum_t* from = reinterpret_cast<const sum_t*>(shared + stage * kStageBytes) + (warp * 32 + lane) * 4;
#pragma unroll
    for (int i = 0; i < kStageVectors; ++i) {
      const vec_t<sum_t, 4> x = load_vec<4>(from + i * (kVectorBytes / 4));
      const int at = step * kStageVectors + i;
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[at / (kTileN / 8)][at % (kTileN / 8) * 4 + j] += x.v[j];
    }
    __syncwarp();
    release(base, stage, lane);
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
}

INGOT_INLINE void produce_parts(const Maps& maps, const Problem& p, const Exchange& exchange, unsigned base) {
  const int lane = threadIdx.x;
  const Deal deal = deal_of(tiles_of(p), p.steps, gridDim.x);
  Walk walk = walk_of(deal, blockIdx.x);
  Part part;
  bool more = next_part(deal, walk, part);
  int stage = 0, early = 0;
  unsigned phase = 1;  // the stages are empty from the start
  if (lane == 0) {
    map_prefetch(maps.a);
    map_prefetch(maps.b);
  }
  if (kEarlyB && more) {  // weights do not depend on earlier kernels
    early = part.count < kStages ? part.count : kStages;
    if (lane == 0) {
      const Place place = place_of(p, part.tile);
      Position at = position_at(p, part.begin);
      for (int i = 0; i < early; ++i) {
        barrier_expect(full_barrier(base, i), kLoadBytes);
        load_b(maps.b, p.channels, base + i * kStageBytes + kOffsetB, full_barrier(base, i), at, place.col,
               kBatchB ? place.z : 0);
      }
    }
  }
  pdl_wait();
  for (; more; more = next_part(deal, walk, part)) {
    if (lane == 0) {
      const Place place = place_of(p, part.tile);
      int w = 0, h = 0, image = 0;
      if (kGather) {
        const int line = place.row / p.width;
        w = place.row % p.width * kStrideW - kPadW;
        h = line % p.height * kStrideH - kPadH;
        image = line / p.height;
      }
      Position at_a = position_at(p, part.begin), at_b = at_a;
      for (int step = 0; step < part.count; ++step) {
        if (step < early) {
          for (int i = 0; i < kSlicesA; ++i) advance(at_b, p.channels);
        } else {
          barrier_wait(empty_barrier(base, stage), phase);
          barrier_expect(full_barrier(base, stage), kLoadBytes);
          load_b(maps.b, p.channels, base + stage * kStageBytes + kOffsetB, full_barrier(base, stage), at_b, place.col,
                 kBatchB ? place.z : 0);
        }
        load_a<kGather>(maps.a, p.channels, base, stage, at_a, place, w, h, image);
        if (++stage == kStages) {
          stage = 0;
          phase ^= 1;
        }
      }
      for (Givers givers = givers_of(deal, part); next_giver(deal, givers);) {
        await_flag(exchange.flags + givers.block);
        const sum_t* from = exchange.sums_of(givers.block);
        for (int step = 0; step < kSumSteps; ++step) {
          barrier_wait(empty_barrier(base, stage), phase);
          barrier_expect(full_barrier(base, stage), kStageVectors * kVectorBytes);
          load_bytes(base + stage * kStageBytes, from + step * (kStageVectors * kVectorBytes / 4),
                     full_barrier(base, stage), kStageVectors * kVectorBytes);
          if (++stage == kStages) {
            stage = 0;
            phase ^= 1;
          }
        }
      }
    }
    early = 0;
    __syncwarp();
  }
  pdl_trigger();
}

INGOT_INLINE void consume_parts(const Problem& p, const Epilogue& epilogue, const Exchange& exchange, unsigned base,
                                unsigned char* shared, int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, own = (kPing ? 0 : group * 4) + warp;
  sum_t* staging = reinterpret_cast<sum_t*>(shared + kOffsetStaging + (group * 4 + warp) * kStaging);
  const Deal deal = deal_of(tiles_of(p), p.steps, gridDim.x);
  Walk walk = walk_of(deal, blockIdx.x);
  Part part;
  Accumulators acc;
  Held held;
  Whole whole;
  pdl_wait();
  int turn = 0, next = 0;  // next: of all steps through the stages
  for (; next_part(deal, walk, part); ++turn) {
    const int first = next;
    next += part.count;
    for (Givers givers = givers_of(deal, part); next_giver(deal, givers);) next += kSumSteps;
    if (kPing && (turn & 1) != group) continue;
    const bool last = part.begin + part.count == p.steps;
    const Place place = place_of(p, part.tile);
    const Corner at = {place.row + (kPing ? 0 : group * kUnits * 64) + warp * 16, place.col, place.z};
    int stage = first % kStages;
    unsigned phase = first / kStages & 1;
    if (last) {
#pragma unroll
      for (int chunk = 0; chunk < kHeld; ++chunk) fetch(held, epilogue, at, chunk, lane);
      hold_columns(whole, epilogue, at, lane);
    }
    if (kPing) barrier_wait(turn_barrier(base, group), ((turn >> 1) + (group == 0)) & 1);
    Problem some = p;
    some.steps = part.count;
    multiply(acc, some, base, group, lane, stage, phase);
    if (last) {
      for (int step = first + part.count; step < next; step += kSumSteps)
        add_left(acc[0], shared, base, own, lane, stage, phase);
      finish(acc, held, whole, p, epilogue, staging, at, lane);
    } else {
      leave(acc[0], exchange, own, lane);
    }
  }
}

INGOT_INLINE void product(const Maps& maps, const Problem& p, const Epilogue& epilogue, const Exchange& exchange) {
  extern __shared__ unsigned char ingot_memory[];
  const unsigned start = shared_address(ingot_memory);
  const unsigned base = (start + 1023) & ~1023u;  // where the swizzle's pattern begins
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(full_barrier(base, i), 1);
      barrier_init(empty_barrier(base, i), kWarpsPerTile);
    }
    for (int i = 0; i < 2; ++i) barrier_init(turn_barrier(base, i), 4);
    barrier_init_done();
  }
  __syncthreads();
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == 0) {
    if (kProducerRegisters) registers_down<kProducerRegisters ? kProducerRegisters : 24>();
    if (threadIdx.x < 32)
      produce_parts(maps, p, exchange, base);
    else if (threadIdx.x < 64)
      raise_flag(p, exchange);
  } else {
    if (kConsumerRegisters) registers_up<kConsumerRegisters ? kConsumerRegisters : 24>();
    consume_parts(p, epilogue, exchange, base, ingot_memory + (base - start), group - 1);
  }
}
