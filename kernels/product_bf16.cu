// Products of matrices in bf16 on the tensor cores, summed in f32: c = a b, and what epilogue.cuh does to it.
//
// a [m, k] bf16, dense                                   bias [n] f32, unless plain
// b [k, n] bf16, dense: `product_bf16` and `.._small`    c    [m, n], dense: bf16 after bias and gelu, else f32
//   or its transpose [n, k] dense: `.._transposed` and `.._transposed_small`
// k is a multiple of 8, and so is n where b is [k, n]; a and b begin at multiples of 16 bytes.
//
// FLOPs: 2 m n k. Bytes that must move: 2 (m k + k n), and 2 or 4 m n. Floors on an H100 (990 TFLOP/s, which only wgmma
// reaches; mma.sync about 60% of it; 3.0 TB/s copied): m = 90,112 (4,096 flows of 22 tokens), k = 512, n = 2048: 0.19 ms by
// FLOPs, 0.15 ms by bytes. A classification of 22 tokens (0.83 GFLOP): 0.84 us, 1.2 M flows/s. A decode step of 64 flows reads
// 48 MB of weights: 16 us.

#include "product_bf16.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    product_bf16(const Bf16* __restrict__ a, const Bf16* __restrict__ b, const float* __restrict__ bias, void* c, u32 m, u32 n,
                 u32 k, u32 epilogue) {
    product<128, 64, 32, 3, A_B>(a, b, bias, c, m, n, k, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    product_bf16_small(const Bf16* __restrict__ a, const Bf16* __restrict__ b, const float* __restrict__ bias, void* c, u32 m,
                       u32 n, u32 k, u32 epilogue) {
    product<64, 32, 16, 4, A_B>(a, b, bias, c, m, n, k, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    product_bf16_transposed(const Bf16* __restrict__ a, const Bf16* __restrict__ b, const float* __restrict__ bias, void* c,
                            u32 m, u32 n, u32 k, u32 epilogue) {
    product<128, 64, 32, 3, B_TRANSPOSED>(a, b, bias, c, m, n, k, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    product_bf16_transposed_small(const Bf16* __restrict__ a, const Bf16* __restrict__ b, const float* __restrict__ bias,
                                  void* c, u32 m, u32 n, u32 k, u32 epilogue) {
    product<64, 32, 16, 4, B_TRANSPOSED>(a, b, bias, c, m, n, k, epilogue);
}
