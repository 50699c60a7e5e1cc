//! A random forest: what tells real flows from generated ones, and classes of flows from each other.
//!
//! Breiman, "Random forests", 2001, as scikit-learn's `RandomForestClassifier` has it by default: trees grown to the end
//! on bootstrap samples, the best Gini split among √width features drawn anew at each node, a score that is the mean of
//! the leaves' shares. The crates that offer forests give votes at best, and an AUC needs scores. The forest that votes
//! beside a head ([`crate::head::forest`]) is another: it sees tokens alone, and a judge must see what they leave out.

use crate::random::Stream;
use rayon::prelude::*;

/// Trees of a forest.
const TREES: usize = 100;

/// Flows that one thread scores at a time.
const ROWS_PER_TASK: usize = 256;

/// Rows of numbers, each of `width` columns.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Row after row; finite.
    pub values: Vec<f32>,
    /// Columns of a row.
    pub width: usize,
}

impl Matrix {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn at(&self, row: u32, column: usize) -> f32 {
        self.values[row as usize * self.width + column]
    }
}

/// A fitted forest.
#[derive(Clone, Debug)]
pub struct Forest {
    trees: Vec<Tree>,
    n_classes: usize,
}

/// Nodes, the root first.
type Tree = Vec<Node>;

#[derive(Clone, Debug)]
enum Node {
    /// Rows whose `column` is at most `threshold` go to node `low`, others to node `high`.
    Split { column: usize, threshold: f32, low: usize, high: usize },
    /// Share of each class that occurs.
    Leaf(Vec<(u32, f32)>),
}

impl Forest {
    /// Fits a forest to rows of `x` and their classes `labels`, each below `n_classes`; the same seed gives the same
    /// forest.
    pub fn fit(x: &Matrix, labels: &[u32], n_classes: usize, seed: u64) -> Self {
        let grow = |tree| Grower { x, labels, n_classes, draws: Stream::new(seed, tree) }.tree();
        Self { trees: (0..TREES as u64).into_par_iter().map(grow).collect(), n_classes }
    }

    /// The score of every class for every row of `x`, `[x.len(), n_classes]`; those of a row sum to 1.
    pub fn scores(&self, x: &Matrix) -> Vec<f32> {
        let n = self.n_classes;
        let mut scores = vec![0.0; x.len() * n];
        scores.par_chunks_mut(ROWS_PER_TASK * n).zip(x.values.par_chunks(ROWS_PER_TASK * x.width)).for_each(
            |(scores, rows)| {
                for (scores, row) in scores.chunks_exact_mut(n).zip(rows.chunks_exact(x.width)) {
                    for tree in &self.trees {
                        for &(class, share) in leaf(tree, row) {
                            scores[class as usize] += share / TREES as f32;
                        }
                    }
                }
            },
        );
        scores
    }
}

fn leaf<'a>(tree: &'a [Node], row: &[f32]) -> &'a [(u32, f32)] {
    let mut node = 0;
    loop {
        match &tree[node] {
            Node::Leaf(shares) => return shares,
            Node::Split { column, threshold, low, high } => {
                node = if row[*column] <= *threshold { *low } else { *high };
            }
        }
    }
}

/// The best split of a node found so far.
struct Split {
    column: usize,
    threshold: f32,
    /// Sum over both sides of the squared counts over the count; the larger, the purer.
    purity: f64,
}

struct Grower<'a> {
    x: &'a Matrix,
    labels: &'a [u32],
    n_classes: usize,
    draws: Stream,
}

