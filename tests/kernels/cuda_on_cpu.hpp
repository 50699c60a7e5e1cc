// What CUDA has and C++ has not, as far as the kernels use it: their very source compiles for the CPU. With ON_THREADS each
// thread of a block runs as a thread, so that the thread sanitizer sees it; otherwise as a coroutine, one after the other
// from barrier to barrier, which takes a fraction of the time. What this cannot show: how warps run in step, and whether
// memory is as ordered as the processor's.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>
#ifdef ON_THREADS
#include <barrier>
#include <thread>
#else
#include <ucontext.h>
#endif

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
static std::atomic<unsigned long long> lanes[BLOCK];

#ifdef ON_THREADS
static std::barrier<> block_barrier(BLOCK);
static std::vector<std::barrier<>*> warp_barriers;

static void __syncthreads() { block_barrier.arrive_and_wait(); }
static void __syncwarp() { warp_barriers[threadIdx.x / WARP]->arrive_and_wait(); }
#else
static ucontext_t scheduler, coroutines[BLOCK];
static bool finished[BLOCK];
static std::function<void()> kernel;

static void __syncthreads() { swapcontext(&coroutines[threadIdx.x], &scheduler); }
static void __syncwarp() { __syncthreads(); }
#endif

static unsigned long long __shfl_down_sync(unsigned, unsigned long long value, int by) {
    lanes[threadIdx.x] = value;
    __syncwarp();
    unsigned from = threadIdx.x % WARP + by < WARP ? threadIdx.x + by : threadIdx.x;
    unsigned long long got = lanes[from];
    __syncwarp();
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

#ifdef ON_THREADS
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
#else
static void run_coroutine() {
    kernel();
    finished[threadIdx.x] = true;
}

template <typename Body>
static void launch(unsigned grid, Body body) {
    static std::vector<char> stacks(BLOCK << 16);
    kernel = body;
    for (unsigned block = 0; block < grid; ++block) {
        blockIdx.x = block;
        for (unsigned thread = 0; thread < BLOCK; ++thread) {
            finished[thread] = false;
            getcontext(&coroutines[thread]);
            coroutines[thread].uc_stack.ss_sp = &stacks[thread << 16];
            coroutines[thread].uc_stack.ss_size = 1 << 16;
            coroutines[thread].uc_link = &scheduler;
            makecontext(&coroutines[thread], run_coroutine, 0);
        }
        // In each turn all threads go on to their next barrier, or to their end.
        for (unsigned running = BLOCK; running > 0;) {
            running = 0;
            for (unsigned thread = 0; thread < BLOCK; ++thread) {
                if (finished[thread]) continue;
                threadIdx.x = thread;
                swapcontext(&scheduler, &coroutines[thread]);
                running += !finished[thread];
            }
        }
    }
}
#endif
