// Two products in a row: Y = f(X * V + residual), Z = g(Y * W), rows by rows, Y never read back from memory. X * V may be
// the sum of two products: the first kOwn of the depth's kDepth slices are then of one, the others of the one beside it.
//
// A warpgroup of the consumers owns kUnits times 64 rows of a tile. It makes Y in chunks of 64 columns: the sums of
// X * V lie in registers, the residual's chunk comes through the copy engine into a slot of shared memory, the result
// goes back into that slot, from where the copy engine stores it, and as a 16-bit operand in registers straight into
// the second product, whose sums stay in registers until all chunks are done. Z leaves through the same slots.
//
// The producer's warps: one for each warpgroup of consumers brings X and the residual, the last one the weights, chunk
// by chunk: a piece of V, 64 rows of all the depth, then a piece of W, 64 columns. With kKept all pieces stay.

constexpr int kBox = 64 * 128;  // 64 rows of 64 elements, permuted within 128 bytes
constexpr int kBytesV = kDepth * kBox;
constexpr int kBytesW = kNarrow * 128;
constexpr int kBytesPiece = kBytesV > kBytesW ? kBytesV : kBytesW;
constexpr int kBytesX = kUnits * kDepth * kBox;
constexpr int kOffsetX = kPieces % 2 ? kPieces * kBytesPiece : kPieces / 2 * (kBytesV + kBytesW);
constexpr int kOffsetSlots = kOffsetX + kGroups * kImages * kBytesX;
constexpr int kOffsetBarriers = kOffsetSlots + kGroups * kSlots * kBox;
constexpr int kBoxes = (kNarrow + 63) / 64;  // of Z
constexpr bool kSlotted = kResidual || kStored;
constexpr int kLag = kStored ? (kSlots > 5 ? 2 : 1) : 0;  // stores that may be under way when a slot is handed back

struct Problem {
  int parts;  // times 64 kUnits rows; each warpgroup works on one at a time
};

struct Ring {
  int at;
  unsigned phase;
};
template <int kCount> INGOT_INLINE void advance(Ring& ring) {
  if (++ring.at == kCount) {
    ring.at = 0;
    ring.phase ^= 1;
  }
}

INGOT_INLINE unsigned barrier_at(unsigned base, int number) { return base + kOffsetBarriers + 8 * number; }
INGOT_INLINE unsigned piece_full(unsigned base, int i) { return barrier_at(base, i); }
INGOT_INLINE unsigned piece_empty(unsigned base, int i) { return barrier_at(base, kPieces + i); }
INGOT_INLINE unsigned image_full(unsigned base, int group, int i) {
  return barrier_at(base, 2 * kPieces + group * kImages + i);
}
INGOT_INLINE unsigned image_empty(unsigned base, int group, int i) {
  return barrier_at(base, 2 * kPieces + (kGroups + group) * kImages + i);
}
INGOT_INLINE unsigned slot_full(unsigned base, int group, int i) {
  return barrier_at(base, 2 * kPieces + 2 * kGroups * kImages + group * kSlots + i);
}
INGOT_INLINE unsigned slot_empty(unsigned base, int group, int i) {
  return barrier_at(base, 2 * kPieces + 2 * kGroups * kImages + (kGroups + group) * kSlots + i);
}
// With an odd number of pieces a place holds V's and W's in turn.
INGOT_INLINE unsigned piece_place(unsigned base, int i) {
  return base + (kPieces % 2 ? i * kBytesPiece : (i >> 1) * (kBytesV + kBytesW) + (i & 1) * kBytesV);
}
INGOT_INLINE unsigned image_place(unsigned base, int group, int i) {
  return base + kOffsetX + (group * kImages + i) * kBytesX;
}
INGOT_INLINE unsigned slot_place(unsigned base, int group, int i) {
  return base + kOffsetSlots + (group * kSlots + i) * kBox;
}

// Parts are dealt out to the first warpgroups of all blocks, then to the second ones, so that the last round finds work for
// all blocks if it can. A block has as many rounds as its cluster's first one; in the last one a warpgroup may be idle.
INGOT_INLINE int round_parts() { return gridDim.x * kGroups; }
INGOT_INLINE bool has_round(const Problem& p, int start) {
  return start + (int)blockIdx.x - (kCluster > 1 ? (int)cluster_rank() : 0) < p.parts;
}
INGOT_INLINE int part_of(int start, int group) { return start + group * gridDim.x + blockIdx.x; }

