// What the blocks of a cluster tell each other: a barrier in two halves, and numbers that one stores in another's shared
// memory. kCluster says how many blocks there are; one alone has __syncthreads and its own memory.

#ifdef INGOT_HOST
INGOT_INLINE void others_arrive() {}
INGOT_INLINE void others_wait() { ingot_sync_group(); }
INGOT_INLINE unsigned cluster_rank() { return blockIdx.x % kCluster; }
INGOT_INLINE void put(float* own, unsigned rank, float value) {
  const long long at = (unsigned char*)own - ingot_dynamic_shared;
  *(float*)(ingot_shared_of[rank] + at) = value;
}
#else
INGOT_INLINE void others_arrive() {
#if __CUDA_ARCH__ >= 900
  if (kCluster > 1) asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
INGOT_INLINE void others_wait() {
  if (kCluster == 1) {
    __syncthreads();
  } else {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
  }
}
INGOT_INLINE unsigned cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  if (kCluster > 1) asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
// Stores a number where block `rank` of the cluster has what lies at `own` in this block's shared memory.
INGOT_INLINE void put(float* own, unsigned rank, float value) {
  if (kCluster == 1) {
    *own = value;
  } else {
#if __CUDA_ARCH__ >= 900
    unsigned there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(own)), "r"(rank));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
#endif
  }
}
#endif
