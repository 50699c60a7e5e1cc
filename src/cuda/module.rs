//! The kernels, compiled ahead of time by `kernels/build` and embedded.

use super::device::Device;
use crate::error::{Error, Result};
use cudarc::driver::{CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// A file of `kernels/ptx` and a function in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) ptx: &'static str,
}

pub(super) const ENCODE: Kernel = Kernel { name: "encode", ptx: include_str!("../../kernels/ptx/encode.ptx") };
pub(super) const ACCUMULATE: Kernel =
    Kernel { name: "accumulate", ptx: include_str!("../../kernels/ptx/accumulate.ptx") };
pub(super) const MOMENTS: Kernel = Kernel { name: "moments", ptx: include_str!("../../kernels/ptx/moments.ptx") };

const NEAREST_BRUTE: &str = include_str!("../../kernels/ptx/nearest_brute.ptx");
pub(super) const NEAREST_BRUTE_F64: Kernel = Kernel { name: "nearest_brute_f64", ptx: NEAREST_BRUTE };
pub(super) const NEAREST_BRUTE_F32: Kernel = Kernel { name: "nearest_brute_f32", ptx: NEAREST_BRUTE };

const EMBED: &str = include_str!("../../kernels/ptx/embed.ptx");
pub(super) const EMBED_F32: Kernel = Kernel { name: "embed_f32", ptx: EMBED };
pub(super) const EMBED_BF16: Kernel = Kernel { name: "embed_bf16", ptx: EMBED };

const NORM: &str = include_str!("../../kernels/ptx/norm.ptx");
pub(super) const NORM_F32: Kernel = Kernel { name: "norm_f32", ptx: NORM };
pub(super) const NORM_BF16: Kernel = Kernel { name: "norm_bf16", ptx: NORM };

pub(super) const POOL: Kernel = Kernel { name: "pool", ptx: include_str!("../../kernels/ptx/pool.ptx") };

pub(super) const PRODUCT_F32: Kernel =
    Kernel { name: "product_f32", ptx: include_str!("../../kernels/ptx/product_f32.ptx") };

const TENSOR: &str = include_str!("../../kernels/ptx/product_bf16.ptx");
pub(super) const PRODUCT_BF16: Kernel = Kernel { name: "product_bf16", ptx: TENSOR };
pub(super) const PRODUCT_BF16_SMALL: Kernel = Kernel { name: "product_bf16_small", ptx: TENSOR };
pub(super) const PRODUCT_BF16_TRANSPOSED: Kernel = Kernel { name: "product_bf16_transposed", ptx: TENSOR };
pub(super) const PRODUCT_BF16_TRANSPOSED_SMALL: Kernel = Kernel { name: "product_bf16_transposed_small", ptx: TENSOR };

const ATTEND: &str = include_str!("../../kernels/ptx/attend.ptx");
pub(super) const ATTEND_F32: Kernel = Kernel { name: "attend_f32", ptx: ATTEND };
pub(super) const ATTEND_BF16: Kernel = Kernel { name: "attend_bf16", ptx: ATTEND };

const ATTEND_CACHED: &str = include_str!("../../kernels/ptx/attend_cached.ptx");
pub(super) const ATTEND_CACHED_F32: Kernel = Kernel { name: "attend_cached_f32", ptx: ATTEND_CACHED };
pub(super) const ATTEND_CACHED_BF16: Kernel = Kernel { name: "attend_cached_bf16", ptx: ATTEND_CACHED };

pub(super) const SAMPLE: Kernel = Kernel { name: "sample", ptx: include_str!("../../kernels/ptx/sample.ptx") };

impl Kernel {
    /// Its name in the sources.
    #[cfg(test)]
    pub(super) fn name(self) -> &'static str {
        self.name
    }

    /// Has the driver compile it for `device`. The driver keeps what it compiled, so that only a first start takes time.
    pub(super) fn load(self, device: &Device) -> Result<CudaFunction> {
        let [function] = load([self], device)?;
        Ok(function)
    }
}