// ---- the producer, one lane of each of its warps

struct Maps {
  const tensor_map_t &x, &v, &beside_x, &beside_v, &w, &residual, &wide, &narrow;
};

INGOT_INLINE void bring_rows(const Maps& maps, const Problem& p, unsigned base, int group) {
  Ring image = {0, 1}, slot = {0, 1};  // everything is empty from the start
  const unsigned long long policy = kHints ? passing_through() : 0;
  map_prefetch(maps.x);
  pdl_wait();
  for (int start = 0; part_of(start, group) < p.parts; start += round_parts()) {
    const int row = part_of(start, group) * kUnits * 64;
    const unsigned full = image_full(base, group, image.at);
    barrier_wait(image_empty(base, group, image.at), image.phase);
    barrier_expect(full, kBytesX);
    for (int u = 0; u < kUnits; ++u)
      for (int d = 0; d < kDepth; ++d)
        load_tile(image_place(base, group, image.at) + (u * kDepth + d) * kBox, d < kOwn ? maps.x : maps.beside_x, full,
                  (d < kOwn ? d : d - kOwn) * 64, row + u * 64, 0);
    advance<kImages>(image);
    for (int i = 0; i < (kSlotted ? kChunks * kUnits : 0) + kUnits * kBoxes; ++i) {
      const unsigned ready = slot_full(base, group, slot.at);
      barrier_wait(slot_empty(base, group, slot.at), slot.phase);
      if (kResidual && i < kChunks * kUnits) {
        barrier_expect(ready, kBox);
        const int col = i / kUnits * 64, at = row + i % kUnits * 64;
        if (kHints)
          load_tile(slot_place(base, group, slot.at), maps.residual, ready, col, at, 0, policy);
        else
          load_tile(slot_place(base, group, slot.at), maps.residual, ready, col, at, 0);
      } else {
        barrier_arrive(ready);
      }
      advance<kSlots>(slot);
    }
  }
}

INGOT_INLINE void bring_weights(const Maps& maps, const Problem& p, unsigned base) {
  Ring piece = {0, 1};
  map_prefetch(maps.v);
  map_prefetch(maps.w);
  const int rank = kCluster > 1 ? (int)cluster_rank() : 0, part = 64 / kCluster, columns = kNarrow / kCluster;
  const unsigned short all = (1 << kCluster) - 1;
  for (int start = 0; has_round(p, start) && (start == 0 || !kKept); start += round_parts()) {
    for (int i = 0; i < 2 * kChunks; ++i) {
      const unsigned full = piece_full(base, piece.at), to = piece_place(base, piece.at);
      const int c = i / 2 * 64;
      barrier_wait(piece_empty(base, piece.at), piece.phase);
      barrier_expect(full, i % 2 ? kBytesW : kBytesV);
      if (i % 2 && kCluster > 1) {
        load_tile_shared(to + rank * columns * 128, maps.w, full, c, rank * columns, 0, all);
      } else if (i % 2) {
        load_tile(to, maps.w, full, c, 0, 0);
      } else {
        for (int d = 0; d < kDepth; ++d) {
          const tensor_map_t& v = d < kOwn ? maps.v : maps.beside_v;
          const int first = (d < kOwn ? d : d - kOwn) * 64;
          if (kCluster > 1)
            load_tile_shared(to + d * kBox + rank * part * 128, v, full, first, c + rank * part, 0, all);
          else
            load_tile(to + d * kBox, v, full, first, c, 0);
        }
      }
      advance<kPieces>(piece);
    }
  }
}

// ---- the consumers

INGOT_INLINE unsigned long long descriptor(unsigned address) {  // rows of 128 bytes, eight of them a pattern
  return 1ull << 62 | (unsigned long long)(1024 >> 4) << 32 | (unsigned long long)(16 >> 4) << 16 |
         (unsigned long long)((address & 0x3ffff) >> 4);
}
// Where a step of 16 elements of the depth begins.
INGOT_INLINE unsigned depth_offset(int step) { return step / 4 * kBox + step % 4 * 32; }

