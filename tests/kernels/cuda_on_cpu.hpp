// What CUDA has and C++ has not, as far as the kernels use it: their very source compiles for the CPU, and each thread of a
// block runs as a thread. What this cannot show: how warps run in step, and whether memory is as ordered as the processor's.
#pragma once

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(threads)
// Blocks run one after the other, so one copy is enough; it begins with what the block before left, as on the device.
#define __shared__ static

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct Index {
    unsigned x;
};

static const unsigned BLOCK = 256, WARP = 32;
static const Index blockDim = {BLOCK};
static thread_local Index threadIdx, blockIdx;
static std::barrier<> block_barrier(BLOCK);
static std::vector<std::barrier<>*> warp_barriers;
static std::atomic<unsigned long long> lanes[BLOCK];

static void __syncthreads() { block_barrier.arrive_and_wait(); }

static unsigned long long __shfl_down_sync(unsigned, unsigned long long value, int by) {
    std::barrier<>& warp = *warp_barriers[threadIdx.x / WARP];
    lanes[threadIdx.x] = value;
    warp.arrive_and_wait();
    unsigned from = threadIdx.x % WARP + by < WARP ? threadIdx.x + by : threadIdx.x;
    unsigned long long got = lanes[from];
    warp.arrive_and_wait();
    return got;
}

template <typename T>
static T __ldg(const T* p) { return *p; }
template <typename T>
static T __ldcs(const T* p) { return *p; }
template <typename T>
static void __stcs(T* p, T value) { *p = value; }
template <typename T>
static T atomicAdd(T* p, T value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
static unsigned atomicMin(unsigned* p, unsigned value) {
    unsigned old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (value < old && !__atomic_compare_exchange_n(p, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
static unsigned atomicCAS(unsigned* p, unsigned expected, unsigned value) {
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
static unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static long long __double_as_longlong(double v) {
    long long bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static double __longlong_as_double(long long bits) {
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static float __uint_as_float(unsigned bits) {
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static long long __double2ll_rn(double v) { return llrint(v); }

using std::fma;

#include "accumulate.cu"
#include "encode.cu"
#include "moments.cu"
#include "nearest_brute.cu"

template <typename Body>
static void launch(unsigned grid, Body body) {
    warp_barriers.clear();
    for (unsigned warp = 0; warp < BLOCK / WARP; ++warp) warp_barriers.push_back(new std::barrier<>(WARP));
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < BLOCK; ++thread) {
        threads.emplace_back([=] {
            for (unsigned block = 0; block < grid; ++block) {
                threadIdx.x = thread;
                blockIdx.x = block;
                body();
                block_barrier.arrive_and_wait();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::barrier<>* barrier : warp_barriers) delete barrier;
}
