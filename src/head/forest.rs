//! The forest: decision trees that vote beside the linear head, each grown by itself (Breiman, "Random forests", 2001) or each
//! to mend what those before it get wrong (Friedman, "Greedy function approximation: a gradient boosting machine", 2001).
//!
//! The head sees a mean over the packets; a tree asks for one packet at one place. They are wrong about different flows, so
//! that the mean of both answers is better than either. Trees see packets as the quantizer's centroids, so tokens are enough
//! for them. They may be grown on sizes alone: times tell the place a flow was recorded at before they tell its kind.

use crate::error::{Error, Result};
use crate::tokens::Token;

/// The first packets of a flow, which trees look at.
pub const PACKETS: usize = 20;

/// Values of a flow that a tree looks at: the sizes of its first packets' centroids, then their times, both as the scaler has
/// them; 0 where there is no packet.
pub const FEATURES: usize = 2 * PACKETS;

/// Counts and places are kept as f32 in a file, which holds whole numbers up to here.
const MAX_PLACE: usize = 1 << 24;

/// Largest log-odds of a leaf: of [`MAX_PLACE`] of them the sum is still far from what f32 can hold.
const MAX_LOG_ODDS: f32 = 1e6;

/// Trees, and what their votes count.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    /// Share of the forest in a probability; the head has the rest.
    pub weight: f32,
    /// What the logarithms of mixed probabilities are divided by, so that the probabilities are honest.
    pub temperature: f32,
    /// The first node of each tree.
    pub roots: Vec<u32>,
    /// All nodes; children stand after their parents.
    pub nodes: Vec<Node>,
    /// Labels and their shares, leaf after leaf; of boosted trees one label, and what the tree adds to its log-odds.
    pub shares: Vec<(u32, f32)>,
    /// Of boosted trees, the log-odds of every label before the trees add to them; none where shares are averaged.
    pub odds: Option<Vec<f32>>,
}

/// One node of a tree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Node {
    /// Where value `feature` is at most `threshold` go to node `low`, else to the one after it.
    Split {
        /// Which value; below [`FEATURES`] where the forest votes beside a head.
        feature: u32,
        /// The border.
        threshold: f32,
        /// The nearer child.
        low: u32,
    },
    /// The shares `begin..end`.
    Leaf {
        /// The first.
        begin: u32,
        /// The one after the last.
        end: u32,
    },
}

/// The values of a flow of these tokens, the first of which that is no packet ends it.
pub fn features(tokens: &[Token], centroids: &[[f32; 2]]) -> [f32; FEATURES] {
    let mut out = [0.0; FEATURES];
    let packets = tokens.iter().map_while(|&token| centroids.get(token as usize));
    for (i, [size, time]) in packets.take(PACKETS).enumerate() {
        out[i] = *size;
        out[PACKETS + i] = *time;
    }
    out
}

impl Forest {
    /// Mixes the trees' votes on the flow of these values into the head's probabilities, which sum to 1 before and after.
    /// `votes` is room for them, which grows to the number of labels and is kept.
    pub fn vote(&self, features: &[f32; FEATURES], probabilities: &mut [f32], votes: &mut Vec<f32>) {
        votes.resize(probabilities.len(), 0.0);
        self.probabilities(features, votes);
        for (p, vote) in probabilities.iter_mut().zip(votes) {
            *p = (1.0 - self.weight) * *p + self.weight * *vote;
        }
        // Against the largest, so that no power is too small for all to be 0.
        let top = probabilities.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let mut sum = 0.0;
        for p in probabilities.iter_mut() {
            *p = (*p / top).powf(1.0 / self.temperature);
            sum += *p;
        }
        probabilities.iter_mut().for_each(|p| *p /= sum);
    }

    /// The probability of every label by the trees alone: the mean of their shares, or the logistic functions of the labels'
    /// log-odds, divided by their sum.
    pub(crate) fn probabilities(&self, features: &[f32], out: &mut [f32]) {
        let Some(odds) = &self.odds else {
            out.fill(0.0);
            return self.add_leaves(features, 1.0 / self.roots.len() as f32, out);
        };
        out.copy_from_slice(odds);
        self.add_leaves(features, 1.0, out);
        let mut sum = f32::MIN_POSITIVE;
        for p in out.iter_mut() {
            *p = 1.0 / (1.0 + (-*p).exp());
            sum += *p;
        }
        out.iter_mut().for_each(|p| *p /= sum);
    }

