// What an mma.sync kernel is made of beside tensor_core.cuh. Tests on the host bring their own (INGOT_HOST).
//
// A fragment of bytes is as one of 16-bit floats, 32 bytes of the depth. sm_75 takes 16 of them at a time, and eight rows.

#ifndef INGOT_HOST

#define INGOT_MMA_BYTES(types)                                                                           \
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." types                                             \
               ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                     \
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define INGOT_MMA_BYTES_8(types, i, row, column)                                                         \
  asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." types ".s32 {%0, %1}, {%2}, {%3}, {%0, %1};"       \
               : "+r"(d[i]), "+r"(d[i + 1])                                                              \
               : "r"(row), "r"(column))

// Copies that the thread does not wait for, from sm_80 on; nothing is read and zeros are written where `inside` is false.
template <int kBytes> INGOT_INLINE void copy_async(unsigned to, const void* from, bool inside) {
  const int bytes = inside ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes), "r"(bytes)
                 : "memory");
}
INGOT_INLINE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft> INGOT_INLINE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory"); }

// Partial sums that another block wrote: out of the L2 cache.
INGOT_INLINE sum_t load_global(const sum_t* p) {
  unsigned bits;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(bits) : "l"(p) : "memory");
  return bits_to_sum(bits);
}

#endif
