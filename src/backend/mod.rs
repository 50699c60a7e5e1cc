//! What calls foreign code or the processor directly, behind safe functions, and what that needs to know.

#[allow(unsafe_code, reason = "the C API of ONNX Runtime")]
pub mod ort;

pub mod loader;

#[allow(unsafe_code, reason = "vectors are loaded and stored by pointers")]
mod avx512;
#[allow(unsafe_code, reason = "the matrix kernel takes pointers")]
pub mod matmul;
#[allow(unsafe_code, reason = "a function with AVX-512 is unsafe to call")]
pub mod packed;
#[allow(unsafe_code, reason = "a prefetch takes a pointer")]
pub mod prefetch;
pub mod simd;
