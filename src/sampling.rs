//! Sampling: which token comes next, drawn from the network's logits.

mod draw;

pub use draw::Sampler;

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
    /// No flow ends before it has as many packets.
    pub min_packets: u32,
    /// Most packets of a flow; 0 for as many as the network can hold.
    pub max_packets: u32,
    /// Only the `top_k` most likely tokens may come; 0 for all.
    pub top_k: u32,
    /// Only the most likely tokens that together reach probability `top_p` may come; 1 for all.
    pub top_p: f32,
    /// Divides the logits: below 1 the likely gets likelier; 0 always takes the most likely token.
    pub temperature: f32,
    /// Tokens of packets that may not come. The number of those tokens stands for the end of a flow, without which
    /// every flow has the most packets. (Special tokens never come.)
    pub banned: Vec<Token>,
    /// What a token becomes.
    pub decode: Decode,
}

/// Which packet a drawn token becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decode {
    /// The centroid: the same packet every time.
    #[default]
    Centroid,
    /// One drawn from those the token stands for, which the quantizer must know; from those of the flow's class, where it
    /// knows them.
    Sample,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            seed: 0,
            first_flow: 0,
            class: None,
            min_packets: 0,
            max_packets: 0,
            top_k: 0,
            top_p: 1.0,
            temperature: 1.0,
            banned: Vec::new(),
            decode: Decode::Centroid,
        }
    }
}

