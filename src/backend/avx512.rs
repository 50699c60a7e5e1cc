//! The tile of [`super::packed`] with AVX-512.

use super::packed::Tile;
#[cfg(target_arch = "x86_64")]
use super::packed::{End, GELU_CUBIC, GELU_LINEAR, LINE, LINES, Line};
#[cfg(target_arch = "x86_64")]
use super::prefetch::prefetch_far;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Most rows of a tile: with their sums in 20 registers, a row of the panel in 4 and a factor in each of the others.
pub(super) const ROWS: usize = 5;

/// Whether this processor has it.
pub(super) fn is_there() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether it has products of bf16, too.
pub(super) fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_there() && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn compute<const BF16: bool>(_: Tile<'_>, _: &mut [f32]) {}

/// Computes a tile of up to [`ROWS`] rows; its first value goes to the first of `c`. With `BF16`, factors are pairs, and
/// the processor must have their products.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) fn compute<const BF16: bool>(tile: Tile<'_>, c: &mut [f32]) {
    match tile.rows {
        5 => rows::<5, BF16>(tile, c),
        4 => rows::<4, BF16>(tile, c),
        3 => rows::<3, BF16>(tile, c),
        2 => rows::<2, BF16>(tile, c),
        _ => rows::<1, BF16>(tile, c),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[allow(clippy::needless_range_loop, reason = "an index into arrays of registers")]
fn rows<const R: usize, const BF16: bool>(tile: Tile<'_>, c: &mut [f32]) {
    let (steps, _) = tile.panel.as_chunks::<LINES>();
    let Some((bias, steps)) = steps.split_first() else { return };
    let mut rows = [&tile.a[..0]; R];
    let mut sums = [[_mm512_setzero_ps(); LINES]; R];
    for r in 0..R {
        rows[r] = &tile.a[r * tile.a_stride..][..steps.len()];
        for g in 0..LINES {
            sums[r][g] = load(&bias[g]);
        }
    }
    let each = tile.next.len().div_ceil(steps.len().max(1));
    let mut next = tile.next.chunks(each.max(1));
    for (l, step) in steps.iter().enumerate() {
        next.next().unwrap_or_default().iter().for_each(prefetch_far);
        let step = [load(&step[0]), load(&step[1]), load(&step[2]), load(&step[3])];
        for r in 0..R {
            // SAFETY: every row was cut to `steps.len()` values just above, and `l` is below that.
            let factor = _mm512_set1_ps(unsafe { *rows[r].get_unchecked(l) });
            for g in 0..LINES {
                sums[r][g] =
                    if BF16 { dot(factor, step[g], sums[r][g]) } else { _mm512_fmadd_ps(factor, step[g], sums[r][g]) };
            }
        }
    }
    for r in 0..R {
        let c = &mut c[r * tile.c_stride..][..tile.columns];
        for (g, c) in c.chunks_mut(LINE).enumerate() {
            let mask = (u32::MAX >> (32 - c.len())) as __mmask16;
            let mut y = sums[r][g];
            // SAFETY: the mask leaves the first `c.len()` lanes, so only these are read and written.
            unsafe {
                match tile.end {
                    End::Store => {}
                    End::Add => y = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c.as_ptr()), y),
                    End::Gelu => y = gelu(y),
                }
                _mm512_mask_storeu_ps(c.as_mut_ptr(), mask, y);
            }
        }
    }
}

/// A vector of a panel, in a register: the compiler would read it from memory again for every row, and the processor
/// reads two vectors at a time only. It does not know that of what comes out of a line of assembly, even an empty one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn load(line: &Line) -> __m512 {
    // SAFETY: a line is 16 values and aligned to their size.
    let mut vector = unsafe { _mm512_load_ps(line.0.as_ptr()) };
    // SAFETY: no instruction.
    unsafe {
        std::arch::asm!("/* {0} */", inout(zmm_reg) vector, options(pure, nomem, nostack, preserves_flags));
    }
    vector
}

/// `sum` and the products of two pairs of bf16. In assembly, for otherwise this function would need the feature, and with it
/// every one that it is part of.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn dot(a: __m512, b: __m512, mut sum: __m512) -> __m512 {
    // SAFETY: registers only; `compute` asks for a processor that has the instruction.
    unsafe {
        std::arch::asm!("vdpbf16ps {0}, {1}, {2}", inout(zmm_reg) sum, in(zmm_reg) a, in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// As [`super::packed`]'s, with a reciprocal of 14 bits and a step of Newton's in place of the division.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn gelu(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let all = |x: f32| _mm512_set1_ps(x);
    let slope = _mm512_fmadd_ps(_mm512_mul_ps(all(GELU_CUBIC), x), x, all(GELU_LINEAR));
    let t = _mm512_max_ps(_mm512_min_ps(_mm512_mul_ps(x, slope), all(126.0)), all(-126.0));
    let whole = _mm512_roundscale_ps::<NEAREST>(t);
    let part = _mm512_sub_ps(t, whole);
    let mut power = all(super::simd::EXP2[5]);
    for i in (0..5).rev() {
        power = _mm512_fmadd_ps(power, part, all(super::simd::EXP2[i]));
    }
    let d = _mm512_add_ps(all(1.0), _mm512_scalef_ps(power, whole));
    let r = _mm512_rcp14_ps(d);
    let r = _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, all(2.0)));
    _mm512_mul_ps(x, r)
}
