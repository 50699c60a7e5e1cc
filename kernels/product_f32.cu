// Products of matrices in f32 on the ordinary cores: c = a b, and what epilogue.cuh does to it. The reference of product_bf16.
//
// a [m, k], element (i, l) at a[i a_row + l a_column]          bias [n] f32, unless plain
// b [k, n], element (l, j) at b[l b_row + j b_column]          c    [m, n] f32, dense
//
// So either factor may be transposed: forward, backward by input and backward by weight are one kernel. A block computes a
// tile of TILE x TILE from strips of DEPTH; each sum is one chain over l, so a row's result does not depend on m.
//
// FLOPs: 2 m n k. Bytes that must move: 4 (m k + k n + m n); tiles read a and b n / TILE and m / TILE times, mostly from L2.
// Floor on an H100 (67 TFLOP/s): m = 90,112 (4,096 flows of 22 tokens), k = 512, n = 2048: 2.8 ms; a classification of 22
// tokens (0.83 GFLOP) 12.4 us, 80 k flows/s.

#include "epilogue.cuh"

#define TILE_F32 64
#define DEPTH_F32 16
#define PADDED_F32 (TILE_F32 + 4)

// A strip of a factor: `at(i, l)` for `TILE_F32` indices i from `first` on, below `n`, and l from `begin` on, below `k`.
__device__ inline void load_strip(const float* __restrict__ from, u64 stride, u64 along_k, u32 first, u32 n, u32 begin, u32 k,
                                  float (*to)[PADDED_F32]) {
#pragma unroll
    for (u32 part = 0; part < TILE_F32 * DEPTH_F32 / THREADS; ++part) {
        u32 t = part * THREADS + threadIdx.x;
        // Threads side by side read numbers that lie side by side.
        u32 i = along_k == 1 ? t / DEPTH_F32 : t % TILE_F32;
        u32 l = along_k == 1 ? t % DEPTH_F32 : t / TILE_F32;
        bool there = first + i < n && begin + l < k;
        to[l][i] = there ? from[(first + i) * stride + (begin + l) * along_k] : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    product_f32(const float* __restrict__ a, u32 a_row, u32 a_column, const float* __restrict__ b, u32 b_row, u32 b_column,
                const float* __restrict__ bias, float* c, u32 m, u32 n, u32 k, u32 epilogue) {
    __shared__ float strip_a[DEPTH_F32][PADDED_F32], strip_b[DEPTH_F32][PADDED_F32];
    u32 across = (n + TILE_F32 - 1) / TILE_F32;
    u32 row = blockIdx.x / across * TILE_F32, column = blockIdx.x % across * TILE_F32;
    u32 y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (u32 begin = 0; begin < k; begin += DEPTH_F32) {
        load_strip(a, a_row, a_column, row, m, begin, k, strip_a);
        load_strip(b, b_column, b_row, column, n, begin, k, strip_b);
        __syncthreads();
#pragma unroll
        for (u32 l = 0; l < DEPTH_F32; ++l) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
#pragma unroll
                for (u32 j = 0; j < 4; ++j) sums[i][j] = fmaf(strip_a[l][y + i], strip_b[l][x + j], sums[i][j]);
            }
        }
        __syncthreads();
    }
    with_epilogue(epilogue, [&](auto chosen) {
        constexpr u32 EPILOGUE = decltype(chosen)::NUMBER;
        u64 size = (u64)m * n;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            u64 first = (u64)(row + y + i) * n + column + x;
            float before[4], shift[4];
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                bool inside = row + y + i < m && column + x + j < n;
                before[j] = reads_c(EPILOGUE) && inside ? there<EPILOGUE, float>(c, first + j) : 0.0f;
                shift[j] = has_bias(EPILOGUE) && inside ? bias[column + x + j] : 0.0f;
            }
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                if (row + y + i >= m || column + x + j >= n) continue;
                store<EPILOGUE, float>(sums[i][j], shift[j], before[j], c, first + j, size);
            }
        }
    });
}
