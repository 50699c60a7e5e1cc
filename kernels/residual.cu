// What begins a half of a block in training, forward: the residual sum, with dropout of the branch, and the norm of it.
//
// residual: next = x + mask y, h = norm(next)            begin: x = mask (wte[token] + wpe[position]), h = norm(x)
// mask:     x = mask x, in place: the gradient of what `begin` dropped
// x, next [n, d] f32; y, h [n, d] f32 or bf16; weight, bias [d] f32; next may not be x, which the backward pass reads
//
// One warp a row. Bytes that must move: residual 12 d a row in bf16 (16 d in f32), begin 10 d (16 d with wte's row and h in
// f32), mask 8 d; FLOPs: about 10 d, and 45 integer operations for four masks. Floors on an H100 (3.0 TB/s copied), d = 512:
// residual 490 M rows/s by bytes in bf16; the masks (16 T operations/s) 2.8 G rows/s.

#include "dropout.cuh"
#include "norm.cuh"

template <typename Real>
__device__ inline void residual(const float* __restrict__ x, const Real* __restrict__ y, u32 n, u32 d,
                                const float* __restrict__ weight, const float* __restrict__ bias, float epsilon,
                                Dropout dropout, float* next, Real* __restrict__ h) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    u64 at = (u64)row * d;
    for_columns(dropout, row, d, [&](u32 c, float m) { next[at + c] = fmaf(real(y[at + c]), m, x[at + c]); });
    norm_row(next + at, d, weight, bias, epsilon, h + at);
}

template <typename Real>
__device__ inline void begin(const u32* __restrict__ tokens, const u32* __restrict__ positions, u32 n, u32 d,
                             const float* __restrict__ wte, const float* __restrict__ wpe, const float* __restrict__ weight,
                             const float* __restrict__ bias, float epsilon, Dropout dropout, float* x,
                             Real* __restrict__ h) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    const float* token = wte + (u64)tokens[row] * d;
    const float* position = wpe + (u64)positions[row] * d;
    x += (u64)row * d;
    for_columns(dropout, row, d, [&](u32 c, float m) { x[c] = (token[c] + position[c]) * m; });
    norm_row(x, d, weight, bias, epsilon, h + (u64)row * d);
}

#define RESIDUAL_KERNELS(Real, suffix)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                     \
        residual_##suffix(const float* __restrict__ x, const Real* __restrict__ y, u32 n, u32 d,                              \
                          const float* __restrict__ weight, const float* __restrict__ bias, float epsilon, u64 key,           \
                          u32 threshold, float scale, u32 site, u32 first_row, float* next, Real* __restrict__ h) {           \
        residual(x, y, n, d, weight, bias, epsilon, {key, threshold, scale, site, first_row, 0}, next, h);                    \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                     \
        begin_##suffix(const u32* __restrict__ tokens, const u32* __restrict__ positions, u32 n, u32 d,                       \
                       const float* __restrict__ wte, const float* __restrict__ wpe, const float* __restrict__ weight,        \
                       const float* __restrict__ bias, float epsilon, u64 key, u32 threshold, float scale, u32 site,          \
                       u32 first_row, float* x, Real* __restrict__ h) {                                                       \
        begin(tokens, positions, n, d, wte, wpe, weight, bias, epsilon, {key, threshold, scale, site, first_row, 0}, x, h);   \
    }
RESIDUAL_KERNELS(float, f32)
RESIDUAL_KERNELS(Bf16, bf16)

extern "C" __global__ void __launch_bounds__(THREADS)
    mask_rows(float* x, u32 n, u32 d, u64 key, u32 threshold, float scale, u32 site, u32 first_row) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    for_columns({key, threshold, scale, site, first_row, 0}, row, d, [&](u32 c, float m) { x[(u64)row * d + c] *= m; });
}
