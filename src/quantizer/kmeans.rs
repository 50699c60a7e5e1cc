//! Fitting a codebook: exact Lloyd iterations (Lloyd, 1982) from k-means++ seeds.
//!
//! The points lie in columns of one size with running sums, and on each column the envelope of the centroids says which
//! stretch is nearest to which. An iteration therefore sums stretches, not points: its cost goes with the number of
//! Voronoi cells that the columns cross, about K times the square root of K or less, and not with the number of packets.
//! The result depends neither on the order of the packets nor on the number of threads.

use super::codebook::Codebook;
use super::columns::Columns;
use super::envelope::{Envelope, Sites};
use super::scaler::Point;
use super::seeds;
use crate::error::{Error, Kind, Result};
use crate::tokens::Token;
use rayon::prelude::*;
use std::ops::{ControlFlow, Range};

/// Columns whose sums one task takes; fixed, so that rounding does not depend on the number of threads.
const PART: usize = 256;

/// How to fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Number of centroids K.
    pub k: usize,
    /// Seed of the k-means++ draws.
    pub seed: u64,
    /// Candidates for each seed, of which the best is taken: 1 is plain k-means++, 0 stands for 2 + ln K, as in
    /// scikit-learn.
    pub trials: usize,
    /// Most Lloyd iterations.
    pub max_iterations: usize,
    /// Stop when an iteration lowers the inertia by less than this share of it; 0 goes on until nothing moves.
    pub tolerance: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { k: 1024, seed: 0, trials: 0, max_iterations: 300, tolerance: 1e-4 }
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

/// How far a fit is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// So many of the first centroids are drawn.
    Seeds(usize),
    /// An iteration began with centroids of this inertia.
    Iteration(f64),
}

/// Fits `options.k` centroids to `data`, from those of `start` where it is given, which must be as many. `progress` sees
/// each step and may stop the fit.
pub fn fit(
    data: &Columns,
    start: Option<&Codebook>,
    options: &Options,
    progress: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> Result<Fit> {
    let (k, n) = (options.k, data.len());
    if k == 0 || k > n {
        return Err(Error::invalid(format!(
            "k is {k}; it must be in 1..={n}, the number of distinct packets: lower k or give more flows"
        )));
    }
    let trials = if options.trials == 0 { 2 + (k as f64).ln() as usize } else { options.trials };
    let mut codebook = match start {
        None => {
            let drawn = |n| progress(Step::Seeds(n));
            let Some(seeds) = seeds::draw(data, k, trials, options.seed, drawn) else {
                return Err(Error::new(Kind::Interrupted, "stopped before the first iteration of k-means"));
            };
            rounded(seeds)?
        }
        Some(start) if start.len() == k => start.clone(),
        Some(start) => {
            return Err(Error::mismatch(format!("k is {k}, but the codebook to start from has {}", start.len())));
        }
    };
    let mut last = f64::INFINITY;
    for iteration in 1..=options.max_iterations.max(1) {
        let assignment = Assignment::new(data, &codebook);
        let inertia = assignment.inertia;
        if progress(Step::Iteration(inertia)).is_break() {
            return Err(Error::new(Kind::Interrupted, format!("stopped after {iteration} iterations of k-means")));
        }
        // An inertia of 0 cannot be improved, and would make the relative test divide by itself.
        let converged = inertia == 0.0 || last - inertia <= options.tolerance * inertia;
        let moved = assignment.means(data, &codebook)?;
        let settled = moved.centroids() == codebook.centroids();
        if converged || settled || iteration == options.max_iterations.max(1) {
            return finish(data, moved, iteration, converged || settled);
        }
        codebook = moved;
        last = inertia;
    }
    unreachable!("the last iteration returns")
}

/// Orders the centroids, so that token ids mean something to a reader, and measures what they give.
fn finish(data: &Columns, codebook: Codebook, iterations: usize, converged: bool) -> Result<Fit> {
    let mut centroids = codebook.centroids().to_vec();
    centroids.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let codebook = Codebook::new(centroids)?;
    let inertia = Assignment::new(data, &codebook).inertia;
    Ok(Fit { codebook, inertia, iterations, converged })
}

fn rounded(points: Vec<Point>) -> Result<Codebook> {
    Codebook::new(points.into_iter().map(|point| point.map(|v| v as f32)).collect())
}

/// The points that one centroid got.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Packets.
    pub weight: f64,
    /// Weighted sum of the points.
    sum: Point,
    /// Weighted sum of squared distances to the centroid.
    pub cost: f64,
}

