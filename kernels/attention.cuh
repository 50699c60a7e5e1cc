// One query's attention to `n` keys by one warp, in one pass over keys and values (the running maximum of Milakov and
// Gimelshein, 2018): prefill and decode differ in where keys and values lie, and in nothing else.
//
// As many lanes share a key as hold its columns, eight each; a warp of 32 lanes so reads 32 / that many keys side by side, in
// whole lines, and AHEAD times as many before it uses the first.
#pragma once

#include "real.cuh"

#define EACH 8
#define AHEAD 2
// Less than any score, and no infinity, whose difference from itself is no number.
#define NO_SCORE -1e30f

// Columns c .. c + EACH of a row of `dim`, as they lie; past the end 0.
struct Eight {
    float at[EACH];
};

__device__ inline void load_eight(const float* from, Eight& to) {
    uint4 low = ((const uint4*)from)[0], high = ((const uint4*)from)[1];
    u32 bits[EACH] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) to.at[i] = __uint_as_float(bits[i]);
}

__device__ inline void load_eight(const Bf16* from, Eight& to) {
    uint4 all = *(const uint4*)from;
    u32 bits[EACH / 2] = {all.x, all.y, all.z, all.w};
#pragma unroll
    for (u32 i = 0; i < EACH / 2; ++i) {
        to.at[2 * i] = __uint_as_float(bits[i] << 16);
        to.at[2 * i + 1] = __uint_as_float(bits[i] & 0xffff0000u);
    }
}

template <typename Real>
__device__ inline Eight columns(const Real* row, u32 c, u32 dim) {
    Eight eight;
    if (dim % EACH == 0 && c < dim) {
        load_eight(row + c, eight);
    } else {
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) eight.at[i] = c + i < dim ? real(row[c + i]) : 0.0f;
    }
    return eight;
}

// Which columns a lane holds, and which of the rows that a warp reads side by side it looks at.
struct Place {
    u32 share;    // lanes of a row
    u32 column;   // the first of EACH
    u32 mine;     // which of the rows abreast
    u32 abreast;  // rows side by side
};

__device__ inline Place place_of_lane(u32 dim) {
    u32 lane = threadIdx.x % 32, share = 1;
    while (share * EACH < dim) share *= 2;
    return {share, lane % share * EACH, lane / share, 32 / share};
}

__device__ inline float dot(const Eight& a, const Eight& b) {
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) sum = fmaf(a.at[i], b.at[i], sum);
    return sum;
}

// The sum over the lanes that share a row.
__device__ inline float sum_of_row(float v, u32 share) {
    for (u32 by = share / 2; by > 0; by >>= 1) v += __shfl_xor_sync(ALL_LANES, v, by);
    return v;
}

// What inference wants besides: no key is dropped, and nothing is kept for a backward pass.
struct NoTape {
    __device__ float multiplier(u32) const { return 1.0f; }
    __device__ void keep(float) const {}
};

// Keys and values of position j begin at j * stride. `n` is at least 1, `dim` at most 256. The weight of key j is multiplied
// with tape.multiplier(j); tape.keep gets the logarithm of the softmax's denominator.
template <typename Real, typename Tape>
__device__ inline void attend(const Real* query, const Real* keys, const Real* values, u64 stride, u32 n, u32 dim, Real* out,
                              Tape tape) {
    auto [share, c, mine, abreast] = place_of_lane(dim);

    Eight q = columns(query, c, dim);
    float scale = 1.0f / sqrtf((float)dim);
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) q.at[i] *= scale;

    float top = NO_SCORE, sum = 0.0f;
    Eight out_sum = {};
    for (u32 begin = 0; begin < n; begin += AHEAD * abreast) {
        Eight k[AHEAD], v[AHEAD];
#pragma unroll
        for (u32 a = 0; a < AHEAD; ++a) {
            u64 at = min(begin + a * abreast + mine, n - 1) * stride;
            k[a] = columns(keys + at, c, dim);
            v[a] = columns(values + at, c, dim);
        }
#pragma unroll
        for (u32 a = 0; a < AHEAD; ++a) {
            float score = sum_of_row(dot(q, k[a]), share);
            u32 j = begin + a * abreast + mine;
            if (j >= n) continue;
            float higher = fmaxf(top, score);
            float shrink = exp_of(top - higher), weight = exp_of(score - higher);
            top = higher;
            sum = fmaf(sum, shrink, weight);
            weight *= tape.multiplier(j);
#pragma unroll
            for (u32 i = 0; i < EACH; ++i) out_sum.at[i] = fmaf(out_sum.at[i], shrink, weight * v[a].at[i]);
        }
    }
    for (u32 by = share; by < 32; by <<= 1) {
        float other = __shfl_xor_sync(ALL_LANES, top, by);
        float higher = fmaxf(top, other);
        float shrink = exp_of(top - higher), weight = exp_of(other - higher);
        top = higher;
        sum = fmaf(sum, shrink, weight * __shfl_xor_sync(ALL_LANES, sum, by));
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) {
            out_sum.at[i] = fmaf(out_sum.at[i], shrink, weight * __shfl_xor_sync(ALL_LANES, out_sum.at[i], by));
        }
    }
    if (mine > 0) return;
    if (c == 0) tape.keep(top + logf(sum));
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) {
        if (c + i < dim) put(out[c + i], out_sum.at[i] / sum);
    }
}