INGOT_INLINE void release_piece(unsigned base, int piece, int lane) {
  if (kKept || lane != 0) return;
  if (kCluster == 1) {
    barrier_arrive(piece_empty(base, piece));
  } else {
#pragma unroll
    for (int rank = 0; rank < kCluster; ++rank) barrier_arrive_at(piece_empty(base, piece), rank);
  }
}
INGOT_INLINE void await_piece(unsigned base, const Ring& piece) {
  barrier_wait(piece_full(base, piece.at), kKept ? 0 : piece.phase);
}

struct Slots {
  Ring ring;
  int stored;  // slots handed to the copy engine so far
};

// This warp's 16 rows of a slot are complete: they go to memory, and the slot of kLag stores ago is free again.
INGOT_INLINE void hand_over(const tensor_map_t& map, unsigned base, int group, Slots& slots, unsigned place, int col,
                            int row, int lane, bool passing, unsigned long long policy) {
  fence_copies();
  __syncwarp();
  if (lane == 0) {
    if (passing)
      store_tile(map, place, col, row, policy);
    else
      store_tile(map, place, col, row);
    store_commit();
    store_wait_read<kLag>();
    const int freed = slots.ring.at - kLag;
    if (slots.stored >= kLag) barrier_arrive(slot_empty(base, group, freed < 0 ? freed + kSlots : freed));
  }
  ++slots.stored;
  advance<kSlots>(slots.ring);
}

INGOT_INLINE void consume(const Maps& maps, const Problem& p, const Epilogue& epilogue, unsigned base, int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const unsigned long long policy = kHints ? passing_through() : 0;
  // Eight matrices of eight rows make a slot's 16 rows of this warp: which piece a lane gives the address of.
  const unsigned line = (warp * 16 + (lane & 15)) * 128;
  const int half = lane >> 4, turn = lane & 7, pair = lane % 4 * 2;
  Ring piece = {0, 0}, image = {0, 0};
  Slots slots = {{0, 0}, 0};
  float acc[32], total[kUnits][kNarrow / 2];
  unsigned y[4][4];
  pdl_wait();
  for (int start = 0; has_round(p, start); start += round_parts()) {
    const int part = part_of(start, group), row = part * kUnits * 64;
    if (part >= p.parts) {  // nothing left for this warpgroup, but others of the block wait for the weights
      for (int i = 0; i < (kKept ? 0 : 2 * kChunks); ++i) {
        await_piece(base, piece);
        release_piece(base, piece.at, lane);
        advance<kPieces>(piece);
      }
      continue;
    }
    const unsigned x = image_place(base, group, image.at);
    barrier_wait(image_full(base, group, image.at), image.phase);
    int previous = 0;
    for (int c = 0; c < kChunks; ++c) {
      const Ring v = piece;
      advance<kPieces>(piece);
      const Ring w = piece;
      advance<kPieces>(piece);
      const unsigned v_place = piece_place(base, v.at), w_place = piece_place(base, w.at);
      Epilogue::WideColumns columns;
      epilogue.wide_columns(columns, c * 64 + pair);
      await_piece(base, v);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        pin(acc);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < kSteps; ++k)
          wgmma_wide(acc, descriptor(x + u * kDepth * kBox + depth_offset(k)), descriptor(v_place + depth_offset(k)),
                     k != 0);
        wgmma_commit();
        pin(acc);
        wgmma_wait<0>();  // the second product of the chunk before is done, too
        pin(acc);
        pin(y);
#pragma unroll
        for (int i = 0; i < kUnits; ++i) pin(total[i]);
        if (u == 0 && c > 0) release_piece(base, previous, lane);
        if (u == kUnits - 1) release_piece(base, v.at, lane);
        if (u == kUnits - 1 && c == kChunks - 1 && lane == 0) barrier_arrive(image_empty(base, group, image.at));
        const unsigned place = slot_place(base, group, slots.ring.at);
        if (kSlotted) barrier_wait(slot_full(base, group, slots.ring.at), slots.ring.phase);
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          const unsigned at = place + line + ((2 * t + half ^ turn) << 4);
          unsigned r[4] = {0, 0, 0, 0};
          if (kResidual) load_matrices(r, at);
#pragma unroll
          for (int h = 0; h < 4; ++h) {
            const int j = 2 * t + (h >> 1), first = j * 4 + (h & 1) * 2;
            y[t][h] = packed<kHalf>(epilogue.wide(acc[first], columns, j, 0, half_of(r[h], 0)),
                                    epilogue.wide(acc[first + 1], columns, j, 1, half_of(r[h], 1)));
          }
          if (kStored) store_matrices(at, y[t]);
        }
        if (kStored) {
          hand_over(maps.wide, base, group, slots, place + warp * 2048, c * 64, row + u * 64 + warp * 16, lane, kHints > 1,
                    policy);
        } else if (kSlotted) {
          __syncwarp();
          if (lane == 0) barrier_arrive(slot_empty(base, group, slots.ring.at));
          advance<kSlots>(slots.ring);
        }
        if (u == 0) await_piece(base, w);
        pin(y);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
          wgmma_narrow(total[u], y[t], descriptor(w_place + t * 32), (c | t) != 0);
        wgmma_commit();
      }
      previous = w.at;
    }
    advance<kImages>(image);
    wgmma_wait<0>();
    pin(y);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) pin(total[u]);
    release_piece(base, previous, lane);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int b = 0; b < kBoxes; ++b) {
        const unsigned place = slot_place(base, group, slots.ring.at);
        barrier_wait(slot_full(base, group, slots.ring.at), slots.ring.phase);
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          if (b * 64 + t * 16 >= kNarrow) break;
          Epilogue::NarrowColumns columns;
          epilogue.narrow_columns(columns, b * 64 + t * 16 + pair);
          unsigned z[4];
#pragma unroll
          for (int h = 0; h < 4; ++h) {
            const int first = (b * 8 + 2 * t + (h >> 1)) * 4 + (h & 1) * 2;
            z[h] = packed<kHalf>(epilogue.narrow(total[u][first], columns, h >> 1, 0),
                                 epilogue.narrow(total[u][first + 1], columns, h >> 1, 1));
          }
          store_matrices(place + line + ((2 * t + half ^ turn) << 4), z);
        }
        hand_over(maps.narrow, base, group, slots, place + warp * 2048, b * 64, row + u * 64 + warp * 16, lane, false, 0);
      }
    }
  }
  if (lane == 0) store_wait();
}

