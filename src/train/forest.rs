//! Growing random forests (Breiman, "Random forests", 2001): the one that votes beside a head, and those that tell real
//! flows from generated ones.
//!
//! Trees are grown to the end by the best Gini split among √width features drawn anew at each node, as those of
//! scikit-learn's `RandomForestClassifier` are by default. Unlike there, every tree draws captures, not flows, with
//! replacement: flows of one capture are alike, and a tree that is to be wrong about other captures than its neighbours
//! must not have seen a part of each.

use crate::error::{Error, Result};
use crate::head::forest::{FEATURES, Forest, Node, PACKETS, features};
use crate::random::Stream;
use crate::train::boosting;
use crate::train::dataset::Flows;
use crate::train::generation::forest::Matrix;
use crate::train::interrupt::Interrupt;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Fewest groups to draw from; with fewer, flows are drawn.
const MIN_GROUPS: usize = 10;

/// What grows with the data: flows times trees may not exceed this.
const MAX_DRAWN: usize = 1 << 31;

/// The flows a forest learns from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    /// Row-major `[n (1 + cuts.rows), width]`; finite.
    pub features: &'a [f32],
    /// Features of a flow.
    pub width: usize,
    /// Label of each flow.
    pub labels: &'a [u32],
    /// Group of each flow: what is drawn as a whole. With fewer than [`MIN_GROUPS`], flows are drawn.
    pub groups: &'a [u32],
    /// What a flow of each label counts.
    pub label_weights: &'a [f32],
    /// Rows of a flow besides the whole of it.
    pub cuts: Cuts,
}

/// Rows that stand for a flow when it has just begun. They follow the row of the whole flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cuts {
    /// How many.
    pub rows: usize,
    /// How often one of them is learnt in place of the whole flow.
    pub share: f64,
}

impl Cuts {
    /// Flows are learnt whole.
    pub const NONE: Self = Self { rows: 0, share: 0.0 };

    /// The row to learn flow `flow` from.
    fn row(self, flow: usize, draws: &mut Stream) -> usize {
        let whole = flow * (1 + self.rows);
        if self.rows > 0 && draws.uniform() < self.share { whole + 1 + draws.below(self.rows) } else { whole }
    }
}

impl Sample<'_> {
    fn value(&self, row: usize, feature: usize) -> f32 {
        self.features[row * self.width + feature]
    }

    fn label(&self, row: usize) -> u32 {
        self.labels[row / (1 + self.cuts.rows)]
    }

    /// What the flows of each label count together.
    fn weigh(&self, rows: &[usize]) -> Vec<f64> {
        let mut weights = vec![0.0; self.label_weights.len()];
        for &row in rows {
            let label = self.label(row) as usize;
            weights[label] += f64::from(self.label_weights[label]);
        }
        weights
    }

    /// How many features a node chooses from: the root of all, as usual.
    fn tried(&self) -> usize {
        ((self.width as f64).sqrt().round() as usize).max(1)
    }
}

/// The best way to part the flows of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Split {
    feature: usize,
    threshold: f32,
    /// What is left of the Gini impurity, weighted; less is better.
    impurity: f64,
}

/// How the trees of a forest come about.
#[derive(Clone, Copy, Debug)]
pub enum Trees {
    /// So many, each by itself.
    Bagged(usize),
    /// Each mends what those before it get wrong.
    Boosted {
        /// Trees of every label.
        rounds: usize,
    },
}

/// What a forest that votes beside a head is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How they come about.
    pub trees: Trees,
    /// Whether they look at the packets' times as well as at their sizes.
    pub times: bool,
    /// How often a flow is learnt as it begins, after one of [`CUTS`] packets: trees that never saw one know nothing of it.
    pub cut: f64,
    /// Seed of every draw.
    pub seed: u64,
}

/// Where flows are cut.
const CUTS: [usize; 5] = [1, 2, 4, 8, 16];

