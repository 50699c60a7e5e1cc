//! Products with a matrix that stays: the weights of a layer, laid out once for the loop that reads them.
//!
//! A general product lays its second factor out anew each time, which costs as much as the product itself where the first
//! has few rows: one flow, or one step of a decode. Here that is done once a model. The kernel keeps a tile of the result
//! in registers, a few rows by a panel of columns, and ends with what comes after the product (a bias, an activation,
//! the residual sum) while the tile is at hand.
//!
//! Every value is one chain of fused multiply-adds, first input first, that starts from the bias: the same bit by bit
//! whichever rows are beside it.

use super::simd::{exp2, vectorised};
use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};
use std::array::from_fn;

/// A vector of the widest instructions and a cache line, so that no vector of a panel lies across two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; LINE]);

pub(super) const LINE: usize = 16;

/// Lines of a panel's row, where there is AVX-512: a row of a tile is as many registers.
pub(super) const LINES: usize = 4;

/// Lines of a matrix from which on it is asked for ahead: one MiB. Less comes from near caches.
const FAR: usize = 1 << 14;

/// What becomes of a value `y` of the product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// `c = y`
    Store,
    /// `c = c + y`
    Add,
    /// `c = gelu_new(y)`
    Gelu,
}

/// What the factors of a product are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// The first eight bits of their mantissa. Sums are still of `f32`.
    Bf16,
}

impl Precision {
    /// Whether this processor has instructions for it.
    pub fn is_there(self) -> bool {
        self == Self::F32 || super::avx512::has_bf16()
    }
}

/// Who computes a tile.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    /// [`super::avx512`]. Made only where the processor has AVX-512.
    Avx512,
    /// The same with products of bf16. Made only where the processor has them.
    Bf16,
    /// The vectors that pulp finds.
    Portable,
}

/// A matrix `[inputs, outputs]` and a bias `[outputs]`, in panels of as many columns as a tile has.
pub struct Packed {
    kernel: Kernel,
    inputs: usize,
    outputs: usize,
    /// Columns of a panel.
    width: usize,
    /// Panel after panel: its bias, then its row of each input; columns past the last are 0. Each panel starts a line.
    /// Of bf16, a row is of two inputs, side by side in each column's 32 bits.
    panels: Vec<Line>,
}

/// Some rows of the first factor and a panel of the second.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub panel: &'a [Line],
    /// What of the matrix to bring near meanwhile.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the portable tile leaves it to the processor"))]
    pub next: &'a [Line],
    /// The rows' factors, `a_stride` apart, and how many rows.
    pub a: &'a [f32],
    pub a_stride: usize,
    pub rows: usize,
    /// Where a row of the result begins, and how many of the panel's columns there are.
    pub c_stride: usize,
    pub columns: usize,
    pub end: End,
}

impl Packed {
    /// Lays out the matrix whose value for input `l` and output `j` is `weight(l, j)`, with `bias` `[outputs]`, or with
    /// none where that is empty. Without instructions for `precision` it is `f32`.
    ///
    /// # Panics
    /// If `bias` has another length.
    pub fn new(
        precision: Precision,
        inputs: usize,
        outputs: usize,
        bias: &[f32],
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let kernel = match precision {
            Precision::Bf16 if precision.is_there() => Kernel::Bf16,
            _ if super::avx512::is_there() => Kernel::Avx512,
            _ => Kernel::Portable,
        };
        Self::for_kernel(kernel, inputs, outputs, bias, weight)
    }

