// The gradient of a weight in bf16 on the tensor cores, summed in f32: c = a^T b, and what epilogue.cuh does to it.
//
// a [k, a_columns] bf16, dense, whose first m columns count          c [parts, m, n] f32, dense
// b [k, n] bf16, dense
// a_columns and n are multiples of 8, k is any; a and b begin at multiples of 16 bytes.
//
// Gradients are small and k, the rows of a batch, is large: k is cut into `parts`, each of which gives a c of its own, one
// behind the other, to be added up in their order.
//
// FLOPs: 2 m n k. Bytes that must move: 2 k (m + n), and 4 parts m n. Floor on an H100 (990 TFLOP/s, which only wgmma reaches;
// mma.sync about 60% of it; 3.0 TB/s copied): m = 512, n = 2048, k = 65,536: 0.14 ms by FLOPs, 0.11 ms by bytes.

#include "product_bf16.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    product_bf16_gradient(const Bf16* __restrict__ a, const Bf16* __restrict__ b, float* c, u32 m, u32 n, u32 k, u32 a_columns,
                          u32 parts, u32 epilogue) {
    product<128, 64, 32, 3, A_TRANSPOSED>(a, b, nullptr, c, m, n, k, epilogue, a_columns, parts);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    product_bf16_gradient_small(const Bf16* __restrict__ a, const Bf16* __restrict__ b, float* c, u32 m, u32 n, u32 k,
                                u32 a_columns, u32 parts, u32 epilogue) {
    product<64, 32, 16, 4, A_TRANSPOSED>(a, b, nullptr, c, m, n, k, epilogue, a_columns, parts);
}
