//! A first-order Markov chain over tokens: the generator that a network has to beat.

use super::Sequences;
use crate::random::Stream;
use crate::tokens::Token;
use std::collections::BTreeMap;

/// What may follow, and how often it did; counts are summed up, so that a draw is a search.
#[derive(Clone, Debug, Default)]
struct Next {
    symbols: Vec<Symbol>,
    sums: Vec<u64>,
}

/// A token, or the end of the flow.
type Symbol = Option<Token>;

/// The chain: how often each token began a flow, and how often what followed each.
#[derive(Clone, Debug)]
pub struct Chain {
    first: Next,
    after: BTreeMap<Token, Next>,
}

impl Next {
    fn of(counts: BTreeMap<Symbol, u64>) -> Self {
        let mut next = Self::default();
        let mut sum = 0;
        for (symbol, count) in counts {
            sum += count;
            next.symbols.push(symbol);
            next.sums.push(sum);
        }
        next
    }

    /// A symbol drawn as often as it was seen; the end where nothing was.
    fn draw(&self, u: f64) -> Symbol {
        let total = *self.sums.last()?;
        let place = ((u * total as f64) as u64).min(total - 1);
        self.symbols[self.sums.partition_point(|sum| *sum <= place)]
    }
}

impl Chain {
    /// Counts what followed what in `flows`. The end counts where a flow ended, not where it was cut.
    pub fn fit(flows: &Sequences) -> Self {
        let mut first: BTreeMap<Symbol, u64> = BTreeMap::new();
        let mut after: BTreeMap<Token, BTreeMap<Symbol, u64>> = BTreeMap::new();
        for (tokens, ended) in flows.iter() {
            let mut count = |last: Option<Token>, symbol: Symbol| {
                let counts = last.map_or(&mut first, |last| after.entry(last).or_default());
                *counts.entry(symbol).or_default() += 1;
            };
            let mut last = None;
            for &token in tokens {
                count(last, Some(token));
                last = Some(token);
            }
            if ended && last.is_some() {
                count(last, None);
            }
        }
        Self { first: Next::of(first), after: after.into_iter().map(|(t, counts)| (t, Next::of(counts))).collect() }
    }

    /// Draws a flow of at most `max` tokens. Nothing follows a token that only cut flows ended with.
    pub fn draw(&self, draws: &mut Stream, max: usize) -> Vec<Token> {
        let mut flow = Vec::new();
        let mut next = Some(&self.first);
        while let Some(symbol) = next.filter(|_| flow.len() < max).and_then(|next| next.draw(draws.uniform())) {
            flow.push(symbol);
            next = self.after.get(&symbol);
        }
        flow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_counts() {
        let mut flows = Sequences::default();
        for (tokens, ended) in [(&[0, 1, 1][..], true), (&[0, 2], true), (&[3], true), (&[0, 1], false)] {
            flows.push(tokens, ended);
        }
        let (chain, mut draws) = (Chain::fit(&flows), Stream::new(1, 2));
        let n = 40_000;
        let drawn: Vec<Vec<Token>> = (0..n).map(|_| chain.draw(&mut draws, 50)).collect();
        let share = |what: &dyn Fn(&Vec<Token>) -> bool| drawn.iter().filter(|f| what(f)).count() as f64 / n as f64;
        assert!((share(&|f| f[0] == 0) - 0.75).abs() < 0.01);
        // 0 is followed by 1 twice in three; 1 by 1 or the end, each once in two.
        assert!((share(&|f| *f == [0, 2]) - 0.25).abs() < 0.01);
        assert!((share(&|f| *f == [0, 1]) - 0.25).abs() < 0.01);
        assert!((share(&|f| *f == [0, 1, 1]) - 0.125).abs() < 0.01);
        assert!(drawn.iter().all(|f| !f.is_empty()));
        assert_eq!(chain.draw(&mut draws, 1).len(), 1);
        assert!(Chain::fit(&Sequences::default()).draw(&mut draws, 5).is_empty());
    }
}
