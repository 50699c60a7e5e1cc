//! Batches: which flows a step sees, and the ragged sequences and targets they become.
//!
//! Every draw depends on the seed, the epoch and the flow alone, so a run that is resumed goes on with the very
//! batches it would have had.

use crate::gpt2::NO_TARGET;
use crate::packet::Rows;
use crate::random::{self, Stream};
use crate::tokens::{Token, Vocabulary};
use crate::train::parallel::Share;
use std::ops::Range;

/// What a draw decides. Each purpose has streams of its own.
#[derive(Clone, Copy, Debug)]
pub enum Draw {
    /// The order of an epoch's flows.
    Order = 1,
    /// Where a flow is cut.
    Cut = 2,
    /// Which token leads a sequence.
    Lead = 3,
    /// How the times of a flow are shaken.
    Jitter = 4,
    /// Whether a flow is given the times of another.
    Borrow = 5,
    /// Whose times those are.
    Lender = 6,
    /// How the packets of a flow are changed.
    Reshape = 7,
    /// The order in which an epoch reads the parts of large tables.
    Units = 8,
}

impl Draw {
    /// The stream of draws of `epoch`.
    pub(super) fn stream(self, epoch: u64) -> u64 {
        // Far above the streams that weights are initialised from.
        (self as u64) << 56 | epoch
    }

    /// A sequence of draws for `flow` in `epoch`, under `seed`.
    pub fn sequence(self, seed: u64, epoch: u64, flow: usize) -> Stream {
        // Epochs take keys of their own, since the stream's number is the flow's.
        let key = seed ^ epoch.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Stream::new(key, self.stream(flow as u64))
    }

    /// Uniform in [0, 1) for `flow` in `epoch`, under `seed`.
    pub fn uniform(self, seed: u64, epoch: u64, flow: usize) -> f64 {
        random::uniform(seed, self.stream(epoch), flow as u64)
    }
}

/// One epoch: every flow once, in an order drawn for it, cut into batches by the tokens they cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    order: Vec<usize>,
    ends: Vec<usize>,
}

impl Plan {
    /// The plan of `epoch` over flows that cost `costs[i]` tokens each: batches of at most `budget` tokens, and of at
    /// least one flow.
    pub fn new(costs: &[usize], budget: usize, seed: u64, epoch: u64) -> Self {
        let mut order: Vec<usize> = (0..costs.len()).collect();
        Stream::new(seed, Draw::Order.stream(epoch)).shuffle(&mut order);
        Self::in_order(order, costs, budget)
    }

    /// Batches of the flows as they stand, for a validation.
    pub fn sequential(costs: &[usize], budget: usize) -> Self {
        Self::in_order((0..costs.len()).collect(), costs, budget)
    }

    fn in_order(order: Vec<usize>, costs: &[usize], budget: usize) -> Self {
        let (mut ends, mut tokens) = (Vec::new(), 0);
        for (i, &flow) in order.iter().enumerate() {
            if tokens > 0 && tokens + costs[flow] > budget {
                ends.push(i);
                tokens = 0;
            }
            tokens += costs[flow];
        }
        if !order.is_empty() {
            ends.push(order.len());
        }
        Self { order, ends }
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The flows of batch `i`.
    pub fn batch(&self, i: usize) -> &[usize] {
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.order[begin..self.ends[i]]
    }
}

/// The sequences of one batch and what each of their positions should predict.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What the network reads: first token and packets. `EOF` is only ever predicted.
    pub inputs: Rows<Token>,
    /// The token after each input, row by row; [`NO_TARGET`] where nothing is known to come.
    pub targets: Vec<Token>,
}