    fn for_kernel(
        kernel: Kernel,
        inputs: usize,
        outputs: usize,
        bias: &[f32],
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        assert!(bias.is_empty() || bias.len() == outputs, "{} biases of {outputs} outputs", bias.len());
        let width = match kernel {
            Kernel::Avx512 | Kernel::Bf16 => LINES * LINE,
            Kernel::Portable => LINE,
        };
        let lines = (steps(kernel, inputs) + 1) * width / LINE;
        let mut panels = vec![Line::zeroed(); lines * outputs.div_ceil(width)];
        for (panel, first) in panels.chunks_exact_mut(lines).zip((0..outputs).step_by(width)) {
            let columns = first..outputs.min(first + width);
            let mut rows = bytemuck::cast_slice_mut::<_, f32>(panel).chunks_exact_mut(width);
            if let (Some(to), false) = (rows.next(), bias.is_empty()) {
                to[..columns.len()].copy_from_slice(&bias[columns.clone()]);
            }
            let second = |l: usize, j: usize| if l < inputs { weight(l, j) } else { 0.0 };
            for (l, to) in rows.enumerate() {
                for (to, j) in to.iter_mut().zip(columns.clone()) {
                    *to = match kernel {
                        Kernel::Bf16 => pair(weight(2 * l, j), second(2 * l + 1, j)),
                        _ => weight(l, j),
                    };
                }
            }
        }
        Self { kernel, inputs, outputs, width, panels }
    }

    /// `a W + b` of `rows` rows, which goes to `c` as `end` says. Row `i` of `a` begins at `i * a_stride`, and of `c` at
    /// `i * c_stride`. `rounded` is scratch, which grows.
    ///
    /// # Panics
    /// If `a` or `c` is shorter than that, or a stride than a row.
    pub fn multiply(
        &self,
        rows: usize,
        (a, a_stride): (&[f32], usize),
        (c, c_stride): (&mut [f32], usize),
        end: End,
        rounded: &mut Vec<f32>,
    ) {
        for (len, stride, row) in [(a.len(), a_stride, self.inputs), (c.len(), c_stride, self.outputs)] {
            let fits = rows == 0 || (rows - 1).checked_mul(stride).is_some_and(|last| last + row <= len);
            assert!(stride >= row && fits, "{rows} rows of {row}, {stride} apart, in {len} values");
        }
        let steps = steps(self.kernel, self.inputs);
        let (a, a_stride) = match self.kernel {
            Kernel::Bf16 => {
                rounded.resize(rounded.len().max(rows * steps), 0.0);
                for i in 0..rows {
                    let (row, out) = (&a[i * a_stride..][..self.inputs], &mut rounded[i * steps..][..steps]);
                    vectorised!(round(row, out));
                }
                (&rounded[..], steps)
            }
            _ => (a, a_stride),
        };
        let most = match self.kernel {
            Kernel::Avx512 | Kernel::Bf16 => super::avx512::ROWS,
            Kernel::Portable => ROWS,
        };
        // Tiles of about equally many rows: a last one of one row would keep few multipliers busy.
        let tiles = rows.div_ceil(most);
        let lines = (steps + 1) * self.width / LINE;
        // What comes from memory is asked for while there is something to compute: a panel ahead, or, where few rows are
        // computed faster than a panel comes, half of one, so that what was asked for is still on its way.
        let ahead = match tiles {
            _ if self.panels.len() < FAR => self.panels.len(),
            0..3 => lines / 2,
            _ => lines,
        };
        let from = |at: usize| &self.panels[at.min(self.panels.len())..];
        for (first, at) in (0..self.outputs).step_by(self.width).zip((0..).step_by(lines)) {
            let panel = &self.panels[at..at + lines];
            let columns = self.width.min(self.outputs - first);
            for i in 0..tiles {
                let (begin, end_row) = (rows * i / tiles, rows * (i + 1) / tiles);
                let a = &a[begin * a_stride..];
                let [next, end_next] = [i, i + 1].map(|i| from(at + ahead + lines * i / tiles));
                let next = &next[..next.len() - end_next.len()];
                let tile = Tile { panel, next, a, a_stride, rows: end_row - begin, c_stride, columns, end };
                let c = &mut c[begin * c_stride + first..];
                match self.kernel {
                    // SAFETY: this kernel was chosen because the processor has AVX-512.
                    Kernel::Avx512 => unsafe { super::avx512::compute::<false>(tile, c) },
                    // SAFETY: as above, with its products of bf16.
                    Kernel::Bf16 => unsafe { super::avx512::compute::<true>(tile, c) },
                    Kernel::Portable => Arch::new().dispatch(Portable { tile, c }),
                }
            }
        }
    }
}

