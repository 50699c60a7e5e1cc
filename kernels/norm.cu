// Layer norm of rows: h = norm(x).
//
// x [n, d] f32          weight, bias [d] f32          h [n, d] f32 or bf16
//
// One warp a row; a row is read three times, from L1 after the first. Bytes that must move: 8 d a row in f32, 6 d in bf16;
// FLOPs: about 7 d. Floors on an H100 (3.0 TB/s copied), d = 512: 730 M rows/s in f32, 980 M in bf16.

#include "norm.cuh"

template <typename Real>
__device__ inline void norm(const float* __restrict__ x, u32 n, u32 d, const float* __restrict__ weight,
                            const float* __restrict__ bias, float epsilon, Real* __restrict__ h) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    norm_row(x + (u64)row * d, d, weight, bias, epsilon, h + (u64)row * d);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    norm_f32(const float* __restrict__ x, u32 n, u32 d, const float* __restrict__ weight, const float* __restrict__ bias,
             float epsilon, float* __restrict__ h) {
    norm(x, n, d, weight, bias, epsilon, h);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    norm_bf16(const float* __restrict__ x, u32 n, u32 d, const float* __restrict__ weight, const float* __restrict__ bias,
              float epsilon, Bf16* __restrict__ h) {
    norm(x, n, d, weight, bias, epsilon, h);
}
