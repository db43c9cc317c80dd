// A product of few rows. kLanes threads share the depth of the same columns; what each of them needs of the weights is on
// its way before the kernel waits for A. Sums go from lane to lane, then through shared memory.

constexpr int kGroups = kThreads / kLanes;             // threads side by side along the columns
constexpr int kPieces = kAcross ? 1 : kColumns;        // accesses to B for one part of the depth
constexpr int kSpan = kAcross ? kWidthB : kColumns;    // columns of a thread
constexpr int kStep = kAcross ? 1 : kWidthB;           // depth of one access
constexpr int kBlockCols = kGroups * kSpan;
constexpr int kBeside = kAcross ? kGroups : 1;         // threads from one to the next along the depth
constexpr int kInWarp = kAcross ? 32 / kGroups : (kLanes < 32 ? kLanes : 32);  // of a column's threads, those of one warp
constexpr int kParts = kLanes / kInWarp;
constexpr int kTiles = (kCols + kBlockCols - 1) / kBlockCols;
constexpr int kResults = kRows * kBlockCols;
constexpr int kEach = (kResults + kThreads - 1) / kThreads;  // results that a thread finishes
constexpr int kChunk = kHeld * kLanes * kStep;
static_assert(!kAcross || kGroups <= 32, "a warp holds every group");

typedef vec_t<b_t, kWidthB> piece_t;
typedef piece_t Held[kHeld][kPieces];

INGOT_INLINE void fetch(Held& held, const b_t* const (&from)[kPieces], const Operands& o, int begin, int depth) {
#pragma unroll
  for (int s = 0; s < kHeld; ++s) {
    const int at = begin + s * kLanes * kStep;
#pragma unroll
    for (int c = 0; c < kPieces; ++c) {
      held[s][c] = piece_t{};
      if (at < depth) held[s][c] = load_vec<kWidthB>(from[c] + o.b_depth(at));
    }
  }
}

INGOT_INLINE void multiply(float (&sums)[kRows][kSpan], const Held& held, const a_t* const (&rows)[kRows],
                           const Operands& o, int begin, int depth) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float a[kHeld][kStep];
#pragma unroll
    for (int s = 0; s < kHeld; ++s) {
      const int at = begin + s * kLanes * kStep;
#pragma unroll
      for (int j = 0; j < kStep; j += kWidthA) {
        vec_t<a_t, kWidthA> piece{};
        if (at < depth) piece = load_vec<kWidthA>(rows[r] + o.a_depth(at + j));
#pragma unroll
        for (int i = 0; i < kWidthA; ++i) a[s][j + i] = (float)piece.v[i];
      }
    }
#pragma unroll
    for (int s = 0; s < kHeld; ++s)
#pragma unroll
      for (int c = 0; c < kPieces; ++c)
#pragma unroll
        for (int j = 0; j < kWidthB; ++j) {
          const float b = (float)held[s][c].v[j];
          if (kAcross)
            sums[r][j] = fmaf(a[s][0], b, sums[r][j]);
          else
            sums[r][c] = fmaf(a[s][j], b, sums[r][c]);
        }
  }
}

INGOT_INLINE void product(const Operands& o, const Epilogue& epilogue, int depth) {
  __shared__ float parts[kParts][kRows][kBlockCols];
  const int thread = (int)threadIdx.x, z = (int)blockIdx.x / kTiles, first = (int)blockIdx.x % kTiles * kBlockCols;
  const int group = kAcross ? thread % kGroups : thread / kLanes;
  const int lane = kAcross ? thread / kGroups : thread % kLanes;
  const b_t* from[kPieces];
#pragma unroll
  for (int c = 0; c < kPieces; ++c) {
    // Columns behind the last one repeat it, and are not stored.
    const int col = first + group * kSpan + c, last = kCols - (kAcross ? kSpan : 1);
    from[c] = o.b_col(col < last ? col : last, z);
  }
  int begin = lane * kStep;
  Held held;
  if (kConstant) fetch(held, from, o, begin, depth);
  pdl_wait();
  pdl_trigger();
  if (!kConstant) fetch(held, from, o, begin, depth);
  Epilogue::Columns columns[kEach];
  Epilogue::Fetched fetched[kEach];
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int i = thread + e * kThreads;
    if (kResults % kThreads == 0 || i < kResults) {
      epilogue.columns(columns[e], first + i % kBlockCols, z);
      epilogue.fetch(fetched[e], i / kBlockCols, first + i % kBlockCols, z);
    }
  }
  const a_t* rows[kRows];
  float sums[kRows][kSpan];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    rows[r] = o.a_row(r, z);
#pragma unroll
    for (int c = 0; c < kSpan; ++c) sums[r][c] = 0.0f;
  }
  multiply(sums, held, rows, o, begin, depth);
  for (int done = kChunk; done < depth; done += kChunk) {
    begin += kChunk;
    fetch(held, from, o, begin, depth);
    multiply(sums, held, rows, o, begin, depth);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int c = 0; c < kSpan; ++c) {
      float x = sums[r][c];
#pragma unroll
      for (int step = kInWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step * kBeside);
      if (lane % kInWarp == 0) parts[lane / kInWarp][r][group * kSpan + c] = x;
    }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int i = thread + e * kThreads;
    if (kResults % kThreads == 0 || i < kResults) {
      sum_t total[1] = {0.0f};
#pragma unroll
      for (int part = 0; part < kParts; ++part) total[0] += parts[part][i / kBlockCols][i % kBlockCols];
      epilogue.finish(fetched[e], columns[e], total, i / kBlockCols, first + i % kBlockCols, z);
    }
  }
}