/// Rows of a panel, but for the bias.
fn steps(kernel: Kernel, inputs: usize) -> usize {
    if kernel == Kernel::Bf16 { inputs.div_ceil(2) } else { inputs }
}

/// Two values as bf16, in the bits of one: the first in the low half.
#[inline(always)]
pub fn pair(first: f32, second: f32) -> f32 {
    /// To the nearest, ties to even.
    #[inline(always)]
    fn bf16(x: f32) -> u32 {
        let bits = x.to_bits();
        bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
    }
    f32::from_bits(bf16(first) | bf16(second) << 16)
}

/// The two values of a [`pair`].
#[inline(always)]
pub fn unpair(pair: f32) -> [f32; 2] {
    [f32::from_bits(pair.to_bits() << 16), f32::from_bits(pair.to_bits() & 0xffff_0000)]
}

/// A row of values as pairs of bf16.
#[inline(always)]
fn round(row: &[f32], out: &mut [f32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    out.iter_mut().zip(pairs).for_each(|(out, [a, b])| *out = pair(*a, *b));
    if let (Some(out), Some(a)) = (out.last_mut(), rest.first()) {
        *out = pair(*a, 0.0);
    }
}

/// Most rows of a portable tile: with two vectors each, their sums leave four of sixteen registers.
const ROWS: usize = 6;

/// A tile by the vectors that pulp finds.
struct Portable<'a> {
    tile: Tile<'a>,
    c: &'a mut [f32],
}

impl WithSimd for Portable<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.tile.rows {
            6 => self.rows::<S, 6>(simd),
            5 => self.rows::<S, 5>(simd),
            4 => self.rows::<S, 4>(simd),
            3 => self.rows::<S, 3>(simd),
            2 => self.rows::<S, 2>(simd),
            _ => self.rows::<S, 1>(simd),
        }
    }
}

impl Portable<'_> {
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(self, simd: S) {
        let Tile { a, a_stride, .. } = self.tile;
        let Some((bias, steps)) = self.tile.panel.split_first() else { return };
        let rows: [&[f32]; R] = from_fn(
            #[inline(always)]
            |r| &a[r * a_stride..][..steps.len()],
        );
        let mut done = [[0.0; LINE]; R];
        // Two vectors a row at a time, so that the sums of all rows stay in registers.
        let step = (2 * S::F32_LANES).min(LINE);
        for at in (0..LINE).step_by(step) {
            if step == 2 * S::F32_LANES {
                columns::<S, R, 2>(simd, bias, steps, rows, at, &mut done);
            } else {
                columns::<S, R, 1>(simd, bias, steps, rows, at, &mut done);
            }
        }
        for (row, c) in done.iter().zip(self.c.chunks_mut(self.tile.c_stride)) {
            let pairs = c[..self.tile.columns].iter_mut().zip(row);
            match self.tile.end {
                End::Store => pairs.for_each(|(c, y)| *c = *y),
                End::Add => pairs.for_each(|(c, y)| *c += *y),
                End::Gelu => pairs.for_each(|(c, y)| *c = gelu(*y)),
            }
        }
    }
}

/// `G` vectors of columns from column `at` on.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "an index into arrays of registers")]
fn columns<S: Simd, const R: usize, const G: usize>(
    simd: S,
    bias: &Line,
    steps: &[Line],
    rows: [&[f32]; R],
    at: usize,
    done: &mut [[f32; LINE]; R],
) {
    let mut sums = [vectors::<S, G>(bias, at); R];
    for (l, step) in steps.iter().enumerate() {
        let step = vectors::<S, G>(step, at);
        for r in 0..R {
            let factor = simd.splat_f32s(rows[r][l]);
            for g in 0..G {
                sums[r][g] = simd.mul_add_e_f32s(factor, step[g], sums[r][g]);
            }
        }
    }
    for (sums, done) in sums.iter().zip(done) {
        S::as_mut_simd_f32s(&mut done[at..at + G * S::F32_LANES]).0.copy_from_slice(sums);
    }
}

/// `G` vectors of a line from column `at` on.
#[inline(always)]
fn vectors<S: Simd, const G: usize>(line: &Line, at: usize) -> [S::f32s; G] {
    let (vectors, _) = S::as_simd_f32s(&line.0[at..at + G * S::F32_LANES]);
    from_fn(
        #[inline(always)]
        |g| vectors[g],
    )
}

