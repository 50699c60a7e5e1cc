// Sums over the rows of a batch, for the gradients of vectors: first of every PART rows, then of these sums in their order. No
// sum depends on how blocks are scheduled.
//
// column_sums: parts[p][c] = sum of from[row][c], from [n, columns] f32 or bf16
// norm_sums:   parts[p][0..d] = sum of dh z, parts[p][d..2d] = sum of dh, z = (x - mean) rstd: a norm's weight and bias
// add_parts:   to[c] += sum over p of parts[p][c]; also for the parts of product_bf16_gradient
//
// A thread a column of a part. Bytes that must move: what is read, 2 to 8 a number; FLOPs: 1 to 4 a number. Floors on an H100
// (3.0 TB/s copied): 1.5 T numbers/s of bf16, 375 G numbers/s of x and dh; add_parts 750 G numbers/s.

#include "norm.cuh"

#define PART 256

template <typename Real>
__device__ inline void column_sums(const Real* __restrict__ from, u32 n, u32 columns, float* __restrict__ parts) {
    u32 across = (columns + THREADS - 1) / THREADS, part = blockIdx.x / across;
    u32 c = blockIdx.x % across * THREADS + threadIdx.x;
    if (c >= columns) return;
    float sum = 0.0f;
    for (u32 row = part * PART; row < min(n, (part + 1) * PART); ++row) sum += real(from[(u64)row * columns + c]);
    parts[(u64)part * columns + c] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    column_sums_f32(const float* __restrict__ from, u32 n, u32 columns, float* __restrict__ parts) {
    column_sums(from, n, columns, parts);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    column_sums_bf16(const Bf16* __restrict__ from, u32 n, u32 columns, float* __restrict__ parts) {
    column_sums(from, n, columns, parts);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    norm_sums(const float* __restrict__ x, const float* __restrict__ dh, const Stats* __restrict__ stats, u32 n, u32 d,
              float* __restrict__ parts) {
    u32 across = (d + THREADS - 1) / THREADS, part = blockIdx.x / across;
    u32 c = blockIdx.x % across * THREADS + threadIdx.x;
    if (c >= d) return;
    float weight = 0.0f, bias = 0.0f;
    for (u32 row = part * PART; row < min(n, (part + 1) * PART); ++row) {
        float g = dh[(u64)row * d + c];
        weight = fmaf(g, (x[(u64)row * d + c] - stats[row].mean) * stats[row].rstd, weight);
        bias += g;
    }
    parts[(u64)part * 2 * d + c] = weight;
    parts[(u64)part * 2 * d + d + c] = bias;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_parts(const float* __restrict__ parts, u32 n, u32 columns, float* to) {
    u32 c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= columns) return;
    float sum = 0.0f;
    for (u32 part = 0; part < n; ++part) sum += parts[(u64)part * columns + c];
    to[c] += sum;
}