/// Which points each centroid got, as sums.
pub struct Assignment {
    /// Sum over packets of the squared distance to their centroid.
    pub inertia: f64,
    /// By token. Of equal centroids all but the first have nothing.
    pub shares: Vec<Share>,
}

impl Assignment {
    /// Gives every point of `data` to its nearest centroid.
    pub fn new(data: &Columns, codebook: &Codebook) -> Self {
        let sites = sites(data, codebook);
        let parts: Vec<Vec<Share>> = parts(data)
            .map(|lines| {
                let mut shares = vec![Share::default(); codebook.len()];
                stretches(data, &sites, lines, &mut |column, rank, points| {
                    let sums = data.sums(column, points.clone());
                    let share = &mut shares[sites.token(rank) as usize];
                    share.weight += sums.w;
                    share.sum = [share.sum[0] + sums.w * data.xs[column], share.sum[1] + sums.wy];
                    share.cost += data.cost(column, points, sites.point(rank));
                });
                shares
            })
            .collect();
        let mut shares = vec![Share::default(); codebook.len()];
        for part in &parts {
            for (all, share) in shares.iter_mut().zip(part) {
                all.weight += share.weight;
                all.sum = [all.sum[0] + share.sum[0], all.sum[1] + share.sum[1]];
                all.cost += share.cost;
            }
        }
        Self { inertia: shares.iter().map(|share| share.cost).sum(), shares }
    }

    /// The new centroids: the means. Those that got no point move to the points that cost most, so none stays empty.
    fn means(&self, data: &Columns, codebook: &Codebook) -> Result<Codebook> {
        let n_empty = self.shares.iter().filter(|share| share.weight == 0.0).count();
        let mut worst = costliest(data, codebook, n_empty).into_iter();
        let centroids = codebook.centroids().iter().zip(&self.shares).map(|(&centroid, share)| {
            if share.weight > 0.0 {
                share.sum.map(|sum| (sum / share.weight) as f32)
            } else {
                worst.next().map_or(centroid, |point| point.map(|v| v as f32))
            }
        });
        Codebook::new(centroids.collect())
    }
}

/// The `n` points that cost most at their nearest centroid, from the worst on.
fn costliest(data: &Columns, codebook: &Codebook, n: usize) -> Vec<Point> {
    if n == 0 {
        return Vec::new();
    }
    let sites = sites(data, codebook);
    let worst_first = |a: &(f64, Point), b: &(f64, Point)| {
        b.0.total_cmp(&a.0).then(a.1[0].total_cmp(&b.1[0])).then(a.1[1].total_cmp(&b.1[1]))
    };
    let mut worst: Vec<(f64, Point)> = parts(data)
        .flat_map_iter(|lines| {
            let mut costs = Vec::new();
            stretches(data, &sites, lines, &mut |column, rank, points| {
                let cost = |point: usize| data.cost(column, point..point + 1, sites.point(rank));
                costs.extend(points.map(|point| (cost(point), [data.xs[column], data.ys[point]])));
                costs.sort_unstable_by(worst_first);
                costs.truncate(n);
            });
            costs
        })
        .collect();
    worst.sort_unstable_by(worst_first);
    worst.truncate(n);
    worst.into_iter().map(|(_, point)| point).collect()
}

fn sites(data: &Columns, codebook: &Codebook) -> Sites {
    let reach = data.xs.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    Sites::new(codebook, reach)
}

fn parts(data: &Columns) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let n = data.xs.len();
    (0..n.div_ceil(PART)).into_par_iter().map(move |part| part * PART..((part + 1) * PART).min(n))
}

/// Shows `visit` the column, the token and the points of every stretch of points with one nearest centroid, by rising
/// column.
pub(super) fn each_stretch(data: &Columns, codebook: &Codebook, visit: &mut dyn FnMut(usize, Token, Range<usize>)) {
    let sites = sites(data, codebook);
    stretches(data, &sites, 0..data.xs.len(), &mut |column, rank, points| visit(column, sites.token(rank), points));
}

