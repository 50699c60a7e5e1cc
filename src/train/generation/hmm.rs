//! A hidden Markov model over tokens, fitted by Baum and Welch's algorithm: a baseline that remembers more than the last
//! packet.
//!
//! Rabiner, "A tutorial on hidden Markov models", 1989, with his scaling. The end of a flow is a symbol like a token.

use super::Sequences;
use crate::error::Result;
use crate::random::Stream;
use crate::tokens::Token;
use std::collections::BTreeMap;

/// A model of `n` states over the symbols that its flows hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Hmm {
    n: usize,
    /// Token of each symbol; the end of a flow is the symbol after them.
    tokens: Vec<Token>,
    /// Probability of each state at the beginning, `[n]`.
    pub start: Vec<f64>,
    /// Of going from a state to another, `[n, n]`.
    pub step: Vec<f64>,
    /// Of each symbol in a state, `[n, n_symbols]`.
    pub emission: Vec<f64>,
}

/// Expected counts, in the shapes of the model's probabilities.
struct Counts {
    start: Vec<f64>,
    step: Vec<f64>,
    emission: Vec<f64>,
}

impl Hmm {
    /// A model of `n` states that is nearly the same in all of them: the shares of the symbols, shaken by `seed`.
    pub fn new(flows: &Sequences, n: usize, seed: u64) -> Self {
        let mut counts: BTreeMap<Token, f64> = BTreeMap::new();
        let mut ends = 0.0;
        for (tokens, ended) in flows.iter() {
            tokens.iter().for_each(|token| *counts.entry(*token).or_default() += 1.0);
            ends += f64::from(u8::from(ended));
        }
        let tokens: Vec<Token> = counts.keys().copied().collect();
        let symbols: Vec<f64> = counts.into_values().chain([ends]).collect();
        let mut draws = Stream::new(seed, 0);
        let mut shaken = |values: &[f64]| -> Vec<f64> { values.iter().map(|v| v * (0.5 + draws.uniform())).collect() };
        let mut model = Self {
            n,
            start: shaken(&vec![1.0; n]),
            step: shaken(&vec![1.0; n * n]),
            emission: (0..n).flat_map(|_| shaken(&symbols)).collect(),
            tokens,
        };
        model.normalise();
        model
    }

    /// Fits the model to `flows`, which must hold no other tokens than it was made from: at most `iterations` times, or
    /// until a symbol's likelihood rises by less than 0.1 per mille. Returns the log-likelihood before each iteration, or
    /// whatever error `go_on` has, which is asked before every flow.
    pub fn fit(&mut self, flows: &Sequences, iterations: usize, go_on: &dyn Fn() -> Result<()>) -> Result<Vec<f64>> {
        let rows: Vec<Vec<usize>> = flows.iter().map(|(tokens, ended)| self.symbols(tokens, ended)).collect();
        let n_symbols: usize = rows.iter().map(Vec::len).sum();
        let mut likelihoods: Vec<f64> = Vec::new();
        for _ in 0..iterations {
            let mut counts = Counts {
                start: vec![0.0; self.start.len()],
                step: vec![0.0; self.step.len()],
                emission: vec![0.0; self.emission.len()],
            };
            let mut likelihood = 0.0;
            for row in &rows {
                go_on()?;
                likelihood += self.expect(row, &mut counts);
            }
            (self.start, self.step, self.emission) = (counts.start, counts.step, counts.emission);
            self.normalise();
            let rise = likelihoods.last().map(|last| (likelihood - last) / n_symbols as f64);
            likelihoods.push(likelihood);
            if rise.is_some_and(|rise| rise < 1e-4) {
                break;
            }
        }
        Ok(likelihoods)
    }

    fn n_symbols(&self) -> usize {
        self.tokens.len() + 1
    }

    fn symbols(&self, tokens: &[Token], ended: bool) -> Vec<usize> {
        let known = tokens.iter().filter_map(|token| self.tokens.binary_search(token).ok());
        known.chain(ended.then_some(self.tokens.len())).collect()
    }

    /// Forward and backward over one flow; adds what it is expected to have counted. Its log-likelihood.
    fn expect(&self, row: &[usize], counts: &mut Counts) -> f64 {
        let (n, n_symbols) = (self.n, self.n_symbols());
        let emits = |state: usize, symbol: usize| self.emission[state * n_symbols + symbol];
        let mut forward = vec![0.0; row.len() * n];
        let mut scales = Vec::with_capacity(row.len());
        for (t, &symbol) in row.iter().enumerate() {
            let (before, now) = forward.split_at_mut(t * n);
            let now = &mut now[..n];
            match t.checked_sub(1) {
                None => now.copy_from_slice(&self.start),
                Some(last) => {
                    for (from, &p) in before[last * n..].iter().enumerate() {
                        now.iter_mut().zip(&self.step[from * n..][..n]).for_each(|(to, step)| *to += p * step);
                    }
                }
            }
            now.iter_mut().enumerate().for_each(|(state, p)| *p *= emits(state, symbol));
            let scale: f64 = now.iter().sum();
            if scale <= 0.0 {
                return 0.0;
            }
            now.iter_mut().for_each(|p| *p /= scale);
            scales.push(scale);
        }
        let mut backward = vec![1.0; n];
        for (t, &symbol) in row.iter().enumerate().rev() {
            let now = &forward[t * n..][..n];
            for state in 0..n {
                let share = now[state] * backward[state];
                counts.emission[state * n_symbols + symbol] += share;
                if t == 0 {
                    counts.start[state] += share;
                }
            }
            let Some(last) = t.checked_sub(1) else { break };
            let ahead: Vec<f64> = (0..n).map(|to| emits(to, symbol) * backward[to] / scales[t]).collect();
            for (from, back) in backward.iter_mut().enumerate() {
                let steps = &self.step[from * n..][..n];
                let p = forward[last * n + from];
                *back = 0.0;
                for (to, (step, ahead)) in steps.iter().zip(&ahead).enumerate() {
                    counts.step[from * n + to] += p * step * ahead;
                    *back += step * ahead;
                }
            }
        }
        scales.iter().map(|scale| scale.ln()).sum()
    }

