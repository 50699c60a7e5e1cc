//! The network's kernels, each as a method that takes what the kernel takes.
//!
//! Addresses are the caller's promise: that there is as much behind them as the numbers beside them say.

use super::weights::Norm;
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::cuda::geometry::THREADS;
use crate::cuda::module::{self, Kernel};
use crate::error::{Error, Result};
use crate::gpt2::Config;
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};

/// Rows of a block whose warps take one each.
const WARPS: usize = THREADS as usize / 32;
/// Sides of a tile of the products.
const TILE_F32: usize = 64;
const TILE_LARGE: usize = 128;
const TILE_SMALL: usize = 64;

/// What is done to a product before it is stored; the numbers of `kernels/epilogue.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(in crate::cuda) enum Epilogue {
    /// As it is, in f32.
    Plain = 0,
    /// Plus a bias.
    Bias = 1,
    /// `gelu` of it plus a bias.
    Gelu = 2,
    /// With a bias added to what is there, in f32.
    Residual = 3,
    /// `gelu` of it plus a bias, and behind all of that what `gelu` is of.
    #[cfg(feature = "train")]
    GeluKept = 4,
    /// Times the derivative of `gelu` at what is there.
    #[cfg(feature = "train")]
    Slope = 5,
    /// Added to what is there, in f32.
    #[cfg(feature = "train")]
    Add = 6,
}

/// How the right factor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) enum Layout {
    /// `[k, n]`
    Dense,
    /// `[n, k]`
    Transposed,
}

/// `[m, n] = [m, k] [k, n]`.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// Where the factors, the bias and the product lie.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Factors {
    pub a: u64,
    pub b: u64,
    pub layout: Layout,
    pub bias: u64,
    pub c: u64,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) enum Arg {
    Address(u64),
    #[cfg(feature = "train")]
    U64(u64),
    U32(u32),
    F32(f32),
}

/// A count or a size as kernels take it; all are bounded far below by the memory they need.
fn count(n: usize) -> Arg {
    Arg::U32(n as u32)
}

use Arg::{Address, F32, U32};

/// The kernels of one precision, loaded.
pub(in crate::cuda) struct Kernels {
    precision: Precision,
    multiprocessors: usize,
    embed: CudaFunction,
    norm: CudaFunction,
    pool: CudaFunction,
    attend: CudaFunction,
    attend_cached: CudaFunction,
    sample: CudaFunction,
    products: Products,
}

enum Products {
    F32(CudaFunction),
    /// Large and small tiles, of each layout.
    Bf16 {
        dense: [CudaFunction; 2],
        transposed: [CudaFunction; 2],
    },
}

impl Kernels {
    pub(in crate::cuda) fn load(device: &Device, precision: Precision) -> Result<Self> {
        use module as m;
        let by_precision: [Kernel; 4] = match precision {
            Precision::F32 => [m::EMBED_F32, m::NORM_F32, m::ATTEND_F32, m::ATTEND_CACHED_F32],
            Precision::Bf16 => [m::EMBED_BF16, m::NORM_BF16, m::ATTEND_BF16, m::ATTEND_CACHED_BF16],
        };
        let products = match precision {
            Precision::F32 => Products::F32(m::PRODUCT_F32.load(device)?),
            Precision::Bf16 => {
                let all = [
                    m::PRODUCT_BF16,
                    m::PRODUCT_BF16_SMALL,
                    m::PRODUCT_BF16_TRANSPOSED,
                    m::PRODUCT_BF16_TRANSPOSED_SMALL,
                ];
                let [a, b, c, d] = m::load(all, device)?;
                Products::Bf16 { dense: [a, b], transposed: [c, d] }
            }
        };
        let [embed, norm, attend, attend_cached] = m::load(by_precision, device)?;
        let [pool, sample] = m::load([m::POOL, m::SAMPLE], device)?;
        let multiprocessors = device.multiprocessors();
        Ok(Self { precision, multiprocessors, embed, norm, pool, attend, attend_cached, sample, products })
    }

    /// `x = wte[token] + wpe[position]`, `h = norm(x)` for `n` rows.
    #[allow(clippy::too_many_arguments, reason = "the kernel's")]
    pub(in crate::cuda) fn embed(
        &self,
        device: &Device,
        config: &Config,
        n: usize,
        [tokens, positions]: [u64; 2],
        [wte, wpe]: [u64; 2],
        norm: Norm,
        [x, h]: [u64; 2],
    ) -> Result<()> {
        let arguments = [
            Address(tokens),
            Address(positions),
            count(n),
            count(config.n_embd),
            Address(wte),
            Address(wpe),
            Address(norm.weight),
            Address(norm.bias),
            F32(config.layer_norm_epsilon),
            Address(x),
            Address(h),
        ];
        launch(device, "embedding tokens", &self.embed, n.div_ceil(WARPS), &arguments)
    }

    /// `h = norm(x)` for `n` rows.
    pub(in crate::cuda) fn norm(
        &self,
        device: &Device,
        config: &Config,
        n: usize,
        norm: Norm,
        [x, h]: [u64; 2],
    ) -> Result<()> {
        let arguments = [
            Address(x),
            count(n),
            count(config.n_embd),
            Address(norm.weight),
            Address(norm.bias),
            F32(config.layer_norm_epsilon),
            Address(h),
        ];
        launch(device, "normalising rows", &self.norm, n.div_ceil(WARPS), &arguments)
    }

