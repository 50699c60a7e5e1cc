// Backward of a layer norm within the residual stream: adds its part to the stream's gradient dx, and hands that on, dropped
// out, to the branch below.
//
// x, dh [n, d] f32          dx [n, d] f32, added to; with `fresh` written          stats [n] {mean, rstd}, written
// weight [d] f32            dy [n, d] f32 or bf16: mask dx; none where null
//
// With g = dh w and z = (x - mean) rstd: dx += rstd (g - mean(g) - z mean(g z)). What weight and bias get is summed by
// columns.cu from x, dh and stats, which L2 still holds for batches of up to 8,192 rows of 512.
//
// One warp a row; a row is read four times, from L1 after the first. Bytes that must move: 18 d a row in bf16, 20 d in f32;
// FLOPs: about 20 d. Floor on an H100 (3.0 TB/s copied), d = 512: 325 M rows/s in bf16.

#include "dropout.cuh"
#include "norm.cuh"

template <typename Real>
__device__ inline void norm_backward(const float* __restrict__ x, const float* __restrict__ dh, u32 n, u32 d,
                                     const float* __restrict__ weight, float epsilon, u32 fresh, Dropout dropout, float* dx,
                                     Stats* __restrict__ stats, Real* __restrict__ dy) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    u64 at = (u64)row * d;
    Stats own = row_stats(x + at, d, epsilon);
    float mean = own.mean, rstd = own.rstd;
    float sum_g = 0.0f, sum_gz = 0.0f;
    for (u32 c = lane; c < d; c += 32) {
        float g = dh[at + c] * weight[c];
        sum_g += g;
        sum_gz = fmaf(g, (x[at + c] - mean) * rstd, sum_gz);
    }
    float mean_g = warp_sum(sum_g) / (float)d, mean_gz = warp_sum(sum_gz) / (float)d;
    for_columns(dropout, row, d, [&](u32 c, float m) {
        float g = dh[at + c] * weight[c], z = (x[at + c] - mean) * rstd;
        float sum = fmaf(rstd, fmaf(-z, mean_gz, g - mean_g), fresh ? 0.0f : dx[at + c]);
        dx[at + c] = sum;
        if (dy) put(dy[at + c], sum * m);
    });
    if (lane == 0) stats[row] = own;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    norm_backward_f32(const float* __restrict__ x, const float* __restrict__ dh, u32 n, u32 d, const float* __restrict__ weight,
                      float epsilon, u32 fresh, u64 key, u32 threshold, float scale, u32 site, u32 first_row, float* dx,
                      Stats* stats, float* dy) {
    norm_backward(x, dh, n, d, weight, epsilon, fresh, {key, threshold, scale, site, first_row, 0}, dx, stats, dy);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    norm_backward_bf16(const float* __restrict__ x, const float* __restrict__ dh, u32 n, u32 d,
                       const float* __restrict__ weight, float epsilon, u32 fresh, u64 key, u32 threshold, float scale,
                       u32 site, u32 first_row, float* dx, Stats* stats, Bf16* dy) {
    norm_backward(x, dh, n, d, weight, epsilon, fresh, {key, threshold, scale, site, first_row, 0}, dx, stats, dy);
}
