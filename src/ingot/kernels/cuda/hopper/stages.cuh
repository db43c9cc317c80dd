// A product A[rows, depth] * B[depth, cols]: one warp fills a ring of stages in shared memory through the copy engine,
// the other warpgroups multiply out of it with wgmma and finish in registers.
//
// Sums are int32 for operands of integers, float32 for others (sum_t).
//
// A stage holds kSlices slices of A, then as many of B. A slice is kSlice elements of the depth: of A kTileM rows, of B
// kTileN rows (or, where B's columns are contiguous, kSlice rows of 64 columns for every 64 of kTileN), permuted as the
// tensor map's swizzle says. The depth of a convolution runs over channels, then taps; slices past its end are zero,
// because the copy engine fills what lies outside of a tensor with zeros.
//
// Sliding (kSlide > 0; stride 1): rows are the positions of the padded input, those at a line's end belong to no result.
// One slice of A serves all taps along the width: the next tap's operand starts kSpread rows further down. The swizzle
// permutes by address bits, so a matrix may start at any row.
//
// Beside (kBeside): the sum of two products of 1 x 1 windows; stages past the first one's depth hold the second's operands.
//
// Keeping (kKeep > 0): all tiles of a block have the same columns, so B's part of all kKeep steps is loaded once and stays;
// stages hold A alone.
//
// Dealt out (kDealt): of every kChunk columns a lane's accumulators are a quarter side by side, for B's columns lie in
// shared memory in that order: the eights of columns that an instruction makes have two of each lane.

constexpr int kRowBytes = kSlice * kItem;
constexpr int kRowsA = kTileM + kSlide;
constexpr int kSlicesA = kSlide ? 1 : kSlices;
constexpr int kSliceA = (kTileM + (kSlide + 7) / 8 * 8) * kRowBytes;
constexpr int kSliceB = kTileN * kRowBytes;
constexpr int kOffsetB = kSlicesA * kSliceA;
constexpr int kStepB = kSlices * kSliceB;
constexpr int kStageBytes = kOffsetB + (kKeep ? 0 : kStepB);
constexpr int kLoadBytes = kSlicesA * kRowsA * kRowBytes + (kKeep ? 0 : kStepB);
constexpr int kSpread = kSlide ? kSlide / (kSlices - 1) : 0;
constexpr int kSteps = kSlices * kRowBytes / 32;  // wgmma takes 32 bytes of the depth
constexpr int kWarpsPerTile = kPing ? 4 : 4 * kGroups;
constexpr int kPitch = kChunk + 8;  // of the staging area, floats: rows start eight banks apart
constexpr int kStaging = 16 * kPitch * 4;
constexpr int kLanes = kDealt ? 4 : kChunk / 8;  // lanes that share a row when results are stored
constexpr int kLaneColumns = kChunk / kLanes;
constexpr int kPassRows = 32 / kLanes;
constexpr int kPasses = 16 / kPassRows;
constexpr int kOffsetKept = kStages * kStageBytes;
constexpr int kOffsetStaging = kOffsetKept + kKeep * kStepB;
constexpr int kOffsetBarriers = kOffsetStaging + (kSplit > 1 || kDealt ? 0 : 4 * kGroups * kStaging);
constexpr int kBlocks = kCluster * kSplit;  // of a cluster: neighbours along the rows, or shares of one tile's depth

struct Problem {
  int rows, channels, steps;    // steps of all shares
  int tiles_m, tiles_n, batch;  // tiles_m counts clusters
  int height, width;            // of the output, where A is gathered
  int begin;                    // this block's first step
  int first, beside;            // steps of the first product and depth of the second, where there are two
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
INGOT_INLINE unsigned kept_barrier(unsigned base) { return turn_barrier(base, 2); }

typedef vec_t<sum_t, 2> pair_t;

// Adds eight sums at the same address of another block's shared memory.
INGOT_INLINE void add_shared(sum_t (&to)[8], unsigned at, unsigned rank) {
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    union {
      unsigned bits[4];
      sum_t sums[4];
    } x;
    asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.bits[0]), "=r"(x.bits[1]), "=r"(x.bits[2]), "=r"(x.bits[3])
                 : "r"(there + 4 * i)
                 : "memory");
#pragma unroll
    for (int j = 0; j < 4; ++j) to[i + j] += x.sums[j];
  }
}
