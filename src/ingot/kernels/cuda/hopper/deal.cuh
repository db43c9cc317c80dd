// Dealing out (stream-K): the tiles that fill whole waves go to the blocks as they are; the steps of the others, of one
// wave and a part of one, or of less than a wave, are dealt out in equal ranges, so that all blocks end together.
//
// A block begins with its range, at the far end: first the beginning of a tile that the block after it ends (its sums
// are left in memory), then tiles of its own, then the end of a tile that blocks before it began. So a block waits only
// for blocks of a lower number, for what these do first.

struct Deal {
  int tiles, steps;  // of the product, and of one tile
  int shared;        // tiles that are dealt out, the first ones
  int blocks;
};

INGOT_INLINE Deal deal_of(int tiles, int steps, int blocks) {
  const int rest = tiles % blocks;
  return {tiles, steps, rest == 0 ? 0 : tiles < blocks ? rest : rest + blocks, blocks};
}

// Where a block's range begins, in steps of all tiles dealt out. No tile is cut kSnap steps from its ends.
INGOT_INLINE int range_begin(const Deal& d, int block) {
  const int all = d.shared * d.steps, each = all / d.blocks, more = all % d.blocks;
  const int at = block * each + (block < more ? block : more), over = at % d.steps;
  return over <= kSnap ? at - over : d.steps - over <= kSnap ? at + d.steps - over : at;
}

struct Part {
  int tile, begin, count;  // steps of the tile
};

// What one block has yet to do.
struct Walk {
  int begin, end;  // of its range, as far as it is left
  int tile;        // the next whole tile
};

INGOT_INLINE Walk walk_of(const Deal& d, int block) {
  return {range_begin(d, block), range_begin(d, block + 1), d.shared + block};
}

INGOT_INLINE bool next_part(const Deal& d, Walk& walk, Part& part) {
  if (walk.end > walk.begin) {
    part.tile = (walk.end - 1) / d.steps;
    const int start = part.tile * d.steps, from = walk.begin > start ? walk.begin : start;
    part.begin = from - start;
    part.count = walk.end - from;
    walk.end = from;
    return true;
  }
  part = {walk.tile, 0, d.steps};
  walk.tile += d.blocks;
  return part.tile < d.tiles;
}

// Where the loads of a tile's step begin.
INGOT_INLINE Position position_at(const Problem& p, int step) {
  const int blocks = (p.channels + kSlice - 1) / kSlice, slice = step * kSlicesA;
  const int tap = slice / blocks, wide = kSlide ? 1 : kTapsW;
  return {(slice - tap * blocks) * kSlice, tap % wide, tap / wide};
}
