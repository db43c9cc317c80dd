// Shares of the depth: every block of the cluster leaves its sums in its own shared memory, then adds up and finishes
// its part of the tile's chunks, in the order of the shares, so that the result is the same every time.
constexpr int kSumPitch = kTileN + 8;
constexpr int kPieces = kTileM / 16 * kChunksWide;
constexpr int kOwnPieces = (kPieces + kSplit * 4 * kGroups - 1) / (kSplit * 4 * kGroups);
constexpr bool kColumnsEarly = kOwnPieces * (int)sizeof(Epilogue::Columns) / 4 <= 48;  // few enough to be held
static_assert(kSplit == 1 || kTileM * kSumPitch * 4 <= kOffsetStaging, "sums lie where the stages were");

INGOT_INLINE void consume_share(const Problem& p, const Epilogue& epilogue, unsigned base, unsigned char* shared,
                                int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int first = (int)cluster_rank() + kSplit * (group * 4 + warp);
  const Place place = place_of(p, blockIdx.x / kBlocks);
  Accumulators acc;  // of one product: a share has no second one
  Epilogue::Fetched held[kOwnPieces][kPasses];
  Epilogue::Columns columns[kColumnsEarly ? kOwnPieces : 1];
  pdl_wait();
#pragma unroll
  for (int i = 0; i < kOwnPieces; ++i) {
    const int piece = first + i * kSplit * 4 * kGroups;
    if (kColumnsEarly && piece < kPieces)
      epilogue.columns(columns[i % (sizeof(columns) / sizeof(columns[0]))],
                       place.col + piece % kChunksWide * kChunk + lane % kLanes * 8, place.z);
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
  sum_t* sums = reinterpret_cast<sum_t*>(shared);
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
#pragma unroll
    for (int j = 0; j < kTileN / 8; ++j) {
      const sum_t* d = &acc[0][u][j * 4];
      sum_t* to = sums + ((group * kUnits + u) * 64 + warp * 16 + lane / 4) * kSumPitch + j * 8 + lane % 4 * 2;
      store_vec<2>(to, pair_t{{d[0], d[1]}});
      store_vec<2>(to + 8 * kSumPitch, pair_t{{d[2], d[3]}});
    }
  cluster_sync();
#pragma unroll
  for (int i = 0; i < kOwnPieces; ++i) {
    const int piece = first + i * kSplit * 4 * kGroups;
    if (piece >= kPieces) continue;
    const int col = piece % kChunksWide * kChunk + lane % kLanes * 8;
    Epilogue::Columns& own = columns[i % (sizeof(columns) / sizeof(columns[0]))];
    if (!kColumnsEarly) epilogue.columns(own, place.col + col, place.z);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int row = piece / kChunksWide * 16 + pass * kPassRows + lane / kLanes;
      sum_t values[kLaneColumns] = {};  // eight: what is shared is never dealt out
#pragma unroll
      for (int rank = 0; rank < kSplit; ++rank) add_shared(reinterpret_cast<sum_t(&)[8]>(values), base + (row * kSumPitch + col) * 4, rank);
      epilogue.finish(held[i][pass], own, values, place.row + row, place.col + col, place.z);
    }
  }
  cluster_sync();  // the others may still read this block's sums
}
