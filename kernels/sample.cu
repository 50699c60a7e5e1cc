// Draws the token after each flow from its logits, by the rule of src/sampling.rs: temperature, the top_k likeliest, the
// likeliest that together reach top_p, and of the tokens only the packets' and, where a flow may end, the end's. Logits stay
// on the device; one token a flow leaves it.
//
// logits [n, vocabulary] f32          draws  [n] {u64 flow, u32 step, u32 whether the flow may end}
// tokens [n] u32                      banned [.] u32, bit i % 32 of word i / 32 for packet i; the end is one past the last
// rule   [1], in memory like all that changes from call to call, so that a recorded launch stays right
//
// NO_TOKEN is drawn where a candidate's logit is not a number, or the largest is not finite.
//
// A block a row. A draw is that of src/random.rs for (seed, flow, step). Weights are e^((logit - largest) / temperature) as
// integers in 2^-SHIFT, SHIFT as large as lets them be added up: sums do not depend on their order, and of the rule's own
// rounding in f64 only ties within 1e-11 of the whole can be decided otherwise.
//
// Candidates have ranks, all different: the likelier the higher, and of equally likely ones the lower token. The last of the
// top_k and the last within top_p are found by rank, digit by digit (`descend`); of those that are left one is drawn in the
// order of tokens (`walk`).
//
// Bytes that must move: 4 a logit; FLOPs: an exponential in f64, about 40, a candidate. Floors on an H100 for 9,907 logits:
// 75 M rows/s by bytes from memory, more from L2, where the product before has left them; 84 M by FLOPs (34 TFLOP/s). `walk`
// looks at a logit 2.1 times; `descend`, called for top_k and for top_p, 8 times.

#include "philox.cuh"

#define NO_TOKEN 0xffffffffu
#define DIGITS 256
#define INFINITY_F32 __uint_as_float(0x7f800000u)

struct Draw {
    u64 flow;
    u32 step, may_end;
};

// Which tokens there are, and how freely they are drawn.
struct Rule {
    u64 seed;
    u32 packets, eof, top_k;
    float top_p, temperature;
    u32 unused;
};

// The first two words of Philox4x32-10 for (flow, step), as 53 bits above 11 zeros: the uniform draw times 2^64.
__device__ inline u64 uniform_draw(u64 seed, u64 flow, u32 step) {
    Words words = philox(seed, (u32)flow, (u32)(flow >> 32), step, 0);
    return (((u64)words.at[0] << 21) ^ (words.at[1] >> 11)) << 11;
}

// One row's candidates: the packets' tokens, and the end's behind them where it is allowed.
struct Candidates {
    const float* logits;
    const u32* banned;
    u32 packets, eof, count, shift;
    float largest;
    double temperature;
    u64 lowest_rank;

    __device__ u32 token(u32 i) const { return i < packets ? i : eof; }

    // 0 of what is banned. What is no number ranks highest, and so is found; zeros of either sign are equal.
    __device__ u64 rank(u32 i) const {
        if (banned[i / 32] >> i % 32 & 1) return 0;
        u32 bits = __float_as_uint(logits[token(i)]);
        u32 magnitude = bits & 0x7fffffffu;
        if (magnitude == 0 || magnitude > 0x7f800000u) bits = magnitude;
        u32 order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
        return (u64)order << 32 | (0xffffffffu - token(i));
    }

    __device__ u64 weight(u32 i) const {
        if (rank(i) < lowest_rank) return 0;
        double share = exp((double)(logits[token(i)] - largest) / temperature);
        return __double2ull_rn(share * (double)(1ull << shift));
    }
};

__device__ inline u64 larger(u64 a, u64 b) { return a > b ? a : b; }

// The largest of all threads' values; `scratch` [WARPS] is free again afterwards.
__device__ inline u64 block_max(u64 value, u64* scratch) {
    for (int by = 16; by > 0; by >>= 1) value = larger(value, __shfl_xor_sync(ALL_LANES, value, by));
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    u64 result = scratch[0];
    for (u32 warp = 1; warp < WARPS; ++warp) result = larger(result, scratch[warp]);
    __syncthreads();
    return result;
}

