//! Sampling: which token comes next, drawn from the network's logits.

use crate::backend::simd::{exp, max, sum_by, vectorised};
use crate::error::{Error, Result};
use crate::tokens::{Token, Vocabulary};

/// What to generate and how freely.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The same seed gives the same flows, whatever the engine, batch and thread.
    pub seed: u64,
    /// Number of the first flow: flow `i` of a call draws as flow `first_flow + i` of the seed, so that a long run can
    /// be cut into calls.
    pub first_flow: u64,
    /// Index of the traffic class, or `None` for flows of any kind.
    pub class: Option<u32>,
    /// Most packets of a flow; 0 for as many as the network can hold.
    pub max_packets: u32,
    /// Only the `top_k` most likely tokens may come; 0 for all.
    pub top_k: u32,
    /// Only the most likely tokens that together reach probability `top_p` may come; 1 for all.
    pub top_p: f32,
    /// Divides the logits: below 1 the likely gets likelier; 0 always takes the most likely token.
    pub temperature: f32,
    /// What a token becomes.
    pub decode: Decode,
}

/// Which packet a drawn token becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decode {
    /// The centroid: the same packet every time.
    #[default]
    Centroid,
    /// One drawn from those the token stands for, which the quantizer must know.
    Sample,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            seed: 0,
            first_flow: 0,
            class: None,
            max_packets: 0,
            top_k: 0,
            top_p: 1.0,
            temperature: 1.0,
            decode: Decode::Centroid,
        }
    }
}

impl Sampling {
    /// Checks the ranges of `top_p` and `temperature`.
    pub fn check(&self) -> Result<()> {
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::invalid(format!("top_p is {}; it must be in (0, 1]", self.top_p)));
        }
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(Error::invalid(format!("temperature is {}; it must be in 0..=100", self.temperature)));
        }
        Ok(())
    }
}

/// Draws tokens; holds the scratch that takes.
#[derive(Debug, Default)]
pub struct Sampler {
    candidates: Vec<(Token, f32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// Draws the token after a flow from `logits` `[vocabulary.len()]` with the uniform draw `u` in [0, 1). Only packet
    /// tokens come, and `EOF` if `may_end`. Fails if no logit of those is finite.
    pub fn draw(
        &mut self,
        logits: &[f32],
        vocabulary: &Vocabulary,
        may_end: bool,
        sampling: &Sampling,
        u: f64,
    ) -> Result<Token> {
        let eof = vocabulary.eof;
        let allowed = (0..vocabulary.n_packet_tokens).chain(may_end.then_some(eof));
        self.candidates.clear();
        self.candidates.extend(allowed.map(|t| (t, logits[t as usize])));
        let likelier = |a: &(Token, f32), b: &(Token, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let Some(&(best, max)) = self.candidates.iter().min_by(|a, b| likelier(a, b)) else {
            return Err(Error::invalid("no token may be drawn"));
        };
        if !max.is_finite() {
            return Err(Error::format(format!("the network's logits are not finite (the largest is {max})")));
        }
        if sampling.temperature == 0.0 {
            return Ok(best);
        }
        let top_k = sampling.top_k as usize;
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k - 1, likelier);
            self.candidates.truncate(top_k);
        }
        if sampling.top_p < 1.0 {
            self.candidates.sort_unstable_by(likelier);
        } else if top_k > 0 {
            self.candidates.sort_unstable_by_key(|c| c.0);
        }
        let temperature = f64::from(sampling.temperature);
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|c| (f64::from(c.1 - max) / temperature).exp()));
        let mut sum: f64 = self.weights.iter().sum();
        if sampling.top_p < 1.0 {
            let enough = f64::from(sampling.top_p) * sum;
            sum = 0.0;
            let enough_at = self.weights.iter().position(|w| {
                sum += w;
                sum >= enough
            });
            self.weights.truncate(enough_at.map_or(self.weights.len(), |i| i + 1));
        }
        let mut left = u * sum;
        let drawn = self.weights.iter().position(|&w| {
            left -= w;
            left < 0.0
        });
        // Rounding may leave a remainder past the last weight; it belongs to that token.
        Ok(self.candidates[drawn.unwrap_or(self.weights.len() - 1)].0)
    }
}

/// The negative log-likelihood of drawing the packet token `token` from `logits` `[vocabulary.len()]`, in nats: how
/// [`Sampler::draw`] draws with the settings of [`Sampling::default`].
pub(crate) fn nll(logits: &[f32], vocabulary: &Vocabulary, may_end: bool, token: Token) -> f32 {
    let packets = &logits[..vocabulary.n_packet_tokens as usize];
    let end = if may_end { logits[vocabulary.eof as usize] } else { f32::NEG_INFINITY };
    vectorised!(log_sum(packets, end)) - packets[token as usize]
}

