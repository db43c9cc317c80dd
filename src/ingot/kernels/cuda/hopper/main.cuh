// A product A[rows, depth] * B[depth, cols]: one warp fills a ring of stages in shared memory through the copy engine,
// the other warpgroups multiply out of it with wgmma and finish in registers.
//
// A stage holds kSlices slices of A, then as many of B. A slice is kSlice elements of the depth: of A kTileM rows, of B
// kTileN rows (or, where B's columns are contiguous, kSlice rows of 64 columns for every 64 of kTileN), permuted as the
// tensor map's swizzle says. The depth of a convolution runs over channels, then taps; slices past its end are zero,
// because the copy engine fills what lies outside of a tensor with zeros.
//
// Sliding (kSlide > 0; stride 1): rows are the positions of the padded input, those at a line's end belong to no result.
// One slice of A serves all taps along the width: the next tap's operand starts kSpread rows further down. The swizzle
// permutes by address bits, so a matrix may start at any row.

constexpr int kRowBytes = kSlice * kItem;
constexpr int kRowsA = kTileM + kSlide;
constexpr int kSlicesA = kSlide ? 1 : kSlices;
constexpr int kSliceA = (kTileM + (kSlide + 7) / 8 * 8) * kRowBytes;
constexpr int kSliceB = kTileN * kRowBytes;
constexpr int kOffsetB = kSlicesA * kSliceA;
constexpr int kStageBytes = kOffsetB + kSlices * kSliceB;
constexpr int kLoadBytes = kSlicesA * kRowsA * kRowBytes + kSlices * kSliceB;
constexpr int kSpread = kSlide ? kSlide / (kSlices - 1) : 0;
constexpr int kSteps = kSlices * kRowBytes / 32;  // wgmma takes 32 bytes of the depth
constexpr int kWarpsPerTile = kPing ? 4 : 4 * kGroups;
constexpr int kPitch = kChunk + 8;  // of the staging area, floats: rows start eight banks apart
constexpr int kStaging = 16 * kPitch * 4;
constexpr int kLanes = kChunk / 8;  // lanes that share a row when results are stored
constexpr int kPassRows = 32 / kLanes;
constexpr int kPasses = 16 / kPassRows;
constexpr int kOffsetStaging = kStages * kStageBytes;
constexpr int kOffsetBarriers = kOffsetStaging + (kSplit > 1 ? 0 : 4 * kGroups * kStaging);
constexpr int kBlocks = kCluster * kSplit;  // of a cluster: neighbours along the rows, or shares of one tile's depth

struct Problem {
  int rows, channels, steps;    // steps of all shares
  int tiles_m, tiles_n, batch;  // tiles_m counts clusters
  int height, width;            // of the output, where A is gathered
  int begin;                    // this block's first step
};

// The part of the depth that is this block's own: no share is empty.
INGOT_INLINE Problem share_of(Problem p) {
  if (kSplit > 1) {
    const int each = (p.steps + kSplit - 1) / kSplit;
    p.begin = (int)cluster_rank() * each;
    p.steps = p.steps - p.begin < each ? p.steps - p.begin : each;
  }
  return p;
}

struct Place {
  int row, col, z;
};

INGOT_INLINE int tiles_of(const Problem& p) { return p.tiles_m * p.tiles_n * p.batch; }

INGOT_INLINE Place place_of(const Problem& p, int tile) {
  const int each = p.tiles_m * p.tiles_n;
  Place at;
  at.z = tile / each;
  tile -= at.z * each;
  const int strip = kOrder * p.tiles_n, first = tile / strip * kOrder;
  const int height = p.tiles_m - first < kOrder ? p.tiles_m - first : kOrder;
  tile %= strip;
  int m = first + tile % height;
  if (kCluster > 1) m = m * kCluster + (int)cluster_rank();
  at.row = m * kTileM;
  at.col = tile / height * kTileN;
  return at;
}

INGOT_INLINE unsigned full_barrier(unsigned base, int stage) { return base + kOffsetBarriers + 8 * stage; }
INGOT_INLINE unsigned empty_barrier(unsigned base, int stage) { return base + kOffsetBarriers + 8 * (kStages + stage); }
INGOT_INLINE unsigned turn_barrier(unsigned base, int group) {
  return base + kOffsetBarriers + 8 * (2 * kStages + group);
}

// ---- producer

struct Position {
  int c, s, r;  // first channel, tap along width, tap along height
};

