// Sums over the packets of each centroid: their number, their sizes, their scaled times.
//
// packets [n] {i32 size, f32 us}, n <= 2^26; sizes within +-65,535, times legal
// tokens  [n] u32; those not below k are passed over (the host adds what the table left undecided)
// sums    [k] {u64 packets, i64 bytes, i64 scaled times in 2^-30}, added to
//
// All sums are of integers, so the result is the same whatever the order of the additions, and whatever the device.
//
// Few centroids take most packets of real traffic, and adding to one address goes one by one. A block therefore keeps the
// first centroids that it meets, SLOTS of them at most, in shared memory, and writes them out once for its TILE packets;
// the others go to global memory at once. Shared additions are of 32 bits, which the hardware has: a scaled time, made not
// negative by TIME_BIAS, lies below 2^36 and is added in two halves of 18 bits. TILE = 2^14 bounds what they hold: 2^14 times
// 2^18 - 1 is below 2^32, and 2^14 times 65,535 below 2^31.
//
// Bytes that must move: 12 a packet; FLOPs: about 20 in f64 a packet, a division among them. Floors on an H100: 250 G
// packets/s by bytes, about 1,000 G/s by FLOPs; the rate of shared atomics (5 a packet, one address at a time when all lanes
// hold one centroid) gives 40 G packets/s at worst.

#include "time.cuh"

typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256
#define TILE (1 << 14)
#define SLOTS 1024
#define EMPTY 0xffffffffu

extern "C" __global__ void __launch_bounds__(THREADS)
    accumulate(const uint2* __restrict__ packets, const u32* __restrict__ tokens, u32 n, u32 k, double unit, double offset,
               u32 last_zero, u64* __restrict__ sums) {
    __shared__ u32 keys[SLOTS], counts[SLOTS], bytes[SLOTS], low[SLOTS], high[SLOTS];
    for (u32 slot = threadIdx.x; slot < SLOTS; slot += THREADS) {
        keys[slot] = EMPTY;
        counts[slot] = bytes[slot] = low[slot] = high[slot] = 0;
    }
    __syncthreads();

    const TimeScale scale = {unit, offset, last_zero};
    u32 begin = blockIdx.x * TILE;
    u32 end = min(begin + TILE, n);
    for (u32 i = begin + threadIdx.x; i < end; i += THREADS) {
        u32 token = __ldcs(tokens + i);
        if (token >= k) continue;
        uint2 packet = __ldcs(packets + i);
        long long time = scaled_time(packet.y, scale);
        // The first centroid to come takes the slot and keeps it.
        u32 slot = token % SLOTS;
        u32 key = atomicCAS(&keys[slot], EMPTY, token);
        if (key == EMPTY || key == token) {
            u64 biased = (u64)(time + TIME_BIAS);
            atomicAdd(&counts[slot], 1u);
            atomicAdd(&bytes[slot], packet.x);
            atomicAdd(&low[slot], (u32)(biased & 0x3ffff));
            atomicAdd(&high[slot], (u32)(biased >> 18));
        } else {
            atomicAdd(&sums[3 * (u64)token], 1ull);
            atomicAdd(&sums[3 * (u64)token + 1], (u64)(long long)(int)packet.x);
            atomicAdd(&sums[3 * (u64)token + 2], (u64)time);
        }
    }
    __syncthreads();

    for (u32 slot = threadIdx.x; slot < SLOTS; slot += THREADS) {
        if (keys[slot] == EMPTY) continue;
        u64* sum = &sums[3 * (u64)keys[slot]];
        long long time = (long long)(((u64)high[slot] << 18) + low[slot]) - (long long)counts[slot] * TIME_BIAS;
        atomicAdd(&sum[0], (u64)counts[slot]);
        atomicAdd(&sum[1], (u64)(long long)(int)bytes[slot]);
        atomicAdd(&sum[2], (u64)time);
    }
}
