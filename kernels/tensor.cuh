// The tensor cores' instructions and what feeds them, each as a function. tests/kernels/tensor_on_cpu.hpp has the same
// functions for the processor.
#pragma once

#include "real.cuh"

#ifdef __CUDACC__

__device__ inline u32 shared_address(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

// Four matrices of 8 x 8 bf16. Lane l gives the address of row l % 8 of matrix l / 8, 16 bytes in shared memory; of each
// matrix it gets two numbers side by side, in row l / 4 from column l % 4 * 2 on.
__device__ inline void load_matrices(u32 (&to)[4], const Bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the matrices' transposes.
__device__ inline void load_transposed(u32 (&to)[4], const Bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a b: a 16 x 16, b 16 x 8, c 16 x 8 in f32. With g = lane / 4 and t = lane % 4 a lane holds
//   of a, two columns each from 2t on: rows g and g + 8, then the same rows of columns 8 on;
//   of b, column g: two rows each from 2t and from 2t + 8 on;
//   of c, columns 2t and 2t + 1: rows g and g + 8.
__device__ inline void multiply_add(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Begins to copy 16 bytes to shared memory, or to fill them with zeros; either address is aligned to 16.
__device__ inline void begin_copy(Bf16* shared, const Bf16* global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(there ? 16 : 0)
                 : "memory");
}

// Ends a group of this thread's copies.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" : : : "memory"); }

// Waits until no more than the last `GROUPS` groups of this thread are under way.
template <int GROUPS>
__device__ inline void await_groups() {
    asm volatile("cp.async.wait_group %0;" : : "n"(GROUPS) : "memory");
}

#endif