INGOT_INLINE void advance(Position& at, int channels) {
  at.c += kSlice;
  if (at.c >= channels) {
    at.c = 0;
    if (++at.s == (kSlide ? 1 : kTapsW)) {
      at.s = 0;
      ++at.r;
    }
  }
}

INGOT_INLINE Position start_of(const Problem& p) {
  if (kSplit == 1) return {0, 0, 0};
  const int blocks = (p.channels + kSlice - 1) / kSlice, slice = p.begin * kSlicesA;
  const int tap = slice / blocks, wide = kSlide ? 1 : kTapsW;
  return {(slice - tap * blocks) * kSlice, tap % wide, tap / wide};
}

INGOT_INLINE void load_b(const tensor_map_t& map, const Problem& p, unsigned base, int stage, Position& at, int n, int z) {
  const unsigned barrier = full_barrier(base, stage);
  unsigned to = base + stage * kStageBytes + kOffsetB;
#pragma unroll
  for (int i = 0; i < kSlices; ++i, to += kSliceB) {
    const int c = at.r < kTapsH ? at.c : p.channels, s = kSlide ? i : at.s;
    if (kColumnsInner) {
#pragma unroll
      for (int j = 0; j < kTileN / 64; ++j) load_tile(to + j * kSlice * 128, map, barrier, n + j * 64, c, z);
    } else if (kCluster > 1) {
      const int part = (int)cluster_rank() * (kTileN / kCluster);
      const unsigned short all = (1 << kCluster) - 1;
      if (kFilter)
        load_tile_shared(to + part * kRowBytes, map, barrier, c, s, at.r, n + part, all);
      else
        load_tile_shared(to + part * kRowBytes, map, barrier, c, n + part, z, all);
    } else if (kFilter) {
      load_tile(to, map, barrier, c, s, at.r, n);
    } else {
      load_tile(to, map, barrier, c, n, z);
    }
    if (!kSlide || i == kSlices - 1) advance(at, p.channels);
  }
}

INGOT_INLINE void load_a(const tensor_map_t& map, const Problem& p, unsigned base, int stage, Position& at,
                         const Place& place, int w, int h, int image) {
  const unsigned barrier = full_barrier(base, stage);
  unsigned to = base + stage * kStageBytes;
#pragma unroll
  for (int i = 0; i < kSlicesA; ++i, to += kSliceA) {
    const bool inside = at.r < kTapsH;
    const int c = inside ? at.c : p.channels;
    if (kGather)
      load_pixels(to, map, barrier, c, w, h, image, inside ? at.s * kDilationW : 0, inside ? at.r * kDilationH : 0);
    else
      load_tile(to, map, barrier, c, place.row, kBatchA ? place.z : 0);
    advance(at, p.channels);
  }
}

INGOT_INLINE void produce(const tensor_map_t& a, const tensor_map_t& b, const Problem& p, unsigned base) {
  const int lane = threadIdx.x;
  const int total = tiles_of(p), stride = gridDim.x / kBlocks;
  int tile = blockIdx.x / kBlocks, stage = 0, early = 0;
  unsigned phase = 1;  // the stages are empty from the start
  if (lane == 0) {
    map_prefetch(a);
    map_prefetch(b);
  }
  if (kEarlyB && tile < total) {  // weights do not depend on earlier kernels
    early = p.steps < kStages ? p.steps : kStages;
    if (lane == 0) {
      const Place place = place_of(p, tile);
      Position at = start_of(p);
      for (int i = 0; i < early; ++i) {
        barrier_expect(full_barrier(base, i), kLoadBytes);
        load_b(b, p, base, i, at, place.col, kBatchB ? place.z : 0);
      }
    }
  }
  pdl_wait();
  for (; tile < total; tile += stride) {
    const Place place = place_of(p, tile);
    if (lane == 0) {
      int w = 0, h = 0, image = 0;
      if (kGather) {
        w = place.row % p.width * kStrideW - kPadW;
        const int line = place.row / p.width;
        h = line % p.height * kStrideH - kPadH;
        image = line / p.height;
      }
      Position at_a = start_of(p), at_b = at_a;
      for (int step = 0; step < p.steps; ++step) {
        if (step < early) {
          for (int i = 0; i < kSlicesA; ++i) advance(at_b, p.channels);
        } else {
          barrier_wait(empty_barrier(base, stage), phase);
          barrier_expect(full_barrier(base, stage), kLoadBytes);
          load_b(b, p, base, stage, at_b, place.col, kBatchB ? place.z : 0);
        }
        load_a(a, p, base, stage, at_a, place, w, h, image);
        if (++stage == kStages) {
          stage = 0;
          phase ^= 1;
        }
      }
    }
    early = 0;
    __syncwarp();
  }
  pdl_trigger();
}

