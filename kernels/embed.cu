// Tokens -> the residual stream, and its first layer norm: x = wte[token] + wpe[position], h = norm(x).
//
// tokens, positions [n] u32          wte [vocabulary, d] f32          wpe [positions, d] f32
// weight, bias      [d] f32          x   [n, d] f32                   h   [n, d] f32 or bf16
//
// One warp a row. Bytes that must move: 16 d a row in f32 (a row of wte, x and h; wpe and often wte stay in L2), 14 d in bf16;
// FLOPs: about 8 d. Floors on an H100 (3.0 TB/s copied), d = 512: 370 M rows/s in f32.

#include "norm.cuh"

template <typename Real>
__device__ inline void embed(const u32* __restrict__ tokens, const u32* __restrict__ positions, u32 n, u32 d,
                             const float* __restrict__ wte, const float* __restrict__ wpe, const float* __restrict__ weight,
                             const float* __restrict__ bias, float epsilon, float* x, Real* __restrict__ h) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= n) return;
    const float* token = wte + (u64)tokens[row] * d;
    const float* position = wpe + (u64)positions[row] * d;
    x += (u64)row * d;
    for (u32 c = threadIdx.x % 32; c < d; c += 32) x[c] = token[c] + position[c];
    norm_row(x, d, weight, bias, epsilon, h + (u64)row * d);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_f32(const u32* __restrict__ tokens, const u32* __restrict__ positions, u32 n, u32 d, const float* __restrict__ wte,
              const float* __restrict__ wpe, const float* __restrict__ weight, const float* __restrict__ bias, float epsilon,
              float* x, float* __restrict__ h) {
    embed(tokens, positions, n, d, wte, wpe, weight, bias, epsilon, x, h);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bf16(const u32* __restrict__ tokens, const u32* __restrict__ positions, u32 n, u32 d, const float* __restrict__ wte,
               const float* __restrict__ wpe, const float* __restrict__ weight, const float* __restrict__ bias, float epsilon,
               float* x, Bf16* __restrict__ h) {
    embed(tokens, positions, n, d, wte, wpe, weight, bias, epsilon, x, h);
}
