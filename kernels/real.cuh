// Numbers of the network's kernels: f32, and bf16 where a kernel's name ends so. Sums are always of f32.
//
// Products are fused with sums where `fmaf` is written and nowhere else (--fmad=false), so that the processor computes the
// same bits when it runs these sources.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256
#define WARPS (THREADS / 32)
#define ALL_LANES 0xffffffffu

// The upper half of an f32.
struct Bf16 {
    u16 bits;
};

__device__ inline float real(float v) { return v; }
__device__ inline float real(Bf16 v) { return __uint_as_float((u32)v.bits << 16); }

__device__ inline void put(float& to, float v) { to = v; }
// Rounded to the nearest, ties to even; what is no number stays none.
__device__ inline void put(Bf16& to, float v) {
    u32 bits = __float_as_uint(v);
    bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
    to.bits = (u16)(number ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : bits >> 16 | 0x40);
}

__device__ inline float warp_sum(float v) {
#pragma unroll
    for (int by = 16; by > 0; by >>= 1) v += __shfl_xor_sync(ALL_LANES, v, by);
    return v;
}

// e^x to 2 units in the last place; from -87.3 down and 88.3 up it stays what it is there. The steps of src/backend/simd.rs.
__device__ inline float exp_of(float x) {
    x = fminf(fmaxf(x, -87.3f), 88.3f);
    float shifted = fmaf(x, 1.44269504f, 12582912.0f);
    float n = shifted - 12582912.0f;
    float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x));
    float p = 1.0f / 5040.0f;
    p = fmaf(p, r, 1.0f / 720.0f);
    p = fmaf(p, r, 1.0f / 120.0f);
    p = fmaf(p, r, 1.0f / 24.0f);
    p = fmaf(p, r, 1.0f / 6.0f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * __uint_as_float((__float_as_uint(shifted) + 127) << 23);
}

#ifdef __CUDACC__
// tanh to about 11 bits, in one instruction.
__device__ inline float tanh_about(float v) {
    float result;
    asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(v));
    return result;
}
#endif