// ---- consumers

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

INGOT_INLINE void multiply(float (&acc)[kUnits][kTileN / 2], const Problem& p, unsigned base, int group, int lane,
                           int& stage, unsigned& phase) {
  const unsigned first_row = kPing ? 0 : group * kUnits * 64 * kRowBytes;
  int previous = 0;
  for (int step = 0; step < p.steps; ++step) {
    barrier_wait(full_barrier(base, stage), phase);
    const unsigned a = base + stage * kStageBytes + first_row, b = base + stage * kStageBytes + kOffsetB;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) pin(acc[u]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        wgmma(acc[u], descriptor(kFormA, a + depth_offset_a(k) + u * 64 * kRowBytes),
              descriptor(kFormB, b + depth_offset_b(k)), (step | k) != 0);
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
  if (kPing) {
    if (lane == 0) barrier_arrive(turn_barrier(base, 1 - group));
  }
  wgmma_wait<0>();
#pragma unroll
  for (int u = 0; u < kUnits; ++u) pin(acc[u]);
  release(base, previous, lane);
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
  return at.col + chunk % kChunksWide * kChunk + lane % kLanes * 8;
}

INGOT_INLINE void fetch(Held& held, const Epilogue& epilogue, const Corner& at, int chunk, int lane) {
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass)
    epilogue.fetch(held[chunk % kHeld][pass], chunk_row(at, chunk, pass, lane), chunk_col(at, chunk, lane), at.z);
}

// Turns the accumulators' layout into eight consecutive columns per lane, through memory of this warp's own.
INGOT_INLINE void finish(const float (&acc)[kUnits][kTileN / 2], Held& held, const Problem& p, const Epilogue& epilogue,
                         float* staging, const Corner& at, int lane) {
  const int half = (lane >> 2) & 1;  // which half of its eight columns a lane reads first, so that no banks collide
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    if (at.row + chunk / kChunksWide * 64 >= p.rows) continue;
    const int col = chunk_col(at, chunk, lane);
    Epilogue::Columns columns;
    epilogue.columns(columns, col, at.z);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kChunk / 8; ++j) {
      const float* d = &acc[chunk / kChunksWide][(chunk % kChunksWide * (kChunk / 8) + j) * 4];
      float* to = staging + lane / 4 * kPitch + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(to) = make_float2(d[0], d[1]);
      *reinterpret_cast<float2*>(to + 8 * kPitch) = make_float2(d[2], d[3]);
    }
    __syncwarp();
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int line = pass * kPassRows + lane / kLanes;
      const float4* from = reinterpret_cast<const float4*>(staging + line * kPitch + lane % kLanes * 8);
      const float4 x = from[half], y = from[1 - half];
      const float4 low = half ? y : x, high = half ? x : y;
      const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      epilogue.finish(held[chunk % kHeld][pass], columns, values, chunk_row(at, chunk, pass, lane), col, at.z);
    }
    if (chunk + kHeld < kChunks) fetch(held, epilogue, at, chunk + kHeld, lane);
  }
}

INGOT_INLINE void consume(const Problem& p, const Epilogue& epilogue, unsigned base, unsigned char* shared, int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  float* staging = reinterpret_cast<float*>(shared + kOffsetStaging + (group * 4 + warp) * kStaging);
  const int total = tiles_of(p), stride = gridDim.x / kBlocks;
  float acc[kUnits][kTileN / 2];
  Held held;
  pdl_wait();
  int turn = kPing ? group : 0;
  for (int tile = blockIdx.x / kBlocks + turn * stride; tile < total; tile += stride * (kPing ? 2 : 1)) {
    const Place place = place_of(p, tile);
    const Corner at = {place.row + (kPing ? 0 : group * kUnits * 64) + warp * 16, place.col, place.z};
    int stage = turn * p.steps % kStages;
    unsigned phase = turn * p.steps / kStages & 1;
#pragma unroll
    for (int chunk = 0; chunk < kHeld; ++chunk) fetch(held, epilogue, at, chunk, lane);
    if (kPing) barrier_wait(turn_barrier(base, group), ((turn >> 1) + (group == 0)) & 1);
    multiply(acc, p, base, group, lane, stage, phase);
    finish(acc, held, p, epilogue, staging, at, lane);
    turn += kPing ? 2 : 1;
  }
}

