// Sums of squares over packets, from which k-means tells its inertia: what all points lie from 0 less what the centroids do.
//
// packets [n] {i32 size, f32 us}, n <= 2^26; sizes within +-65,535, times legal
// sums    {sizes^2, v, h^2, h l, l^2}, u64, added to, where v = 2^18 h + l is the scaled time in 2^-30 plus TIME_BIAS
//
// v < 2^36, so the halves have 18 bits and no sum of 2^26 passes 2^62. The host puts the square of v together in 128 bits.
//
// Bytes that must move: 8 a packet; FLOPs: about 20 in f64. Floor on an H100: 375 G packets/s. It runs once a fit.

#include "time.cuh"

typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256
#define TILE (1 << 14)

extern "C" __global__ void __launch_bounds__(THREADS)
    moments(const uint2* __restrict__ packets, u32 n, double unit, double offset, u32 last_zero, u64* __restrict__ sums) {
    const TimeScale scale = {unit, offset, last_zero};
    u64 mine[5] = {0, 0, 0, 0, 0};
    u32 begin = blockIdx.x * TILE;
    u32 end = min(begin + TILE, n);
    for (u32 i = begin + threadIdx.x; i < end; i += THREADS) {
        uint2 packet = __ldcs(packets + i);
        long long size = (int)packet.x;
        u64 v = (u64)(scaled_time(packet.y, scale) + TIME_BIAS);
        u64 h = v >> 18, l = v & 0x3ffff;
        mine[0] += (u64)(size * size);
        mine[1] += v;
        mine[2] += h * h;
        mine[3] += h * l;
        mine[4] += l * l;
    }
    for (int j = 0; j < 5; ++j) {
        for (int by = 16; by > 0; by >>= 1) mine[j] += __shfl_down_sync(0xffffffffu, mine[j], by);
        if (threadIdx.x % 32 == 0) atomicAdd(&sums[j], mine[j]);
    }
}
