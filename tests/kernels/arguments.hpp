// Kernels by name, with their parameters as their declarations say: no list of arguments is written twice.
#pragma once

#include "cuda_on_cpu.hpp"

#include <tuple>
#include <utility>

// Calls `with` with the kernel of `name`; false where there is none.
template <typename With>
static bool find_kernel(const char* name, With with) {
    bool found = false;
    auto is = [&](const char* candidate, auto* kernel) {
        if (found || strcmp(candidate, name) != 0) return;
        found = true;
        with(kernel);
    };
#define KERNEL(name) is(#name, &name)
    KERNEL(accumulate);
    KERNEL(adam);
    KERNEL(add_parts);
    KERNEL(add_segments);
    KERNEL(attend_backward_keys_bf16);
    KERNEL(attend_backward_keys_f32);
    KERNEL(attend_backward_queries_bf16);
    KERNEL(attend_backward_queries_f32);
    KERNEL(attend_bf16);
    KERNEL(attend_cached_bf16);
    KERNEL(attend_cached_f32);
    KERNEL(attend_f32);
    KERNEL(attend_tape_bf16);
    KERNEL(attend_tape_f32);
    KERNEL(begin_bf16);
    KERNEL(begin_f32);
    KERNEL(clip);
    KERNEL(column_sums_bf16);
    KERNEL(column_sums_f32);
    KERNEL(cross_entropy_bf16);
    KERNEL(cross_entropy_f32);
    KERNEL(embed_bf16);
    KERNEL(embed_f32);
    KERNEL(encode);
    KERNEL(mask_rows);
    KERNEL(moments);
    KERNEL(nearest_brute_f32);
    KERNEL(nearest_brute_f64);
    KERNEL(norm_backward_bf16);
    KERNEL(norm_backward_f32);
    KERNEL(norm_bf16);
    KERNEL(norm_f32);
    KERNEL(norm_sums);
    KERNEL(pool);
    KERNEL(pool_backward);
    KERNEL(product_bf16);
    KERNEL(product_bf16_gradient);
    KERNEL(product_bf16_gradient_small);
    KERNEL(product_bf16_small);
    KERNEL(product_bf16_transposed);
    KERNEL(product_bf16_transposed_small);
    KERNEL(product_f32);
    KERNEL(residual_bf16);
    KERNEL(residual_f32);
    KERNEL(sample);
    KERNEL(segment_sums);
    KERNEL(soft_cross_entropy);
    KERNEL(squares);
#undef KERNEL
    return found;
}

// `kernel` with its arguments, to be run; `argument(i, pointer to T)` gives argument i of type T.
template <typename... T, size_t... I, typename Argument>
static std::function<void()> bind_kernel(void (*kernel)(T...), unsigned grid, Argument argument, std::index_sequence<I...>) {
    std::tuple<T...> arguments{argument(I, (T*)nullptr)...};
    return [=] { launch(grid, [=] { std::apply(kernel, arguments); }); };
}

template <typename... T, typename Argument>
static std::function<void()> bind_kernel(void (*kernel)(T...), unsigned grid, Argument argument) {
    return bind_kernel(kernel, grid, argument, std::index_sequence_for<T...>());
}
