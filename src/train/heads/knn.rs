//! Fitting the k-NN head: keeping the training flows' embeddings, and parting them into cells by k-means on the sphere
//! (Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001).

use super::{Options, Sample, standard};
use crate::backend::matmul::{Mat, multiply};
use crate::classifier::argmax;
use crate::error::{Error, Result};
use crate::head::Knn;
use crate::head::knn::{Cells, MAX_REFERENCES};
use crate::random::Stream;
use rayon::prelude::*;
use std::collections::HashSet;

/// Rounds of k-means: cells need not be the best, only even enough.
const ROUNDS: usize = 10;

/// References for each cell that k-means looks at.
const SAMPLE_PER_CELL: usize = 128;

/// References that one thread compares with all centroids at a time.
const ROWS_PER_TASK: usize = 64;

/// The stream of the draws, as none of the other draws of a run has it.
const STREAM: u64 = u64::MAX - 1;

/// The head whose references are `sample`.
pub(super) fn fit(options: &Options, sample: Sample<'_>, seed: u64) -> Result<Knn> {
    let (n, d) = (sample.labels.len(), sample.n_embd);
    let standard = standard(sample.embeddings, d);
    let mut references = Vec::with_capacity(n * d);
    standard.apply_unit(sample.embeddings, &mut references);
    let labels = sample.labels.to_vec();
    let mut head = Knn { standard, references, labels, k: options.knn_k, temperature: 1.0, cells: None };
    if options.knn_cells > 0 {
        let centroids = centroids(&head.references, d, options.knn_cells, seed);
        let cell_of = nearest(&centroids, &head.references, d);
        part(&mut head, centroids, &cell_of, options.knn_probes);
    }
    head.check(sample.n_labels, d)?;
    Ok(head)
}

/// Adds references to `head`, each to its cell where there are cells.
pub fn add(head: &mut Knn, sample: Sample<'_>) -> Result<()> {
    let d = sample.n_embd;
    let n = head.len() + sample.labels.len();
    if n > MAX_REFERENCES {
        return Err(Error::invalid(format!("{n} references would be too many; at most {MAX_REFERENCES} may be")));
    }
    let mut new = Vec::new();
    head.standard.apply_unit(sample.embeddings, &mut new);
    let cells = head.cells.take();
    head.references.extend_from_slice(&new);
    head.labels.extend_from_slice(sample.labels);
    if let Some(cells) = cells {
        let mut cell_of: Vec<u32> = Vec::with_capacity(head.len());
        (0..cells.ends.len()).for_each(|i| cell_of.extend(cells.range(i).map(|_| i as u32)));
        cell_of.extend(nearest(&cells.centroids, &new, d));
        part(head, cells.centroids, &cell_of, cells.probes);
    }
    head.check(sample.n_labels, d)
}

/// Which share of the nearest references of `embeddings` is found in the cells that are looked at.
pub fn recall(head: &Knn, embeddings: &[f32]) -> f64 {
    let d = head.standard.mean.len();
    let count = |embedding: &[f32]| {
        let exactly: HashSet<u32> = head.neighbours(embedding, true).into_iter().collect();
        let found = head.neighbours(embedding, false).into_iter().filter(|i| exactly.contains(i)).count();
        (found, exactly.len())
    };
    let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
    let (found, all) = embeddings.par_chunks_exact(d).map(count).reduce(|| (0, 0), add);
    found as f64 / all.max(1) as f64
}

/// Brings the references into the order of their cells.
fn part(head: &mut Knn, centroids: Vec<f32>, cell_of: &[u32], probes: usize) {
    let d = head.standard.mean.len();
    let mut ends = vec![0; centroids.len() / d];
    cell_of.iter().for_each(|&cell| ends[cell as usize] += 1);
    let mut end = 0;
    for count in &mut ends {
        end += *count;
        *count = end;
    }
    let mut order: Vec<usize> = (0..cell_of.len()).collect();
    order.sort_by_key(|&i| cell_of[i]);
    head.references = order.iter().flat_map(|&i| &head.references[i * d..(i + 1) * d]).copied().collect();
    head.labels = order.iter().map(|&i| head.labels[i]).collect();
    head.cells = Some(Cells { centroids, ends, probes });
}

/// `n` centroids of `rows` of length 1.
fn centroids(rows: &[f32], d: usize, n: usize, seed: u64) -> Vec<f32> {
    let mut draws = Stream::new(seed, STREAM);
    let mut order: Vec<usize> = (0..rows.len() / d).collect();
    draws.shuffle(&mut order);
    order.truncate(n * SAMPLE_PER_CELL);
    let sample: Vec<f32> = order.iter().flat_map(|&i| &rows[i * d..(i + 1) * d]).copied().collect();
    let mut centroids = sample[..n * d].to_vec();
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0f64; n * d];
        for (row, cell) in sample.chunks_exact(d).zip(nearest(&centroids, &sample, d)) {
            let begin = cell as usize * d;
            sums[begin..begin + d].iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        for (centroid, sum) in centroids.chunks_exact_mut(d).zip(sums.chunks_exact(d)) {
            let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            // A cell that is empty stays where it was.
            if length > 1e-9 {
                centroid.iter_mut().zip(sum).for_each(|(c, sum)| *c = (sum / length) as f32);
            }
        }
    }
    centroids
}

/// The centroid nearest to each of `rows`; the first of several.
fn nearest(centroids: &[f32], rows: &[f32], d: usize) -> Vec<u32> {
    let m = centroids.len() / d;
    let of_chunk = |rows: &[f32]| -> Vec<u32> {
        let n = rows.len() / d;
        let mut cosines = vec![0.0; n * m];
        multiply(&mut cosines, Mat::new(rows, n, d), Mat::new(centroids, m, d).t());
        cosines.chunks_exact(m).map(|row| argmax(row).0 as u32).collect()
    };
    rows.par_chunks(ROWS_PER_TASK * d).flat_map_iter(of_chunk).collect()
}
