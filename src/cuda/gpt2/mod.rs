//! The network on a GPU: its weights, the kernels that run it, and a worker's way through it.
//!
//! Rows of a batch are the tokens of whole sequences, one sequence after another, so that nothing is computed for padding;
//! in a decode they are one token of each flow. The residual stream is f32 in both precisions; what products read is f32,
//! or bf16 with sums in f32. Weights lie on the device as in [`crate::gpt2::Weights`], in one buffer.

mod budget;
mod buffer;
mod cache;
#[cfg(test)]
pub(super) mod checks;
mod decode;
mod graphs;
mod kernels;
mod lane;
mod network;
mod pinned;
mod weights;
mod workspace;

pub(super) use buffer::Buffer;
pub use decode::{Draw, Rule};
#[cfg(any(test, feature = "train"))]
pub(super) use kernels::{Arg, launch};
#[cfg(feature = "train")]
pub(super) use kernels::{Epilogue, Factors, Kernels, Layout, Shape};
pub use lane::Lane;
#[cfg(feature = "train")]
pub(super) use network::check_shape;
pub use network::{Network, Options};
#[cfg(feature = "train")]
pub(super) use weights::Norm;

use crate::backend::packed::Precision;

/// Bytes of a number that products read.
pub(super) fn width(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// The upper half of `v`, rounded to the nearest, ties to even; `put` of `kernels/real.cuh`.
pub(super) fn bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_the_nearest_and_ties_to_even() {
        let back = |v: f32| f32::from_bits(u32::from(bf16(v)) << 16);
        for (v, expected) in [(1.0, 1.0), (1.003_906_3, 1.0), (1.003_91, 1.007_812_5), (1.011_718_8, 1.015_625)] {
            assert_eq!((back(v), back(-v)), (expected, -expected), "{v}");
        }
        assert!(back(f32::NAN).is_nan() && back(f32::INFINITY) == f32::INFINITY && back(f32::MAX) == f32::INFINITY);
    }
}