/// `gelu_new`, as `x / (1 + e^(-2u))`: see [`crate::gpt2`]. The factors before the exponential are folded into one.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    // A cube that overflows gives an infinity of the right sign, and that a gate of 0 or 1.
    let t = x * (GELU_CUBIC * x).mul_add(x, GELU_LINEAR);
    x / (1.0 + exp2(t))
}

/// `-2u` over `ln 2` is `GELU_LINEAR x + GELU_CUBIC x^3`, for `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
pub(super) const GELU_LINEAR: f32 = -2.0 * 0.797_884_6 * std::f32::consts::LOG2_E;
pub(super) const GELU_CUBIC: f32 = 0.044_715 * GELU_LINEAR;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        (0..n).map(|i| crate::random::uniform(seed, 0, i as u64) as f32 - 0.5).collect()
    }

    /// The definition in f64.
    fn expected(rows: usize, inputs: usize, outputs: usize, a: &[f32], w: &[f32], b: &[f32]) -> Vec<f64> {
        let mut c = Vec::new();
        for i in 0..rows {
            for j in 0..outputs {
                let products = (0..inputs).map(|l| f64::from(a[i * inputs + l]) * f64::from(w[l * outputs + j]));
                c.push(b.get(j).map_or(0.0, |b| f64::from(*b)) + products.sum::<f64>());
            }
        }
        c
    }

    const SHAPES: [[usize; 3]; 12] = [
        [1, 1, 1],
        [2, 7, 33],
        [5, 3, 1],
        [6, 64, 64],
        [7, 64, 192],
        [13, 130, 65],
        [70, 65, 40],
        [4, 9, 16],
        [3, 5, 7],
        [1, 40, 11],
        [3, 0, 4],
        [0, 2, 2],
    ];

    /// Every kernel that runs here.
    fn kernels() -> Vec<Kernel> {
        let there = super::super::avx512::is_there();
        [Kernel::Portable].into_iter().chain(there.then_some(Kernel::Avx512)).collect()
    }

    fn gelu_new(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    }

    #[test]
    fn products_equal_the_definition() {
        for ([rows, inputs, outputs], kernel) in
            SHAPES.into_iter().flat_map(|s| kernels().into_iter().map(move |k| (s, k)))
        {
            let (a, w, b) = (numbers(rows * inputs, 1), numbers(inputs * outputs, 2), numbers(outputs, 3));
            for bias in [&b[..], &[]] {
                let packed = Packed::for_kernel(kernel, inputs, outputs, bias, |l, j| w[l * outputs + j]);
                let want = expected(rows, inputs, outputs, &a, &w, bias);
                let mut c = vec![f32::NAN; rows * outputs];
                packed.multiply(rows, (&a, inputs), (&mut c, outputs), End::Store, &mut Vec::new());
                packed.multiply(rows, (&a, inputs), (&mut c, outputs), End::Add, &mut Vec::new());
                let mut g = vec![f32::NAN; rows * outputs];
                packed.multiply(rows, (&a, inputs), (&mut g, outputs), End::Gelu, &mut Vec::new());
                for ((got, g), want) in c.iter().zip(&g).zip(&want) {
                    let error = (f64::from(*got) - 2.0 * want).abs().max((f64::from(*g) - gelu_new(*want)).abs());
                    assert!(error < 1e-5, "{kernel:?} {rows} x {inputs} x {outputs}: {got}, {g} for {want}");
                }
            }
        }
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn products_of_bf16_are_those_of_rounded_factors() {
        if !Precision::Bf16.is_there() {
            println!("skipped: this processor has no products of bf16");
            return;
        }
        let nearest = |x: &f32| f32::from_bits(pair(*x, 0.0).to_bits() << 16);
        for [rows, inputs, outputs] in SHAPES {
            let (a, w, b) = (numbers(rows * inputs, 1), numbers(inputs * outputs, 2), numbers(outputs, 3));
            assert!(a.iter().all(|x| (nearest(x) - x).abs() <= x.abs() / 256.0));
            let packed = Packed::new(Precision::Bf16, inputs, outputs, &b, |l, j| w[l * outputs + j]);
            assert_eq!(packed.kernel, Kernel::Bf16);
            let mut c = vec![f32::NAN; rows * outputs];
            packed.multiply(rows, (&a, inputs), (&mut c, outputs), End::Store, &mut Vec::new());
            let (a, w): (Vec<f32>, Vec<f32>) = (a.iter().map(nearest).collect(), w.iter().map(nearest).collect());
            for (got, want) in c.iter().zip(expected(rows, inputs, outputs, &a, &w, &b)) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{rows} x {inputs} x {outputs}: {got} for {want}");
            }
        }
    }

    #[test]
    fn without_vectors_the_product_is_the_same() {
        for [rows, inputs, outputs] in SHAPES.into_iter().filter(|s| s[0] > 0 && s[0] <= ROWS && s[2] <= LINE) {
            let (a, w, b) = (numbers(rows * inputs, 1), numbers(inputs * outputs, 2), numbers(outputs, 3));
            let packed = Packed::for_kernel(Kernel::Portable, inputs, outputs, &b, |l, j| w[l * outputs + j]);
            let mut c = vec![f32::NAN; rows * outputs];
            let (panel, columns, c_stride, a_stride, end) = (&packed.panels[..], outputs, outputs, inputs, End::Store);
            let tile = Tile { panel, next: &[], a: &a, a_stride, rows, c_stride, columns, end };
            Portable { tile, c: &mut c }.with_simd(pulp::Scalar::new());
            for (got, want) in c.iter().zip(expected(rows, inputs, outputs, &a, &w, &b)) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{rows} x {inputs} x {outputs}: {got} for {want}");
            }
        }
    }

    #[test]
    fn gelu_is_its_formula_at_any_value() {
        for kernel in kernels() {
            let packed = Packed::for_kernel(kernel, 1, 1, &[], |_, _| 1.0);
            let gelu = |x: f32| {
                let mut y = [0.0];
                packed.multiply(1, (&[x], 1), (&mut y, 1), End::Gelu, &mut Vec::new());
                f64::from(y[0])
            };
            for i in -4000..4000 {
                let x = i as f32 / 400.0;
                let (got, want) = (gelu(x), gelu_new(f64::from(x)));
                assert!((got - want).abs() <= 1e-6 * want.abs().max(1e-2), "{kernel:?}: gelu({x}) = {got}, not {want}");
            }
            for x in [-1e30, -1e15, -100.0, 0.0, 100.0, 1e15, 1e30f32] {
                assert!((gelu(x) - f64::from(x.max(0.0))).abs() < 1e-6, "{kernel:?}: gelu({x}) = {}", gelu(x));
            }
        }
    }

    #[test]
    fn a_row_is_the_same_alone_and_in_company_and_what_lies_between_rows_stays() {
        let (inputs, outputs, stride) = (37, 75, 80);
        let (a, w, b) = (numbers(20 * inputs, 1), numbers(inputs * outputs, 2), numbers(outputs, 3));
        let packed = Packed::new(Precision::F32, inputs, outputs, &b, |l, j| w[l * outputs + j]);
        for rows in 1..20 {
            let mut c = vec![7.0; rows * stride];
            packed.multiply(rows, (&a, inputs), (&mut c, stride), End::Store, &mut Vec::new());
            for (i, row) in c.chunks(stride).enumerate() {
                let mut one = vec![0.0; outputs];
                packed.multiply(1, (&a[i * inputs..], inputs), (&mut one, outputs), End::Store, &mut Vec::new());
                assert_eq!(row[..outputs], one);
                assert!(row[outputs..].iter().all(|x| *x == 7.0));
            }
        }
    }

    #[test]
    #[should_panic(expected = "2 rows of 3, 3 apart, in 5 values")]
    fn rows_that_are_not_there_are_caught() {
        let packed = Packed::new(Precision::F32, 3, 4, &[], |_, _| 1.0);
        packed.multiply(2, (&[0.0; 5], 3), (&mut [0.0; 8], 4), End::Store, &mut Vec::new());
    }
}
