//! Fitting a codebook: exact Lloyd iterations (Lloyd, 1982) from k-means++ seeds (Arthur and Vassilvitskii, 2007).
//!
//! Equal points are merged into one that carries their weight: sizes are whole bytes and times are coarse, so real
//! traffic shrinks several times. The result depends neither on the order of the packets nor on the number of threads.

use super::codebook::Codebook;
use super::scaler::{Point, Scaler};
use crate::error::{Error, Kind, Result};
use crate::packet::Packet;
use crate::random::Stream;
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Points whose sums one task takes; fixed, so that rounding does not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// How to fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Number of centroids K.
    pub k: usize,
    /// Seed of the k-means++ draws.
    pub seed: u64,
    /// Most Lloyd iterations.
    pub max_iterations: usize,
    /// Stop when an iteration lowers the inertia by less than this share of it; 0 goes on until nothing moves.
    pub tolerance: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { k: 1024, seed: 0, max_iterations: 300, tolerance: 1e-4 }
    }
}

/// What fitting found.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The centroids, none of which is empty, ordered by size, then time.
    pub codebook: Codebook,
    /// Sum over packets of the squared distance to their centroid.
    pub inertia: f64,
    /// Lloyd iterations done.
    pub iterations: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

/// Distinct points with the number of packets at each.
#[derive(Clone, Debug, Default)]
pub struct WeightedPoints {
    points: Vec<Point>,
    weights: Vec<f64>,
}

impl WeightedPoints {
    /// The points of `packets` through `scaler`. Refuses packets whose time is not finite or negative.
    pub fn new(packets: impl IntoIterator<Item = Packet>, scaler: Scaler) -> Result<Self> {
        let mut points = Vec::new();
        for (i, packet) in packets.into_iter().enumerate() {
            packet.check().map_err(|e| e.at(format_args!("packet {i}")))?;
            points.push(scaler.point(packet));
        }
        points.par_sort_unstable_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
        let mut out = Self::default();
        for run in points.chunk_by(|a, b| a == b) {
            out.points.push(run[0]);
            out.weights.push(run.len() as f64);
        }
        Ok(out)
    }

