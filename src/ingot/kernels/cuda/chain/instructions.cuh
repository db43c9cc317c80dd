// What the chain needs beside hopper/ptx.cuh and tensor_core.cuh: stores by the copy engine and of 8 x 8 matrices.

INGOT_INLINE void store_tile(const tensor_map_t& map, unsigned from, int a, int b) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(from), "r"(a), "r"(b), "r"(0)
               : "memory");
}
INGOT_INLINE void store_tile(const tensor_map_t& map, unsigned from, int a, int b, unsigned long long policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group.L2::cache_hint [%0, {%2, %3, %4}], [%1], %5;" ::"l"(
          &map),
      "r"(from), "r"(a), "r"(b), "r"(0), "l"(policy)
      : "memory");
}
INGOT_INLINE void load_tile(unsigned to, const tensor_map_t& map, unsigned barrier, int a, int b, int c,
                            unsigned long long policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(a), "r"(b), "r"(c), "l"(policy)
      : "memory");
}
// What is read or written for the last time before it would have to leave the L2 cache anyway.
INGOT_INLINE unsigned long long passing_through() {
  unsigned long long policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
INGOT_INLINE void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kLeft> INGOT_INLINE void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kLeft) : "memory");
}
INGOT_INLINE void store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// What ordinary stores wrote to shared memory becomes visible to the copy engine.
INGOT_INLINE void fence_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

INGOT_INLINE void store_matrices(unsigned at, const unsigned (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x[0]), "r"(x[1]),
               "r"(x[2]), "r"(x[3])
               : "memory");
}

INGOT_INLINE float half_of(unsigned pair, int which) {
  const unsigned short bits = (unsigned short)(which ? pair >> 16 : pair);
  return kHalf ? ingot_half_value(bits) : ingot_bfloat_value(bits);
}
template <int kA, int kB> INGOT_INLINE void pin(unsigned (&x)[kA][kB]) {
#pragma unroll
  for (int i = 0; i < kA; ++i)
#pragma unroll
    for (int j = 0; j < kB; ++j) asm volatile("" : "+r"(x[i][j])::"memory");
}
