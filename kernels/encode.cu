// Packets -> tokens through the table of src/quantizer/table.rs.
//
// packets  [n] {i32 size, f32 us}          tokens [n] u32
// columns  [131071] {begin, shift, first, more}, by size + 65535
// buckets  [.] index of a bucket's first step
// steps    [.] {bits of the threshold, token of the times below it}; each column ends with thresholds of infinity
// report   {index of the first packet with an illegal time, or 2^32 - 1; number of packets left undecided}
//
// A packet whose answer is SEARCH, or whose size has no column, is counted and gets the token SEARCH; the host decides it,
// because its nearest centroid depends on how the host rounds the logarithm. Thresholds are exact, so all others are equal
// to the host's tokens. Times and thresholds are not negative, so their bits compare as they do, denormal ones too.
//
// Bytes that must move: 12 a packet. The table (2 MB of columns; K = 16,384: about 20 MB more, of which real traffic uses a
// small part) is meant to stay in L1 and L2: three dependent gathers a packet, 1.4 steps looked at on average. FLOPs: none.
// Floor on an H100 (3.0 TB/s copied): 250 G packets/s. What may bind first is the rate of gathers, 32 lines a warp.

typedef unsigned int u32;

#define SEARCH 0xffffffffu
#define MAX_SIZE 65535
#define PER_THREAD 4

__device__ inline u32 lookup(u32 column_index, u32 bits, const uint4* __restrict__ columns, const u32* __restrict__ buckets,
                             const uint2* __restrict__ steps) {
    uint4 column = __ldg(columns + column_index);
    u32 bucket = min((max(bits, column.x) - column.x) >> column.y, column.w);
    u32 at = __ldg(buckets + column.z + bucket);
    for (;; ++at) {
        uint2 step = __ldg(steps + at);
        if (step.x > bits) return step.y;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    encode(const uint2* __restrict__ packets, u32 n, const uint4* __restrict__ columns, const u32* __restrict__ buckets,
           const uint2* __restrict__ steps, u32* __restrict__ tokens, u32* __restrict__ report) {
    u32 first = blockIdx.x * (blockDim.x * PER_THREAD) + threadIdx.x;
    uint2 packet[PER_THREAD];
#pragma unroll
    for (int j = 0; j < PER_THREAD; ++j) {
        u32 i = first + j * blockDim.x;
        if (i < n) packet[j] = __ldcs(packets + i);
    }
    u32 undecided = 0;
#pragma unroll
    for (int j = 0; j < PER_THREAD; ++j) {
        u32 i = first + j * blockDim.x;
        if (i >= n) break;
        u32 column_index = packet[j].x + MAX_SIZE;
        // -0 is 0; any other time with the sign set, infinity and NaN are illegal, and would run past a column's end.
        u32 bits = packet[j].y == 0x80000000u ? 0 : packet[j].y;
        u32 token = SEARCH;
        if (bits >= 0x7f800000u) {
            atomicMin(report, i);
        } else if (column_index <= 2 * MAX_SIZE) {
            token = lookup(column_index, bits, columns, buckets, steps);
        }
        undecided += token == SEARCH;
        __stcs(tokens + i, token);
    }
    if (undecided) atomicAdd(report + 1, undecided);
}
