//! The k-NN head: the labels of the k references that are nearest by cosine, exactly or among the cells that are near.
//!
//! References and embeddings are standardised and brought to length 1, so that a product of matrices gives their cosines.
//! A neighbour at distance `d = 1 - cosine` votes by `1 / d` (Dudani, 1976), as `KNeighborsClassifier(metric="cosine",
//! weights="distance")` of scikit-learn has it. With `v` the shares of the votes, the probabilities are
//! `softmax(ln(v + FLOOR) / temperature)`.
//!
//! Two rules make the answer that of any engine and batch, whose embeddings differ in their last bits: references as
//! near as the k-th vote too, and a distance is at least [`MIN_DISTANCE`].

use super::linear::softmax;
use super::{MAX_VALUES, Scratch, Standard};
use crate::backend::matmul::{Mat, multiply};
use crate::error::{Error, Result};
use std::ops::Range;

/// Most references.
pub const MAX_REFERENCES: usize = 1 << 20;

/// Most neighbours that are asked.
pub const MAX_K: usize = 1 << 10;

/// Cosines that differ by less are equal.
const TIE: f32 = 1e-6;

/// What nearer references count as, too: flows of the same tokens are as near as rounding lets them.
const MIN_DISTANCE: f32 = 1e-4;

/// Added to every share of the votes: a label without a neighbour is improbable, not impossible.
pub const FLOOR: f32 = 1e-3;

/// Queries and references whose cosines are computed together; they fit into a core's cache.
const QUERIES: usize = 64;
const REFERENCES: usize = 512;

/// References with labels, and how they are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Knn {
    /// What embeddings become first.
    pub standard: Standard,
    /// Row-major `[n, n_embd]`, standardised and of length 1; cell after cell where there are [`Cells`].
    pub references: Vec<f32>,
    /// Label of each reference.
    pub labels: Vec<u32>,
    /// Neighbours that vote; all of them where there are fewer.
    pub k: usize,
    /// Divides the logarithms of the votes' shares before the softmax.
    pub temperature: f32,
    /// Where only a part of the references is looked at.
    pub cells: Option<Cells>,
}

/// A partition of the references: each lies in the cell of the centroid nearest to it (an inverted file: Jégou et al.,
/// "Product quantization for nearest neighbor search", 2011).
#[derive(Clone, Debug, PartialEq)]
pub struct Cells {
    /// Row-major `[n_cells, n_embd]`, of length 1.
    pub centroids: Vec<f32>,
    /// The reference after the last of each cell.
    pub ends: Vec<u32>,
    /// Cells that are looked at: those whose centroids are nearest.
    pub probes: usize,
}

/// The references found so far that may be among the k nearest, with their cosines.
#[derive(Clone, Debug, Default)]
pub(super) struct Nearest {
    found: Vec<(f32, u32)>,
    /// Cosines below it are not among them any more.
    floor: f32,
    /// Length of `found` at which it is thinned out.
    room: usize,
}

impl Nearest {
    fn clear(&mut self, k: usize) {
        self.found.clear();
        self.floor = f32::NEG_INFINITY;
        self.room = 4 * k + 64;
    }

    /// Takes in reference `first` and those after it, with these cosines.
    fn add(&mut self, k: usize, first: usize, cosines: &[f32]) {
        for (i, &cosine) in cosines.iter().enumerate() {
            if cosine >= self.floor {
                self.found.push((cosine, (first + i) as u32));
                if self.found.len() >= self.room {
                    self.thin(k);
                    // There may be any number of equals.
                    self.room = self.room.max(2 * self.found.len());
                }
            }
        }
    }

    /// Leaves the `k` nearest and those as near as the last of them.
    fn thin(&mut self, k: usize) {
        if self.found.len() > k {
            let (_, kth, _) = self.found.select_nth_unstable_by(k - 1, |a, b| b.0.total_cmp(&a.0));
            let floor = kth.0 - TIE;
            self.found.retain(|(cosine, _)| *cosine >= floor);
            self.floor = floor;
        }
    }
}

impl Knn {
    /// Number of references.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The probability of each label, written to `scores` `[n, n_labels]`, for `embeddings` `[n, n_embd]`.
    pub(super) fn scores(&self, embeddings: &[f32], scratch: &mut Scratch, scores: &mut [f32]) {
        let d = self.standard.mean.len();
        let n_labels = scores.len() * d / embeddings.len();
        for (embeddings, scores) in embeddings.chunks(QUERIES * d).zip(scores.chunks_mut(QUERIES * n_labels)) {
            self.find(embeddings, false, scratch);
            for (nearest, votes) in scratch.nearest.iter().zip(scores.chunks_exact_mut(n_labels)) {
                self.vote(nearest, votes);
                votes.iter_mut().for_each(|v| *v = (*v + FLOOR).ln() / self.temperature);
                softmax(votes);
            }
        }
    }

    /// The references nearest to one embedding, which vote; looked for among all, or in the cells that are near.
    pub fn neighbours(&self, embedding: &[f32], exactly: bool) -> Vec<u32> {
        let mut scratch = Scratch::default();
        self.find(embedding, exactly, &mut scratch);
        scratch.nearest.iter().flat_map(|nearest| nearest.found.iter().map(|(_, reference)| *reference)).collect()
    }