/// Shows `visit` the column, the rank of the nearest centroid and the points of every stretch of `columns`.
fn stretches(data: &Columns, sites: &Sites, columns: Range<usize>, visit: &mut dyn FnMut(usize, u32, Range<usize>)) {
    let mut unlimited = usize::MAX;
    let _ = sites.sweep(&data.xs[columns.clone()], &mut unlimited, &mut |line, Envelope { members, .. }| {
        let column = columns.start + line;
        let points = data.points(column);
        let mut begin = points.start;
        for (i, member) in members.iter().enumerate() {
            let next = members.get(i + 1);
            let end = next.map_or(points.end, |next| data.first_at_least(begin..points.end, next.border));
            if end > begin {
                visit(column, member.rank, begin..end);
            }
            begin = end;
        }
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::quantizer::Scaler;
    use crate::quantizer::histogram::Histogram;
    use crate::random::Stream;
    use proptest::prelude::*;

    fn columns(packets: &[Packet], scaler: Scaler) -> Columns {
        let mut histogram = Histogram::default();
        histogram.add(packets).unwrap();
        Columns::new(histogram, scaler).unwrap().0
    }

    /// `n` packets about three places far from each other.
    pub(crate) fn blobs(n: usize) -> Vec<Packet> {
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
        let data = columns(&packets, Scaler::Log1pUs);
        fit(&data, None, &Options { k, tolerance: 0.0, ..Options::default() }, &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn three_blobs_give_three_centroids_and_falling_inertia() {
        let data = columns(&blobs(3000), Scaler::Log1pUs);
        let mut seen = Vec::new();
        let fit = fit(&data, None, &Options { k: 3, ..Options::default() }, &mut |step| {
            if let Step::Iteration(inertia) = step {
                seen.push(inertia);
            }
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
        let data = columns(&[0, 10, 1000].map(|size| Packet { size, ipt_us: 0.0 }), Scaler::Log1pUs);
        let codebook = Codebook::new(vec![[0.0, 0.0], [0.0, 9.0]]).unwrap();
        let moved = Assignment::new(&data, &codebook).means(&data, &codebook).unwrap();
        assert_eq!(moved.centroids()[1], [(1000.0 / 1500.0) as f32, 0.0]);
    }

    #[test]
    fn a_fit_goes_on_from_a_codebook_of_the_same_size_only() {
        let data = columns(&blobs(3000), Scaler::Log1pUs);
        let go = |start: &Codebook, k| {
            fit(&data, Some(start), &Options { k, ..Options::default() }, &mut |_| ControlFlow::Continue(()))
        };
        let three = fit_packets(blobs(3000), 3).unwrap();
        let again = go(&three.codebook, 3).unwrap();
        assert_eq!(again.codebook.centroids(), three.codebook.centroids());
        assert!(again.iterations <= 2);
        assert!(go(&three.codebook, 4).unwrap_err().message().contains("3"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// The sums of one assignment, against giving each packet to its nearest centroid.
        #[test]
        fn an_assignment_is_that_of_each_packet_alone(
            packets in prop::collection::vec((-1500i32..1500, 0u8..8), 1..400),
            grid in prop::collection::vec((-6i8..6, 0i8..8), 1..40),
        ) {
            let packets: Vec<Packet> =
                packets.iter().map(|&(size, e)| Packet { size: size / 10 * 10, ipt_us: 10f32.powi(e.into()) - 1.0 }).collect();
            let codebook = Codebook::new(grid.iter().map(|&(x, y)| [f32::from(x) / 5.0, f32::from(y)]).collect()).unwrap();
            for scaler in Scaler::ALL {
                let assignment = Assignment::new(&columns(&packets, scaler), &codebook);
                let inertia: f64 = packets.iter().map(|&p| codebook.nearest_with_distance(scaler.point(p)).1).sum();
                prop_assert!((assignment.inertia - inertia).abs() <= 1e-9 * (1.0 + inertia));
                let total: f64 = assignment.shares.iter().map(|share| share.weight).sum();
                prop_assert_eq!(total, packets.len() as f64);
            }
        }
    }
}
