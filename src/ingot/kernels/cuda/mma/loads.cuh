// From memory to shared memory, in pieces of 16 bytes, each read by one access or several narrower ones.
//
// A stage holds kTileM rows of A, then kTileN columns of B, kRowBytes of the depth each; or, where B's columns are
// contiguous (kAcross), kTileK rows of kTileN columns. Pieces of a row change places so that neither the eight rows of a
// matrix nor the pieces of a store meet in a bank.

constexpr int kPiece = 16 / kItem;  // elements
constexpr int kTileK = kRowBytes / kItem;
constexpr int kThreads = 32 * kWarpsM * kWarpsN;
constexpr int kRowPieces = kRowBytes / 16;
constexpr int kRowsB = kAcross ? kTileK : kTileN;
constexpr int kRowPiecesB = kAcross ? kTileN / kPiece : kRowPieces;
constexpr int kBytesA = kTileM * kRowBytes;
constexpr int kBytesB = kTileN * kRowBytes;
constexpr int kStageBytes = kBytesA + kBytesB;
constexpr int kStepA = kThreads / kRowPieces;  // rows that the block's threads take at once
constexpr int kStepB = kThreads / kRowPiecesB;
constexpr int kLoadsA = (kTileM + kStepA - 1) / kStepA;
constexpr int kLoadsB = (kRowsB + kStepB - 1) / kStepB;
constexpr int kPartsA = kPiece / kWidthA;  // accesses for a piece
constexpr int kPartsB = kPiece / kWidthB;
constexpr int kOutside = -(1 << 29);
static_assert(kAsync || kStages == 2, "through registers go two stages");
static_assert(kThreads % kRowPieces == 0 && kThreads % kRowPiecesB == 0, "a thread stays with one piece of its rows");

struct Problem {
  int rows, steps;              // steps of the depth for all blocks that share it
  int tiles_m, tiles_n, batch;
  int channels, depth;          // elements of one tap, of all taps
  int height, width;            // of the input of a gathered convolution
};

// Byte of a piece in shared memory.
template <int kPieces> INGOT_INLINE int swap_of(int row) {
  return kPieces >= 8 ? row % 8 : row / (8 / kPieces) % kPieces;
}
template <int kPieces> INGOT_INLINE int place_of_piece(int row, int piece) {
  return row * kPieces * 16 + ((piece ^ swap_of<kPieces>(row)) << 4);
}

template <int kBytes> struct part_of { typedef vec_t<unsigned, kBytes / 4> type; };
template <> struct part_of<1> { typedef unsigned char type; };
template <> struct part_of<2> { typedef unsigned short type; };

template <int kWidth> union Piece {
  unsigned words[4];
  typename part_of<kWidth * kItem>::type parts[kPiece / kWidth];
};

// An element of the depth: its tap and channel.
struct Depth {
  int tap_h, tap_w, channel;
  bool inside;
};
INGOT_INLINE Depth depth_at(const Problem& p, int k) {
  Depth at;
  at.inside = k < p.depth;
  at.channel = k;
  at.tap_h = at.tap_w = 0;
  if (kTapsH * kTapsW > 1) {
    const int tap = k / p.channels;
    at.channel = k - tap * p.channels;
    at.tap_h = tap / kTapsW;
    at.tap_w = tap - at.tap_h * kTapsW;
  }
  return at;
}

// What a thread reads: one piece of several rows of A, one piece of several columns (or elements of the depth) of B.
struct Reader {
  const a_t* a[kLoadsA];
  int h[kLoadsA], w[kLoadsA];  // pixel of the first tap; h is kOutside where there is no row
  const b_t* b[kAcross ? 1 : kLoadsB];
  bool column[kAcross ? kPartsB : kLoadsB];
};

INGOT_INLINE void start(Reader& r, const Problem& p, const Operands& o, int row, int col, int z) {
  const int tid = threadIdx.x;
#pragma unroll
  for (int i = 0; i < kLoadsA; ++i) {
    const int own = tid / kRowPieces + i * kStepA, at = row + own;
    const bool inside = own < kTileM && at < p.rows;
    r.h[i] = r.w[i] = 0;
    r.a[i] = o.a_row(inside ? at : 0, z, r.h[i], r.w[i]);
    if (!inside) r.h[i] = kOutside;
  }
  if (kAcross) {
    const int first = col + tid % kRowPiecesB * kPiece;
    r.b[0] = o.b_col(0, z);
#pragma unroll
    for (int j = 0; j < kPartsB; ++j) r.column[j] = first + j * kWidthB < kCols;
  } else {
#pragma unroll
    for (int i = 0; i < kLoadsB; ++i) {
      const int own = tid / kRowPieces + i * kStepB;
      r.column[i] = own < kTileN && col + own < kCols;
      r.b[i] = o.b_col(r.column[i] ? col + own : 0, z);
    }
  }
}

INGOT_INLINE bool reads(const Reader& r, const Problem& p, const Depth& at, int i) {
  if (!kGather) return at.inside && r.h[i] >= 0;
  return at.inside && (unsigned)(r.h[i] + at.tap_h * kDilationH) < (unsigned)p.height &&
         (unsigned)(r.w[i] + at.tap_w * kDilationW) < (unsigned)p.width;
}

// Calls take(i, j, address, inside) for every access of A: part j of the thread's piece of its i-th row.
template <typename Take>
INGOT_INLINE void each_of_a(const Reader& r, const Problem& p, const Operands& o, int step, const Take& take) {
  const int k = step * kTileK + threadIdx.x % kRowPieces * kPiece;
#pragma unroll
  for (int j = 0; j < kPartsA; ++j) {
    const Depth at = depth_at(p, k + j * kWidthA);
    const long long offset = o.a_depth(at.tap_h, at.tap_w, at.channel);
#pragma unroll
    for (int i = 0; i < kLoadsA; ++i) take(i, j, r.a[i] + offset, reads(r, p, at, i));
  }
}