// Shares of the depth: every block of the cluster leaves its sums in its own shared memory, then adds up and finishes
// its part of the tile's chunks, in the order of the shares, so that the result is the same every time.
constexpr int kSumPitch = kTileN + 8;
constexpr int kPieces = kTileM / 16 * kChunksWide;
constexpr int kOwnPieces = (kPieces + kSplit * 4 * kGroups - 1) / (kSplit * 4 * kGroups);
static_assert(kSplit == 1 || kTileM * kSumPitch * 4 <= kOffsetStaging, "sums lie where the stages were");

INGOT_INLINE void consume_share(const Problem& p, const Epilogue& epilogue, unsigned base, unsigned char* shared,
                                int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int first = (int)cluster_rank() + kSplit * (group * 4 + warp);
  const Place place = place_of(p, blockIdx.x / kBlocks);
  float acc[kUnits][kTileN / 2];
  Epilogue::Fetched held[kOwnPieces][kPasses];
  pdl_wait();
#pragma unroll
  for (int i = 0; i < kOwnPieces; ++i) {
    const int piece = first + i * kSplit * 4 * kGroups;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass)
      if (piece < kPieces)
        epilogue.fetch(held[i][pass], place.row + piece / kChunksWide * 16 + pass * kPassRows + lane / kLanes,
                       place.col + piece % kChunksWide * kChunk + lane % kLanes * 8, place.z);
  }
  int stage = 0;
  unsigned phase = 0;
  multiply(acc, p, base, group, lane, stage, phase);
  asm volatile("bar.sync 1, %0;" ::"n"(128 * kGroups) : "memory");  // the stages are no longer read
  float* sums = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
#pragma unroll
    for (int j = 0; j < kTileN / 8; ++j) {
      const float* d = &acc[u][j * 4];
      float* to = sums + ((group * kUnits + u) * 64 + warp * 16 + lane / 4) * kSumPitch + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(to) = make_float2(d[0], d[1]);
      *reinterpret_cast<float2*>(to + 8 * kSumPitch) = make_float2(d[2], d[3]);
    }
  cluster_sync();
#pragma unroll
  for (int i = 0; i < kOwnPieces; ++i) {
    const int piece = first + i * kSplit * 4 * kGroups;
    if (piece >= kPieces) continue;
    const int col = piece % kChunksWide * kChunk + lane % kLanes * 8;
    Epilogue::Columns columns;
    epilogue.columns(columns, place.col + col, place.z);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int row = piece / kChunksWide * 16 + pass * kPassRows + lane / kLanes;
      float values[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
      for (int rank = 0; rank < kSplit; ++rank) add_shared(values, base + (row * kSumPitch + col) * 4, rank);
      epilogue.finish(held[i][pass], columns, values, place.row + row, place.col + col, place.z);
    }
  }
  cluster_sync();  // the others may still read this block's sums
}

INGOT_INLINE void product(const tensor_map_t& a, const tensor_map_t& b, const Problem& whole,
                          const Epilogue& epilogue) {
  extern __shared__ unsigned char ingot_memory[];
  const unsigned start = shared_address(ingot_memory);
  const unsigned base = (start + 1023) & ~1023u;  // where the swizzle's pattern begins
  unsigned char* shared = ingot_memory + (base - start);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(full_barrier(base, i), 1);
      barrier_init(empty_barrier(base, i), kWarpsPerTile * kCluster);
    }
    for (int i = 0; i < 2; ++i) barrier_init(turn_barrier(base, i), 4);
    barrier_init_done();
  }
  if (kBlocks > 1)
    cluster_sync();
  else
    __syncthreads();
  const Problem p = share_of(whole);
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == 0) {
    if (kProducerRegisters) registers_down<kProducerRegisters ? kProducerRegisters : 24>();
    if (threadIdx.x < 32) produce(a, b, p, base);
    if (kSplit > 1) {
      cluster_sync();
      cluster_sync();
    }
  } else {
    if (kConsumerRegisters) registers_up<kConsumerRegisters ? kConsumerRegisters : 24>();
    if (kSplit > 1)
      consume_share(p, epilogue, base, shared, group - 1);
    else
      consume(p, epilogue, base, shared, group - 1);
  }
  if (kCluster > 1) cluster_sync();  // a block must live until its neighbour has sent it everything
}
