// A convolution of bytes over few channels, out of an image in shared memory.
//
// A block copies the pixels that its results see once, in pieces of 16 bytes, and those for its next results while it
// multiplies. A row of a matrix that ldmatrix reads is one piece: of eight results side by side these are eight pixels, and
// the next tap's are a pixel further. So no gathered matrix is written anywhere. The depth runs over taps, then pieces of a pixel; two pieces make a fragment.
//
// A warp multiplies sixteen results of one row at a time with weights that stay in its registers, which hold channels in
// such an order that a lane's results for one pixel lie side by side. Where all channels are too many for that, every
// second warp has the other half of them.

constexpr int kThreads = 32 * kWarps;
constexpr int kOwn = kOutputs / kParts;
constexpr int kTilesN = kOwn / 8;
constexpr int kLaneColumns = 2 * kTilesN;
constexpr int kUnits = kTapsH * kTapsW * kPieces;
constexpr int kSteps = (kUnits + 1) / 2;
constexpr int kImageRows = (kRows - 1) * kStrideH + kTapsH;
constexpr int kImagePixels = (16 * kWide - 1) * kStrideW + kTapsW;
constexpr int kImageUnits = kImageRows * kImagePixels * kPieces;
// Pieces change places within eight of them, so that those of eight results lie in banks of their own.
constexpr unsigned kSwap = kStrideW * kPieces - 1;

typedef unsigned Weights[kSteps][kTilesN][2];

INGOT_INLINE unsigned place_of(unsigned unit) { return (unit ^ (unit >> 3 & kSwap)) * 16; }

// Piece i of a window, counted in the image from the first one.
INGOT_MEMBER constexpr int unit_of(int i) {
  return (i / kPieces / kTapsW * kImagePixels + i / kPieces % kTapsW) * kPieces + i % kPieces;
}

// Column q of eights j of the product is the channel that lane q / 2 of a quad holds there.
INGOT_INLINE void read_weights(Weights& to, const signed char* from, int lane) {
  const int q = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2 * kSteps; ++i)
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
      const int channel = q / 2 * kLaneColumns + 2 * j + q % 2, tap = i / kPieces;
      const signed char* at = from + channel * kWeightStep + tap / kTapsW * kWeightH + tap % kTapsW * kWeightW;
      to[i / 2][j][i % 2] = i < kUnits ? *reinterpret_cast<const unsigned*>(at + i % kPieces * 16 + 4 * t) : 0u;
    }
}

INGOT_INLINE void read_image(unsigned to, const byte_t* from, int first_row, int first_col) {
  for (int i = threadIdx.x; i < kImageUnits; i += kThreads) {
    const int pixel = i / kPieces, y = first_row * kStrideH - kPadH + pixel / kImagePixels;
    const int x = first_col * kStrideW - kPadW + pixel % kImagePixels;
    const bool inside = y >= 0 && y < kHeight && x >= 0 && x < kWidth;
    copy_async<16>(to + place_of(i), inside ? from + y * kRowStep + x * kColumnStep + i % kPieces * 16 : from, inside);
  }
}

// Part ``index`` of all results.
struct Part {
  int number, first_row, first_col;
};
INGOT_INLINE Part part_of(int index) {
  return {index / (kBlocksWide * kBlocksHigh), index / kBlocksWide % kBlocksHigh * kRows,
          index % kBlocksWide * (16 * kWide)};
}

template <class E>
INGOT_INLINE void multiply_part(const Part& at, unsigned base, const Weights& weights, const E& epilogue,
                                const typename E::Columns& columns, int col) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int number = at.number, first_row = at.first_row, first_col = at.first_col;
  const int half = lane / 16, pixel = lane % 16 * kStrideW * kPieces;
  for (int tile = warp / kParts; tile < kRows * kWide; tile += kWarps / kParts) {
    const int y = first_row + tile / kWide, x = first_col + tile % kWide * 16 + lane / 4;
    const int row = (number * kOutHeight + y) * kOutWidth + x;
    typename E::Fetched fetched[2];
    const bool inside[2] = {y < kOutHeight && x < kOutWidth, y < kOutHeight && x + 8 < kOutWidth};
#pragma unroll
    for (int pass = 0; pass < 2; ++pass)
      if (inside[pass]) epilogue.fetch(fetched[pass], row + 8 * pass, col, 0);
    sum_t sums[kTilesN][4];
#pragma unroll
    for (int i = 0; i < kTilesN * 4; ++i) sums[i / 4][i % 4] = 0;
    const int first = (tile / kWide * kStrideH * kImagePixels + tile % kWide * 16 * kStrideW) * kPieces + pixel;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int second = unit_of(2 * s + 1 < kUnits ? 2 * s + 1 : 2 * s);  // past the window: beside weights of zero
      unsigned a[4];
      load_matrices(a, base + place_of(first + (half ? second : unit_of(2 * s))));
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) multiply(sums[j], a, weights[s][j]);
    }
#pragma unroll
    for (int pass = 0; pass < 2; ++pass) {
      if (!inside[pass]) continue;
      sum_t values[kLaneColumns];
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) values[i] = sums[i / 2][pass * 2 + i % 2];
      epilogue.finish(fetched[pass], columns, values, row + 8 * pass, col, 0);
    }
  }
}

// ``parts`` in all, of which a block takes every ``blocks``-th.
template <class E>
INGOT_INLINE void convolve(const byte_t* image, const signed char* from, const E& epilogue, long long step, int parts,
                           int blocks) {
  INGOT_DYNAMIC_SHARED(unsigned char, memory);
  const unsigned base = shared_address(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int own = warp % kParts * kOwn, col = own + lane % 4 * kLaneColumns;
  Weights weights;
  read_weights(weights, from + own * kWeightStep, lane);  // they do not depend on earlier kernels
  typename E::Columns columns;
  epilogue.columns(columns, col, 0);
  pdl_wait();
  Part at = part_of(blockIdx.x);
  read_image(base, image + at.number * step, at.first_row, at.first_col);
  copies_commit();
  for (int index = blockIdx.x, turn = 0; index < parts; index += blocks, turn ^= 1) {
    const Part next = part_of(index + blocks);
    if (index + blocks < parts) {
      read_image(base + (turn ^ 1) * kImageBytes, image + next.number * step, next.first_row, next.first_col);
    } else {
      pdl_trigger();
    }
    copies_commit();
    copies_wait<1>();  // all but what was asked for just now
    __syncthreads();
    multiply_part(at, base + turn * kImageBytes, weights, epilogue, columns, col);
    __syncthreads();  // before the next turn writes where this one read
    at = next;
  }
}
