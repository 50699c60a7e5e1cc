// One more token of each flow of a decode: its keys and values go to the cache, its query attends to all that lie there.
//
// qkv       [n, 3 d]: queries, keys, values, each [heads, dim]          keys, values [slots, heads, most, dim] of this layer
// slots     [n] u32, each once, or NO_SLOT                              out          [n, d]
// positions [n] u32: tokens that the flow in the slot has already, below `most`
//
// A row with NO_SLOT is nobody's: it fills up the rows of a step to a number whose launches are recorded already (graphs.rs).
// Nothing of it is read or written here; what the other kernels make of it stays in its own row, which nobody looks at.
//
// A warp a row and head. Bytes that must move: 4 d (position + 1) a row in bf16 (8 d in f32), each once; FLOPs: 4 d (position
// + 1) a row. Floor on an H100 (3.0 TB/s copied), d = 512, 64 positions in bf16: 131 KB a row and layer, 23 M rows/s.

#include "attention.cuh"

#define NO_SLOT 0xffffffffu

template <typename Real>
__device__ inline void attend_cache(const Real* __restrict__ qkv, const u32* __restrict__ slots,
                                    const u32* __restrict__ positions, u32 n, u32 heads, u32 dim, u32 most, Real* keys,
                                    Real* values, Real* __restrict__ out) {
    u32 index = blockIdx.x * WARPS + threadIdx.x / 32;
    u32 row = index / heads, head = index % heads, d = heads * dim;
    if (row >= n) return;
    u32 position = positions[row], slot = slots[row];
    if (slot == NO_SLOT) return;
    u64 flow = ((u64)slot * heads + head) * most * dim;
    const Real* query = qkv + (u64)row * 3 * d + head * dim;
    for (u32 c = threadIdx.x % 32; c < dim; c += 32) {
        keys[flow + (u64)position * dim + c] = query[d + c];
        values[flow + (u64)position * dim + c] = query[2 * d + c];
    }
    __syncwarp();
    attend(query, keys + flow, values + flow, dim, position + 1, dim, out + (u64)row * d + head * dim, NoTape());
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attend_cached_f32(const float* __restrict__ qkv, const u32* __restrict__ slots, const u32* __restrict__ positions, u32 n,
                      u32 heads, u32 dim, u32 most, float* keys, float* values, float* __restrict__ out) {
    attend_cache(qkv, slots, positions, n, heads, dim, most, keys, values, out);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attend_cached_bf16(const Bf16* __restrict__ qkv, const u32* __restrict__ slots, const u32* __restrict__ positions, u32 n,
                       u32 heads, u32 dim, u32 most, Bf16* keys, Bf16* values, Bf16* __restrict__ out) {
    attend_cache(qkv, slots, positions, n, heads, dim, most, keys, values, out);
}
