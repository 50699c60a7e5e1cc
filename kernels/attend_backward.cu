// Backward of attend_tape.cu: from d_out [n, d] f32 to d_qkv [n, 3 d], the weights computed again from lse.
//
// qkv, out, lse as there          positions [n] u32          lasts [n] u32: rows of the sequence after this one
// delta [n, heads] f32: what attend_backward_queries gives attend_backward_keys: the product of a row of out with its gradient
//
// With p = e^(s - lse), s = q k / sqrt(dim), m the mask: ds = p (m d_out v - delta), dq = sum ds k / sqrt(dim),
// dk = sum ds q / sqrt(dim), dv = sum p m d_out. Queries go over their keys, then keys over their queries: each sum is of one
// warp in one order, no atomics are needed, at the price of computing s twice.
//
// A warp a row and head. Bytes that must move: 18 d a row in bf16 (32 d in f32), FLOPs: 14 d (position + 1) a row. Floors on an
// H100 (67 TFLOP/s, 3.0 TB/s copied), 128 positions, d = 512: 145 M rows/s by FLOPs, 325 M by bytes.

#include "attention.cuh"
#include "dropout_of_attention.cuh"

// Adds the values of the rows abreast; those of the first are all.
__device__ inline void add_abreast(Eight& v, u32 share) {
    for (u32 by = share; by < 32; by <<= 1) {
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) v.at[i] += __shfl_xor_sync(ALL_LANES, v.at[i], by);
    }
}

template <typename Real>
__device__ inline void put_columns(const Eight& v, float scale, u32 c, u32 dim, Real* row) {
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) {
        if (c + i < dim) put(row[c + i], v.at[i] * scale);
    }
}

__device__ inline void add_scaled(Eight& to, float by, const Eight& v) {
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) to.at[i] = fmaf(by, v.at[i], to.at[i]);
}

template <typename Real>
__device__ inline void queries(const Real* __restrict__ qkv, const Real* __restrict__ out, const float* __restrict__ d_out,
                               const float* __restrict__ lse, const u32* __restrict__ positions, u32 n, u32 heads, u32 dim,
                               Dropout dropout, float* __restrict__ delta, Real* __restrict__ d_qkv) {
    u32 head = blockIdx.x % heads, row = blockIdx.x / heads * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    u32 position = positions[row], d = heads * dim;
    auto [share, c, mine, abreast] = place_of_lane(dim);
    dropout.head = head;
    DroppedKeys keys = {dropout, row, position};
    float scale = 1.0f / sqrtf((float)dim);
    u64 at = (u64)row * d + head * dim;
    Eight q = columns(qkv + 3 * (u64)row * d + head * dim, c, dim), go = columns(d_out + at, c, dim);
    Eight o = columns(out + at, c, dim), dq = {};
    float own_delta = sum_of_row(dot(o, go), share), own_lse = lse[(u64)row * heads + head];
    const Real* first = qkv + 3 * (u64)(row - position) * d + head * dim;
    for (u32 begin = 0; begin <= position; begin += abreast) {
        u32 j = begin + mine;
        const Real* key = first + 3 * (u64)min(j, position) * d;
        Eight k = columns(key + d, c, dim), v = columns(key + 2 * d, c, dim);
        float score = sum_of_row(dot(q, k), share) * scale, gv = sum_of_row(dot(go, v), share);
        if (j > position) continue;
        add_scaled(dq, exp_of(score - own_lse) * fmaf(gv, keys.at(j), -own_delta), k);
    }
    add_abreast(dq, share);
    if (mine > 0) return;
    put_columns(dq, scale, c, dim, d_qkv + 3 * (u64)row * d + head * dim);
    if (c == 0) delta[(u64)row * heads + head] = own_delta;
}

template <typename Real>
__device__ inline void keys(const Real* __restrict__ qkv, const float* __restrict__ d_out, const float* __restrict__ lse,
                            const float* __restrict__ delta, const u32* __restrict__ positions, const u32* __restrict__ lasts,
                            u32 n, u32 heads, u32 dim, Dropout dropout, Real* __restrict__ d_qkv) {
    u32 head = blockIdx.x % heads, row = blockIdx.x / heads * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    u32 position = positions[row], last = lasts[row], d = heads * dim;
    auto [share, c, mine, abreast] = place_of_lane(dim);
    dropout.head = head;
    float scale = 1.0f / sqrtf((float)dim);
    const Real* own = qkv + 3 * (u64)row * d + head * dim;
    Eight k = columns(own + d, c, dim), v = columns(own + 2 * d, c, dim), dk = {}, dv = {};
    for (u32 begin = 0; begin <= last; begin += abreast) {
        u32 i = begin + mine, other = row + min(i, last);
        Eight q = columns(qkv + 3 * (u64)other * d + head * dim, c, dim);
        Eight go = columns(d_out + (u64)other * d + head * dim, c, dim);
        float score = sum_of_row(dot(q, k), share) * scale, gv = sum_of_row(dot(go, v), share);
        if (i > last) continue;
        DroppedKeys dropped = {dropout, other, position + i};
        float p = exp_of(score - lse[(u64)other * heads + head]), m = dropped.at(position);
        add_scaled(dv, p * m, go);
        add_scaled(dk, p * fmaf(gv, m, -delta[(u64)other * heads + head]), q);
    }
    add_abreast(dk, share);
    add_abreast(dv, share);
    if (mine > 0) return;
    Real* to = d_qkv + 3 * (u64)row * d + head * dim;
    put_columns(dk, scale, c, dim, to + d);
    put_columns(dv, 1.0f, c, dim, to + 2 * d);
}

#define ATTEND_BACKWARD_KERNELS(Real, suffix)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_backward_queries_##suffix(                                   \
        const Real* __restrict__ qkv, const Real* __restrict__ out, const float* __restrict__ d_out,                          \
        const float* __restrict__ lse, const u32* __restrict__ positions, u32 n, u32 heads, u32 dim, u64 key, u32 threshold,  \
        float scale, u32 site, u32 first_row, float* __restrict__ delta, Real* __restrict__ d_qkv) {                          \
        queries(qkv, out, d_out, lse, positions, n, heads, dim, {key, threshold, scale, site, first_row, 0}, delta, d_qkv);   \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_backward_keys_##suffix(                                      \
        const Real* __restrict__ qkv, const float* __restrict__ d_out, const float* __restrict__ lse,                         \
        const float* __restrict__ delta, const u32* __restrict__ positions, const u32* __restrict__ lasts, u32 n, u32 heads,  \
        u32 dim, u64 key, u32 threshold, float scale, u32 site, u32 first_row, Real* __restrict__ d_qkv) {                    \
        keys(qkv, d_out, lse, delta, positions, lasts, n, heads, dim, {key, threshold, scale, site, first_row, 0}, d_qkv);    \
    }
ATTEND_BACKWARD_KERNELS(float, f32)
ATTEND_BACKWARD_KERNELS(Bf16, bf16)