/// The logarithm of the sum of `e^x` over `packets` and `end`.
#[inline(always)]
fn log_sum(packets: &[f32], end: f32) -> f32 {
    let top = max(packets).max(end);
    (sum_by(packets, packets, |x, _| exp(x - top)) + exp(end - top)).ln() + top
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::uniform;

    const LOGITS: [f32; 10] = [1.0, 0.0, -2.0, 2.5, 0.5, 1.5, 30.0, 30.0, 30.0, 30.0];

    fn frequencies(sampling: &Sampling, may_end: bool, n: u64) -> [f64; 10] {
        let vocabulary = Vocabulary::new(5, ["a".to_string()]);
        let mut sampler = Sampler::default();
        let mut counts = [0.0; 10];
        for i in 0..n {
            let token = sampler.draw(&LOGITS, &vocabulary, may_end, sampling, uniform(1, 2, i)).unwrap();
            counts[token as usize] += 1.0;
        }
        counts
    }

    /// Chi-square of the draws against the softmax over `tokens` at `temperature`; 0.001 quantiles bound it.
    fn chi_square(counts: &[f64; 10], tokens: &[usize], temperature: f32) -> f64 {
        let n: f64 = counts.iter().sum();
        let weights: Vec<f64> = tokens.iter().map(|&t| f64::from(LOGITS[t] / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        assert_eq!(n, tokens.iter().map(|&t| counts[t]).sum::<f64>(), "a banned token was drawn: {counts:?}");
        tokens.iter().zip(weights).map(|(&t, w)| (counts[t] - n * w / sum).powi(2) / (n * w / sum)).sum()
    }

    #[test]
    fn draws_follow_the_softmax_and_special_tokens_never_come() {
        let plain = Sampling::default();
        assert!(chi_square(&frequencies(&plain, true, 100_000), &[0, 1, 2, 3, 4, 5], 1.0) < 20.5);
        assert!(chi_square(&frequencies(&plain, false, 100_000), &[0, 1, 2, 3, 4], 1.0) < 18.5);
        let hot = Sampling { temperature: 2.0, ..plain };
        assert!(chi_square(&frequencies(&hot, true, 100_000), &[0, 1, 2, 3, 4, 5], 2.0) < 20.5);
    }

    #[test]
    fn top_k_and_top_p_keep_the_likeliest_and_renormalise() {
        let top_k = Sampling { top_k: 3, ..Sampling::default() };
        assert!(chi_square(&frequencies(&top_k, true, 100_000), &[3, 5, 0], 1.0) < 13.9);
        // The three likeliest hold 0.54 + 0.20 + 0.12 of the probability.
        let top_p = Sampling { top_p: 0.8, ..Sampling::default() };
        assert!(chi_square(&frequencies(&top_p, true, 100_000), &[3, 5, 0], 1.0) < 13.9);
        let both = Sampling { top_p: 0.5, top_k: 4, ..Sampling::default() };
        assert_eq!(frequencies(&both, true, 1000)[3], 1000.0);
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        assert_eq!(frequencies(&greedy, true, 10)[3], 10.0);
    }

    #[test]
    fn the_ends_of_the_draw_and_logits_that_are_not_finite_are_safe() {
        let vocabulary = Vocabulary::new(5, []);
        let mut sampler = Sampler::default();
        let mut draw = |logits: &[f32], u| sampler.draw(logits, &vocabulary, true, &Sampling::default(), u);
        assert_eq!(draw(&LOGITS, 0.0).unwrap(), 0);
        assert_eq!(draw(&LOGITS, 1.0 - f64::EPSILON / 2.0).unwrap(), 5);
        assert!(draw(&[f32::NAN; 9], 0.5).is_err());
        assert!(draw(&[f32::NEG_INFINITY; 9], 0.5).is_err());
        let mut one = [f32::NEG_INFINITY; 9];
        one[4] = -3.0;
        assert_eq!(draw(&one, 0.999).unwrap(), 4);
    }

    #[test]
    fn the_likelihood_is_that_of_the_draws() {
        let vocabulary = Vocabulary::new(5, ["a".to_string()]);
        for may_end in [true, false] {
            let counts = frequencies(&Sampling::default(), may_end, 400_000);
            let n: f64 = counts.iter().sum();
            for token in 0..5 {
                let p = f64::from(-nll(&LOGITS, &vocabulary, may_end, token)).exp();
                let seen = counts[token as usize] / n;
                let error = (p * (1.0 - p) / n).sqrt();
                assert!((p - seen).abs() < 4.5 * error, "token {token}: {p}, drawn {seen}");
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for bad in [
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { top_p: f32::NAN, ..Sampling::default() },
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { temperature: f32::INFINITY, ..Sampling::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
