// The whole kernel: a tile of the result for each block, its depth step by step through shared memory.

constexpr int kWarpM = kTileM / kWarpsM;
constexpr int kWarpN = kTileN / kWarpsN;
constexpr int kUnitsM = kWarpM / 16;
constexpr int kUnitsN = kWarpN / 8;
constexpr int kSteps = kRowBytes / 32;
constexpr int kLanes = kChunk / 8;  // lanes that share a row when results are stored
constexpr int kPassRows = 32 / kLanes;
constexpr int kPasses = 16 / kPassRows;
constexpr int kPitch = kChunk + 8;  // of the staging area, numbers: rows start eight banks apart
constexpr int kOrder = 8;           // row tiles that are visited before the next column of tiles
static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0 && kWarpN % kChunk == 0, "warps hold whole fragments");

typedef sum_t Sums[kUnitsM][kUnitsN][4];

struct Place {
  int row, col, z;
};

INGOT_INLINE Place place_of(const Problem& p, int tile) {
  const int each = p.tiles_m * p.tiles_n;
  Place at;
  at.z = tile / each;
  tile -= at.z * each;
  const int strip = kOrder * p.tiles_n, first = tile / strip * kOrder;
  const int height = p.tiles_m - first < kOrder ? p.tiles_m - first : kOrder;
  tile %= strip;
  at.row = (first + tile % height) * kTileM;
  at.col = tile / height * kTileN;
  return at;
}

INGOT_INLINE void multiply_stage(Sums& sums, const unsigned char* stage, int warp_row, int warp_col, int lane) {
  const unsigned base = shared_address(stage);
  const int row = warp_row + lane % 16, turn_a = lane / 16 ^ swap_of<kRowPieces>(row);
  // B's four matrices: two halves of the depth of eight columns, then of the next eight.
  const int line = kAcross ? lane % 16 : warp_col + lane / 16 * 8 + lane % 8;
  const int turn_b = (kAcross ? lane / 16 : lane / 8 % 2) ^ swap_of<kRowPiecesB>(line);
  const unsigned a = base + row * kRowBytes, b = base + kBytesA + line * kRowPiecesB * 16;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    unsigned from_a[kUnitsM][4], from_b[kUnitsN / 2][4];
#pragma unroll
    for (int i = 0; i < kUnitsM; ++i) load_matrices(from_a[i], a + i * 16 * kRowBytes + ((2 * s ^ turn_a) << 4));
#pragma unroll
    for (int j = 0; j < kUnitsN / 2; ++j) {
      if (kAcross)
        load_matrices_across(from_b[j], b + s * 16 * kRowPiecesB * 16 + ((warp_col / 8 + 2 * j ^ turn_b) << 4));
      else
        load_matrices(from_b[j], b + j * 16 * kRowBytes + ((2 * s ^ turn_b) << 4));
    }
#pragma unroll
    for (int i = 0; i < kUnitsM; ++i)
#pragma unroll
      for (int j = 0; j < kUnitsN; ++j) multiply(sums[i][j], from_a[i], &from_b[j / 2][j % 2 * 2]);
  }
}

// Steps begin ... end of the depth. Leaves shared memory free.
INGOT_INLINE void multiply_all(Sums& sums, const Reader& r, const Problem& p, const Operands& o, unsigned char* shared,
                               int col, int begin, int end, int warp_row, int warp_col, int lane) {
  if constexpr (kAsync) {
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (begin + s < end) issue(r, p, o, begin + s, col, shared + s * kStageBytes);
      copies_commit();
    }
    int stage = 0, next = kStages - 1;
    for (int step = begin; step < end; ++step) {
      copies_wait<kStages - 2>();
      __syncthreads();  // the stage is there for all, and the one before has been read by all
      if (step + kStages - 1 < end) issue(r, p, o, step + kStages - 1, col, shared + next * kStageBytes);
      copies_commit();
      multiply_stage(sums, shared + stage * kStageBytes, warp_row, warp_col, lane);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      next = next + 1 == kStages ? 0 : next + 1;
    }
    copies_wait<0>();
    __syncthreads();
  } else {
    Held held;
    fetch_a(held, r, p, o, begin);
    fetch_b(held, r, p, o, begin, col);
    keep_a(held, shared);
    keep_b(held, shared);
    __syncthreads();
    for (int step = begin; step < end; ++step) {
      const int stage = (step - begin) & 1;
      if (step + 1 < end) {
        fetch_a(held, r, p, o, step + 1);
        fetch_b(held, r, p, o, step + 1, col);
      }
      multiply_stage(sums, shared + stage * kStageBytes, warp_row, warp_col, lane);
      if (step + 1 < end) {
        keep_a(held, shared + (1 - stage) * kStageBytes);
        keep_b(held, shared + (1 - stage) * kStageBytes);
      }
      __syncthreads();
    }
  }
}