    /// Adds what the leaves hold, times `scale`, to the labels' scores.
    fn add_leaves(&self, features: &[f32], scale: f32, scores: &mut [f32]) {
        for &root in &self.roots {
            for &(label, share) in self.leaf(root, features) {
                scores[label as usize] += scale * share;
            }
        }
    }

    fn leaf(&self, root: u32, features: &[f32]) -> &[(u32, f32)] {
        let mut node = root as usize;
        loop {
            match self.nodes[node] {
                Node::Leaf { begin, end } => return &self.shares[begin as usize..end as usize],
                Node::Split { feature, threshold, low } => {
                    node = low as usize + usize::from(features[feature as usize] > threshold);
                }
            }
        }
    }

    /// Checks that every walk ends in a leaf, and every leaf in labels below `n_labels`, with shares that sum to 1 or, of
    /// boosted trees, log-odds that no sum of them overflows.
    pub fn check(&self, n_labels: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::format(format!("forest: {what}")));
        let small = |value: f32| value.abs() <= MAX_LOG_ODDS;
        if let Some(odds) = &self.odds
            && (odds.len() != n_labels || !odds.iter().copied().all(small))
        {
            return wrong(format!("log-odds {odds:?} of {n_labels} labels"));
        }
        if self.roots.is_empty() || !(0.0..=1.0).contains(&self.weight) {
            return wrong(format!("{} trees of weight {}", self.roots.len(), self.weight));
        }
        if !(0.01..=100.0).contains(&self.temperature) {
            return wrong(format!("temperature is {}; it must be in 0.01..=100", self.temperature));
        }
        if self.nodes.len() > MAX_PLACE || self.shares.len() > MAX_PLACE {
            return wrong(format!("{} nodes; at most {MAX_PLACE} may be: grow fewer trees", self.nodes.len()));
        }
        if let Some(root) = self.roots.iter().find(|r| **r as usize >= self.nodes.len()) {
            return wrong(format!("a tree begins at node {root} of {}", self.nodes.len()));
        }
        for (i, node) in self.nodes.iter().enumerate() {
            let fits = match *node {
                Node::Split { feature, low, .. } => {
                    (feature as usize) < FEATURES && low as usize > i && (low as usize) < self.nodes.len() - 1
                }
                Node::Leaf { begin, end } => {
                    let shares = self.shares.get(begin as usize..end as usize).unwrap_or_default();
                    let sum: f32 = shares.iter().map(|(_, share)| share).sum();
                    let legal =
                        |&(label, share): &(u32, f32)| (label as usize) < n_labels && (0.0..=1.0).contains(&share);
                    match self.odds {
                        None => shares.iter().all(legal) && (sum - 1.0).abs() < 1e-3,
                        Some(_) => matches!(*shares, [(label, value)] if (label as usize) < n_labels && small(value)),
                    }
                }
            };
            if !fits {
                return wrong(format!("node {i} of {} is {node:?}", self.nodes.len()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forest() -> Forest {
        Forest {
            weight: 0.5,
            temperature: 1.0,
            roots: vec![0, 3],
            nodes: vec![
                Node::Split { feature: 1, threshold: 2.0, low: 1 },
                Node::Leaf { begin: 0, end: 1 },
                Node::Leaf { begin: 1, end: 3 },
                Node::Leaf { begin: 0, end: 1 },
            ],
            shares: vec![(0, 1.0), (0, 0.25), (1, 0.75)],
            odds: None,
        }
    }

    /// The same trees, boosted: the first speaks of label 0, the second of label 1.
    fn boosted() -> Forest {
        Forest {
            nodes: vec![
                Node::Split { feature: 1, threshold: 2.0, low: 1 },
                Node::Leaf { begin: 0, end: 1 },
                Node::Leaf { begin: 1, end: 2 },
                Node::Leaf { begin: 2, end: 3 },
            ],
            shares: vec![(0, 1.5), (0, -0.5), (1, 0.25)],
            odds: Some(vec![-1.0, 0.5]),
            ..forest()
        }
    }

    #[test]
    fn boosted_trees_add_to_log_odds() {
        let forest = boosted();
        forest.check(2).unwrap();
        let mut found = [0.0; 2];
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (size, odds) in [(2.0, 0.5), (3.0, -1.5)] {
            forest.probabilities(&[0.0, size], &mut found);
            let (a, b) = (logistic(odds), logistic(0.75));
            assert!((f64::from(found[0]) - a / (a + b)).abs() < 1e-6, "{found:?}");
            assert!((f64::from(found[1]) - b / (a + b)).abs() < 1e-6, "{found:?}");
        }
        // No label is likely at all: still probabilities.
        let forest = Forest { odds: Some(vec![-1e6, -1e6]), ..boosted() };
        let (mut out, mut votes) = ([0.4, 0.6], Vec::new());
        forest.vote(&[0.0; FEATURES], &mut out, &mut votes);
        assert!((out[0] - 0.4).abs() < 1e-6 && (out[1] - 0.6).abs() < 1e-6, "{out:?}");
    }

    #[test]
    fn boosted_trees_that_could_lead_astray_are_refused() {
        let broken: [fn(&mut Forest); 6] = [
            |f| f.odds = Some(vec![0.0]),
            |f| f.odds = Some(vec![0.0, f32::NAN]),
            |f| f.shares[1].1 = f32::INFINITY,
            |f| f.shares[1].0 = 2,
            |f| f.nodes[3] = Node::Leaf { begin: 1, end: 3 },
            |f| f.nodes[3] = Node::Leaf { begin: 3, end: 4 },
        ];
        for breaks in broken {
            let mut forest = boosted();
            breaks(&mut forest);
            assert_eq!(forest.check(2).unwrap_err().kind(), crate::Kind::Format, "{forest:?}");
        }
    }

    #[test]
    fn votes_are_mixed_by_weight() {
        let forest = forest();
        forest.check(2).unwrap();
        let centroids = [[1.0, 5.0], [3.0, 6.0]];
        let vote = |tokens: &[Token]| {
            let mut out = [0.2, 0.8];
            forest.vote(&features(tokens, &centroids), &mut out, &mut Vec::new());
            out
        };
        // The border belongs to the lower side, and a packet that is not there is 0.
        for low in [&[0][..], &[0, 0], &[1, 0], &[1, 9, 1]] {
            assert!((vote(low)[0] - 0.6).abs() < 1e-6, "{low:?}");
        }
        assert!((vote(&[0, 1])[1] - (0.4 + 0.25 * 0.75)).abs() < 1e-6);
        let (sizes, times) = (features(&[1; 50], &centroids), features(&[1, 0, 9, 1], &centroids));
        assert_eq!((sizes[..PACKETS].to_vec(), sizes[PACKETS..].to_vec()), (vec![3.0; PACKETS], vec![6.0; PACKETS]));
        assert_eq!((&times[..3], &times[PACKETS..PACKETS + 3]), (&[3.0, 1.0, 0.0][..], &[6.0, 5.0, 0.0][..]));
    }

    #[test]
    fn probabilities_sum_to_1_at_any_temperature() {
        for temperature in [0.01, 0.5, 100.0] {
            let forest = Forest { temperature, ..forest() };
            forest.check(100).unwrap();
            let mut out = [0.01; 100];
            forest.vote(&[0.0; FEATURES], &mut out, &mut Vec::new());
            assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{temperature}: {:?}", &out[..3]);
        }
    }

    #[test]
    fn trees_that_could_lead_astray_are_refused() {
        let broken: [fn(&mut Forest); 10] = [
            |f| f.temperature = 0.0,
            |f| f.roots.clear(),
            |f| f.roots[1] = 4,
            |f| f.weight = 1.5,
            |f| f.nodes[0] = Node::Split { feature: 1, threshold: 0.0, low: 0 },
            |f| f.nodes[0] = Node::Split { feature: 1, threshold: 0.0, low: 3 },
            |f| f.nodes[0] = Node::Split { feature: FEATURES as u32, threshold: 0.0, low: 1 },
            |f| f.nodes[3] = Node::Leaf { begin: 2, end: 4 },
            |f| f.nodes[3] = Node::Leaf { begin: 2, end: 1 },
            |f| f.shares[2] = (2, 0.75),
        ];
        for breaks in broken {
            let mut forest = forest();
            breaks(&mut forest);
            assert_eq!(forest.check(2).unwrap_err().kind(), crate::Kind::Format, "{forest:?}");
        }
    }
}