impl Grower<'_> {
    fn tree(mut self) -> Tree {
        let n = self.labels.len();
        let mut rows: Vec<u32> = (0..n).map(|_| self.draws.below(n) as u32).collect();
        let mut tree = vec![Node::Leaf(Vec::new())];
        let mut open = vec![(0, 0..rows.len())];
        let mut columns: Vec<usize> = (0..self.x.width).collect();
        let mut sorted = Vec::new();
        while let Some((node, range)) = open.pop() {
            let rows = &mut rows[range.clone()];
            let counts = self.counts(rows);
            let split = if counts.len() > 1 { self.split(rows, &counts, &mut columns, &mut sorted) } else { None };
            let Some(Split { column, threshold, .. }) = split else {
                let share = |(class, count): (u32, u32)| (class, count as f32 / rows.len() as f32);
                tree[node] = Node::Leaf(counts.into_iter().map(share).collect());
                continue;
            };
            rows.sort_unstable_by_key(|&row| self.x.at(row, column) > threshold);
            let middle = range.start + rows.partition_point(|&row| self.x.at(row, column) <= threshold);
            let (low, high) = (tree.len(), tree.len() + 1);
            tree.extend([Node::Leaf(Vec::new()), Node::Leaf(Vec::new())]);
            tree[node] = Node::Split { column, threshold, low, high };
            open.extend([(low, range.start..middle), (high, middle..range.end)]);
        }
        tree
    }

    /// How many of `rows` each class has, of those that have any.
    fn counts(&self, rows: &[u32]) -> Vec<(u32, u32)> {
        let mut counts = vec![0; self.n_classes];
        rows.iter().for_each(|&row| counts[self.labels[row as usize] as usize] += 1);
        (0..).zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// The purest split on √width columns that vary, drawn at random; none if no column does.
    fn split(
        &mut self,
        rows: &[u32],
        counts: &[(u32, u32)],
        columns: &mut [usize],
        sorted: &mut Vec<(f32, u32)>,
    ) -> Option<Split> {
        let wanted = (self.x.width as f64).sqrt().round().max(1.0) as usize;
        let (mut best, mut tried): (Option<Split>, usize) = (None, 0);
        for i in 0..columns.len() {
            columns.swap(i, i + self.draws.below(columns.len() - i));
            let column = columns[i];
            sorted.clear();
            sorted.extend(rows.iter().map(|&row| (self.x.at(row, column), self.labels[row as usize])));
            sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            if sorted.first().map(|s| s.0) == sorted.last().map(|s| s.0) {
                continue;
            }
            if let Some((threshold, purity)) = purest(sorted, counts, self.n_classes)
                && best.as_ref().is_none_or(|b| purity > b.purity)
            {
                best = Some(Split { column, threshold, purity });
            }
            tried += 1;
            if tried == wanted {
                break;
            }
        }
        best
    }
}