    /// The shares of the labels in the votes, written to `votes`.
    fn vote(&self, nearest: &Nearest, votes: &mut [f32]) {
        votes.fill(0.0);
        let mut total = 0.0;
        for &(cosine, reference) in &nearest.found {
            let weight = 1.0 / (1.0 - cosine).max(MIN_DISTANCE);
            votes[self.labels[reference as usize] as usize] += weight;
            total += weight;
        }
        if nearest.found.is_empty() {
            // The cells that were looked at hold nothing: nothing is known.
            total = votes.len() as f32;
            votes.fill(1.0);
        }
        votes.iter_mut().for_each(|v| *v /= total);
    }

    /// The nearest references of at most [`QUERIES`] embeddings, to `scratch.nearest`.
    fn find(&self, embeddings: &[f32], exactly: bool, scratch: &mut Scratch) {
        let d = self.standard.mean.len();
        let Scratch { points, products, nearest, probed, .. } = scratch;
        self.standard.apply_unit(embeddings, points);
        nearest.resize_with(points.len() / d, Nearest::default);
        nearest.iter_mut().for_each(|nearest| nearest.clear(self.k));
        match self.cells.as_ref().filter(|_| !exactly) {
            None => scan(&self.references, 0..self.len(), points, (self.k, products), nearest),
            Some(cells) => {
                for (point, nearest) in points.chunks_exact(d).zip(nearest.chunks_exact_mut(1)) {
                    cells.probe(point, products, probed);
                    for &(_, cell) in &probed.found {
                        scan(&self.references, cells.range(cell as usize), point, (self.k, products), nearest);
                    }
                }
            }
        }
        nearest.iter_mut().for_each(|nearest| nearest.thin(self.k));
    }

    /// Checks shapes and values for `n_labels` labels over embeddings of `n_embd`.
    pub fn check(&self, n_labels: usize, n_embd: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::format(format!("k-NN head: {what}")));
        self.standard.check(n_embd).map_err(|e| e.at("k-NN head"))?;
        let n = self.len();
        if !(1..=MAX_REFERENCES).contains(&n) || n * n_embd > MAX_VALUES {
            return wrong(format!(
                "{n} references of {n_embd} dimensions; there must be 1..={} of them",
                MAX_REFERENCES.min(MAX_VALUES / n_embd)
            ));
        }
        if self.references.len() != n * n_embd {
            let values = self.references.len();
            return Err(Error::mismatch(format!("k-NN head: {values} values are not {n} references of {n_embd}")));
        }
        check_unit("reference", &self.references, n_embd)?;
        if let Some(label) = self.labels.iter().find(|l| **l as usize >= n_labels) {
            return wrong(format!("a reference has label {label}; there are {n_labels} labels"));
        }
        if !(1..=MAX_K).contains(&self.k) {
            return wrong(format!("k is {}; it must be in 1..={MAX_K}", self.k));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong(format!("temperature is {}; it must be positive", self.temperature));
        }
        self.cells.as_ref().map_or(Ok(()), |cells| cells.check(n, n_embd))
    }
}

impl Cells {
    /// The references of cell `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        begin as usize..self.ends[i] as usize
    }

    /// The cells whose centroids are nearest to `point`.
    fn probe(&self, point: &[f32], products: &mut Vec<f32>, probed: &mut Nearest) {
        probed.clear(self.probes);
        let n = self.ends.len();
        scan(&self.centroids, 0..n, point, (self.probes, products), std::slice::from_mut(probed));
        probed.thin(self.probes);
    }

    fn check(&self, n_references: usize, n_embd: usize) -> Result<()> {
        let n = self.ends.len();
        let wrong = |what: String| Err(Error::format(format!("k-NN head: {what}")));
        if !(1..=n_references).contains(&n) || self.centroids.len() != n * n_embd {
            return wrong(format!("{n} cells with {} values of centroids", self.centroids.len()));
        }
        if !self.ends.is_sorted() || self.ends.last().is_none_or(|&end| end as usize != n_references) {
            return wrong(format!("the {n} cells do not part the {n_references} references"));
        }
        if !(1..=n).contains(&self.probes) {
            return wrong(format!("{} of {n} cells are looked at", self.probes));
        }
        check_unit("centroid", &self.centroids, n_embd)
    }
}

/// Shows each of `points` the rows `range` of `rows`, of which it keeps the `k` nearest.
fn scan(
    rows: &[f32],
    range: Range<usize>,
    points: &[f32],
    (k, products): (usize, &mut Vec<f32>),
    nearest: &mut [Nearest],
) {
    let n = nearest.len();
    let d = points.len() / n;
    for begin in range.clone().step_by(REFERENCES) {
        let end = range.end.min(begin + REFERENCES);
        products.resize(n * (end - begin), 0.0);
        multiply(products, Mat::new(points, n, d), Mat::new(&rows[begin * d..end * d], end - begin, d).t());
        for (nearest, cosines) in nearest.iter_mut().zip(products.chunks_exact(end - begin)) {
            nearest.add(k, begin, cosines);
        }
    }
}

/// That all `rows` are of length 1, or 0: an embedding that is exactly the mean.
fn check_unit(what: &str, rows: &[f32], n_embd: usize) -> Result<()> {
    for (i, row) in rows.chunks_exact(n_embd).enumerate() {
        let square: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
        if square != 0.0 && !(0.999..=1.001).contains(&square) {
            return Err(Error::format(format!("k-NN head: {what} {i} has length {}, not 1", square.sqrt())));
        }
    }
    Ok(())
}
