//! The kernels, compiled ahead of time by `kernels/build` and embedded.

use super::device::Device;
use crate::error::Result;
use cudarc::driver::CudaFunction;
use cudarc::nvrtc::Ptx;

/// A file of `kernels/ptx` and a function in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    name: &'static str,
    ptx: &'static str,
}

pub(super) const ENCODE: Kernel = Kernel { name: "encode", ptx: include_str!("../../kernels/ptx/encode.ptx") };
pub(super) const ACCUMULATE: Kernel =
    Kernel { name: "accumulate", ptx: include_str!("../../kernels/ptx/accumulate.ptx") };
pub(super) const MOMENTS: Kernel = Kernel { name: "moments", ptx: include_str!("../../kernels/ptx/moments.ptx") };

const NEAREST_BRUTE: &str = include_str!("../../kernels/ptx/nearest_brute.ptx");
pub(super) const NEAREST_BRUTE_F64: Kernel = Kernel { name: "nearest_brute_f64", ptx: NEAREST_BRUTE };
pub(super) const NEAREST_BRUTE_F32: Kernel = Kernel { name: "nearest_brute_f32", ptx: NEAREST_BRUTE };

impl Kernel {
    /// Has the driver compile it for `device`. The driver keeps what it compiled, so that only a first start takes time.
    pub(super) fn load(self, device: &Device) -> Result<CudaFunction> {
        device.run(&format!("loading the kernel {}", self.name), |_| {
            device.context().load_module(Ptx::from_src(self.ptx))?.load_function(self.name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_its_ptx_with_the_parameters_it_is_launched_with() {
        // As the launchers push them.
        for (kernel, parameters) in [
            (ENCODE, "u64 u32 u64 u64 u64 u64"),
            (ACCUMULATE, "u64 u64 u32 u32 f64 f64 u32 u64"),
            (MOMENTS, "u64 u32 f64 f64 u32 u64"),
            (NEAREST_BRUTE_F64, "u64 u32 u64 u32 u64"),
            (NEAREST_BRUTE_F32, "u64 u32 u64 u32 u64"),
        ] {
            assert!(kernel.ptx.contains("\n.version 8.1\n.target sm_80\n"), "{}", kernel.name);
            let (_, rest) = kernel.ptx.split_once(&format!(".visible .entry {}(", kernel.name)).unwrap();
            let (list, rest) = rest.split_once("\n)\n").unwrap();
            let types: Vec<&str> =
                list.lines().filter_map(|l| l.trim().strip_prefix(".param .")?.split(' ').next()).collect();
            assert_eq!(types.join(" "), parameters, "{}", kernel.name);
            assert!(rest.trim_start().starts_with(".maxntid 256, 1, 1"), "{}", kernel.name);
        }
    }

    #[test]
    fn no_product_is_fused_with_a_sum_unless_written_so() {
        for kernel in [ENCODE, NEAREST_BRUTE_F64, NEAREST_BRUTE_F32] {
            assert!(!kernel.ptx.contains("fma."), "{}", kernel.name);
        }
    }
}