/// Loads several kernels; those of one file as one module.
pub(super) fn load<const N: usize>(kernels: [Kernel; N], device: &Device) -> Result<[CudaFunction; N]> {
    let mut modules: Vec<(&str, Arc<CudaModule>)> = Vec::new();
    let mut functions = Vec::with_capacity(N);
    for Kernel { name, ptx } in kernels {
        functions.push(device.run(&format!("loading the kernel {name}"), |_| {
            let module = match modules.iter().find(|(of, _)| std::ptr::eq(*of, ptx)) {
                Some((_, module)) => module.clone(),
                None => {
                    let module = device.context().load_module(Ptx::from_src(ptx))?;
                    modules.push((ptx, module.clone()));
                    module
                }
            };
            module.load_function(name)
        })?);
    }
    functions.try_into().map_err(|_| Error::mismatch("a kernel has not been loaded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_parameters(kernels: &[(Kernel, &str)]) {
        for (kernel, parameters) in kernels {
            assert!(kernel.ptx.contains("\n.version 8.1\n.target sm_80\n"), "{}", kernel.name);
            let (_, rest) = kernel.ptx.split_once(&format!(".visible .entry {}(", kernel.name)).unwrap();
            let (list, rest) = rest.split_once("\n)\n").unwrap();
            let types: Vec<&str> =
                list.lines().filter_map(|l| l.trim().strip_prefix(".param .")?.split(' ').next()).collect();
            assert_eq!(types.join(" "), *parameters, "{}", kernel.name);
            assert!(rest.trim_start().starts_with(".maxntid 256, 1, 1"), "{}", kernel.name);
        }
    }

    #[cfg(feature = "train")]
    #[test]
    fn so_is_every_kernel_of_training() {
        use crate::cuda::train::modules as m;
        check_parameters(&[
            (m::RESIDUAL_F32, "u64 u64 u32 u32 u64 u64 f32 u64 u32 f32 u32 u32 u64 u64"),
            (m::RESIDUAL_BF16, "u64 u64 u32 u32 u64 u64 f32 u64 u32 f32 u32 u32 u64 u64"),
            (m::BEGIN_F32, "u64 u64 u32 u32 u64 u64 u64 u64 f32 u64 u32 f32 u32 u32 u64 u64"),
            (m::BEGIN_BF16, "u64 u64 u32 u32 u64 u64 u64 u64 f32 u64 u32 f32 u32 u32 u64 u64"),
            (m::MASK_ROWS, "u64 u32 u32 u64 u32 f32 u32 u32"),
            (m::NORM_BACKWARD_F32, "u64 u64 u32 u32 u64 f32 u32 u64 u32 f32 u32 u32 u64 u64 u64"),
            (m::NORM_BACKWARD_BF16, "u64 u64 u32 u32 u64 f32 u32 u64 u32 f32 u32 u32 u64 u64 u64"),
            (m::COLUMN_SUMS_F32, "u64 u32 u32 u64"),
            (m::COLUMN_SUMS_BF16, "u64 u32 u32 u64"),
            (m::NORM_SUMS, "u64 u64 u64 u32 u32 u64"),
            (m::ADD_PARTS, "u64 u32 u32 u64"),
            (m::ATTEND_TAPE_F32, "u64 u64 u32 u32 u32 u64 u32 f32 u32 u32 u64 u64"),
            (m::ATTEND_TAPE_BF16, "u64 u64 u32 u32 u32 u64 u32 f32 u32 u32 u64 u64"),
            (m::ATTEND_BACKWARD_QUERIES_F32, "u64 u64 u64 u64 u64 u32 u32 u32 u64 u32 f32 u32 u32 u64 u64"),
            (m::ATTEND_BACKWARD_QUERIES_BF16, "u64 u64 u64 u64 u64 u32 u32 u32 u64 u32 f32 u32 u32 u64 u64"),
            (m::ATTEND_BACKWARD_KEYS_F32, "u64 u64 u64 u64 u64 u64 u32 u32 u32 u64 u32 f32 u32 u32 u64"),
            (m::ATTEND_BACKWARD_KEYS_BF16, "u64 u64 u64 u64 u64 u64 u32 u32 u32 u64 u32 f32 u32 u32 u64"),
            (m::CROSS_ENTROPY_F32, "u64 u64 u32 u32 f32 u64 u64"),
            (m::CROSS_ENTROPY_BF16, "u64 u64 u32 u32 f32 u64 u64"),
            (m::SOFT_CROSS_ENTROPY, "u64 u64 u32 u32 f32 u64"),
            (m::SEGMENT_SUMS, "u64 u64 u64 u32 u64"),
            (m::ADD_SEGMENTS, "u64 u64 u64 u32 u64"),
            (m::POOL_BACKWARD, "u64 u64 u32 u32 u64"),
            (m::SQUARES, "u64 u32 u64"),
            (m::CLIP, "u64 u32 f32 u64"),
            (m::ADAM, "u64 u64 u64 u64 u64 u32 u64 u32 u64 f32 f32 f32 f32 f32 f32"),
            (m::PRODUCT_BF16_GRADIENT, "u64 u64 u64 u32 u32 u32 u32 u32 u32"),
            (m::PRODUCT_BF16_GRADIENT_SMALL, "u64 u64 u64 u32 u32 u32 u32 u32 u32"),
        ]);
    }

    #[test]
    fn every_kernel_is_in_its_ptx_with_the_parameters_it_is_launched_with() {
        // As the launchers push them.
        check_parameters(&[
            (ENCODE, "u64 u32 u64 u64 u64 u64"),
            (ACCUMULATE, "u64 u64 u32 u32 f64 f64 u32 u64"),
            (MOMENTS, "u64 u32 f64 f64 u32 u64"),
            (NEAREST_BRUTE_F64, "u64 u32 u64 u32 u64"),
            (NEAREST_BRUTE_F32, "u64 u32 u64 u32 u64"),
            (EMBED_F32, "u64 u64 u32 u32 u64 u64 u64 u64 f32 u64 u64"),
            (EMBED_BF16, "u64 u64 u32 u32 u64 u64 u64 u64 f32 u64 u64"),
            (NORM_F32, "u64 u32 u32 u64 u64 f32 u64"),
            (NORM_BF16, "u64 u32 u32 u64 u64 f32 u64"),
            (POOL, "u64 u64 u32 u32 u64 u64 f32 u64"),
            (PRODUCT_F32, "u64 u32 u32 u64 u32 u32 u64 u64 u32 u32 u32 u32"),
            (PRODUCT_BF16, "u64 u64 u64 u64 u32 u32 u32 u32"),
            (PRODUCT_BF16_SMALL, "u64 u64 u64 u64 u32 u32 u32 u32"),
            (PRODUCT_BF16_TRANSPOSED, "u64 u64 u64 u64 u32 u32 u32 u32"),
            (PRODUCT_BF16_TRANSPOSED_SMALL, "u64 u64 u64 u64 u32 u32 u32 u32"),
            (ATTEND_F32, "u64 u64 u32 u32 u32 u64"),
            (ATTEND_BF16, "u64 u64 u32 u32 u32 u64"),
            (ATTEND_CACHED_F32, "u64 u64 u64 u32 u32 u32 u32 u64 u64 u64"),
            (ATTEND_CACHED_BF16, "u64 u64 u64 u32 u32 u32 u32 u64 u64 u64"),
            (SAMPLE, "u64 u32 u64 u64 u64 u64"),
        ]);
    }

    #[test]
    fn no_product_is_fused_with_a_sum_unless_written_so() {
        for kernel in [ENCODE, NEAREST_BRUTE_F64, NEAREST_BRUTE_F32] {
            assert!(!kernel.ptx.contains("fma."), "{}", kernel.name);
        }
    }
}
