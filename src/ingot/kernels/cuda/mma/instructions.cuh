// The instructions an mma.sync kernel is made of. Tests on the host bring their own (INGOT_HOST).
//
// A fragment of A is 16 rows of 32 bytes of the depth: a[0], a[1] the first 16 bytes of rows 0 to 7 and 8 to 15, a[2], a[3]
// the second. One of B is 8 columns of 32 bytes: b[0], b[1]. Sums: d[0], d[1] two columns of a row, d[2], d[3] of the row
// eight below. sm_75 takes 16 bytes of the depth at a time, and of bytes eight rows.

#define INGOT_MEMBER __device__ __forceinline__

#ifndef INGOT_HOST

INGOT_INLINE unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Four matrices of 8 rows of 16 bytes; lane i says where row i % 8 of matrix i / 8 lies.
INGOT_INLINE void load_matrices(unsigned (&to)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
// The same with rows and columns exchanged.
INGOT_INLINE void load_matrices_across(unsigned (&to)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

#define INGOT_MMA_16(shape, type)                                                                       \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                                   \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                     \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define INGOT_MMA_8(low, high, column)                                                                   \
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "                                        \
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                                      \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                          \
               : "r"(low), "r"(high), "r"(column))
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
