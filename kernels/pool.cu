// The final layer norm and the mean over a sequence's rows in one: out = mean of norm(x) over rows first.. of the sequence.
//
// x   [rows, d] f32, sequences one after another          begins [n + 1] u32: sequence i has rows begins[i]..begins[i + 1],
// out [n, d] f32                                          more of them than `first`
//
// A block a sequence. Scale and shift of the norm are applied once, to the mean. Bytes that must move: 4 d a row (the second
// look at a row finds it in L1 or L2) and 4 d a sequence; FLOPs: about 6 d a row. Floor on an H100 (3.0 TB/s copied), d = 512:
// 1.4 G rows/s.

#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    pool(const float* __restrict__ x, const u32* __restrict__ begins, u32 first, u32 d, const float* __restrict__ weight,
         const float* __restrict__ bias, float epsilon, float* out) {
    __shared__ Stats stats[THREADS];
    u32 begin = begins[blockIdx.x] + first, end = begins[blockIdx.x + 1];
    out += (u64)blockIdx.x * d;
    for (u32 part = begin; part < end; part += THREADS) {
        u32 n = min(end - part, (u32)THREADS);
        for (u32 row = threadIdx.x / 32; row < n; row += WARPS) {
            Stats of_row = row_stats(x + (u64)(part + row) * d, d, epsilon);
            if (threadIdx.x % 32 == 0) stats[row] = of_row;
        }
        __syncthreads();
        for (u32 c = threadIdx.x; c < d; c += THREADS) {
            float sum = part == begin ? 0.0f : out[c];
            for (u32 row = 0; row < n; ++row) {
                sum += (x[(u64)(part + row) * d + c] - stats[row].mean) * stats[row].rstd;
            }
            out[c] = sum;
        }
        __syncthreads();
    }
    for (u32 c = threadIdx.x; c < d; c += THREADS) out[c] = fmaf(out[c] / (float)(end - begin), weight[c], bias[c]);
}
