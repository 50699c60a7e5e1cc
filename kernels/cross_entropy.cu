// Cross-entropy losses and their gradients by the logits.
//
// cross_entropy: logits [n, stride] f32, of whose columns the first `vocabulary` count; targets [n] u32, NO_TARGET: the row does
//   not count. nll [n] f32 in nats; d [n, stride] f32 or bf16: scale (softmax - onehot), 0 in columns that do not count; d may
//   be the logits themselves, or null: no gradient. A block a row.
// soft_cross_entropy: logits [n, labels] f32, which become (mass softmax - target) / total; targets [n, labels] f32, what each
//   label's negative log-likelihood is multiplied by, mass their sum; loss [n] f32. A warp a row.
//
// Bytes that must move: 4 a logit, then 2 or 4 of its gradient (later looks at a row of 9,907 find it in L1); FLOPs: two
// exponentials of 12 a logit. Floors on an H100 (3.0 TB/s copied): 50 M rows/s of 9,907 by bytes in bf16, 280 M by FLOPs.

#include "real.cuh"

#define NO_TARGET 0xffffffffu

struct Largest {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};

template <typename Join>
__device__ inline float of_warp(float v, Join join) {
#pragma unroll
    for (int by = 16; by > 0; by >>= 1) v = join(v, __shfl_xor_sync(ALL_LANES, v, by));
    return v;
}

// Of all threads of the block; `scratch` [WARPS] is free again afterwards.
template <typename Join>
__device__ inline float of_block(float v, Join join, float* scratch) {
    v = of_warp(v, join);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    float result = scratch[0];
    for (u32 warp = 1; warp < WARPS; ++warp) result = join(result, scratch[warp]);
    __syncthreads();
    return result;
}

template <typename Real>
__device__ inline void cross_entropy(const float* logits, const u32* __restrict__ targets, u32 vocabulary, u32 stride,
                                     float scale, float* __restrict__ nll, Real* d) {
    __shared__ float scratch[WARPS];
    u32 row = blockIdx.x, target = targets[row];
    logits += (u64)row * stride;
    if (d) d += (u64)row * stride;
    if (target == NO_TARGET) {
        if (threadIdx.x == 0) nll[row] = 0.0f;
        for (u32 c = threadIdx.x; d && c < stride; c += THREADS) put(d[c], 0.0f);
        return;
    }
    float top = -3e38f;
    for (u32 c = threadIdx.x; c < vocabulary; c += THREADS) top = fmaxf(top, logits[c]);
    top = of_block(top, Largest(), scratch);
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < vocabulary; c += THREADS) sum += exp_of(logits[c] - top);
    sum = of_block(sum, Sum(), scratch);
    if (threadIdx.x == 0) nll[row] = logf(sum) - (logits[target] - top);
    if (!d) return;
    // The gradient may lie where the target's logit did.
    __syncthreads();
    float factor = scale / sum;
    for (u32 c = threadIdx.x; c < stride; c += THREADS) {
        float g = c < vocabulary ? exp_of(logits[c] - top) * factor : 0.0f;
        put(d[c], c == target ? g - scale : g);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_f32(const float* logits, const u32* __restrict__ targets, u32 vocabulary, u32 stride, float scale,
                      float* __restrict__ nll, float* d) {
    cross_entropy(logits, targets, vocabulary, stride, scale, nll, d);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_bf16(const float* logits, const u32* __restrict__ targets, u32 vocabulary, u32 stride, float scale,
                       float* __restrict__ nll, Bf16* d) {
    cross_entropy(logits, targets, vocabulary, stride, scale, nll, d);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    soft_cross_entropy(float* logits, const float* __restrict__ targets, u32 n, u32 labels, float total,
                       float* __restrict__ loss) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    logits += (u64)row * labels;
    targets += (u64)row * labels;
    float top = -3e38f, mass = 0.0f, sum = 0.0f, own = 0.0f;
    for (u32 c = lane; c < labels; c += 32) {
        top = fmaxf(top, logits[c]);
        mass += targets[c];
    }
    top = of_warp(top, Largest());
    mass = of_warp(mass, Sum());
    for (u32 c = lane; c < labels; c += 32) sum += exp_of(logits[c] - top);
    sum = of_warp(sum, Sum());
    float log_sum = logf(sum);
    for (u32 c = lane; c < labels; c += 32) {
        float z = logits[c] - top;
        own = fmaf(targets[c], log_sum - z, own);
        logits[c] = (mass * (exp_of(z) / sum) - targets[c]) / total;
    }
    own = of_warp(own, Sum());
    if (lane == 0) loss[row] = own / total;
}
