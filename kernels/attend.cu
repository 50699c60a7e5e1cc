// Causal attention within whole sequences that lie one after another: nothing is computed for padding.
//
// qkv [n, 3 d]: queries, keys, values, each [heads, dim]          positions [n] u32: row i is so many rows after the first of
// out [n, d]                                                      its sequence
//
// A warp a row and head, the eight warps of a block eight rows of one head, so that they find each other's keys in L1.
//
// Bytes that must move: 8 d a row in bf16 (16 d in f32); FLOPs: 4 d (position + 1) a row. Floors on an H100 for sequences of
// 22 tokens, d = 512: 730 M rows/s by bytes in bf16; by FLOPs (67 TFLOP/s) 2.8 G rows/s. Keys read again come from L1 and L2:
// 2 d (position + 1) bytes twice, 24 KiB a row on average, which at 5.5 TB/s of L2 alone would be 230 M rows/s.

#include "attention.cuh"

template <typename Real>
__device__ inline void attend_sequences(const Real* __restrict__ qkv, const u32* __restrict__ positions, u32 n, u32 heads,
                                        u32 dim, Real* __restrict__ out) {
    u32 head = blockIdx.x % heads, row = blockIdx.x / heads * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    u32 position = positions[row], d = heads * dim;
    const Real* first = qkv + (u64)(row - position) * 3 * d + head * dim;
    attend(first + (u64)position * 3 * d, first + d, first + 2 * d, 3 * (u64)d, position + 1, dim,
           out + (u64)row * d + head * dim, NoTape());
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attend_f32(const float* __restrict__ qkv, const u32* __restrict__ positions, u32 n, u32 heads, u32 dim,
               float* __restrict__ out) {
    attend_sequences(qkv, positions, n, heads, dim, out);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attend_bf16(const Bf16* __restrict__ qkv, const u32* __restrict__ positions, u32 n, u32 heads, u32 dim,
                Bf16* __restrict__ out) {
    attend_sequences(qkv, positions, n, heads, dim, out);
}
