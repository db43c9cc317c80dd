// The instructions of sm_90a that the product kernel is made of: barriers, the copy engine, wgmma, clusters.

struct alignas(64) tensor_map_t {
  unsigned long long words[16];
};

// ---- barriers in shared memory

INGOT_INLINE void barrier_init(unsigned at, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
INGOT_INLINE void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// One arrival, and so many bytes that the copy engine has yet to deliver.
INGOT_INLINE void barrier_expect(unsigned at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
INGOT_INLINE void barrier_arrive(unsigned at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
// At a barrier of another block of the cluster. Asking for release at cluster scope would cost a fence of the whole GPU;
// what was read has been read, and nothing was written.
INGOT_INLINE void barrier_arrive_at(unsigned at, unsigned rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(at),
      "r"(rank)
      : "memory");
}
INGOT_INLINE bool barrier_passed(unsigned at, unsigned parity) {
  unsigned passed;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(passed)
      : "r"(at), "r"(parity)
      : "memory");
  return passed != 0;
}
INGOT_INLINE void barrier_wait(unsigned at, unsigned parity) {
#ifdef INGOT_SPIN_LIMIT
  for (int i = 0; !barrier_passed(at, parity); ++i)
    if (i > INGOT_SPIN_LIMIT) __trap();
#else
  while (!barrier_passed(at, parity)) {
  }
#endif
}

// ---- clusters

INGOT_INLINE unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
INGOT_INLINE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// ---- the copy engine

INGOT_INLINE void map_prefetch(const tensor_map_t& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
INGOT_INLINE void load_tile(unsigned to, const tensor_map_t& map, unsigned barrier, int a, int b, int c) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(to),
      "l"(&map), "r"(barrier), "r"(a), "r"(b), "r"(c)
      : "memory");
}
INGOT_INLINE void load_tile(unsigned to, const tensor_map_t& map, unsigned barrier, int a, int b, int c, int d) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(a), "r"(b), "r"(c), "r"(d)
      : "memory");
}
INGOT_INLINE void load_tile(unsigned to, const tensor_map_t& map, unsigned barrier, int a, int b, int c, int d, int e) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(a), "r"(b), "r"(c), "r"(d), "r"(e)
      : "memory");
}
// To the same place of every block of the cluster whose bit is set, and to its barrier.
INGOT_INLINE void load_tile_shared(unsigned to, const tensor_map_t& map, unsigned barrier, int a, int b, int c,
                                   unsigned short blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(a), "r"(b), "r"(c), "h"(blocks)
      : "memory");
}
INGOT_INLINE void load_tile_shared(unsigned to, const tensor_map_t& map, unsigned barrier, int a, int b, int c, int d,
                                   unsigned short blocks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(a), "r"(b), "r"(c), "r"(d), "h"(blocks)
      : "memory");
}
INGOT_INLINE void load_pixels(unsigned to, const tensor_map_t& map, unsigned barrier, int c, int w, int h, int n,
                              unsigned short tap_w, unsigned short tap_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(n), "h"(tap_w), "h"(tap_h)
      : "memory");
}

// ---- products

INGOT_INLINE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INGOT_INLINE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kLeft> INGOT_INLINE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
// Keeps the compiler from moving uses of the accumulators across.
template <int kCount> INGOT_INLINE void pin(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int kCount> INGOT_INLINE void pin(int (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(x[i])::"memory");
}
template <int kRegisters> INGOT_INLINE void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters> INGOT_INLINE void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
