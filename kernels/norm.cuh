// Layer norm of one row by one warp: h = (x - mean) rstd w + b, with the biased variance.
//
// A lane reads the columns that it wrote itself, if it wrote any: no barrier is needed between.
#pragma once

#include "real.cuh"

struct Stats {
    float mean, rstd;
};

__device__ inline Stats row_stats(const float* x, u32 d, float epsilon) {
    u32 lane = threadIdx.x % 32;
    float sum = 0.0f;
    for (u32 c = lane; c < d; c += 32) sum += x[c];
    float mean = warp_sum(sum) / (float)d;
    float squares = 0.0f;
    for (u32 c = lane; c < d; c += 32) {
        float off = x[c] - mean;
        squares = fmaf(off, off, squares);
    }
    return {mean, 1.0f / sqrtf(warp_sum(squares) / (float)d + epsilon)};
}

template <typename Real>
__device__ inline void norm_row(const float* x, u32 d, const float* __restrict__ weight, const float* __restrict__ bias,
                                float epsilon, Real* __restrict__ h) {
    Stats stats = row_stats(x, d, epsilon);
    for (u32 c = threadIdx.x % 32; c < d; c += 32) {
        put(h[c], fmaf((x[c] - stats.mean) * stats.rstd, weight[c], bias[c]));
    }
}
