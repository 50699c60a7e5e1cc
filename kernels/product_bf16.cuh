// Products of matrices in bf16 on the tensor cores: what product_bf16.cu and product_bf16_gradient.cu have in common.
//
// A block of eight warps computes a tile of c: 128 x 128, or 64 x 64 where that leaves too few blocks. Strips of DEPTH columns
// of a and rows of b come by cp.async into STAGES buffers, so that STAGES - 1 strips are under way while one is multiplied.
// A buffer holds a as [rows][DEPTH], and b as it lies in memory; the 16-byte pieces of a row are permuted by the row's number,
// so that the eight rows of a matrix that ldmatrix reads lie in different banks. Each sum goes over k in one order whatever
// the tile, so a row's result does not depend on m.
//
// The tensor cores leave a lane two numbers side by side in each of many rows. A warp turns them around in shared memory, 16
// rows at a time, so that its lanes store what lies side by side, and what comes after the product is in the code once for
// each of those rows of tiles and not once for each number.
#pragma once

#include "epilogue.cuh"
#include "tensor.cuh"

#define DEPTH 32
#define PIECE 8  // numbers in 16 bytes

// Where piece `piece` of row `row` lies in a buffer of rows of `pieces`.
template <u32 PIECES>
__device__ inline u32 place(u32 row, u32 piece) {
    // Four pieces are half of all banks: two rows side by side already differ.
    u32 turn = PIECES == 4 ? row / 2 % 4 : row % 8;
    return (row * PIECES + (piece ^ turn)) * PIECE;
}

// Begins to copy `ROWS` rows of `COLUMNS` numbers from row `row` and column `column` on of a dense matrix of rows x columns.
template <u32 ROWS, u32 COLUMNS>
__device__ inline void copy_strip(const Bf16* __restrict__ from, u32 row, u32 column, u32 rows, u32 columns, Bf16* to) {
    constexpr u32 PIECES = COLUMNS / PIECE;
    static_assert(ROWS * PIECES % THREADS == 0, "every thread copies as many pieces");
#pragma unroll
    for (u32 turn = 0; turn < ROWS * PIECES / THREADS; ++turn) {
        u32 t = turn * THREADS + threadIdx.x, r = t / PIECES, piece = t % PIECES;
        bool there = row + r < rows && column + piece * PIECE < columns;
        u64 at = there ? (u64)(row + r) * columns + column + piece * PIECE : 0;
        begin_copy(to + place<PIECES>(r, piece), from + at, there);
    }
}

// What the epilogue makes of 16 rows of `WIDE` sums, `stride` apart: to row `row` and column `column` on of the c that begins
// at number `begin`. What is there is read for AT_ONCE rows before any is written, so that the reads wait together.
template <u32 EPILOGUE, u32 WIDE>
__device__ inline void store_rows(const float* sums, u32 stride, u32 row, u32 column, const float* __restrict__ bias, void* c,
                                  u64 begin, u32 m, u32 n) {
    constexpr u32 STEP = 32 / WIDE, AT_ONCE = 8;
    u32 lane = threadIdx.x % 32, s = lane % WIDE;
    if (column + s >= n) return;
    float shift = has_bias(EPILOGUE) ? bias[column + s] : 0.0f;
    u64 size = (u64)m * n, first = begin + (u64)row * n + column + s;
#pragma unroll 1
    for (u32 from = lane / WIDE; from < 16; from += AT_ONCE * STEP) {
        float before[AT_ONCE];
#pragma unroll
        for (u32 turn = 0; turn < AT_ONCE; ++turn) {
            u32 r = from + turn * STEP;
            before[turn] = reads_c(EPILOGUE) && row + r < m ? there<EPILOGUE, Bf16>(c, first + (u64)r * n) : 0.0f;
        }
#pragma unroll
        for (u32 turn = 0; turn < AT_ONCE; ++turn) {
            u32 r = from + turn * STEP;
            if (row + r < m) store<EPILOGUE, Bf16>(sums[r * stride + s], shift, before[turn], c, first + (u64)r * n, size);
        }
    }
}

// How the factors lie.
#define A_B 0          // a [m, k], b [k, n]
#define A_TRANSPOSED 1  // a [k, a_columns], b [k, n]
#define B_TRANSPOSED 2  // a [m, k], b [n, k]