    /// Number of distinct points.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

/// Fits `options.k` centroids to `data`. `progress` sees each iteration's number and inertia and may stop the fit.
pub fn fit(
    data: &WeightedPoints,
    options: &Options,
    progress: &mut dyn FnMut(usize, f64) -> ControlFlow<()>,
) -> Result<Fit> {
    let (k, n) = (options.k, data.len());
    if k == 0 || k > n {
        return Err(Error::invalid(format!(
            "k is {k}; it must be in 1..={n}, the number of distinct packets: lower k or give more flows"
        )));
    }
    let mut codebook = Codebook::new(seed_centroids(data, k, options.seed))?;
    let mut last = f64::INFINITY;
    for iteration in 1..=options.max_iterations.max(1) {
        let assignment = assign(data, &codebook);
        let inertia = assignment.inertia;
        if progress(iteration, inertia).is_break() {
            return Err(Error::new(Kind::Interrupted, format!("stopped after {iteration} iterations of k-means")));
        }
        // An inertia of 0 cannot be improved, and would make the relative test divide by itself.
        let converged = inertia == 0.0 || last - inertia <= options.tolerance * inertia;
        let moved = assignment.means(data, &codebook);
        let settled = moved.as_slice() == codebook.centroids();
        if converged || settled || iteration == options.max_iterations.max(1) {
            return finish(data, moved, iteration, converged || settled);
        }
        codebook = Codebook::new(moved)?;
        last = inertia;
    }
    unreachable!("the last iteration returns")
}

/// Orders the centroids, so that token ids mean something to a reader, and measures what they give.
fn finish(data: &WeightedPoints, mut centroids: Vec<[f32; 2]>, iterations: usize, converged: bool) -> Result<Fit> {
    centroids.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let codebook = Codebook::new(centroids)?;
    let inertia = assign(data, &codebook).inertia;
    Ok(Fit { codebook, inertia, iterations, converged })
}

/// k-means++: each next seed is a point drawn with probability proportional to weight times squared distance.
fn seed_centroids(data: &WeightedPoints, k: usize, seed: u64) -> Vec<[f32; 2]> {
    let mut draws = Stream::new(seed, 0);
    let mut mass: Vec<f64> = data.weights.clone();
    let mut nearest = vec![f64::INFINITY; data.len()];
    let mut centroids = Vec::with_capacity(k);
    for _ in 0..k {
        let i = draw(&mass, draws.uniform());
        centroids.push(data.points[i].map(|v| v as f32));
        let [x, y] = data.points[i];
        nearest.par_iter_mut().zip(&mut mass).zip(&data.points).zip(&data.weights).with_min_len(CHUNK).for_each(
            |(((nearest, mass), p), weight)| {
                *nearest = nearest.min((p[0] - x).powi(2) + (p[1] - y).powi(2));
                *mass = weight * *nearest;
            },
        );
    }
    centroids
}

/// Index of the point in whose share of the total mass `u` falls; points without mass are never drawn while any has it.
fn draw(mass: &[f64], u: f64) -> usize {
    let sums: Vec<f64> = mass.par_chunks(CHUNK).map(|c| c.iter().sum()).collect();
    let mut left = u * sums.iter().sum::<f64>();
    for (chunk, sum) in sums.iter().enumerate() {
        if left >= *sum {
            left -= sum;
            continue;
        }
        let begin = chunk * CHUNK;
        for (i, m) in mass[begin..].iter().take(CHUNK).enumerate() {
            left -= m;
            if left < 0.0 {
                return begin + i;
            }
        }
    }
    // Rounding left a remainder past the end: the last point that has mass.
    mass.iter().rposition(|&m| m > 0.0).unwrap_or(0)
}

/// Which points each centroid got, as sums.
struct Assignment {
    inertia: f64,
    /// Per centroid: weight, weighted sum of each coordinate.
    sums: Vec<[f64; 3]>,
    /// Each point's weighted squared distance.
    costs: Vec<f64>,
}

fn assign(data: &WeightedPoints, codebook: &Codebook) -> Assignment {
    let nearest: Vec<(u32, f64)> =
        data.points.par_iter().with_min_len(1024).map(|&p| codebook.nearest_with_distance(p)).collect();
    let mut sums = vec![[0.0; 3]; codebook.len()];
    let mut costs = vec![0.0; data.len()];
    let mut inertia = 0.0;
    for (i, &(token, distance)) in nearest.iter().enumerate() {
        let (p, w) = (data.points[i], data.weights[i]);
        let sum = &mut sums[token as usize];
        *sum = [sum[0] + w, sum[1] + w * p[0], sum[2] + w * p[1]];
        costs[i] = w * distance;
        inertia += costs[i];
    }
    Assignment { inertia, sums, costs }
}

impl Assignment {
    /// The new centroids. One that got no point moves to the point that costs most, so none stays empty.
    fn means(mut self, data: &WeightedPoints, codebook: &Codebook) -> Vec<[f32; 2]> {
        let mut centroids = codebook.centroids().to_vec();
        for (centroid, sum) in centroids.iter_mut().zip(&self.sums) {
            if sum[0] > 0.0 {
                *centroid = [(sum[1] / sum[0]) as f32, (sum[2] / sum[0]) as f32];
            } else if let Some(worst) = (0..data.len()).max_by(|&a, &b| self.costs[a].total_cmp(&self.costs[b])) {
                *centroid = data.points[worst].map(|v| v as f32);
                self.costs[worst] = 0.0;
            }
        }
        centroids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(n: usize) -> Vec<Packet> {
        let mut draws = Stream::new(3, 0);
        let centres = [(100, 1e1), (-1400, 1e3), (600, 1e6)];
        (0..n)
            .map(|i| {
                let (size, time) = centres[i % 3];
                Packet { size: size + draws.below(9) as i32 - 4, ipt_us: time * (1.0 + draws.uniform() as f32 / 10.0) }
            })
            .collect()
    }

    fn fit_packets(packets: Vec<Packet>, k: usize) -> Result<Fit> {
        let data = WeightedPoints::new(packets, Scaler::Log1pUs)?;
        fit(&data, &Options { k, tolerance: 0.0, ..Options::default() }, &mut |_, _| ControlFlow::Continue(()))
    }

    #[test]
    fn three_blobs_give_three_centroids_and_falling_inertia() {
        let data = WeightedPoints::new(blobs(3000), Scaler::Log1pUs).unwrap();
        let mut seen = Vec::new();
        let fit = fit(&data, &Options { k: 3, ..Options::default() }, &mut |_, inertia| {
            seen.push(inertia);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(fit.converged && seen.windows(2).all(|w| w[1] <= w[0]), "{seen:?}");
        let sizes: Vec<f32> = fit.codebook.centroids().iter().map(|c| (c[0] * 1500.0).round()).collect();
        assert_eq!(sizes, [-1400.0, 100.0, 600.0]);
    }

    #[test]
    fn the_order_of_the_packets_does_not_matter() {
        let mut packets = blobs(2000);
        let one = fit_packets(packets.clone(), 40).unwrap();
        Stream::new(9, 9).shuffle(&mut packets);
        let two = fit_packets(packets, 40).unwrap();
        assert_eq!(one.codebook.centroids(), two.codebook.centroids());
    }

    #[test]
    fn as_many_centroids_as_points_cost_nothing_and_none_is_empty() {
        let packets: Vec<Packet> = (0..50).map(|i| Packet { size: 40 + i % 10, ipt_us: (i / 10) as f32 }).collect();
        let fit = fit_packets(packets.clone(), 50).unwrap();
        assert!(fit.inertia < 1e-9, "{}", fit.inertia);
        let error = fit_packets(packets, 51).unwrap_err();
        assert!(error.message().contains("50"), "{error}");
    }

    #[test]
    fn an_empty_cluster_moves_to_the_costliest_point() {
        let data =
            WeightedPoints::new([0, 10, 1000].map(|size| Packet { size, ipt_us: 0.0 }), Scaler::Log1pUs).unwrap();
        let codebook = Codebook::new(vec![[0.0, 0.0], [0.0, 9.0]]).unwrap();
        let moved = assign(&data, &codebook).means(&data, &codebook);
        assert_eq!(moved[1], [(1000.0 / 1500.0) as f32, 0.0]);
    }

    #[test]
    fn a_packet_that_cannot_be_is_refused_by_number() {
        let packets = [Packet { size: 1, ipt_us: 0.0 }, Packet { size: 1, ipt_us: f32::NAN }];
        let error = WeightedPoints::new(packets, Scaler::Log1pUs).unwrap_err();
        assert!(error.message().contains("packet 1"), "{error}");
    }
}
