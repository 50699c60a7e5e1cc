//! One draw: a few vector passes over the logits of the tokens that may come. Nothing is sorted; what top-k and top-p
//! keep is found by bisecting for the least value that they keep.

use super::Sampling;
use crate::backend::simd::{LANES, exp, max, sum, sum_by, vectorised};
use crate::error::{Error, Result};
use crate::tokens::{Token, Vocabulary};

/// Weights that are summed together, so that a draw looks at few of them one by one.
const BLOCK: usize = 4 * LANES;

/// Weights below `e^LEAST` of the largest are 0: [`exp`] ends there.
const LEAST: f32 = -87.0;

/// Draws tokens as a [`Sampling`] asks; holds the scratch that takes.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Number of packet tokens. Where they are candidates, `EOF` is the one after them.
    n_packet_tokens: usize,
    eof: usize,
    /// Candidates that are banned.
    banned: Vec<usize>,
    top_k: usize,
    top_p: f32,
    temperature: f32,
    /// Of each candidate: its logit, then its weight. Whole blocks.
    values: Vec<f32>,
    /// The sum of each block of weights.
    sums: Vec<f32>,
}

impl Sampler {
    /// Draws from `vocabulary` as `sampling` asks, whose values were checked.
    ///
    /// # Errors
    /// If what is banned is no token of a packet or the end, or all packets are.
    pub fn new(sampling: &Sampling, vocabulary: &Vocabulary) -> Result<Self> {
        let n = vocabulary.n_packet_tokens as usize;
        let mut banned: Vec<usize> = sampling.banned.iter().map(|&token| token as usize).collect();
        if let Some(token) = banned.iter().find(|&&token| token > n) {
            return Err(Error::invalid(format!(
                "token {token} is banned; packets have the tokens 0..{n}, {n} stands for the end of a flow, and no other \
                 ever comes"
            )));
        }
        banned.sort_unstable();
        banned.dedup();
        if banned.iter().take_while(|&&candidate| candidate < n).count() == n {
            return Err(Error::invalid(format!("all {n} tokens of packets are banned; a flow needs one")));
        }
        Ok(Self {
            n_packet_tokens: n,
            eof: vocabulary.eof as usize,
            banned,
            top_k: sampling.top_k as usize,
            top_p: sampling.top_p,
            temperature: sampling.temperature,
            values: Vec::new(),
            sums: Vec::new(),
        })
    }

    /// Draws the token after a flow from `logits` `[vocabulary.len()]` with the uniform draw `u` in [0, 1). Only packet
    /// tokens come, and `EOF` if `may_end`. Fails if a logit of those is not a number, or none is finite.
    pub fn draw(&mut self, logits: &[f32], may_end: bool, u: f64) -> Result<Token> {
        let n = self.n_packet_tokens;
        self.values.resize((n + 1).next_multiple_of(BLOCK), f32::NEG_INFINITY);
        self.values[..n].copy_from_slice(&logits[..n]);
        self.values[n] = if may_end { logits[self.eof] } else { f32::NEG_INFINITY };
        // What filled the last block before may have become a weight.
        self.values[n + 1..].fill(f32::NEG_INFINITY);
        for &candidate in &self.banned {
            self.values[candidate] = f32::NEG_INFINITY;
        }
        let (top, n_nan) = vectorised!((max(&self.values), count(&self.values, f32::is_nan)));
        if !top.is_finite() || n_nan > 0 {
            let what = if n_nan == 0 { format!("the largest is {top}") } else { "one is not a number".into() };
            return Err(Error::format(format!("the network's logits are not finite ({what})")));
        }
        let drawn = if self.temperature == 0.0 {
            self.values.iter().position(|&x| x == top)
        } else {
            if self.top_k > 0 && self.top_k <= n {
                vectorised!(keep_likeliest(&mut self.values, self.top_k));
            }
            self.sums.resize(self.values.len() / BLOCK, 0.0);
            let factor = self.temperature.recip().min(f32::MAX);
            let mut whole = vectorised!(weigh(&mut self.values, top, factor, &mut self.sums));
            if self.top_p < 1.0 {
                whole = vectorised!(keep_mass(&mut self.values, self.top_p, &mut self.sums));
            }
            pick(&self.values, &self.sums, u * whole)
        };
        match drawn {
            Some(candidate) if candidate < n => Ok(candidate as Token),
            Some(_) => Ok(self.eof as Token),
            None => Err(Error::format("the network's logits are not finite")),
        }
    }
}

/// How many of `values` are as `is` says.
#[inline(always)]
fn count(values: &[f32], is: impl Fn(f32) -> bool) -> usize {
    // Counted as f32, which the compiler vectorises where it does not integers; exact for 2^24 in every lane.
    sum_by(
        values,
        values,
        #[inline(always)]
        |x, _| if is(x) { 1.0 } else { 0.0 },
    ) as usize
}