// SIDE x SIDE is the block's tile, HIGH x WIDE a warp's.
template <u32 SIDE, u32 HIGH, u32 WIDE, u32 STAGES, u32 LAYOUT>
__device__ inline void product(const Bf16* __restrict__ a, const Bf16* __restrict__ b, const float* __restrict__ bias, void* c,
                               u32 m, u32 n, u32 k, u32 epilogue, u32 a_columns = 0, u32 parts = 1) {
    static_assert(SIDE / HIGH * (SIDE / WIDE) == WARPS, "the warps cover the tile");
    __shared__ __align__(16) Bf16 strips_a[STAGES][SIDE * DEPTH], strips_b[STAGES][SIDE * DEPTH];
    u32 across = (n + SIDE - 1) / SIDE, tiles = (m + SIDE - 1) / SIDE * across;
    u32 tile = blockIdx.x % tiles, part = blockIdx.x / tiles;
    u32 row = tile / across * SIDE, column = tile % across * SIDE;
    u32 all = (k + DEPTH - 1) / DEPTH, each = (all + parts - 1) / parts;
    u32 first = min(part * each, all), strips = min(first + each, all);
    auto fetch = [&](u32 strip) {
        if (strip < strips) {
            if constexpr (LAYOUT == A_TRANSPOSED) {
                copy_strip<DEPTH, SIDE>(a, strip * DEPTH, row, k, a_columns, strips_a[strip % STAGES]);
            } else {
                copy_strip<SIDE, DEPTH>(a, row, strip * DEPTH, m, k, strips_a[strip % STAGES]);
            }
            if constexpr (LAYOUT == B_TRANSPOSED) {
                copy_strip<SIDE, DEPTH>(b, column, strip * DEPTH, n, k, strips_b[strip % STAGES]);
            } else {
                copy_strip<DEPTH, SIDE>(b, strip * DEPTH, column, k, n, strips_b[strip % STAGES]);
            }
        }
        // Also an empty group counts, so that the number under way is always the same.
        end_group();
    };
    for (u32 strip = first; strip < first + STAGES - 1; ++strip) fetch(strip);

    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 top = warp / (SIDE / WIDE) * HIGH, left = warp % (SIDE / WIDE) * WIDE;
    float sums[HIGH / 16][WIDE / 8][4] = {};
    for (u32 strip = first; strip < strips; ++strip) {
        await_groups<STAGES - 2>();
        // All threads' copies of this strip are there, and none reads the buffer any more that is filled next.
        __syncthreads();
        fetch(strip + STAGES - 1);
        const Bf16 *strip_a = strips_a[strip % STAGES], *strip_b = strips_b[strip % STAGES];
#pragma unroll
        for (u32 depth = 0; depth < DEPTH; depth += 16) {
            u32 from_a[HIGH / 16][4], from_b[WIDE / 8][2];
#pragma unroll
            for (u32 i = 0; i < HIGH / 16; ++i) {
                if constexpr (LAYOUT == A_TRANSPOSED) {
                    u32 row_of_a = depth + lane / 16 * 8 + lane % 8;
                    load_transposed(from_a[i], strip_a + place<SIDE / PIECE>(row_of_a, (top + i * 16) / PIECE + lane / 8 % 2));
                } else {
                    u32 row_of_a = top + i * 16 + lane % 16;
                    load_matrices(from_a[i], strip_a + place<DEPTH / PIECE>(row_of_a, depth / PIECE + lane / 16));
                }
            }
#pragma unroll
            for (u32 j = 0; j < WIDE / 8; j += 2) {
                u32 both[4];
                if constexpr (LAYOUT == B_TRANSPOSED) {
                    u32 column_of_b = left + j * 8 + lane / 16 * 8 + lane % 8;
                    load_matrices(both, strip_b + place<DEPTH / PIECE>(column_of_b, depth / PIECE + lane / 8 % 2));
                } else {
                    u32 row_of_b = depth + lane % 16;
                    load_transposed(both, strip_b + place<SIDE / PIECE>(row_of_b, (left + j * 8) / PIECE + lane / 16));
                }
                from_b[j][0] = both[0], from_b[j][1] = both[1];
                from_b[j + 1][0] = both[2], from_b[j + 1][1] = both[3];
            }
#pragma unroll
            for (u32 i = 0; i < HIGH / 16; ++i) {
#pragma unroll
                for (u32 j = 0; j < WIDE / 8; ++j) multiply_add(sums[i][j], from_a[i], from_b[j]);
            }
        }
    }
    await_groups<0>();
    // Nobody reads the strips any more: their memory is free.
    __syncthreads();

    constexpr u32 STRIDE = WIDE + 8;  // so that few of the rows that are written at once lie in the same banks
    static_assert(WARPS * 16 * STRIDE * sizeof(float) <= sizeof strips_a, "the turned rows fit");
    float* turned = (float*)strips_a + warp * 16 * STRIDE;
#pragma unroll 1
    for (u32 i = 0; i < HIGH / 16; ++i) {
#pragma unroll
        for (u32 candidate = 0; candidate < HIGH / 16; ++candidate) {
            // Registers have no index that is known at run time only.
            if (candidate != i) continue;
#pragma unroll
            for (u32 j = 0; j < WIDE / 8; ++j) {
#pragma unroll
                for (u32 q = 0; q < 4; ++q) {
                    turned[(lane / 4 + q / 2 * 8) * STRIDE + j * 8 + lane % 4 * 2 + q % 2] = sums[candidate][j][q];
                }
            }
        }
        __syncwarp();
        with_epilogue(epilogue, [&](auto chosen) {
            constexpr u32 EPILOGUE = decltype(chosen)::NUMBER;
            store_rows<EPILOGUE, WIDE>(turned, STRIDE, row + top + i * 16, column + left, bias, c, (u64)part * m * n, m, n);
        });
        __syncwarp();
    }
}
