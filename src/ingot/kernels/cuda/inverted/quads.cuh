// Numbers that the blocks of a cluster send each other, four at a time, and do not wait for: each block has a barrier
// in shared memory that knows how many bytes are on their way to it. In one block alone they are stored.

typedef vec_t<float, 4> sums_t;

#ifdef INGOT_HOST
INGOT_INLINE void quads_expect(unsigned, int) {}
INGOT_INLINE void put_quad(float* own, unsigned rank, unsigned, const sums_t& x) {
  for (int i = 0; i < 4; ++i) put(own + i, rank, x.v[i]);
}
INGOT_INLINE void quads_wait(unsigned) { ingot_sync_group(); }
#else
// Before the blocks meet for the first time.
INGOT_INLINE void quads_expect(unsigned barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  if (kCluster > 1 && threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
  }
#endif
}
// To where block `rank` of the cluster has what lies at `own`, a multiple of 16 bytes, in this block's shared memory.
INGOT_INLINE void put_quad(float* own, unsigned rank, unsigned barrier, const sums_t& x) {
  if (kCluster == 1) {
    store_vec(own, x);
  } else {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .b32 to, there;\nmapa.shared::cluster.u32 to, %0, %6;\nmapa.shared::cluster.u32 there, %1, %6;\n"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%2, %3, %4, %5}, [there];\n}" ::"r"(
            shared_address(own)),
        "r"(barrier), "f"(x.v[0]), "f"(x.v[1]), "f"(x.v[2]), "f"(x.v[3]), "r"(rank)
        : "memory");
#endif
  }
}
// Until all that was expected is here.
INGOT_INLINE void quads_wait(unsigned barrier) {
  if (kCluster == 1) {
    __syncthreads();
  } else {
#if __CUDA_ARCH__ >= 900
    unsigned here = 0;
    while (here == 0)
      asm volatile(
          "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
          "selp.u32 %0, 1, 0, p;\n}"
          : "=r"(here)
          : "r"(barrier)
          : "memory");
#endif
  }
}
#endif
