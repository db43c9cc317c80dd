// The whole kernel: barriers, then every warpgroup to its role.

INGOT_INLINE void product(const Maps& maps, const Problem& whole, const Epilogue& epilogue) {
  extern __shared__ unsigned char ingot_memory[];
  const unsigned start = shared_address(ingot_memory);
  const unsigned base = (start + 1023) & ~1023u;  // where the swizzle's pattern begins
  unsigned char* shared = ingot_memory + (base - start);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(full_barrier(base, i), 1);
      barrier_init(empty_barrier(base, i), kWarpsPerTile * kCluster);
    }
    for (int i = 0; i < 2; ++i) barrier_init(turn_barrier(base, i), 4);
    barrier_init(kept_barrier(base), 1);
    barrier_init_done();
  }
  if (kBlocks > 1)
    cluster_sync();
  else
    __syncthreads();
  const Problem p = share_of(whole);
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == 0) {
    if (kProducerRegisters) registers_down<kProducerRegisters ? kProducerRegisters : 24>();
    if (threadIdx.x < 32) produce(maps, p, base);
    if (kSplit > 1) {
      cluster_sync();
      cluster_sync();
    }
  } else {
    if (kConsumerRegisters) registers_up<kConsumerRegisters ? kConsumerRegisters : 24>();
    if (kSplit > 1)
      consume_share(p, epilogue, base, shared, group - 1);
    else
      consume(p, epilogue, base, shared, group - 1);
  }
  if (kCluster > 1) cluster_sync();  // a block must live until its neighbour has sent it everything
}