/// Where to cut `sorted` (value and class) for the purest sides: the threshold and the purity.
fn purest(sorted: &[(f32, u32)], counts: &[(u32, u32)], n_classes: usize) -> Option<(f32, f64)> {
    let (mut low, mut high) = (vec![0u32; n_classes], vec![0u32; n_classes]);
    counts.iter().for_each(|&(class, count)| high[class as usize] = count);
    let mut low_squares = 0.0;
    let mut high_squares: f64 = counts.iter().map(|c| f64::from(c.1).powi(2)).sum();
    let mut best: Option<(f32, f64)> = None;
    for (i, pair) in sorted.windows(2).enumerate() {
        let ((value, class), next) = (pair[0], pair[1].0);
        let (l, h) = (&mut low[class as usize], &mut high[class as usize]);
        low_squares += f64::from(2 * *l + 1);
        high_squares -= f64::from(2 * *h) - 1.0;
        *l += 1;
        *h -= 1;
        if value == next {
            continue;
        }
        let n_low = (i + 1) as f64;
        let purity = low_squares / n_low + high_squares / (sorted.len() as f64 - n_low);
        if best.is_none_or(|b| purity > b.1) {
            let middle = value + (next - value) / 2.0;
            // Of neighbouring numbers the middle may round up to the next, or overflow.
            best = Some((if middle.is_finite() && middle < next { middle } else { value }, purity));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::auc;

    /// Two noisy spirals of `n` points, with two columns of noise.
    fn spirals(n: usize, stream: u64) -> (Matrix, Vec<u32>) {
        let mut draws = Stream::new(9, stream);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for i in 0..n {
            let (angle, label) = (6.0 * draws.uniform(), (i % 2) as u32);
            let turned = angle + std::f64::consts::PI * f64::from(label);
            values.extend([angle * turned.cos(), angle * turned.sin()].map(|v| (v + 0.3 * draws.normal()) as f32));
            values.extend([draws.uniform() as f32, 1.0]);
            labels.push(label);
        }
        (Matrix { values, width: 4 }, labels)
    }

    fn score(forest: &Forest, x: &Matrix, labels: &[u32]) -> f64 {
        let scores = forest.scores(x);
        let of = |wanted: u32| -> Vec<f64> {
            let rows = scores.chunks_exact(2).zip(labels).filter(|(_, label)| **label == wanted);
            rows.map(|(scores, _)| f64::from(scores[1])).collect()
        };
        auc(&of(1), &of(0)).unwrap()
    }

    #[test]
    fn it_learns_what_can_be_learnt_and_nothing_else() {
        let ((x, labels), (test, truth)) = (spirals(600, 1), spirals(600, 2));
        let forest = Forest::fit(&x, &labels, 2, 7);
        let found = score(&forest, &test, &truth);
        assert!(found > 0.95, "{found}");
        let mut shuffled = labels.clone();
        Stream::new(1, 1).shuffle(&mut shuffled);
        let nothing = score(&Forest::fit(&x, &shuffled, 2, 7), &test, &truth);
        assert!((0.4..0.6).contains(&nothing), "{nothing}");
        assert_eq!(forest.scores(&test), Forest::fit(&x, &labels, 2, 7).scores(&test));
    }

    /// The golden figures are means of five forests of 100 trees; one forest strays from them.
    #[test]
    fn it_is_as_good_as_that_of_scikit_learn() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/golden/generation.json")).unwrap();
        let case = &golden["forest"];
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let n = case["n_train"].as_u64().unwrap() as usize;
        let rows: Vec<Vec<f64>> = case["x"].as_array().unwrap().iter().map(numbers).collect();
        let labels: Vec<u32> = numbers(&case["labels"]).into_iter().map(|v| v as u32).collect();
        let part = |rows: &[Vec<f64>]| Matrix { values: rows.iter().flatten().map(|&v| v as f32).collect(), width: 8 };
        let (train, test) = (part(&rows[..n]), part(&rows[n..]));
        let mut found = [0.0; 3];
        for seed in 0..5 {
            let scores = Forest::fit(&train, &labels[..n], 3, seed).scores(&test);
            for (class, found) in found.iter_mut().enumerate() {
                let of = |is: bool| -> Vec<f64> {
                    let rows = scores.chunks_exact(3).zip(&labels[n..]).filter(|(_, l)| (**l as usize == class) == is);
                    rows.map(|(scores, _)| f64::from(scores[class])).collect()
                };
                *found += auc(&of(true), &of(false)).unwrap() / 5.0;
            }
        }
        for (ours, theirs) in found.iter().zip(numbers(&case["auc"])) {
            assert!((ours - theirs).abs() < 0.025, "{found:?} {}", case["auc"]);
        }
    }

    #[test]
    fn rows_that_cannot_be_told_apart_share_a_leaf() {
        let x = Matrix { values: vec![1.0; 6], width: 2 };
        let scores = Forest::fit(&x, &[0, 0, 2], 3, 1).scores(&x);
        for row in scores.chunks_exact(3) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && row[0] > row[2] && row[1] == 0.0, "{row:?}");
        }
        assert!(Forest::fit(&x, &[0, 0, 2], 3, 1).scores(&Matrix { values: vec![], width: 2 }).is_empty());
    }

    #[test]
    fn neighbouring_and_huge_numbers_are_split() {
        for pair in [[1.0, f32::from_bits(1.0f32.to_bits() + 1)], [f32::MIN, f32::MAX], [-0.0, f32::MIN_POSITIVE]] {
            let x = Matrix { values: pair.repeat(20), width: 1 };
            let labels = [0, 1].repeat(20);
            let scores = Forest::fit(&x, &labels, 2, 3).scores(&x);
            assert!(scores[0] > 0.99 && scores[3] > 0.99, "{pair:?}: {:?}", &scores[..4]);
        }
    }
}