INGOT_INLINE void chain(const Maps& maps, const Problem& p, const Epilogue& epilogue) {
  extern __shared__ unsigned char ingot_memory[];
  const unsigned base = (shared_address(ingot_memory) + 1023) & ~1023u;  // where the swizzle's pattern begins
  if (threadIdx.x == 0) {
    for (int i = 0; i < kPieces; ++i) {
      barrier_init(piece_full(base, i), 1);
      barrier_init(piece_empty(base, i), 4 * kGroups * kCluster);
    }
    for (int g = 0; g < kGroups; ++g) {
      for (int i = 0; i < kImages; ++i) {
        barrier_init(image_full(base, g, i), 1);
        barrier_init(image_empty(base, g, i), 4);
      }
      for (int i = 0; i < kSlots; ++i) {
        barrier_init(slot_full(base, g, i), 1);
        barrier_init(slot_empty(base, g, i), 4);
      }
    }
    barrier_init_done();
  }
  if (kCluster > 1)
    cluster_sync();
  else
    __syncthreads();
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == 0) {
    if (kProducerRegisters) registers_down<kProducerRegisters ? kProducerRegisters : 24>();
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) {
      if (warp < kGroups)
        bring_rows(maps, p, base, warp);
      else if (warp == 3)
        bring_weights(maps, p, base);
      if (warp == 0) pdl_trigger();
    }
  } else {
    if (kConsumerRegisters) registers_up<kConsumerRegisters ? kConsumerRegisters : 24>();
    consume(maps, p, epilogue, base, group - 1);
  }
  if (kCluster > 1) {
    __syncwarp();
    cluster_sync();  // a block must live until its neighbour has sent it everything
  }
}