impl Sampling {
    /// Checks the ranges of `top_p` and `temperature`, and that the least packets are not more than the most.
    pub fn check(&self) -> Result<()> {
        let (least, most) = (self.min_packets, self.max_packets);
        if most > 0 && least > most {
            return Err(Error::invalid(format!("min_packets is {least}; max_packets is {most}, which is less")));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::invalid(format!("top_p is {}; it must be in (0, 1]", self.top_p)));
        }
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(Error::invalid(format!("temperature is {}; it must be in 0..=100", self.temperature)));
        }
        Ok(())
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
    use crate::random::{Stream, uniform};

    const LOGITS: [f32; 10] = [1.0, 0.0, -2.0, 2.5, 0.5, 1.5, 30.0, 30.0, 30.0, 30.0];

    fn frequencies(sampling: &Sampling, may_end: bool, n: u64) -> [f64; 10] {
        let mut sampler = Sampler::new(sampling, &Vocabulary::new(5, ["a".to_string()])).unwrap();
        let mut counts = [0.0; 10];
        for i in 0..n {
            counts[sampler.draw(&LOGITS, may_end, uniform(1, 2, i)).unwrap() as usize] += 1.0;
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
    fn banned_tokens_never_come_and_the_others_share_their_probability() {
        let banned = Sampling { banned: vec![3, 0, 3], ..Sampling::default() };
        assert!(chi_square(&frequencies(&banned, true, 100_000), &[1, 2, 4, 5], 1.0) < 16.3);
        let endless = Sampling { banned: vec![5], ..Sampling::default() };
        assert!(chi_square(&frequencies(&endless, true, 100_000), &[0, 1, 2, 3, 4], 1.0) < 18.5);
        let one = Sampling { banned: vec![0, 1, 2, 3], top_k: 5, ..Sampling::default() };
        assert_eq!(frequencies(&one, false, 1000)[4], 1000.0);
        let vocabulary = Vocabulary::new(5, ["a".to_string()]);
        for bad in [vec![6], vec![9], vec![10], vec![u32::MAX], vec![0, 1, 2, 3, 4]] {
            let error = Sampler::new(&Sampling { banned: bad, ..Sampling::default() }, &vocabulary).unwrap_err();
            assert!(error.message().contains("banned"), "{error}");
        }
    }

    /// Tokens by the definition: sorted by likelihood, cut, and drawn in order of their numbers.
    fn by_definition(logits: &[f32], sampling: &Sampling, u: f64) -> (Token, f64) {
        let mut order: Vec<usize> = (0..logits.len()).filter(|&i| !sampling.banned.contains(&(i as u32))).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k as usize);
        }
        let weight = |i: usize| (f64::from(logits[i]) / f64::from(sampling.temperature)).exp();
        let all: f64 = order.iter().map(|&i| weight(i)).sum();
        let (mut sum, mut n) = (0.0, 0);
        while n < order.len() && sum < f64::from(sampling.top_p) * all {
            sum += weight(order[n]);
            n += 1;
        }
        order.truncate(n);
        order.sort_unstable();
        let (mut left, mut nearest) = (u * sum, f64::INFINITY);
        let mut drawn = None;
        for &i in &order {
            left -= weight(i);
            nearest = nearest.min(left.abs() / sum);
            if left < 0.0 && drawn.is_none() {
                drawn = Some(i);
            }
        }
        (drawn.unwrap_or(order[order.len() - 1]) as Token, nearest)
    }

    #[test]
    fn draws_over_many_tokens_are_those_of_the_definition() {
        let k = 3001;
        let vocabulary = Vocabulary::new(k, []);
        let mut stream = Stream::new(3, 3);
        for (top_k, top_p, temperature, banned) in [
            (0, 1.0, 1.0, vec![]),
            (0, 1.0, 0.7, vec![k, 5, 6]),
            (40, 1.0, 1.0, vec![]),
            (1, 1.0, 1.0, vec![]),
            (3001, 1.0, 1.3, vec![7]),
            (0, 0.9, 1.0, vec![]),
            (0, 0.1, 2.0, (0..1500).collect()),
            (200, 0.95, 0.9, vec![]),
            (u32::MAX, f32::MIN_POSITIVE, 1e-6, vec![]),
        ] {
            let sampling = Sampling { top_k, top_p, temperature, banned, ..Sampling::default() };
            let mut sampler = Sampler::new(&sampling, &vocabulary).unwrap();
            let mut close = 0;
            for _ in 0..300 {
                // Rounded, so that many are equal.
                let mut logits: Vec<f32> =
                    (0..vocabulary.len()).map(|_| (stream.normal() as f32 * 40.0).round() / 16.0).collect();
                logits.iter_mut().skip(k as usize + 1).for_each(|x| *x = 99.0);
                let u = stream.uniform();
                let got = sampler.draw(&logits, true, u).unwrap();
                let (expected, nearest) = by_definition(&logits[..k as usize + 1], &sampling, u);
                // Where the draw falls next to the border between two tokens, the rounding decides.
                close += usize::from(nearest < 1e-6);
                assert!(got == expected || nearest < 1e-6, "{sampling:?}: {got} for {expected}");
            }
            assert!(close < 30, "{close} of 300 say nothing");
        }
    }

    #[test]
    fn the_ends_of_the_draw_and_logits_that_are_not_finite_are_safe() {
        for sampling in [
            Sampling::default(),
            Sampling { top_k: 4, ..Sampling::default() },
            Sampling { top_p: 0.9999, ..Sampling::default() },
        ] {
            let mut sampler = Sampler::new(&sampling, &Vocabulary::new(5, [])).unwrap();
            let mut draw = |logits: &[f32], u| sampler.draw(logits, true, u);
            assert_eq!(draw(&LOGITS, 0.0).unwrap(), 0);
            assert_eq!(draw(&LOGITS, 1.0 - f64::EPSILON / 2.0).unwrap(), 5);
            assert!(draw(&[f32::NAN; 9], 0.5).is_err());
            assert!(draw(&[f32::NEG_INFINITY; 9], 0.5).is_err());
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                let mut logits = LOGITS;
                logits[2] = bad;
                assert!(draw(&logits, 0.5).is_err(), "{bad}");
            }
            let mut one = [f32::NEG_INFINITY; 9];
            one[4] = -3.0;
            assert_eq!(draw(&one, 0.999).unwrap(), 4);
            // The first token has probability 0 and must not come even at the very beginning.
            assert_eq!(draw(&one, 0.0).unwrap(), 4);
            assert_eq!(draw(&[-3e38, 3e38, 0.0, 0.0, 0.0, 0.0], 0.3).unwrap(), 1);
        }
        let cold = Sampling { temperature: f32::from_bits(1), ..Sampling::default() };
        let mut sampler = Sampler::new(&cold, &Vocabulary::new(5, [])).unwrap();
        assert_eq!(sampler.draw(&LOGITS, true, 0.9).unwrap(), 3);
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
            Sampling { min_packets: 6, max_packets: 5, ..Sampling::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
