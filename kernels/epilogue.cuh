// What is done to the sums of a product before they are stored.
#pragma once

#include "real.cuh"

// The numbers are those of src/cuda/gpt2/kernels.rs.
#define PLAIN 0     // c = sum, in f32
#define BIAS 1      // c = sum + bias
#define GELU 2      // c = gelu(sum + bias)
#define RESIDUAL 3  // c += sum + bias, in f32
// Of training:
#define GELU_KEPT 4  // c = gelu(sum + bias), and behind all of c what it is of
#define SLOPE 5      // c = sum gelu'(c)
#define ADD 6        // c += sum, in f32

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

// Its derivative. As tanh(u) = 2 gate - 1, one gate does for both.
template <typename Real>
__device__ inline float gelu_slope(float x) {
    float c = fminf(fmaxf(x, -12.0f), 12.0f);
    float u = 0.7978846f * c * fmaf(0.044715f, c * c, 1.0f);
    float gate;
    if constexpr (sizeof(Real) == 2) {
        gate = fmaf(0.5f, tanh_about(u), 0.5f);
    } else {
        gate = 1.0f / (1.0f + exp_of(-2.0f * u));
    }
    float slope = 1.5957692f * c * fmaf(0.134145f, c * c, 1.0f);
    return fmaf(gate * slope, 1.0f - gate, gate);
}

__device__ constexpr bool has_bias(u32 epilogue) {
    return epilogue == BIAS || epilogue == GELU || epilogue == RESIDUAL || epilogue == GELU_KEPT;
}

// Whether what is in c counts.
__device__ constexpr bool reads_c(u32 epilogue) { return epilogue == RESIDUAL || epilogue == SLOPE || epilogue == ADD; }

// Value `at` of c as it is.
template <u32 EPILOGUE, typename Real>
__device__ inline float there(const void* c, u64 at) {
    return EPILOGUE == SLOPE ? real(((const Real*)c)[at]) : ((const float*)c)[at];
}

// Value `at` of c, which is `before`, becomes what the epilogue says; `size` is the number of values of c.
template <u32 EPILOGUE, typename Real>
__device__ inline void store(float sum, float bias, float before, void* c, u64 at, u64 size) {
    if constexpr (EPILOGUE == PLAIN) {
        ((float*)c)[at] = sum;
    } else if constexpr (EPILOGUE == BIAS) {
        put(((Real*)c)[at], sum + bias);
    } else if constexpr (EPILOGUE == GELU) {
        put(((Real*)c)[at], gelu<Real>(sum + bias));
    } else if constexpr (EPILOGUE == RESIDUAL) {
        ((float*)c)[at] = before + (sum + bias);
    } else if constexpr (EPILOGUE == GELU_KEPT) {
        Real kept;
        put(kept, sum + bias);
        ((Real*)c)[size + at] = kept;
        // Of what is kept, so that the slope is that of the value.
        put(((Real*)c)[at], gelu<Real>(real(kept)));
    } else if constexpr (EPILOGUE == SLOPE) {
        put(((Real*)c)[at], sum * gelu_slope<Real>(before));
    } else {
        ((float*)c)[at] = before + sum;
    }
}

template <u32 EPILOGUE>
struct Epilogue {
    static constexpr u32 NUMBER = EPILOGUE;
};

// Calls `body` with the epilogue of this number.
template <typename Body>
__device__ inline void with_epilogue(u32 epilogue, Body body) {
    if (epilogue == PLAIN) {
        body(Epilogue<PLAIN>());
    } else if (epilogue == BIAS) {
        body(Epilogue<BIAS>());
    } else if (epilogue == GELU) {
        body(Epilogue<GELU>());
    } else if (epilogue == RESIDUAL) {
        body(Epilogue<RESIDUAL>());
    } else if (epilogue == GELU_KEPT) {
        body(Epilogue<GELU_KEPT>());
    } else if (epilogue == SLOPE) {
        body(Epilogue<SLOPE>());
    } else {
        body(Epilogue<ADD>());
    }
}
