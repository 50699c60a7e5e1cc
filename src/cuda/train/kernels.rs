//! The kernels of training, loaded, and how they are launched. What inference launches too is [`gpt2::Kernels`].
//!
//! Addresses are the caller's promise, as there.

use super::modules as m;
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::cuda::gpt2::{self, Arg, Epilogue, Factors, Layout, Shape, launch};
use crate::cuda::module::{self, Kernel};
use crate::error::Result;
use crate::gpt2::{Masks, Site};
use cudarc::driver::CudaFunction;
use std::sync::Arc;

use Arg::{Address, F32, U32, U64};

/// Rows or columns of a block.
const WARPS: usize = 8;
const THREADS: usize = 256;
/// Rows of a part of `kernels/columns.cu`.
const PART: usize = 256;
/// Gradients of a part of `kernels/adam.cu`.
pub(super) const SQUARES: usize = 32_768;
/// Sides of the tiles of `product_bf16_gradient`, and how many blocks should be there: two a multiprocessor of an H100. The
/// same on every GPU, so that sums are the same.
const SIDES: [usize; 2] = [128, 64];
const BLOCKS: usize = 264;
/// Fewest rows of a part of a gradient's product, and most parts.
const PART_ROWS: usize = 512;
const MOST_PARTS: usize = 32;

/// The kernels of one precision.
pub(super) struct Kernels {
    device: Arc<Device>,
    /// Those of inference.
    pub shared: gpt2::Kernels,
    begin: CudaFunction,
    residual: CudaFunction,
    mask_rows: CudaFunction,
    norm_backward: CudaFunction,
    column_sums: CudaFunction,
    column_sums_f32: CudaFunction,
    norm_sums: CudaFunction,
    add_parts: CudaFunction,
    attend: CudaFunction,
    attend_queries: CudaFunction,
    attend_keys: CudaFunction,
    cross_entropy: CudaFunction,
    soft_cross_entropy: CudaFunction,
    segment_sums: CudaFunction,
    add_segments: CudaFunction,
    pool_backward: CudaFunction,
    squares: CudaFunction,
    clip: CudaFunction,
    adam: CudaFunction,
    product_f32: CudaFunction,
    gradients: Option<[CudaFunction; 2]>,
}

/// The masks of a batch, as the kernels take them.
#[derive(Clone, Copy)]
pub(super) struct Dropout<'a>(pub Option<&'a Masks>);

impl Dropout<'_> {
    fn arguments(self, site: Option<Site>) -> [Arg; 5] {
        match (self.0, site) {
            (Some(masks), Some(site)) => {
                let (key, threshold, scale, first_row) = masks.parts();
                [U64(key), U32(threshold), F32(scale), U32(site.words()[0]), U32(first_row)]
            }
            _ => [U64(0), U32(0), F32(1.0), U32(0), U32(0)],
        }
    }

    /// Whether anything is dropped.
    pub fn is_there(self) -> bool {
        self.0.is_some()
    }
}

/// A matrix of f32 whose element (i, j) lies at `at + 4 (i row + j column)`.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    pub at: u64,
    pub row: usize,
    pub column: usize,
}

fn count(n: usize) -> Arg {
    U32(n as u32)
}

fn addresses<const N: usize>(at: [u64; N]) -> [Arg; N] {
    at.map(Address)
}

