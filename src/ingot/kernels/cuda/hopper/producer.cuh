// The producer: one warp that fills the stages.

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

struct Maps {
  const tensor_map_t &a, &b, &beside_a, &beside_b;
};

INGOT_INLINE void load_b(const tensor_map_t& map, int channels, unsigned to, unsigned barrier, Position& at, int n,
                         int z) {
#pragma unroll
  for (int i = 0; i < kSlices; ++i, to += kSliceB) {
    const int c = at.r < kTapsH ? at.c : channels, s = kSlide ? i : at.s;
    if (kColumnsInner) {
#pragma unroll
      for (int j = 0; j < kTileN / 64; ++j) load_tile(to + j * kSlice * 128, map, barrier, n + j * 64, c, z);
    } else if (kDealt) {
      load_tile(to, map, barrier, (at.r * kTapsW + s) * kTapStep + c, 0, 0, 0, n / kChunk);
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
    if (!kSlide || i == kSlices - 1) advance(at, channels);
  }
}

INGOT_INLINE Position beside_position(const Problem& p, int step) { return {(step - p.first) * kSlices * kSlice, 0, 0}; }

// B of one step, which may be the second product's.
INGOT_INLINE void load_b(const Maps& maps, const Problem& p, int step, unsigned to, unsigned barrier, Position& at, int n,
                         int z) {
  if (kBeside && step >= p.first) {
    Position there = beside_position(p, step);
    load_b(maps.beside_b, p.beside, to, barrier, there, n, z);
  } else {
    load_b(maps.b, p.channels, to, barrier, at, n, z);
  }
}

template <bool kPixels>
INGOT_INLINE void load_a(const tensor_map_t& map, int channels, unsigned base, int stage, Position& at,
                         const Place& place, int w, int h, int image) {
  const unsigned barrier = full_barrier(base, stage);
  unsigned to = base + stage * kStageBytes;
#pragma unroll
  for (int i = 0; i < kSlicesA; ++i, to += kSliceA) {
    const bool inside = at.r < kTapsH;
    const int c = inside ? at.c : channels;
    if (kPixels)
      load_pixels(to, map, barrier, c, w, h, image, inside ? at.s * kDilationW : 0, inside ? at.r * kDilationH : 0);
    else
      load_tile(to, map, barrier, c, place.row, kBatchA ? place.z : 0);
    advance(at, channels);
  }
}

INGOT_INLINE void produce(const Maps& maps, const Problem& p, unsigned base) {
  const int lane = threadIdx.x;
  const int total = tiles_of(p), stride = gridDim.x / kBlocks;
  int tile = blockIdx.x / kBlocks, stage = 0, early = 0;
  unsigned phase = 1;  // the stages are empty from the start
  if (lane == 0) {
    map_prefetch(maps.a);
    map_prefetch(maps.b);
    if (kBeside) {
      map_prefetch(maps.beside_a);
      map_prefetch(maps.beside_b);
    }
  }
  if (kKeep > 0 && tile < total) {
    if (!kEarlyB) pdl_wait();
    if (lane == 0) {
      const Place place = place_of(p, tile);
      Position at = start_of(p);
      barrier_expect(kept_barrier(base), kKeep * kStepB);
      for (int i = 0; i < kKeep; ++i)
        load_b(maps, p, i, base + kOffsetKept + i * kStepB, kept_barrier(base), at, place.col, kBatchB ? place.z : 0);
    }
  } else if (kEarlyB && tile < total) {  // weights do not depend on earlier kernels
    early = p.steps < kStages ? p.steps : kStages;
    if (lane == 0) {
      const Place place = place_of(p, tile);
      Position at = start_of(p);
      for (int i = 0; i < early; ++i) {
        barrier_expect(full_barrier(base, i), kLoadBytes);
        load_b(maps, p, i, base + i * kStageBytes + kOffsetB, full_barrier(base, i), at, place.col,
               kBatchB ? place.z : 0);
      }
    }
  }
  pdl_wait();
  for (; tile < total; tile += stride) {
    const Place place = place_of(p, tile);
    if (lane == 0) {
      int w = 0, h = 0, image = 0;
      if (kGather || kBesideGather) {
        w = place.row % p.width;
        const int line = place.row / p.width;
        h = line % p.height;
        image = line / p.height;
      }
      Position at_a = start_of(p), at_b = at_a;
      for (int step = 0; step < p.steps; ++step) {
        if (step < early) {
          for (int i = 0; i < kSlicesA; ++i) advance(at_b, p.channels);
        } else {
          barrier_wait(empty_barrier(base, stage), phase);
          barrier_expect(full_barrier(base, stage), kLoadBytes);
          if (kKeep == 0)
            load_b(maps, p, step, base + stage * kStageBytes + kOffsetB, full_barrier(base, stage), at_b, place.col,
                   kBatchB ? place.z : 0);
        }
        if (kBeside && step >= p.first) {
          Position there = beside_position(p, step);
          load_a<kBesideGather>(maps.beside_a, p.beside, base, stage, there, place, w * kBesideStrideW,
                                h * kBesideStrideH, image);
        } else {
          load_a<kGather>(maps.a, p.channels, base, stage, at_a, place, w * kStrideW - kPadW, h * kStrideH - kPadH,
                          image);
        }
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
