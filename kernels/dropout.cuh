// The masks of src/gpt2/dropout.rs: drawn from key, site, row and place alone, so that the backward pass draws them again.
//
// A group of 128 places of a row takes 16 counters; counter l gives four words, of which word w has the draws of places
// 32 w + l (its low half) and 32 w + l + 16 (its high half).
#pragma once

#include "philox.cuh"

#define MASK_GROUP 128

struct Dropout {
    u64 key;
    u32 threshold;  // of 2^16 draws so many are dropped; 0: no dropout
    float scale;    // what is kept is multiplied with
    u32 site;
    u32 first_row;  // of the batch that the rows are a part of
    u32 head;

    __device__ float multiplier(u32 draw) const { return draw < threshold ? 0.0f : scale; }

    __device__ Words words(u32 row, u32 group, u32 l) const { return philox(key, group * 16 + l, first_row + row, site, head); }

    // The multiplier of one place of a row.
    __device__ float at(u32 row, u32 place) const {
        if (threshold == 0) return 1.0f;
        u32 index = place % MASK_GROUP;
        return multiplier(words(row, place / MASK_GROUP, index % 16).at[index / 32] >> index / 16 % 2 * 16 & 0xffff);
    }
};

// Calls body(column, multiplier) for the columns of a row, of which a lane has every 32nd: four of them with one draw.
template <typename Body>
__device__ inline void for_columns(const Dropout& dropout, u32 row, u32 d, Body body) {
    u32 lane = threadIdx.x % 32;
    for (u32 group = 0; group * MASK_GROUP < d; ++group) {
        Words words = {};
        if (dropout.threshold) words = dropout.words(row, group, lane % 16);
#pragma unroll
        for (u32 w = 0; w < 4; ++w) {
            u32 c = group * MASK_GROUP + w * 32 + lane;
            if (c < d) body(c, dropout.threshold ? dropout.multiplier(words.at[w] >> lane / 16 * 16 & 0xffff) : 1.0f);
        }
    }
}
