//! What reaches the processor directly, behind safe functions: the matrix kernel and the choice of vector
//! instructions.

pub mod matmul;
pub mod simd;