    /// Makes every distribution sum to 1; one of nothing stays so.
    fn normalise(&mut self) {
        let n_symbols = self.n_symbols();
        for (values, width) in [(&mut self.start, self.n), (&mut self.step, self.n), (&mut self.emission, n_symbols)] {
            for row in values.chunks_exact_mut(width.max(1)) {
                let sum: f64 = row.iter().sum();
                if sum > 0.0 {
                    row.iter_mut().for_each(|v| *v /= sum);
                }
            }
        }
    }

    /// Draws a flow of at least one and at most `max` tokens.
    pub fn draw(&self, draws: &mut Stream, max: usize) -> Vec<Token> {
        let (n_symbols, end) = (self.n_symbols(), self.tokens.len());
        let mut flow = Vec::new();
        let mut state = pick(&self.start, draws.uniform());
        while flow.len() < max {
            let emission = &self.emission[state * n_symbols..][..n_symbols];
            let allowed = if flow.is_empty() { &emission[..end] } else { emission };
            let Some(token) = self.tokens.get(pick(allowed, draws.uniform())) else { break };
            flow.push(*token);
            state = pick(&self.step[state * self.n..][..self.n], draws.uniform());
        }
        flow
    }
}

/// An index drawn by weight.
fn pick(weights: &[f64], u: f64) -> usize {
    let mut left = u * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    drawn.unwrap_or_else(|| weights.iter().rposition(|w| *w > 0.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use serde_json::Value;

    fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(values) => values.iter().flat_map(numbers).collect(),
            other => vec![other.as_f64().unwrap()],
        }
    }

    fn case() -> (Value, Sequences) {
        let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/generation.json")).unwrap();
        let case = golden["hmm"].clone();
        let mut flows = Sequences::default();
        for row in case["flows"].as_array().unwrap() {
            let tokens: Vec<Token> = numbers(row).into_iter().map(|v| v as Token).collect();
            // The golden flows spell their end as the highest symbol.
            let ended = tokens.last() == Some(&7);
            flows.push(&tokens[..tokens.len() - usize::from(ended)], ended);
        }
        (case, flows)
    }

    #[test]
    fn fitting_gives_what_hmmlearn_gives() {
        let (case, flows) = case();
        let mut model = Hmm::new(&flows, 3, 1);
        assert_eq!(model.tokens, [0, 1, 2, 3, 4, 5, 6]);
        model.start = numbers(&case["start"]);
        model.step = numbers(&case["step"]);
        model.emission = numbers(&case["emission"]);
        let likelihoods = model.fit(&flows, 6, &|| Ok(())).unwrap();
        for (ours, theirs) in likelihoods.iter().zip(numbers(&case["likelihoods"])) {
            assert!((ours - theirs).abs() < 1e-6 * theirs.abs(), "{ours} {theirs}");
        }
        assert_eq!(likelihoods.len(), 6);
        for (ours, name) in
            [(model.start, "fitted_start"), (model.step, "fitted_step"), (model.emission, "fitted_emission")]
        {
            for (ours, theirs) in ours.iter().zip(numbers(&case[name])) {
                assert!((ours - theirs).abs() < 1e-6, "{name}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn what_is_drawn_is_like_what_was_fitted() {
        // Runs of one token and then of another: what a single state cannot say.
        let mut flows = Sequences::default();
        (0..200).for_each(|i| flows.push(&[vec![8; 3 + i % 2], vec![5; 4]].concat(), true));
        let mut model = Hmm::new(&flows, 8, 2);
        let likelihoods = model.fit(&flows, 200, &|| Ok(())).unwrap();
        assert!(likelihoods.windows(2).all(|w| w[1] >= w[0] - 1e-6), "{likelihoods:?}");
        let mut draws = Stream::new(3, 3);
        let drawn: Vec<Vec<Token>> = (0..500).map(|_| model.draw(&mut draws, 40)).collect();
        let sorted = drawn.iter().filter(|f| f[0] == 8 && f.is_sorted_by(|a, b| a >= b)).count();
        assert!(sorted > 490, "{sorted}: {:?}", &drawn[..5]);
        let mean = drawn.iter().map(Vec::len).sum::<usize>() as f64 / 500.0;
        assert!((6.5..8.5).contains(&mean), "{mean}");
    }

    #[test]
    fn an_interrupt_ends_a_fit_at_the_next_flow() {
        let (_, flows) = case();
        let asked = std::cell::Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Ok(()) } else { Err(Error::invalid("stop")) }
        };
        assert_eq!(Hmm::new(&flows, 2, 1).fit(&flows, 9, &go_on).unwrap_err().message(), "stop");
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn no_flow_makes_no_trouble() {
        let flows = Sequences::default();
        let mut model = Hmm::new(&flows, 4, 1);
        model.fit(&flows, 3, &|| Ok(())).unwrap();
        assert!(model.draw(&mut Stream::new(1, 1), 9).is_empty());
        let mut one = Sequences::default();
        one.push(&[3], false);
        let mut model = Hmm::new(&one, 2, 1);
        model.fit(&one, 5, &|| Ok(())).unwrap();
        assert_eq!(model.draw(&mut Stream::new(1, 1), 2)[0], 3);
    }
}
