// Points -> nearest centroid by comparing all of them, ties to the lowest: the peer that a benchmark holds encode.cu against,
// and with f64 an oracle for it.
//
// points    [n] {x, y}, scaled by the host        tokens [n] u32
// centroids [k] {x, y}, k >= 1
//
// Distances are (dx dx) + (dy dy), each operation rounded (--fmad=false), as src/quantizer/codebook.rs computes them.
//
// FLOPs: 5 k a point, and a comparison. Bytes that must move: 20 a point in f64, 12 in f32, and the centroids once. With
// K = 9,902 the floors on an H100 (34 and 67 TFLOP/s, of which separate multiplications and additions reach half) are 0.35 G
// points/s in f64 and 0.7 G/s in f32.

typedef unsigned int u32;

#define THREADS 256
#define PER_THREAD 4

template <typename Real>
struct Pair {
    Real x, y;
};

template <typename Real>
__device__ inline void nearest(const Pair<Real>* __restrict__ points, u32 n, const Pair<Real>* __restrict__ centroids, u32 k,
                               u32* __restrict__ tokens, Real farthest) {
    __shared__ Pair<Real> tile[THREADS];
    u32 first = blockIdx.x * (THREADS * PER_THREAD) + threadIdx.x;
    Pair<Real> point[PER_THREAD];
    Real best[PER_THREAD];
    u32 token[PER_THREAD];
#pragma unroll
    for (int j = 0; j < PER_THREAD; ++j) {
        // Threads without a point take the last, so that all meet at the barriers.
        point[j] = points[min(first + j * THREADS, n - 1)];
        best[j] = farthest;
        token[j] = 0;
    }
    for (u32 begin = 0; begin < k; begin += THREADS) {
        if (begin + threadIdx.x < k) tile[threadIdx.x] = centroids[begin + threadIdx.x];
        __syncthreads();
        u32 there = min((u32)THREADS, k - begin);
        for (u32 c = 0; c < there; ++c) {
            Pair<Real> centroid = tile[c];
#pragma unroll
            for (int j = 0; j < PER_THREAD; ++j) {
                Real dx = point[j].x - centroid.x, dy = point[j].y - centroid.y;
                Real distance = dx * dx + dy * dy;
                if (distance < best[j]) {
                    best[j] = distance;
                    token[j] = begin + c;
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < PER_THREAD; ++j) {
        u32 i = first + j * THREADS;
        if (i < n) tokens[i] = token[j];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    nearest_brute_f64(const Pair<double>* __restrict__ points, u32 n, const Pair<double>* __restrict__ centroids, u32 k,
                      u32* __restrict__ tokens) {
    nearest<double>(points, n, centroids, k, tokens, 1e300);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    nearest_brute_f32(const Pair<float>* __restrict__ points, u32 n, const Pair<float>* __restrict__ centroids, u32 k,
                      u32* __restrict__ tokens) {
    nearest<float>(points, n, centroids, k, tokens, 1e38f);
}
