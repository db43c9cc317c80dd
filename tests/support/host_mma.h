// What feeds the tensor cores, on the CPU: matrices out of shared memory, as PTX lays them out over the lanes of a warp, and
// asynchronous copies that arrive only when they are waited for.

struct IngotCopy { unsigned to; unsigned char bytes[16]; int size; int group; };
static IngotCopy ingot_copies[1024][256];
static int ingot_copy_count[1024], ingot_copy_group[1024];

static inline unsigned shared_address(const void* p) {
  return (unsigned)((const unsigned char*)p - ingot_dynamic_shared);
}

// A lane gives the address of one row of one matrix, and gets two neighbours of row lane / 4 of each.
static inline void load_matrices(unsigned (&to)[4], unsigned from) {
  ingot_words[ingot_current][0] = from;
  __syncwarp();
  const unsigned warp = ingot_current & ~31u, lane = ingot_current & 31u;
  for (unsigned m = 0; m < 4; ++m)
    memcpy(&to[m], ingot_dynamic_shared + ingot_words[warp + m * 8 + lane / 4][0] + lane % 4 * 4, 4);
  __syncwarp();
}
static inline void load_matrices_across(unsigned (&to)[4], unsigned from) {
  ingot_words[ingot_current][0] = from;
  __syncwarp();
  const unsigned warp = ingot_current & ~31u, lane = ingot_current & 31u;
  for (unsigned m = 0; m < 4; ++m) {
    unsigned short pair[2];
    for (unsigned i = 0; i < 2; ++i)
      memcpy(&pair[i], ingot_dynamic_shared + ingot_words[warp + m * 8 + lane % 4 * 2 + i][0] + lane / 4 * 2, 2);
    to[m] = pair[0] | (unsigned)pair[1] << 16;
  }
  __syncwarp();
}

template <int kBytes> static inline void copy_async(unsigned to, const void* from, bool inside) {
  if (ingot_copy_count[ingot_current] == 256) abort();
  IngotCopy& copy = ingot_copies[ingot_current][ingot_copy_count[ingot_current]++];
  copy.to = to, copy.size = kBytes, copy.group = ingot_copy_group[ingot_current];
  memset(copy.bytes, 0, 16);
  if (inside) memcpy(copy.bytes, from, kBytes);
}
static inline void copies_commit() { ++ingot_copy_group[ingot_current]; }
template <int kLeft> static inline void copies_wait() {
  int kept = 0;
  for (int i = 0; i < ingot_copy_count[ingot_current]; ++i) {
    const IngotCopy copy = ingot_copies[ingot_current][i];
    if (copy.group < ingot_copy_group[ingot_current] - kLeft)
      memcpy(ingot_dynamic_shared + copy.to, copy.bytes, copy.size);
    else
      ingot_copies[ingot_current][kept++] = copy;
  }
  ingot_copy_count[ingot_current] = kept;
}
template <typename T> static inline T load_global(const T* p) { return *p; }