template <typename Take>
INGOT_INLINE void each_of_b(const Reader& r, const Problem& p, const Operands& o, int step, int col, const Take& take) {
  const int tid = threadIdx.x;
  if (kAcross) {
#pragma unroll
    for (int i = 0; i < kLoadsB; ++i) {
      const int own = tid / kRowPiecesB + i * kStepB;
      const Depth at = depth_at(p, step * kTileK + own);
      const b_t* line = r.b[0] + o.b_depth(at.tap_h, at.tap_w, at.channel) + (col + tid % kRowPiecesB * kPiece);
#pragma unroll
      for (int j = 0; j < kPartsB; ++j)
        take(i, j, line + j * kWidthB, at.inside && own < kTileK && r.column[j]);
    }
    return;
  }
  const int k = step * kTileK + tid % kRowPieces * kPiece;
#pragma unroll
  for (int j = 0; j < kPartsB; ++j) {
    const Depth at = depth_at(p, k + j * kWidthB);
    const long long offset = o.b_depth(at.tap_h, at.tap_w, at.channel);
#pragma unroll
    for (int i = 0; i < kLoadsB; ++i) take(i, j, r.b[i] + offset, at.inside && r.column[i]);
  }
}

template <int kPieces> INGOT_INLINE int place_of_load(int i, int step) {
  return place_of_piece<kPieces>(threadIdx.x / kPieces + i * step, threadIdx.x % kPieces);
}

// ---- through registers: fetched while the stage before is multiplied, then stored

struct Held {
  Piece<kWidthA> a[kLoadsA];
  Piece<kWidthB> b[kLoadsB];
};

template <int kWidth, typename T> INGOT_INLINE void load_part(Piece<kWidth>& to, int j, const T* from, bool inside) {
  typedef typename part_of<kWidth * kItem>::type part_t;
  if (inside) to.parts[j] = *reinterpret_cast<const part_t*>(from);
}
template <int kWidth> INGOT_INLINE void store_piece(const Piece<kWidth>& piece, unsigned char* to) {
  store_vec<4>(reinterpret_cast<unsigned*>(to),
               vec_t<unsigned, 4>{{piece.words[0], piece.words[1], piece.words[2], piece.words[3]}});
}

INGOT_INLINE void fetch_a(Held& held, const Reader& r, const Problem& p, const Operands& o, int step) {
#pragma unroll
  for (int i = 0; i < kLoadsA; ++i) held.a[i] = Piece<kWidthA>{};
  each_of_a(r, p, o, step, [&](int i, int j, const a_t* from, bool inside) { load_part(held.a[i], j, from, inside); });
}
INGOT_INLINE void fetch_b(Held& held, const Reader& r, const Problem& p, const Operands& o, int step, int col) {
#pragma unroll
  for (int i = 0; i < kLoadsB; ++i) held.b[i] = Piece<kWidthB>{};
  each_of_b(r, p, o, step, col,
            [&](int i, int j, const b_t* from, bool inside) { load_part(held.b[i], j, from, inside); });
}
INGOT_INLINE void keep_a(const Held& held, unsigned char* stage) {
#pragma unroll
  for (int i = 0; i < kLoadsA; ++i)
    if (kTileM % kStepA == 0 || threadIdx.x / kRowPieces + i * kStepA < kTileM)
      store_piece(held.a[i], stage + place_of_load<kRowPieces>(i, kStepA));
}
INGOT_INLINE void keep_b(const Held& held, unsigned char* stage) {
#pragma unroll
  for (int i = 0; i < kLoadsB; ++i)
    if (kRowsB % kStepB == 0 || threadIdx.x / kRowPiecesB + i * kStepB < kRowsB)
      store_piece(held.b[i], stage + kBytesA + place_of_load<kRowPiecesB>(i, kStepB));
}

// ---- by asynchronous copies, where accesses are wide enough for them

constexpr bool kCopiesA = kAsync && kWidthA * kItem >= 4;
constexpr bool kCopiesB = kAsync && kWidthB * kItem >= 4;

INGOT_INLINE void issue(const Reader& r, const Problem& p, const Operands& o, int step, int col, unsigned char* stage) {
  const unsigned base = shared_address(stage);
  Held held;
  if constexpr (kCopiesA) {
    each_of_a(r, p, o, step, [&](int i, int j, const a_t* from, bool inside) {
      if (kTileM % kStepA == 0 || threadIdx.x / kRowPieces + i * kStepA < kTileM)
        copy_async<kWidthA * kItem>(base + place_of_load<kRowPieces>(i, kStepA) + j * kWidthA * kItem,
                                    inside ? from : o.a_base(), inside);
    });
  } else {
    fetch_a(held, r, p, o, step);
    keep_a(held, stage);
  }
  if constexpr (kCopiesB) {
    each_of_b(r, p, o, step, col, [&](int i, int j, const b_t* from, bool inside) {
      if (kRowsB % kStepB == 0 || threadIdx.x / kRowPiecesB + i * kStepB < kRowsB)
        copy_async<kWidthB * kItem>(base + kBytesA + place_of_load<kRowPiecesB>(i, kStepB) + j * kWidthB * kItem,
                                    inside ? from : o.b_base(), inside);
    });
  } else {
    fetch_b(held, r, p, o, step, col);
    keep_b(held, stage);
  }
}
