// What is done to the sums of a product before they are stored.
#pragma once

#include "real.cuh"

// The numbers are those of src/cuda/gpt2/kernels.rs.
#define PLAIN 0     // c = sum, in f32
#define BIAS 1      // c = sum + bias
#define GELU 2      // c = gelu(sum + bias)
#define RESIDUAL 3  // c += sum + bias, in f32

// gelu_new: 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
template <typename Real>
__device__ inline float gelu(float x) {
    float c = fminf(fmaxf(x, -12.0f), 12.0f);  // beyond, the gate is 0 or 1, and the cube could overflow
    float u = 0.7978846f * c * fmaf(0.044715f, c * c, 1.0f);
    if constexpr (sizeof(Real) == 2) {
        // One instruction, with an error below bf16's.
        return 0.5f * x * (1.0f + tanh_about(u));
    } else {
        return x * (1.0f / (1.0f + exp_of(-2.0f * u)));
    }
}

template <typename Real>
__device__ inline void finish(u32 epilogue, float sum, const float* __restrict__ bias, u32 column, void* c, u64 at) {
    if (epilogue == PLAIN) {
        ((float*)c)[at] = sum;
    } else if (epilogue == BIAS) {
        put(((Real*)c)[at], sum + bias[column]);
    } else if (epilogue == GELU) {
        put(((Real*)c)[at], gelu<Real>(sum + bias[column]));
    } else {
        ((float*)c)[at] += sum + bias[column];
    }
}