impl Batch {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.inputs.clear();
        self.targets.clear();
    }

    /// Appends a flow of `packets` led by `first`. Its last packet predicts `EOF` if the flow `ended` there.
    pub fn push(&mut self, vocabulary: &Vocabulary, first: Token, packets: &[Token], ended: bool) {
        self.inputs.push(std::iter::once(first).chain(packets.iter().copied()));
        self.targets.extend_from_slice(packets);
        self.targets.push(if ended { vocabulary.eof } else { NO_TARGET });
    }

    /// Takes the targets of the last sequence away: the language model learns nothing from it.
    pub fn forget_targets(&mut self) {
        let begin = self.inputs.len().checked_sub(1).map_or(0, |last| self.packets(last).start - 1);
        self.targets[begin..].fill(NO_TARGET);
    }

    /// Keeps the sequences of `share` alone. Which those are, and which row the first of them began at.
    pub fn take_share(&mut self, share: Share) -> (Range<usize>, usize) {
        let offsets = self.inputs.as_ragged().offsets();
        let kept = share.of_sequences(offsets);
        let rows = offsets[kept.start] as usize..offsets[kept.end] as usize;
        if kept.len() < self.inputs.len() {
            let mut inputs = Rows::default();
            kept.clone().for_each(|i| inputs.push(self.inputs.row(i).iter().copied()));
            self.inputs = inputs;
            self.targets.truncate(rows.end);
            self.targets.drain(..rows.start);
        }
        (kept, rows.start)
    }

    /// Number of targets that count.
    pub fn n_targets(&self) -> usize {
        self.targets.iter().filter(|&&t| t != NO_TARGET).count()
    }

    /// Where the packets of row `i` lie among all positions: all of the row but its first.
    pub fn packets(&self, i: usize) -> Range<usize> {
        let offsets = self.inputs.as_ragged().offsets();
        offsets[i] as usize + 1..offsets[i + 1] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_every_flow_once_and_keeps_its_budget() {
        let costs: Vec<usize> = (0..200).map(|i| 3 + i % 50).chain([500]).collect();
        let plan = Plan::new(&costs, 128, 7, 3);
        let mut seen = vec![false; costs.len()];
        for i in 0..plan.len() {
            let tokens: usize = plan.batch(i).iter().map(|&f| costs[f]).sum();
            assert!(tokens <= 128 || plan.batch(i).len() == 1, "batch {i} has {tokens} tokens");
            for &flow in plan.batch(i) {
                assert!(!std::mem::replace(&mut seen[flow], true), "flow {flow} twice");
            }
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(plan, Plan::new(&costs, 128, 7, 3));
        assert_ne!(plan, Plan::new(&costs, 128, 7, 4));
        assert_ne!(plan, Plan::new(&costs, 128, 8, 3));
        assert!(Plan::new(&[], 128, 7, 3).is_empty());
    }

    #[test]
    fn every_position_predicts_the_token_after_it() {
        let v = Vocabulary::new(10, ["dns".to_string()]);
        let mut batch = Batch::default();
        batch.push(&v, v.bof, &[1, 2, 3], true);
        batch.push(&v, 14, &[4, 5], false);
        assert_eq!(batch.inputs.row(0), [v.bof, 1, 2, 3]);
        assert_eq!(batch.inputs.row(1), [14, 4, 5]);
        assert_eq!(batch.targets, [1, 2, 3, v.eof, 4, 5, NO_TARGET]);
        assert_eq!((batch.n_targets(), batch.packets(1)), (6, 5..7));
        batch.forget_targets();
        assert_eq!(batch.targets, [1, 2, 3, v.eof, NO_TARGET, NO_TARGET, NO_TARGET]);
        let mut second = batch.clone();
        assert_eq!(second.take_share(Share::WHOLE), (0..2, 0));
        assert_eq!(second.take_share(Share { rank: 1, size: 2 }), (1..2, 4));
        assert_eq!((second.inputs.row(0), second.targets.len()), (&[14, 4, 5][..], 3));
        assert_eq!(second.take_share(Share { rank: 0, size: 2 }), (0..0, 0));
        assert!(second.inputs.is_empty() && second.targets.is_empty());
        batch.clear();
        batch.forget_targets();
        assert_eq!((batch.inputs.len(), batch.targets.len()), (0, 0));
    }
}