impl Kernels {
    pub fn load(device: &Arc<Device>, precision: Precision) -> Result<Self> {
        let is_f32 = precision == Precision::F32;
        let either = |f32: Kernel, bf16: Kernel| if is_f32 { f32 } else { bf16 };
        let [begin, residual, mask_rows] = module::load(
            [either(m::BEGIN_F32, m::BEGIN_BF16), either(m::RESIDUAL_F32, m::RESIDUAL_BF16), m::MASK_ROWS],
            device,
        )?;
        let [column_sums, column_sums_f32, norm_sums, add_parts] = module::load(
            [either(m::COLUMN_SUMS_F32, m::COLUMN_SUMS_BF16), m::COLUMN_SUMS_F32, m::NORM_SUMS, m::ADD_PARTS],
            device,
        )?;
        let [attend_queries, attend_keys] = module::load(
            [
                either(m::ATTEND_BACKWARD_QUERIES_F32, m::ATTEND_BACKWARD_QUERIES_BF16),
                either(m::ATTEND_BACKWARD_KEYS_F32, m::ATTEND_BACKWARD_KEYS_BF16),
            ],
            device,
        )?;
        let [cross_entropy, soft_cross_entropy] =
            module::load([either(m::CROSS_ENTROPY_F32, m::CROSS_ENTROPY_BF16), m::SOFT_CROSS_ENTROPY], device)?;
        let [segment_sums, add_segments, pool_backward] =
            module::load([m::SEGMENT_SUMS, m::ADD_SEGMENTS, m::POOL_BACKWARD], device)?;
        let [squares, clip, adam] = module::load([m::SQUARES, m::CLIP, m::ADAM], device)?;
        let gradients = match precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(module::load([m::PRODUCT_BF16_GRADIENT, m::PRODUCT_BF16_GRADIENT_SMALL], device)?),
        };
        Ok(Self {
            shared: gpt2::Kernels::load(device, precision)?,
            norm_backward: either(m::NORM_BACKWARD_F32, m::NORM_BACKWARD_BF16).load(device)?,
            attend: either(m::ATTEND_TAPE_F32, m::ATTEND_TAPE_BF16).load(device)?,
            product_f32: module::PRODUCT_F32.load(device)?,
            device: device.clone(),
            begin,
            residual,
            mask_rows,
            column_sums,
            column_sums_f32,
            norm_sums,
            add_parts,
            attend_queries,
            attend_keys,
            cross_entropy,
            soft_cross_entropy,
            segment_sums,
            add_segments,
            pool_backward,
            squares,
            clip,
            adam,
            gradients,
        })
    }

    fn run<const N: usize>(
        &self,
        what: &str,
        function: &CudaFunction,
        blocks: usize,
        parts: [&[Arg]; N],
    ) -> Result<()> {
        launch(&self.device, what, function, blocks, &parts.concat())
    }

    /// The embedded rows, dropped out, and their norm: `[x, h]`.
    #[allow(clippy::too_many_arguments, reason = "the kernel's")]
    pub fn begin(
        &self,
        [n, d]: [usize; 2],
        inputs: [u64; 2],
        tables: [u64; 2],
        norm: gpt2::Norm,
        epsilon: f32,
        dropout: Dropout<'_>,
        out: [u64; 2],
    ) -> Result<()> {
        let scale = [Address(norm.weight), Address(norm.bias), F32(epsilon)];
        self.run(
            "embedding tokens",
            &self.begin,
            n.div_ceil(WARPS),
            [
                &addresses(inputs),
                &[count(n), count(d)],
                &addresses(tables),
                &scale,
                &dropout.arguments(Some(Site::Embedding)),
                &addresses(out),
            ],
        )
    }

    /// `next = x + dropout(y)` and its norm: `[next, h]` from `[x, y]`.
    #[allow(clippy::too_many_arguments, reason = "the kernel's")]
    pub fn residual(
        &self,
        [n, d]: [usize; 2],
        inputs: [u64; 2],
        norm: gpt2::Norm,
        epsilon: f32,
        dropout: Dropout<'_>,
        site: Site,
        out: [u64; 2],
    ) -> Result<()> {
        let shape = [count(n), count(d), Address(norm.weight), Address(norm.bias), F32(epsilon)];
        let (masks, blocks) = (dropout.arguments(Some(site)), n.div_ceil(WARPS));
        self.run("adding a branch", &self.residual, blocks, [&addresses(inputs), &shape, &masks, &addresses(out)])
    }

    /// The gradient of embedded rows that were dropped out.
    pub fn mask_rows(&self, x: u64, [n, d]: [usize; 2], dropout: Dropout<'_>) -> Result<()> {
        let masks = dropout.arguments(Some(Site::Embedding));
        self.run("dropping out", &self.mask_rows, n.div_ceil(WARPS), [&[Address(x), count(n), count(d)], &masks])
    }

    /// `[dx, stats, dy]` from `[x, dh]`; `dy` may be 0, `fresh`: `dx` is written, not added to.
    #[allow(clippy::too_many_arguments, reason = "the kernel's")]
    pub fn norm_backward(
        &self,
        [n, d]: [usize; 2],
        inputs: [u64; 2],
        weight: u64,
        epsilon: f32,
        fresh: bool,
        dropout: Dropout<'_>,
        site: Option<Site>,
        out: [u64; 3],
    ) -> Result<()> {
        let shape = [count(n), count(d), Address(weight), F32(epsilon), U32(u32::from(fresh))];
        let (masks, blocks) = (dropout.arguments(site), n.div_ceil(WARPS));
        self.run("normalising rows", &self.norm_backward, blocks, [&addresses(inputs), &shape, &masks, &addresses(out)])
    }

    /// Adds to `to` the sums of the columns of `from`, of f32 if `wide`, by way of `parts`.
    pub fn add_columns(&self, from: u64, wide: bool, [n, columns]: [usize; 2], parts: u64, to: u64) -> Result<()> {
        let function = if wide { &self.column_sums_f32 } else { &self.column_sums };
        let arguments = [Address(from), count(n), count(columns), Address(parts)];
        let (blocks, n_parts) = (columns.div_ceil(THREADS) * n.div_ceil(PART), n.div_ceil(PART));
        self.run("adding up columns", function, blocks, [&arguments])?;
        self.add_parts(parts, [n_parts, columns], to)
    }

    /// Adds to `to` the gradients of a norm's weight and bias, by way of `parts`.
    pub fn add_norm(&self, inputs: [u64; 3], [n, d]: [usize; 2], parts: u64, to: u64) -> Result<()> {
        let blocks = d.div_ceil(THREADS) * n.div_ceil(PART);
        let shape = [count(n), count(d), Address(parts)];
        self.run("adding up columns", &self.norm_sums, blocks, [&addresses(inputs), &shape])?;
        self.add_parts(parts, [n.div_ceil(PART), 2 * d], to)
    }

    fn add_parts(&self, parts: u64, [n, columns]: [usize; 2], to: u64) -> Result<()> {
        let arguments = [Address(parts), count(n), count(columns), Address(to)];
        self.run("adding up parts", &self.add_parts, columns.div_ceil(THREADS), [&arguments])
    }

    /// Numbers of f32 that the parts of sums over `rows` rows take, for a network `d` wide with `vocabulary` tokens.
    pub fn parts(rows: usize, d: usize, vocabulary: usize) -> usize {
        let shapes = [[d, 3 * d], [d, d], [d, 4 * d], [4 * d, d], [vocabulary, d]];
        let products = shapes.map(|[m, n]| match Self::cut(m, n, rows).1 {
            1 => 0,
            parts => parts * m * n,
        });
        products.into_iter().fold(rows.div_ceil(PART) * 4 * d, usize::max)
    }

    /// Which tiles, and how many parts, the product of a gradient `[m, n]` over `rows` rows is cut into.
    fn cut(m: usize, n: usize, rows: usize) -> (usize, usize) {
        let tiles = |side: usize| m.div_ceil(side) * n.div_ceil(side);
        let size = usize::from(tiles(SIDES[0]) < BLOCKS / 8);
        let most = rows.div_ceil(PART_ROWS).min(MOST_PARTS);
        (size, (BLOCKS / tiles(SIDES[size])).clamp(1, most.max(1)))
    }

    /// Adds `a^T b` to `to`: `a` is `[rows, a_columns]`, of which `m` columns count, `b` is `[rows, n]`.
    pub fn gradient(
        &self,
        [a, b]: [u64; 2],
        [m, n, rows]: [usize; 3],
        a_columns: usize,
        parts: u64,
        to: u64,
    ) -> Result<()> {
        let Some(functions) = &self.gradients else {
            let a = Strided { at: a, row: 1, column: a_columns };
            return self.strided(
                a,
                Strided { at: b, row: n, column: 1 },
                0,
                to,
                Shape { m, n, k: rows },
                Epilogue::Add,
            );
        };
        let (size, n_parts) = Self::cut(m, n, rows);
        let tiles = m.div_ceil(SIDES[size]) * n.div_ceil(SIDES[size]);
        let (c, epilogue) = if n_parts == 1 { (to, Epilogue::Add) } else { (parts, Epilogue::Plain) };
        let shape = [m, n, rows, a_columns, n_parts].map(count);
        let places = addresses([a, b, c]);
        let epilogue = [U32(epilogue as u32)];
        self.run("multiplying matrices", &functions[size], tiles * n_parts, [&places, &shape, &epilogue])?;
        if n_parts > 1 { self.add_parts(parts, [n_parts, m * n], to) } else { Ok(()) }
    }

    /// `dy W^T`, where `W` is `[n, k]`.
    pub fn through(&self, dy: u64, weight: u64, c: u64, shape: Shape, epilogue: Epilogue) -> Result<()> {
        let factors = Factors { a: dy, b: weight, layout: Layout::Transposed, bias: 0, c };
        self.shared.product(&self.device, shape, factors, epilogue)
    }

    /// A product of matrices of f32 that lie as they like.
    pub fn strided(&self, a: Strided, b: Strided, bias: u64, c: u64, shape: Shape, epilogue: Epilogue) -> Result<()> {
        let Shape { m, n, k } = shape;
        let place = |x: Strided| [Address(x.at), count(x.row), count(x.column)];
        let rest = [Address(bias), Address(c), count(m), count(n), count(k), U32(epilogue as u32)];
        let blocks = m.div_ceil(64) * n.div_ceil(64);
        self.run("multiplying matrices", &self.product_f32, blocks, [&place(a), &place(b), &rest])
    }

    /// Attention of `[qkv, positions]` to `[out, lse]`.
    pub fn attend(
        &self,
        [n, heads, dim]: [usize; 3],
        inputs: [u64; 2],
        dropout: Dropout<'_>,
        layer: usize,
        out: [u64; 2],
    ) -> Result<()> {
        let masks = dropout.arguments(Some(Site::Attention { layer, head: 0 }));
        let (shape, blocks) = ([n, heads, dim].map(count), n.div_ceil(WARPS) * heads);
        self.run("attending", &self.attend, blocks, [&addresses(inputs), &shape, &masks, &addresses(out)])
    }

    /// Its backward, from `[qkv, out, d_out, lse]` and the rows' `[positions, lasts]` to `[delta, d_qkv]`.
    pub fn attend_backward(
        &self,
        [n, heads, dim]: [usize; 3],
        [qkv, out, d_out, lse]: [u64; 4],
        [positions, lasts]: [u64; 2],
        dropout: Dropout<'_>,
        layer: usize,
        [delta, d_qkv]: [u64; 2],
    ) -> Result<()> {
        let masks = dropout.arguments(Some(Site::Attention { layer, head: 0 }));
        let (shape, blocks) = ([n, heads, dim].map(count), n.div_ceil(WARPS) * heads);
        let (inputs, to) = (addresses([qkv, out, d_out, lse, positions]), addresses([delta, d_qkv]));
        self.run("attending", &self.attend_queries, blocks, [&inputs, &shape, &masks, &to])?;
        let (inputs, to) = (addresses([qkv, d_out, lse, delta, positions, lasts]), addresses([d_qkv]));
        self.run("attending", &self.attend_keys, blocks, [&inputs, &shape, &masks, &to])
    }

    /// `[nll, d]` of `n` rows of `[logits, targets]`; `d` may be 0.
    pub fn cross_entropy(
        &self,
        n: usize,
        inputs: [u64; 2],
        [vocabulary, stride]: [usize; 2],
        scale: f32,
        out: [u64; 2],
    ) -> Result<()> {
        let shape = [count(vocabulary), count(stride), F32(scale)];
        self.run("computing losses", &self.cross_entropy, n, [&addresses(inputs), &shape, &addresses(out)])
    }

    /// `loss` of `n` rows of `[logits, targets]`; the logits become their gradients.
    pub fn soft_cross_entropy(&self, [n, labels]: [usize; 2], inputs: [u64; 2], total: f32, loss: u64) -> Result<()> {
        let shape = [count(n), count(labels), F32(total), Address(loss)];
        self.run("computing losses", &self.soft_cross_entropy, n.div_ceil(WARPS), [&addresses(inputs), &shape])
    }

    /// Adds the rows of `from` to those of `to` that they were gathered from; `[order, begins, keys, firsts]` as
    /// `kernels/scatter.cu` says.
    pub fn scatter(
        &self,
        from: u64,
        [order, begins, keys, firsts]: [u64; 4],
        [n_segments, n_keys, d]: [usize; 3],
        parts: u64,
        to: u64,
    ) -> Result<()> {
        let sums = [Address(from), Address(order), Address(begins), count(d), Address(parts)];
        self.run("adding up rows", &self.segment_sums, n_segments, [&sums])?;
        let sums = [Address(parts), Address(keys), Address(firsts), count(d), Address(to)];
        self.run("adding up rows", &self.add_segments, n_keys, [&sums])
    }

    /// Adds the gradients of means `d_out` to the rows of `n` sequences from row `first` of each on.
    pub fn pool_backward(&self, n: usize, d_out: u64, begins: u64, first: usize, d: usize, to: u64) -> Result<()> {
        let arguments = [Address(d_out), Address(begins), count(first), count(d), Address(to)];
        self.run("averaging rows", &self.pool_backward, n, [&arguments])
    }

    /// The norm of `n` gradients and what they are to be multiplied with, two f64 at `norm`.
    pub fn clip(&self, grads: u64, n: usize, parts: u64, most: f32, norm: u64) -> Result<()> {
        let n_parts = n.div_ceil(SQUARES);
        self.run("adding up squares", &self.squares, n_parts, [&[Address(grads), count(n), Address(parts)]])?;
        let arguments = [Address(parts), count(n_parts), F32(most), Address(norm)];
        self.run("adding up squares", &self.clip, 1, [&arguments])
    }

    /// A step of `n` parameters at `[p, g, m, v, rounded]`; `constants` as `kernels/adam.cu` takes them.
    pub fn adam(
        &self,
        at: [u64; 5],
        n: usize,
        (spans, n_spans): (u64, usize),
        norm: u64,
        constants: [f32; 6],
    ) -> Result<()> {
        let shape = [count(n), Address(spans), count(n_spans), Address(norm)];
        let blocks = n.div_ceil(THREADS);
        self.run("stepping", &self.adam, blocks, [&addresses(at), &shape, &constants.map(F32)])
    }
}