    /// The means of `norm(x)` over rows `first..` of `n` sequences.
    pub(in crate::cuda) fn pool(
        &self,
        device: &Device,
        config: &Config,
        n: usize,
        first: usize,
        norm: Norm,
        [x, begins, out]: [u64; 3],
    ) -> Result<()> {
        let arguments = [
            Address(x),
            Address(begins),
            count(first),
            count(config.n_embd),
            Address(norm.weight),
            Address(norm.bias),
            F32(config.layer_norm_epsilon),
            Address(out),
        ];
        launch(device, "averaging rows", &self.pool, n, &arguments)
    }

    /// A product, and what comes after it.
    pub(in crate::cuda) fn product(
        &self,
        device: &Device,
        Shape { m, n, k }: Shape,
        factors: Factors,
        epilogue: Epilogue,
    ) -> Result<()> {
        let Factors { a, b, layout, bias, c } = factors;
        let tiles = |side: usize| m.div_ceil(side) * n.div_ceil(side);
        let shape = [count(m), count(n), count(k), U32(epilogue as u32)];
        let what = "multiplying matrices";
        match &self.products {
            Products::F32(function) => {
                let [b_row, b_column] = match layout {
                    Layout::Dense => [n, 1],
                    Layout::Transposed => [1, k],
                };
                let (a_strides, b_strides) = ([count(k), count(1)], [count(b_row), count(b_column)]);
                let mut arguments = vec![Address(a)];
                arguments.extend(a_strides);
                arguments.push(Address(b));
                arguments.extend(b_strides);
                arguments.extend([Address(bias), Address(c)]);
                arguments.extend(shape);
                launch(device, what, function, tiles(TILE_F32), &arguments)
            }
            Products::Bf16 { dense, transposed } => {
                let [large, small] = match layout {
                    Layout::Dense => dense,
                    Layout::Transposed => transposed,
                };
                // Two blocks of large tiles fit a multiprocessor.
                let (function, side) = if tiles(TILE_LARGE) >= 2 * self.multiprocessors {
                    (large, TILE_LARGE)
                } else {
                    (small, TILE_SMALL)
                };
                let mut arguments = vec![Address(a), Address(b), Address(bias), Address(c)];
                arguments.extend(shape);
                launch(device, what, function, tiles(side), &arguments)
            }
        }
    }

    /// Causal attention within sequences: `n` rows of `qkv` to `out`.
    pub(in crate::cuda) fn attend(
        &self,
        device: &Device,
        config: &Config,
        n: usize,
        [qkv, positions, out]: [u64; 3],
    ) -> Result<()> {
        let arguments =
            [Address(qkv), Address(positions), count(n), count(config.n_head), count(config.head_dim()), Address(out)];
        launch(device, "attending", &self.attend, n.div_ceil(WARPS) * config.n_head, &arguments)
    }

    /// One more token of `n` flows: `keys` and `values` are those of the layer.
    #[allow(clippy::too_many_arguments, reason = "the kernel's")]
    pub(in crate::cuda) fn attend_cached(
        &self,
        device: &Device,
        config: &Config,
        n: usize,
        qkv: u64,
        [slots, positions]: [u64; 2],
        [keys, values]: [u64; 2],
        out: u64,
    ) -> Result<()> {
        let arguments = [
            Address(qkv),
            Address(slots),
            Address(positions),
            count(n),
            count(config.n_head),
            count(config.head_dim()),
            count(config.n_positions),
            Address(keys),
            Address(values),
            Address(out),
        ];
        launch(device, "attending", &self.attend_cached, (n * config.n_head).div_ceil(WARPS), &arguments)
    }

    /// Draws `n` tokens from rows of `n_logits`.
    pub(in crate::cuda) fn sample(
        &self,
        device: &Device,
        n: usize,
        n_logits: usize,
        [logits, rule, banned, draws, tokens]: [u64; 5],
    ) -> Result<()> {
        let arguments =
            [Address(logits), count(n_logits), Address(rule), Address(banned), Address(draws), Address(tokens)];
        launch(device, "drawing tokens", &self.sample, n, &arguments)
    }

    pub(in crate::cuda) fn precision(&self) -> Precision {
        self.precision
    }
}

/// Asks `device` to run `blocks` blocks of `function`; none are nothing to do.
pub(in crate::cuda) fn launch(
    device: &Device,
    what: &str,
    function: &CudaFunction,
    blocks: usize,
    arguments: &[Arg],
) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    let Some(blocks) = u32::try_from(blocks).ok().filter(|&blocks| blocks <= i32::MAX as u32) else {
        return Err(Error::invalid(format!("{what}: {blocks} blocks are more than a GPU runs at once")));
    };
    let grid = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    device.run(what, |stream| {
        let mut launch = stream.launch_builder(function);
        for argument in arguments {
            match argument {
                Address(v) => launch.arg(v),
                #[cfg(feature = "train")]
                Arg::U64(v) => launch.arg(v),
                U32(v) => launch.arg(v),
                F32(v) => launch.arg(v),
            };
        }
        // SAFETY: the arguments are those of the kernel, in order and type (module.rs tests the list). The addresses are of
        // buffers of this room, sized by the same numbers that are passed beside them (workspace.rs, cache.rs), which live
        // until the stream has been waited for.
        unsafe { launch.launch(grid) }.map(drop)
    })
}
