// kernels/tensor.cuh for the processor: lanes give each other what the tensor cores see of all of them. Copies land when they
// are waited for and not before; until then what is no number lies there, for those who read too early or still.
#pragma once

#include "real.cuh"

#include <deque>

// Lane l / 8's share of a matrix's row comes from the lane whose address that row is.
static const Bf16* row_of_lane(const std::atomic<unsigned long long>* addresses, unsigned lane) {
    return from_lane<const Bf16*>(addresses, lane);
}

static u32 side_by_side(Bf16 low, Bf16 high) { return low.bits | (u32)high.bits << 16; }

// Kept out of line: the kernels call them hundreds of times, unrolled.
#define OUT_OF_LINE __attribute__((noinline)) static

OUT_OF_LINE void load_matrices(u32 (&to)[4], const Bf16* row) {
    auto rows = exchange(row);
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        const Bf16* from = row_of_lane(rows, matrix * 8 + own_lane() / 4);
        to[matrix] = side_by_side(from[own_lane() % 4 * 2], from[own_lane() % 4 * 2 + 1]);
    }
}

OUT_OF_LINE void load_transposed(u32 (&to)[4], const Bf16* row) {
    auto rows = exchange(row);
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        unsigned at = matrix * 8 + own_lane() % 4 * 2;
        to[matrix] = side_by_side(row_of_lane(rows, at)[own_lane() / 4], row_of_lane(rows, at + 1)[own_lane() / 4]);
    }
}

// Number `i` of the four of two registers.
static float quarter_of(u64 both, unsigned i) { return real(Bf16{(u16)(both >> 16 * i)}); }

OUT_OF_LINE void multiply_add(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    float left[16][16], right[16][8];
    for (unsigned half = 0; half < 2; ++half) {
        auto lanes = exchange(u64{a[2 * half]} | u64{a[2 * half + 1]} << 32);
        for (unsigned lane = 0; lane < WARP; ++lane) {
            for (unsigned i = 0; i < 4; ++i) {
                left[lane / 4 + i / 2 * 8][lane % 4 * 2 + half * 8 + i % 2] = quarter_of(from_lane<u64>(lanes, lane), i);
            }
        }
    }
    auto lanes = exchange(u64{b[0]} | u64{b[1]} << 32);
    for (unsigned lane = 0; lane < WARP; ++lane) {
        for (unsigned i = 0; i < 4; ++i) {
            right[lane % 4 * 2 + i / 2 * 8 + i % 2][lane / 4] = quarter_of(from_lane<u64>(lanes, lane), i);
        }
    }
    for (unsigned part = 0; part < 4; ++part) {
        unsigned row = own_lane() / 4 + part / 2 * 8, column = own_lane() % 4 * 2 + part % 2;
        for (unsigned l = 0; l < 16; ++l) c[part] += left[row][l] * right[l][column];
    }
}

struct Copy {
    Bf16* to;
    const Bf16* from;
    bool there;
};
static std::deque<std::vector<Copy>> groups[BLOCK];
static std::vector<Copy> open_group[BLOCK];

OUT_OF_LINE void begin_copy(Bf16* shared, const Bf16* global, bool there) {
    if ((uintptr_t)shared % 16 != 0 || (uintptr_t)global % 16 != 0) {
        fprintf(stderr, "a copy of 16 bytes is not aligned\n");
        abort();
    }
    memset(shared, 0xff, 16);
    open_group[threadIdx.x].push_back({shared, global, there});
}

static void end_group() {
    groups[threadIdx.x].push_back(open_group[threadIdx.x]);
    open_group[threadIdx.x].clear();
}

template <int GROUPS>
static void await_groups() {
    auto& waiting = groups[threadIdx.x];
    for (; waiting.size() > GROUPS; waiting.pop_front()) {
        for (const Copy& copy : waiting.front()) {
            if (copy.there) {
                memcpy(copy.to, copy.from, 16);
            } else {
                memset(copy.to, 0, 16);
            }
        }
    }
}
