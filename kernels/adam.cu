// The optimiser's step over all parameters, by the rule of src/train/optimizer.rs.
//
// squares: parts[p] f64 = sum of the squares of SQUARES gradients
// clip:    norm[0] = root of the sum of n parts, norm[1] = what gradients are multiplied with so that their norm is at most
//          `most` (0: unlimited); one block
// adam:    p, g, m, v [n] f32; g becomes 0; rounded [n] bf16, the products' copy of p, or null
//          spans [n_spans] {end, whether it decays}, which tile 0..n
//
// Where the norm is not finite nothing is stepped: the host finds it so and ends the run.
//
// Bytes that must move: squares 4 a parameter, adam 30 (28 without a copy); FLOPs: about 15. Floors on an H100 (3.0 TB/s
// copied) for 24 M parameters: 32 us and 240 us.

#include "real.cuh"

#define SQUARES 32768

__device__ inline double sum_of_block(double v) {
    __shared__ double scratch[WARPS];
    for (int by = 16; by > 0; by >>= 1) v += __shfl_xor_sync(ALL_LANES, v, by);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    double sum = 0.0;
    for (u32 warp = 0; warp < WARPS; ++warp) sum += scratch[warp];
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) squares(const float* __restrict__ g, u32 n, double* __restrict__ parts) {
    u32 begin = blockIdx.x * SQUARES, length = min(n - begin, (u32)SQUARES);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < length; i += THREADS) {
        double v = (double)g[begin + i];
        sum += v * v;
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    clip(const double* __restrict__ parts, u32 n, float most, double* __restrict__ norm) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += THREADS) sum += parts[i];
    sum = sum_of_block(sum);
    if (threadIdx.x > 0) return;
    double root = sqrt(sum), factor = (double)most / (root + 1e-6);
    norm[0] = root;
    norm[1] = most > 0.0f && factor < 1.0 ? factor : 1.0;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adam(float* p, float* g, float* m, float* v, Bf16* rounded, u32 n, const uint2* __restrict__ spans, u32 n_spans,
         const double* __restrict__ norm, float beta1, float beta2, float epsilon, float step, float root, float kept) {
    u32 i = blockIdx.x * THREADS + threadIdx.x;
    // No number is below infinity but a finite one.
    if (i >= n || !(norm[0] < 1e300)) return;
    u32 low = 0, high = n_spans - 1;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (spans[middle].x > i) high = middle;
        else low = middle + 1;
    }
    float gradient = g[i] * (float)norm[1];
    float mean = fmaf(1.0f - beta1, gradient - m[i], m[i]);
    float square = fmaf(beta2, v[i], (1.0f - beta2) * gradient * gradient);
    float next = fmaf(-step, mean / fmaf(sqrtf(square), root, epsilon), spans[low].y ? p[i] * kept : p[i]);
    g[i] = 0.0f;
    m[i] = mean;
    v[i] = square;
    p[i] = next;
    if (rounded) put(rounded[i], next);
}
