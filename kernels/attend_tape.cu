// Causal attention of whole sequences as in attend.cu, for training: with dropout of the weights, and the logarithm of each
// softmax's denominator kept (Dao et al., "FlashAttention", 2022), lse [n, heads] f32.
//
// A warp a row and head. Bytes that must move: 8 d a row in bf16 and 4 heads; FLOPs: 4 d (position + 1) a row, and 110 integer
// operations a weight with dropout. Floors on an H100 as of attend.cu: for 128 positions, d = 512, 510 M rows/s by FLOPs
// (67 TFLOP/s), 730 M by bytes; with dropout 280 M by the masks (16 T operations/s).

#include "attention.cuh"
#include "dropout_of_attention.cuh"

template <typename Real>
__device__ inline void attend_tape(const Real* __restrict__ qkv, const u32* __restrict__ positions, u32 n, u32 heads, u32 dim,
                                   Dropout dropout, Real* __restrict__ out, float* __restrict__ lse) {
    u32 head = blockIdx.x % heads, row = blockIdx.x / heads * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    u32 position = positions[row], d = heads * dim;
    const Real* first = qkv + (u64)(row - position) * 3 * d + head * dim;
    dropout.head = head;
    struct Tape {
        DroppedKeys keys;
        float* lse;
        __device__ float multiplier(u32 j) const { return keys.at(j); }
        __device__ void keep(float v) const { *lse = v; }
    };
    attend(first + (u64)position * 3 * d, first + d, first + 2 * d, 3 * (u64)d, position + 1, dim,
           out + (u64)row * d + head * dim, Tape{{dropout, row, position}, lse + (u64)row * heads + head});
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attend_tape_f32(const float* __restrict__ qkv, const u32* __restrict__ positions, u32 n, u32 heads, u32 dim, u64 key,
                    u32 threshold, float scale, u32 site, u32 first_row, float* __restrict__ out, float* __restrict__ lse) {
    attend_tape(qkv, positions, n, heads, dim, {key, threshold, scale, site, first_row, 0}, out, lse);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attend_tape_bf16(const Bf16* __restrict__ qkv, const u32* __restrict__ positions, u32 n, u32 heads, u32 dim, u64 key,
                     u32 threshold, float scale, u32 site, u32 first_row, Bf16* __restrict__ out, float* __restrict__ lse) {
    attend_tape(qkv, positions, n, heads, dim, {key, threshold, scale, site, first_row, 0}, out, lse);
}
