// Masks of attention's weights. src/gpt2/attention.rs draws them for QUERIES queries together, whose rows of keys, as many as
// the last of them sees rounded up to whole vectors, lie one after another.
#pragma once

#include "dropout.cuh"

#define QUERIES 4
#define KEYS_OF_VECTOR 16

struct DroppedKeys {
    Dropout dropout;
    u32 row, position;  // the query's

    __device__ float at(u32 key) const {
        u32 first = position / QUERIES * QUERIES;
        u32 keys = (first + QUERIES + KEYS_OF_VECTOR - 1) / KEYS_OF_VECTOR * KEYS_OF_VECTOR;
        return dropout.at(row - (position - first), (position - first) * keys + key);
    }
};