// The rank of the first candidate, from the highest down, with which the sum passes `target`: of weights, or of ones. Where
// there is none it is not above any's. `digits` [DIGITS + 1] is free again afterwards.
__device__ inline u64 descend(const Candidates& all, bool weighted, u64 target, u64* digits) {
    u64 prefix = 0, before = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        digits[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < all.count; i += THREADS) {
            u64 rank = all.rank(i);
            if (shift < 56 && rank >> (shift + 8) != prefix >> (shift + 8)) continue;
            u64 value = weighted ? all.weight(i) : 1;
            if (value) atomicAdd(&digits[rank >> shift & 0xff], value);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u64 sum = before;
            u32 digit = DIGITS - 1;
            while (digit > 0 && sum + digits[digit] <= target) sum += digits[digit--];
            digits[DIGITS] = digit;
            // Read by none but this thread until the barrier.
            digits[0] = sum;
        }
        __syncthreads();
        prefix |= digits[DIGITS] << shift;
        before = digits[0];
        __syncthreads();
    }
    return prefix;
}

// Draws among all of at least the lowest rank in the order of their tokens. `scratch` is [WARPS].
__device__ inline void walk(const Candidates& all, u64 uniform, u64* scratch, u32* drawn) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 share = (all.count + WARPS - 1) / WARPS;
    u32 begin = min(warp * share, all.count), end = min(begin + share, all.count);
    u64 sum = 0;
    for (u32 i = begin + lane; i < end; i += 32) sum += all.weight(i);
    for (int by = 16; by > 0; by >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, by);
    if (lane == 0) scratch[warp] = sum;
    __syncthreads();
    u64 total = 0;
    for (u32 w = 0; w < WARPS; ++w) total += scratch[w];
    u64 target = __umul64hi(uniform, total);
    u64 before = 0;
    u32 owner = 0;
    while (owner < WARPS - 1 && before + scratch[owner] <= target) before += scratch[owner++];
    if (warp != owner) return;
    for (u32 i = begin; i < end; i += 32) {
        u64 up_to = i + lane < end ? all.weight(i + lane) : 0;
        for (int by = 1; by < 32; by <<= 1) {
            u64 left = __shfl_up_sync(ALL_LANES, up_to, by);
            if (lane >= (u32)by) up_to += left;
        }
        u32 past = __ballot_sync(ALL_LANES, before + up_to > target);
        if (past) {
            if (lane == 0) *drawn = all.token(i + __ffs(past) - 1);
            return;
        }
        before += __shfl_sync(ALL_LANES, up_to, 31);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample(const float* __restrict__ logits, u32 vocabulary, const Rule* __restrict__ rule, const u32* __restrict__ banned,
           const Draw* __restrict__ draws, u32* __restrict__ tokens) {
    __shared__ u64 scratch[DIGITS + 1];
    u64 seed = rule->seed;
    u32 packets = rule->packets, eof = rule->eof, top_k = rule->top_k;
    float top_p = rule->top_p, temperature = rule->temperature;
    Draw draw = draws[blockIdx.x];
    Candidates all = {logits + (u64)blockIdx.x * vocabulary, banned, packets, eof, packets + (draw.may_end ? 1 : 0), 62, 0.0f,
                      (double)temperature, 1};
    while (all.count >> (62 - all.shift)) --all.shift;

    u64 best = 0;
    for (u32 i = threadIdx.x; i < all.count; i += THREADS) best = larger(best, all.rank(i));
    best = block_max(best, scratch);
    u32 likeliest = 0xffffffffu - (u32)best;
    u32* drawn = tokens + blockIdx.x;
    all.largest = best > 0 ? all.logits[likeliest] : INFINITY_F32;
    bool finite = (__float_as_uint(all.largest) & 0x7f800000u) != 0x7f800000u;
    if (!finite || temperature == 0.0f) {
        if (threadIdx.x == 0) *drawn = finite ? likeliest : NO_TOKEN;
        return;
    }
    if (top_k > 0 && top_k < all.count) all.lowest_rank = larger(1, descend(all, false, top_k - 1, scratch));
    if (top_p < 1.0f) {
        u64 sum = 0;
        for (u32 i = threadIdx.x; i < all.count; i += THREADS) sum += all.weight(i);
        if (threadIdx.x == 0) scratch[0] = 0;
        __syncthreads();
        if (sum) atomicAdd(&scratch[0], sum);
        __syncthreads();
        u64 enough = __double2ull_ru((double)top_p * (double)scratch[0]);
        __syncthreads();
        all.lowest_rank = descend(all, true, enough > 0 ? enough - 1 : 0, scratch);
    }
    walk(all, uniform_draw(seed, draw.flow, draw.step), scratch, drawn);
}