/// An integer that rises with `x`; its own inverse.
#[inline(always)]
fn rank(x: f32) -> i32 {
    unrank(x.to_bits() as i32)
}

#[inline(always)]
fn unrank(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

/// The largest integer of `low..high` for which `holds`, which does for `low` and for no larger one than for the
/// largest. `high` is above `low`.
#[inline(always)]
fn bisect(low: i32, high: i32, holds: impl Fn(i32) -> bool) -> i32 {
    let (mut low, mut high) = (i64::from(low), i64::from(high));
    while high - low > 1 {
        let middle = (low + high).div_euclid(2);
        if holds(middle as i32) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low as i32
}

/// The sum of the weights that reach `least`. That of more weights is never less, as each lane of it takes its weights
/// in the same order.
#[inline(always)]
fn mass(weights: &[f32], least: f32) -> f32 {
    sum_by(
        weights,
        weights,
        #[inline(always)]
        |w, _| if w >= least { w } else { 0.0 },
    )
}

/// Makes all but the `k` largest values minus infinity; of equal ones the first stay.
#[inline(always)]
fn keep_likeliest(values: &mut [f32], k: usize) {
    let of = |rank: i32| f32::from_bits(unrank(rank) as u32);
    let least = of(bisect(
        rank(f32::NEG_INFINITY),
        rank(f32::INFINITY),
        #[inline(always)]
        |rank| {
            let least = of(rank);
            count(
                values,
                #[inline(always)]
                |x| x >= least,
            ) >= k
        },
    ));
    let above = count(
        values,
        #[inline(always)]
        |x| x > least,
    );
    for x in values.iter_mut() {
        *x = if *x >= least { *x } else { f32::NEG_INFINITY };
    }
    // Seldom: equal ones at the border.
    let at_border = values.iter_mut().filter(|x| **x == least);
    at_border.skip(k - above.min(k)).for_each(|x| *x = f32::NEG_INFINITY);
}

/// Turns logits into weights, `e^((x - top) factor)`, and sums each block of them. Returns the sum of all.
#[inline(always)]
fn weigh(values: &mut [f32], top: f32, factor: f32, sums: &mut [f32]) -> f64 {
    for x in values.iter_mut() {
        let y = (*x - top) * factor;
        *x = if y < LEAST { 0.0 } else { exp(y) };
    }
    sum_blocks(values, sums)
}

/// Sums each block of weights. Returns the sum of all, one block after the other: a chain that keeps the compiler from
/// summing many blocks side by side, whose values it would have to gather.
#[inline(always)]
fn sum_blocks(weights: &[f32], sums: &mut [f32]) -> f64 {
    let mut whole = 0.0;
    for (block, total) in weights.as_chunks::<BLOCK>().0.iter().zip(sums) {
        *total = sum(block);
        whole += f64::from(*total);
    }
    whole
}

/// Makes all weights 0 but the largest that together reach `share` of all; of equal ones the first stay. Sums as [`weigh`].
#[inline(always)]
fn keep_mass(weights: &mut [f32], share: f32, sums: &mut [f32]) -> f64 {
    let enough = f64::from(share) * f64::from(mass(weights, 0.0));
    let of = |bits: i32| f32::from_bits(bits as u32);
    let bits = bisect(
        0,
        rank(f32::INFINITY),
        #[inline(always)]
        |bits| f64::from(mass(weights, of(bits))) >= enough,
    );
    let (least, mut reached) = (of(bits), f64::from(mass(weights, of(bits + 1))));
    for w in weights.iter_mut() {
        *w = if *w >= least { *w } else { 0.0 };
    }
    // Seldom more than one: equal ones at the border.
    for w in weights.iter_mut().filter(|w| **w == least) {
        if reached >= enough {
            *w = 0.0;
        }
        reached += f64::from(*w);
    }
    sum_blocks(weights, sums)
}

/// The candidate at `left` of all weights, laid one after another.
fn pick(weights: &[f32], sums: &[f32], mut left: f64) -> Option<usize> {
    let mut block = None;
    for (i, &sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        block = Some(i);
        if left < f64::from(sum) {
            break;
        }
        left -= f64::from(sum);
    }
    // Rounding may leave a remainder past the last weight, of a block or of all; it belongs to that one.
    let first = block? * BLOCK;
    let mut drawn = None;
    for (i, &w) in weights[first..first + BLOCK].iter().enumerate().filter(|(_, w)| **w > 0.0) {
        drawn = Some(first + i);
        left -= f64::from(w);
        if left < 0.0 {
            break;
        }
    }
    drawn
}