/// A forest on the labelled ones of `flows`, whose tokens stand for `centroids`; flows of a label count `label_weights`, of
/// boosted trees all alike. The same on any number of threads.
pub fn grow(
    flows: &Flows,
    centroids: &[[f32; 2]],
    label_weights: &[f32],
    plan: Plan,
    interrupt: &Interrupt,
) -> Result<Forest> {
    let width = if plan.times { FEATURES } else { PACKETS };
    let cuts = if plan.cut > 0.0 { &CUTS[..] } else { &[] };
    let (mut values, mut labels, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for (i, label) in flows.labels.iter().enumerate() {
        let Some(label) = label else { continue };
        let row = flows.tokens.row(i);
        for n in [row.len()].into_iter().chain(cuts.iter().map(|&n| n.min(row.len()))) {
            values.extend_from_slice(&features(&row[..n], centroids)[..width]);
        }
        labels.push(*label);
        groups.push(flows.groups[i]);
    }
    let cuts = Cuts { rows: cuts.len(), share: plan.cut };
    match plan.trees {
        Trees::Bagged(n) => {
            let sample = Sample { features: &values, width, labels: &labels, groups: &groups, label_weights, cuts };
            fit(sample, n, plan.seed)
        }
        Trees::Boosted { rounds } => {
            if cuts.rows > 0 {
                let mut draws = Stream::new(plan.seed, 0);
                let rows = (0..labels.len()).map(|flow| cuts.row(flow, &mut draws));
                values = rows.flat_map(|row| &values[row * width..][..width]).copied().collect();
            }
            boosting::fit(&Matrix { values, width }, &labels, label_weights.len(), rounds, interrupt)
        }
    }
}

/// A forest of `n_trees` on `sample`, which alone has the say; the same on any number of threads.
pub(super) fn fit(sample: Sample<'_>, n_trees: usize, seed: u64) -> Result<Forest> {
    let n = sample.labels.len();
    if n.saturating_mul(n_trees) > MAX_DRAWN {
        return Err(Error::invalid(format!("a forest of {n_trees} trees on {n} flows is too large: ask for fewer")));
    }
    let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (flow, &group) in sample.groups.iter().enumerate() {
        members.entry(group).or_default().push(flow);
    }
    let groups: Vec<Vec<usize>> = members.into_values().collect();
    let grow = |tree: usize| {
        let mut draws = Stream::new(seed, tree as u64);
        let flows: Vec<usize> = match groups.len() {
            0..MIN_GROUPS => (0..n).map(|_| draws.below(n)).collect(),
            n => (0..n).flat_map(|_| &groups[draws.below(n)]).copied().collect(),
        };
        let rows = flows.into_iter().map(|flow| sample.cuts.row(flow, &mut draws)).collect();
        Tree::grow(sample, rows, &mut draws)
    };
    let trees: Vec<Tree> = (0..n_trees).into_par_iter().map(grow).collect();
    let mut forest =
        Forest { weight: 1.0, temperature: 1.0, roots: Vec::new(), nodes: Vec::new(), shares: Vec::new(), odds: None };
    for tree in trees {
        let (node, share) = (forest.nodes.len() as u32, forest.shares.len() as u32);
        forest.roots.push(node);
        forest.nodes.extend(tree.nodes.into_iter().map(|n| match n {
            Node::Split { feature, threshold, low } => Node::Split { feature, threshold, low: low + node },
            Node::Leaf { begin, end } => Node::Leaf { begin: begin + share, end: end + share },
        }));
        forest.shares.extend(tree.shares);
    }
    Ok(forest)
}

/// One tree by itself.
struct Tree {
    nodes: Vec<Node>,
    shares: Vec<(u32, f32)>,
}

impl Tree {
    fn grow(sample: Sample<'_>, flows: Vec<usize>, draws: &mut Stream) -> Self {
        let unknown = Node::Leaf { begin: 0, end: 0 };
        let mut tree = Self { nodes: vec![unknown], shares: Vec::new() };
        let mut open = vec![(0, flows)];
        let mut order: Vec<usize> = (0..sample.width).collect();
        while let Some((node, mut flows)) = open.pop() {
            draws.shuffle(&mut order);
            match best_split(sample, &flows, &order) {
                Some(Split { feature, threshold, .. }) => {
                    let low = tree.nodes.len();
                    tree.nodes[node] = Node::Split { feature: feature as u32, threshold, low: low as u32 };
                    tree.nodes.resize(low + 2, unknown);
                    let high = flows.extract_if(.., |flow| sample.value(*flow, feature) > threshold).collect();
                    open.push((low, flows));
                    open.push((low + 1, high));
                }
                None => tree.nodes[node] = tree.close(sample, &flows),
            }
        }
        tree
    }

    /// A leaf of `flows`.
    fn close(&mut self, sample: Sample<'_>, flows: &[usize]) -> Node {
        let weights = sample.weigh(flows);
        let total: f64 = weights.iter().sum();
        let begin = self.shares.len() as u32;
        let some = weights.iter().enumerate().filter(|(_, w)| **w > 0.0);
        self.shares.extend(some.map(|(label, w)| (label as u32, (w / total) as f32)));
        Node::Leaf { begin, end: self.shares.len() as u32 }
    }
}

/// The split of `flows` with the least Gini impurity among the first √width features of `order` that are not the same for all
/// of them; none if all have one label or no feature tells them apart.
fn best_split(sample: Sample<'_>, flows: &[usize], order: &[usize]) -> Option<Split> {
    let whole = sample.weigh(flows);
    if whole.iter().filter(|w| **w > 0.0).count() < 2 {
        return None;
    }
    let total: f64 = whole.iter().sum();
    let squares: f64 = whole.iter().map(|w| w * w).sum();
    let mut best: Option<Split> = None;
    let mut tried = 0;
    let mut sorted: Vec<(f32, u32)> = Vec::with_capacity(flows.len());
    for &feature in order {
        sorted.clear();
        sorted.extend(flows.iter().map(|&flow| (sample.value(flow, feature), sample.label(flow))));
        sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if sorted.first().map(|first| first.0) == sorted.last().map(|last| last.0) {
            continue;
        }
        // Weights and sums of squared weights on both sides, as the border moves up.
        let (mut low, mut high) = (vec![0.0; whole.len()], whole.clone());
        let (mut low_total, mut low_squares, mut high_squares) = (0.0, 0.0, squares);
        for pair in sorted.windows(2) {
            let label = pair[0].1 as usize;
            let weight = f64::from(sample.label_weights[label]);
            low_squares += weight * (2.0 * low[label] + weight);
            high_squares += weight * (weight - 2.0 * high[label]);
            low[label] += weight;
            high[label] -= weight;
            low_total += weight;
            if pair[0].0 == pair[1].0 {
                continue;
            }
            let impurity = total - low_squares / low_total - high_squares / (total - low_total);
            if best.is_none_or(|best| impurity < best.impurity) {
                let middle = pair[0].0 + (pair[1].0 - pair[0].0) / 2.0;
                // Of two neighbouring floats the middle may be the upper, which belongs above.
                let threshold = if middle < pair[1].0 { middle } else { pair[0].0 };
                best = Some(Split { feature, threshold, impurity });
            }
        }
        tried += 1;
        if tried == sample.tried() {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::files::sha256;
    use serde::Deserialize;

    /// `n` flows of two features that say the label (above or below a line), and noise.
    fn flows(n: usize) -> (Vec<f32>, Vec<u32>) {
        let mut draws = Stream::new(4, 0);
        let features: Vec<f32> = (0..n * PACKETS).map(|_| draws.uniform() as f32).collect();
        let labels = features.chunks_exact(PACKETS).map(|row| u32::from(row[3] + row[15] > 1.0)).collect();
        (features, labels)
    }

    /// What a tree is given of a flow of these sizes.
    fn values(sizes: &[f32]) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        values[..sizes.len()].copy_from_slice(sizes);
        values
    }

    fn right(forest: &Forest, features: &[f32], labels: &[u32]) -> f64 {
        let judge = |i: usize| {
            let mut out = vec![0.0; 2];
            forest.probabilities(&values(&features[i * PACKETS..(i + 1) * PACKETS]), &mut out);
            assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{out:?}");
            u32::from(out[labels[i] as usize] > 0.5)
        };
        f64::from((0..labels.len()).map(judge).sum::<u32>()) / labels.len() as f64
    }

    #[test]
    fn a_rule_is_learnt_and_holds_for_other_flows_on_any_number_of_threads() {
        let (features, labels) = flows(1200);
        let groups: Vec<u32> = (0..800).collect();
        let (known, new) = features.split_at(800 * PACKETS);
        let sample = Sample {
            features: known,
            width: PACKETS,
            labels: &labels[..800],
            groups: &groups,
            label_weights: &[1.0, 2.0],
            cuts: Cuts::NONE,
        };
        let forest = fit(sample, 60, 1).unwrap();
        forest.check(2).unwrap();
        assert!(right(&forest, known, &labels[..800]) > 0.99);
        let held_out = right(&forest, new, &labels[800..]);
        assert!(held_out > 0.85, "{held_out}");
        let threads = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(threads.install(|| fit(sample, 60, 1).unwrap()), forest);
        assert_ne!(fit(sample, 60, 2).unwrap(), forest);
    }

    /// Any packet tells the label: trees that know whole flows ask for one that is not there yet.
    #[test]
    fn flows_that_have_just_begun_are_known_where_trees_saw_such() {
        let labels: Vec<u32> = (0..60).map(|flow| flow % 2).collect();
        let groups: Vec<u32> = (0..60).collect();
        let mut features = Vec::new();
        for &label in &labels {
            let size = if label == 0 { 1.0 } else { 2.0 };
            for packets in [PACKETS, 1] {
                features.extend((0..PACKETS).map(|i| if i < packets { size } else { 0.0 }));
            }
        }
        let right = |share: f64| {
            let cuts = Cuts { rows: 1, share };
            let sample = Sample {
                features: &features,
                width: PACKETS,
                labels: &labels,
                groups: &groups,
                label_weights: &[1.0, 1.0],
                cuts,
            };
            let rows: Vec<&[f32]> = features.chunks_exact(PACKETS).collect();
            let forest = fit(sample, 50, 1).unwrap();
            [0, 1].map(|begun| {
                let rows: Vec<f32> = rows.iter().skip(begun).step_by(2).copied().flatten().copied().collect();
                self::right(&forest, &rows, &labels)
            })
        };
        assert_eq!(right(0.0), [1.0, 0.5]);
        assert_eq!(right(0.3), [1.0, 1.0]);
    }

    /// Every capture is a point of its own: a tree that drew none of its flows cannot have a leaf for it alone.
    #[test]
    fn trees_draw_whole_captures() {
        let mut draws = Stream::new(9, 0);
        let (mut features, mut labels, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for group in 0..60 {
            let place: Vec<f32> = (0..PACKETS).map(|_| draws.uniform() as f32).collect();
            for _ in 0..10 {
                features.extend_from_slice(&place);
                labels.push(group % 2);
                groups.push(group + 7);
            }
        }
        let sample = Sample {
            features: &features,
            width: PACKETS,
            labels: &labels,
            groups: &groups,
            label_weights: &[1.0, 1.0],
            cuts: Cuts::NONE,
        };
        let forest = fit(sample, 100, 1).unwrap();
        // Had every tree some flow of every capture, as it almost surely would by drawing flows, all trees would agree.
        let mut doubts = 0;
        for flow in (0..600).step_by(10) {
            let mut out = [0.0; 2];
            forest.probabilities(&values(&features[flow * PACKETS..(flow + 1) * PACKETS]), &mut out);
            doubts += usize::from(out.iter().all(|&p| p < 0.95));
        }
        assert!(doubts > 50, "{doubts} of 60");
    }

    #[test]
    fn odd_samples_are_no_trouble() {
        let features = [0.5; 4 * PACKETS];
        let (labels, groups) = ([0, 1, 1, 1], [7; 4]);
        let sample = Sample {
            features: &features,
            width: PACKETS,
            labels: &labels,
            groups: &groups,
            label_weights: &[3.0, 1.0, 1.0],
            cuts: Cuts::NONE,
        };
        let forest = fit(sample, 20, 1).unwrap();
        forest.check(3).unwrap();
        let mut out = [0.0; 3];
        forest.probabilities(&values(&[0.5; PACKETS]), &mut out);
        assert!(out[0] > 0.2 && out[0] < 0.8 && out[2] == 0.0, "{out:?}");
        assert!(fit(sample, usize::MAX, 1).unwrap_err().message().contains("ask for fewer"));
    }

    /// What is trained again with the same seed has to come out the same: drawn by captures and by flows, with ties,
    /// columns that say nothing and labels of different weight.
    #[test]
    fn a_seed_grows_the_forest_it_always_grew() {
        let (mut features, labels) = flows(400);
        for row in features.chunks_exact_mut(PACKETS) {
            row[..12].iter_mut().for_each(|value| *value = (*value * 40.0).floor());
            row[6..9].fill(1.0);
        }
        let labels: Vec<u32> = labels.iter().zip(0..).map(|(label, i)| if i % 11 == 0 { 2 } else { *label }).collect();
        let captures: Vec<u32> = (0..400).map(|i| i * i % 37).collect();
        let digest = |groups: &[u32], seed| {
            let sample = Sample {
                features: &features,
                width: PACKETS,
                labels: &labels,
                groups,
                label_weights: &[0.7, 1.3, 2.1, 1.0],
                cuts: Cuts::NONE,
            };
            let Forest { roots, nodes, shares, .. } = fit(sample, 12, seed).unwrap();
            sha256(format!("{roots:?} {nodes:?} {shares:?}").as_bytes())[..16].to_string()
        };
        assert_eq!(
            [digest(&captures, 3), digest(&[5; 400], 3), digest(&captures, 8)],
            ["5b23f305c5f7d077", "f1b9bf821616e48c", "d01d2b3c2f4d49ed"]
        );
    }

    #[derive(Deserialize)]
    struct Case {
        values: Vec<f32>,
        labels: Vec<u32>,
        label_weights: Vec<f32>,
        feature: usize,
        threshold: f64,
    }

    /// First splits of scikit-learn's `DecisionTreeClassifier` (`dev/golden_forest.py`).
    #[test]
    fn splits_are_those_of_scikit_learn() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/forest.json")).unwrap();
        assert_eq!(cases.len(), 6);
        // Columns of zeros beside those of a case, so many that all of the case's are tried.
        const WIDTH: usize = 40;
        for case in cases {
            let n = case.labels.len();
            let width = case.values.len() / n;
            let mut features = vec![0.0; n * WIDTH];
            for (row, values) in features.chunks_exact_mut(WIDTH).zip(case.values.chunks_exact(width)) {
                row[..width].copy_from_slice(values);
            }
            let groups: Vec<u32> = (0..n as u32).collect();
            let sample = Sample {
                features: &features,
                width: WIDTH,
                labels: &case.labels,
                groups: &groups,
                label_weights: &case.label_weights,
                cuts: Cuts::NONE,
            };
            let flows: Vec<usize> = (0..n).collect();
            let order: Vec<usize> = (0..WIDTH).collect();
            let split = best_split(sample, &flows, &order).unwrap();
            assert_eq!(split.feature, case.feature);
            assert!((f64::from(split.threshold) - case.threshold).abs() < 1e-6, "{split:?}");
        }
    }
}
