//! The GPU: the device, the kernels of `kernels/*.cu`, and who launches them. The only room that knows cudarc.
//!
//! The CUDA driver is loaded at run time, when [`device::Device::open`] or [`device::count`] asks for it: the library starts
//! where there is none, and then they return an error that says so. The kernels are compiled ahead of time, to PTX for
//! compute capability 8.0, which the driver compiles for the GPU it finds.
//!
//! Tokens are those of the CPU, exactly; the quantizer's sums are of integers and do not depend on the device. The network's
//! are of floating point, each in one order whatever the batch.

mod bandwidth;
#[allow(unsafe_code, reason = "kernels take pointers")]
pub mod brute;
#[allow(unsafe_code, reason = "whether the driver is there is asked by loading it")]
pub mod device;
mod fixed;
mod geometry;
#[allow(unsafe_code, reason = "kernels take pointers")]
pub mod gpt2;
mod module;
#[allow(unsafe_code, reason = "the C API of NCCL")]
pub mod nccl;
#[allow(unsafe_code, reason = "kernels take pointers")]
pub mod quantizer;
#[allow(unsafe_code, reason = "kernels take pointers")]
mod sums;
#[cfg(feature = "train")]
#[allow(unsafe_code, reason = "kernels take pointers")]
pub mod train;

#[cfg(test)]
mod checks;
#[cfg(test)]
mod on_cpu;
#[cfg(test)]
mod on_gpu;
#[cfg(test)]
mod on_gpu_graphs;
#[cfg(test)]
mod on_gpu_network;
#[cfg(test)]
#[cfg(feature = "train")]
mod on_gpu_train;