// The sums of all blocks that share a tile's depth, in the block that comes last; the others return false.
INGOT_INLINE bool add_shares(Sums& sums, sum_t* partial, unsigned* counters, int tile) {
  __shared__ unsigned last;
  constexpr int kEach = kUnitsM * kUnitsN * 4;
  sum_t* slab = partial + (long long)tile * kSplit * kTileM * kTileN + threadIdx.x;
  sum_t* own = slab + (long long)blockIdx.y * kTileM * kTileN;
#pragma unroll
  for (int i = 0; i < kEach; ++i) own[i * kThreads] = sums[i / 4 / kUnitsN][i / 4 % kUnitsN][i % 4];
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counters + tile, 1u) == kSplit - 1;
    if (last) counters[tile] = 0;
  }
  __syncthreads();
  if (!last) return false;
  __threadfence();
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    sum_t total = load_global(slab + i * kThreads);
    for (int part = 1; part < kSplit; ++part)
      total += load_global(slab + (long long)part * kTileM * kTileN + i * kThreads);
    sums[i / 4 / kUnitsN][i / 4 % kUnitsN][i % 4] = total;
  }
  return true;
}

// Turns the fragments' layout into eight consecutive columns per lane, through memory of this warp's own.
INGOT_INLINE void finish(const Sums& sums, const Epilogue& epilogue, sum_t* staging, const Place& at, int lane) {
#pragma unroll
  for (int chunk = 0; chunk < kWarpN / kChunk; ++chunk) {
    const int col = at.col + chunk * kChunk + lane % kLanes * 8;
    Epilogue::Columns columns;
    epilogue.columns(columns, col, at.z);
#pragma unroll
    for (int unit = 0; unit < kUnitsM; ++unit) {
      const int row = at.row + unit * 16 + lane / kLanes;
      Epilogue::Fetched fetched[kPasses];
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) epilogue.fetch(fetched[pass], row + pass * kPassRows, col, at.z);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j) {
        const sum_t* d = sums[unit][chunk * (kChunk / 8) + j];
        sum_t* to = staging + lane / 4 * kPitch + j * 8 + lane % 4 * 2;
        store_vec<2>(to, vec_t<sum_t, 2>{{d[0], d[1]}});
        store_vec<2>(to + 8 * kPitch, vec_t<sum_t, 2>{{d[2], d[3]}});
      }
      __syncwarp();
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        const int line = pass * kPassRows + lane / kLanes;
        const sum_t* from = staging + line * kPitch + lane % kLanes * 8;
        // Some lanes read their second half first, so that no banks collide.
        const int half = kLanes == 8 ? lane / 4 % 2 : line % 2;
        const vec_t<sum_t, 4> x = load_vec<4>(from + 4 * half), y = load_vec<4>(from + 4 - 4 * half);
        sum_t values[8];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[i] = half ? y.v[i] : x.v[i];
          values[4 + i] = half ? x.v[i] : y.v[i];
        }
        epilogue.finish(fetched[pass], columns, values, row + pass * kPassRows, col, at.z);
      }
    }
  }
}

INGOT_INLINE void product(const Problem& p, const Operands& o, const Epilogue& epilogue, sum_t* partial,
                          unsigned* counters) {
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  pdl_wait();
  pdl_trigger();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / kWarpsN * kWarpM, warp_col = warp % kWarpsN * kWarpN;
  Place at = place_of(p, blockIdx.x);
  Reader reader;
  start(reader, p, o, at.row, at.col, at.z);
  Sums sums;
#pragma unroll
  for (int i = 0; i < kUnitsM * kUnitsN * 4; ++i) sums[i / 4 / kUnitsN][i / 4 % kUnitsN][i % 4] = 0;
  const int each = kSplit > 1 ? (p.steps + kSplit - 1) / kSplit : p.steps;
  const int begin = kSplit > 1 ? (int)blockIdx.y * each : 0;
  const int end = p.steps - begin < each ? p.steps : begin + each;
  multiply_all(sums, reader, p, o, shared, at.col, begin, end, warp_row, warp_col, lane);
  if (kSplit > 1 && !add_shares(sums, partial, counters, blockIdx.x)) return;
  at.row += warp_row;
  at.col += warp_col;
  finish(sums, epilogue, reinterpret_cast<sum_t*>(shared) + warp * 16 * kPitch, at, lane);
}
