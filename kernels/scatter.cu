// Gradients of rows that were gathered: of the embeddings, and of the mean over a sequence's rows.
//
// segment_sums: parts[s] = sum of the rows from[order[i]] for i in begins[s]..begins[s + 1]
// add_segments: to[keys[i]] += sum of parts[firsts[i]..firsts[i + 1]], i below n
// pool_backward: d_hidden[row] += d_out[i] / rows, for the rows of sequence i from row `first` of it on
// from, d_hidden [rows, d] f32; parts [segments, d] f32; to [.., d] f32; d_out [n, d] f32; begins of sequences [n + 1] u32
//
// The host sorts the rows of a batch by what they embed and cuts long runs into segments, so that each sum has one order. A
// block a segment, a key, a sequence. Bytes that must move: 4 d a row, and 8 d a key or 8 d a row of a mean; FLOPs: d a row.
// Floor on an H100 (3.0 TB/s copied), d = 512, each row under its token and its position: 730 M rows/s.

#include "real.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    segment_sums(const float* __restrict__ from, const u32* __restrict__ order, const u32* __restrict__ begins, u32 d,
                 float* __restrict__ parts) {
    u32 begin = begins[blockIdx.x], end = begins[blockIdx.x + 1];
    for (u32 c = threadIdx.x; c < d; c += THREADS) {
        float sum = 0.0f;
        for (u32 i = begin; i < end; ++i) sum += from[(u64)order[i] * d + c];
        parts[(u64)blockIdx.x * d + c] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_segments(const float* __restrict__ parts, const u32* __restrict__ keys, const u32* __restrict__ firsts, u32 d,
                 float* to) {
    to += (u64)keys[blockIdx.x] * d;
    for (u32 c = threadIdx.x; c < d; c += THREADS) {
        float sum = 0.0f;
        for (u32 s = firsts[blockIdx.x]; s < firsts[blockIdx.x + 1]; ++s) sum += parts[(u64)s * d + c];
        to[c] += sum;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pool_backward(const float* __restrict__ d_out, const u32* __restrict__ begins, u32 first, u32 d, float* d_hidden) {
    u32 begin = begins[blockIdx.x] + first, end = begins[blockIdx.x + 1];
    float share = 1.0f / (float)(end - begin);
    for (u32 c = threadIdx.x; c < d; c += THREADS) {
        float g = d_out[(u64)blockIdx.x * d + c] * share;
        for (u32 row = begin; row < end; ++row) d_hidden[(u64)row * d + c] += g;
    }
}
