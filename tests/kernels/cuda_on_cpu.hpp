// What CUDA has and C++ has not, as far as the kernels use it: their very source compiles for the CPU. With ON_THREADS each
// thread of a block runs as a thread, so that the thread sanitizer sees it; otherwise as a coroutine, one after the other
// from barrier to barrier, which takes a fraction of the time. A barrier that not all threads reach ends the program. What
// this cannot show: how warps run in step, and whether memory is as ordered as the processor's.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>
#ifdef ON_THREADS
#include <barrier>
#include <thread>
#else
#include <csetjmp>
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
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

#ifdef ON_THREADS
static std::barrier<> block_barrier(BLOCK);
static std::vector<std::barrier<>*> warp_barriers;

static void __syncthreads() { block_barrier.arrive_and_wait(); }
static void __syncwarp() { warp_barriers[threadIdx.x / WARP]->arrive_and_wait(); }
#else
static ucontext_t coroutines[BLOCK];
static bool finished[BLOCK], progress;
static std::function<void()> kernel;

#ifdef __SANITIZE_ADDRESS__
static ucontext_t scheduler;

static void suspend() { swapcontext(&coroutines[threadIdx.x], &scheduler); }
static void resume() { swapcontext(&scheduler, &coroutines[threadIdx.x]); }
#else
// As above, without a system call a switch.
static jmp_buf scheduler_jump, jumps[BLOCK];
static bool started[BLOCK];

static void suspend() {
    if (_setjmp(jumps[threadIdx.x]) == 0) _longjmp(scheduler_jump, 1);
}
static void resume() {
    if (_setjmp(scheduler_jump) != 0) return;
    if (started[threadIdx.x]) _longjmp(jumps[threadIdx.x], 1);
    started[threadIdx.x] = true;
    setcontext(&coroutines[threadIdx.x]);
}
#endif

struct Barrier {
    unsigned arrived, generation;
};
static Barrier block_barrier, warp_barriers[BLOCK / WARP];

static void meet(Barrier& barrier, unsigned threads) {
    unsigned generation = barrier.generation;
    progress = true;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.generation;
    }
    while (barrier.generation == generation) suspend();
}

static void __syncthreads() { meet(block_barrier, BLOCK); }
static void __syncwarp() { meet(warp_barriers[threadIdx.x / WARP], WARP); }
#endif

// What lanes give each other: in turn in one of two rows, so that the next exchange does not overtake this one.
static std::atomic<unsigned long long> exchanged[2][BLOCK];
static unsigned turns[BLOCK];

static unsigned own_lane() { return threadIdx.x % WARP; }

// All lanes' values, by lane; to be read before the next exchange but one.
template <typename T>
static const std::atomic<unsigned long long>* exchange(T value) {
    static_assert(sizeof(T) <= sizeof(unsigned long long));
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    auto& row = exchanged[turns[threadIdx.x]++ % 2];
    row[threadIdx.x] = bits;
    __syncwarp();
    return row + threadIdx.x / WARP * WARP;
}

template <typename T>
static T from_lane(const std::atomic<unsigned long long>* lanes, unsigned lane) {
    unsigned long long bits = lanes[lane];
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
static T __shfl_down_sync(unsigned, T value, unsigned by) {
    return from_lane<T>(exchange(value), own_lane() + by < WARP ? own_lane() + by : own_lane());
}
template <typename T>
static T __shfl_up_sync(unsigned, T value, unsigned by) {
    return from_lane<T>(exchange(value), own_lane() >= by ? own_lane() - by : own_lane());
}
template <typename T>
static T __shfl_xor_sync(unsigned, T value, unsigned by) { return from_lane<T>(exchange(value), own_lane() ^ by); }
template <typename T>
static T __shfl_sync(unsigned, T value, unsigned lane) { return from_lane<T>(exchange(value), lane); }
static unsigned __ballot_sync(unsigned, bool value) {
    auto lanes = exchange<unsigned>(value);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < WARP; ++lane) votes |= from_lane<unsigned>(lanes, lane) << lane;
    return votes;
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

template <typename To, typename From>
static To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static long long __double_as_longlong(double v) { return same_bits<long long>(v); }
static double __longlong_as_double(long long bits) { return same_bits<double>(bits); }
static float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
static unsigned __float_as_uint(float v) { return same_bits<unsigned>(v); }
static long long __double2ll_rn(double v) { return llrint(v); }
// Of numbers; what is none becomes 0.
static unsigned long long __double2ull_rn(double v) { return v > 0.0 ? (unsigned long long)nearbyint(v) : 0; }
static unsigned long long __double2ull_ru(double v) { return v > 0.0 ? (unsigned long long)ceil(v) : 0; }
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
static int __ffs(unsigned v) { return __builtin_ffs((int)v); }
static float tanh_about(float v) { return tanhf(v); }

using std::fma;

#include "tensor_on_cpu.hpp"

#include "accumulate.cu"
#include "adam.cu"
#include "attend.cu"
#include "attend_backward.cu"
#include "attend_cached.cu"
#include "attend_tape.cu"
#include "columns.cu"
#include "cross_entropy.cu"
#include "embed.cu"
#include "encode.cu"
#include "moments.cu"
#include "nearest_brute.cu"
#include "norm.cu"
#include "norm_backward.cu"
#include "pool.cu"
#include "product_bf16.cu"
#include "product_bf16_gradient.cu"
#include "product_f32.cu"
#include "residual.cu"
#include "sample.cu"
#include "scatter.cu"

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
    suspend();
}

template <typename Body>
static void launch(unsigned grid, Body body) {
    static std::vector<char> stacks(BLOCK << 16);
    kernel = body;
    for (unsigned block = 0; block < grid; ++block) {
        blockIdx.x = block;
        block_barrier = {};
        for (Barrier& barrier : warp_barriers) barrier = {};
        for (unsigned thread = 0; thread < BLOCK; ++thread) {
            finished[thread] = false;
#ifndef __SANITIZE_ADDRESS__
            started[thread] = false;
#endif
            getcontext(&coroutines[thread]);
            coroutines[thread].uc_stack.ss_sp = &stacks[thread << 16];
            coroutines[thread].uc_stack.ss_size = 1 << 16;
            coroutines[thread].uc_link = nullptr;
            makecontext(&coroutines[thread], run_coroutine, 0);
        }
        // In each turn all threads go on to their next barrier, or to their end.
        for (unsigned running = BLOCK; running > 0;) {
            running = 0;
            progress = false;
            for (unsigned thread = 0; thread < BLOCK; ++thread) {
                if (finished[thread]) continue;
                threadIdx.x = thread;
                resume();
                running += !finished[thread];
                progress |= finished[thread];
            }
            if (running > 0 && !progress) {
                fprintf(stderr, "%u threads wait at barriers that not all reach\n", running);
                abort();
            }
        }
    }
}
#endif
