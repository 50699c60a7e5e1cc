//! Lloyd iterations over sums that someone else makes: the device, or the host in tests.

use crate::cuda::fixed::{Moments, Share};
use crate::error::{Error, Kind, Result};
use crate::quantizer::kmeans::{Fit, Options, Step};
use crate::quantizer::scaler::Point;
use crate::quantizer::{Codebook, Scaler};
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Who gives each packet to its nearest centroid.
pub(super) trait Assign {
    /// The sums over the packets of each centroid of `codebook`, by token.
    fn assign(&mut self, codebook: &Codebook) -> Result<Vec<Share>>;
}

/// The packets, as far as Lloyd's algorithm must know them.
pub(super) struct Data {
    pub scaler: Scaler,
    pub moments: Moments,
    /// Some of the different points, to place a centroid that got no packet.
    pub points: Vec<Point>,
}

/// Iterates from `start` until `options` say to stop.
pub(super) fn iterate(
    assign: &mut dyn Assign,
    data: &Data,
    start: &Codebook,
    options: &Options,
    progress: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> Result<Fit> {
    let mut codebook = start.clone();
    let mut last = f64::INFINITY;
    for iteration in 1.. {
        let shares = assign.assign(&codebook)?;
        let inertia = inertia(data, &codebook, &shares);
        if progress(Step::Iteration(inertia)).is_break() {
            return Err(Error::new(Kind::Interrupted, format!("stopped after {iteration} iterations of k-means")));
        }
        let converged = inertia == 0.0 || last - inertia <= options.tolerance * inertia;
        let moved = means(data, &codebook, &shares)?;
        let settled = moved.centroids() == codebook.centroids();
        codebook = moved;
        if converged || settled || iteration >= options.max_iterations {
            let (codebook, inertia) = finish(assign, data, &codebook)?;
            return Ok(Fit { codebook, inertia, iterations: iteration, converged: converged || settled });
        }
        last = inertia;
    }
    unreachable!("iterations end")
}

/// Sum of squared distances: what the points lie from 0, less twice their product with their centroid, and the
/// centroid's own square. The sums are exact, so little is lost in the difference.
fn inertia(data: &Data, codebook: &Codebook, shares: &[Share]) -> f64 {
    let terms = codebook.centroids().iter().zip(shares).map(|(c, share)| {
        let ([x, y], [sum_x, sum_y]) = (c.map(f64::from), share.sum(data.scaler));
        share.packets as f64 * (x * x + y * y) - 2.0 * (x * sum_x + y * sum_y)
    });
    (data.moments.sum(data.scaler) + terms.sum::<f64>()).max(0.0)
}

/// The new centroids: the means, and for those that got no packet the costliest of the points kept.
fn means(data: &Data, codebook: &Codebook, shares: &[Share]) -> Result<Codebook> {
    let n_empty = shares.iter().filter(|share| share.packets == 0).count();
    let mut worst = costliest(&data.points, codebook, n_empty).into_iter();
    let moved = codebook.centroids().iter().zip(shares).map(|(&centroid, share)| match share.packets {
        0 => worst.next().map_or(centroid, |point| point.map(|v| v as f32)),
        n => share.sum(data.scaler).map(|sum| (sum / n as f64) as f32),
    });
    Codebook::new(moved.collect())
}

/// The `n` of `points` that lie farthest from their centroid, if so many do not lie on it.
fn costliest(points: &[Point], codebook: &Codebook, n: usize) -> Vec<Point> {
    if n == 0 {
        return Vec::new();
    }
    let cost = |&point: &Point| (codebook.nearest_with_distance(point).1, point);
    let mut costs: Vec<(f64, Point)> = points.par_iter().map(cost).filter(|(cost, _)| *cost > 0.0).collect();
    costs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1[0].total_cmp(&b.1[0])).then(a.1[1].total_cmp(&b.1[1])));
    costs.into_iter().take(n).map(|(_, point)| point).collect()
}

/// Orders the centroids, drops those that no packet is nearest to, and measures what the others give.
fn finish(assign: &mut dyn Assign, data: &Data, codebook: &Codebook) -> Result<(Codebook, f64)> {
    let shares = assign.assign(codebook)?;
    let inertia = inertia(data, codebook, &shares);
    let used = codebook.centroids().iter().zip(&shares).filter(|(_, share)| share.packets > 0);
    let mut centroids: Vec<[f32; 2]> = used.map(|(&centroid, _)| centroid).collect();
    centroids.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    Ok((Codebook::new(centroids)?, inertia))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::fixed::TimeScale;
    use crate::packet::Packet;
    use crate::quantizer::Quantizer;
    use crate::quantizer::kmeans::tests::blobs;
    use crate::random::Stream;

    struct Host<'a> {
        packets: &'a [Packet],
        scaler: Scaler,
    }

    impl Assign for Host<'_> {
        fn assign(&mut self, codebook: &Codebook) -> Result<Vec<Share>> {
            let mut tokens = vec![0; self.packets.len()];
            Quantizer::new(self.scaler, codebook.clone()).encode(self.packets, &mut tokens)?;
            let mut shares = vec![Share::default(); codebook.len()];
            let scale = TimeScale::of(self.scaler);
            self.packets.iter().zip(tokens).for_each(|(&packet, token)| shares[token as usize].add(&scale, packet));
            Ok(shares)
        }
    }

    fn run(packets: &[Packet], scaler: Scaler, start: &[[f32; 2]], options: &Options) -> (Fit, Vec<f64>) {
        let mut moments = Moments::default();
        packets.iter().for_each(|&packet| moments.add(&TimeScale::of(scaler), packet));
        let data = Data { scaler, moments, points: packets.iter().map(|&packet| scaler.point(packet)).collect() };
        let mut seen = Vec::new();
        let start = Codebook::new(start.to_vec()).unwrap();
        let fit = iterate(&mut Host { packets, scaler }, &data, &start, options, &mut |step| {
            if let Step::Iteration(inertia) = step {
                seen.push(inertia);
            }
            ControlFlow::Continue(())
        });
        (fit.unwrap(), seen)
    }

    fn direct_inertia(packets: &[Packet], scaler: Scaler, codebook: &Codebook) -> f64 {
        packets.iter().map(|&packet| codebook.nearest_with_distance(scaler.point(packet)).1).sum()
    }

    #[test]
    fn blobs_are_found_and_the_inertia_is_the_sum_of_distances() {
        let packets = blobs(3000);
        for scaler in Scaler::ALL {
            let start: Vec<[f32; 2]> = packets[..3].iter().map(|&p| scaler.point(p).map(|v| v as f32)).collect();
            let (fit, seen) = run(&packets, scaler, &start, &Options { tolerance: 0.0, ..Options::default() });
            assert!(fit.converged && seen.len() > 1 && seen.windows(2).all(|w| w[1] <= w[0]), "{seen:?}");
            let sizes: Vec<f32> =
                fit.codebook.centroids().iter().map(|c| (c[0] * scaler.size_unit() as f32).round()).collect();
            assert_eq!(sizes, [-1400.0, 100.0, 600.0]);
            let direct = direct_inertia(&packets, scaler, &fit.codebook);
            assert!((fit.inertia / direct - 1.0).abs() < 1e-6, "{} {direct}", fit.inertia);
        }
    }

    #[test]
    fn the_order_of_the_packets_does_not_matter() {
        let mut packets = blobs(2000);
        let start: Vec<[f32; 2]> = (0..40).map(|i| [(i % 8) as f32 / 4.0 - 1.0, (i / 8) as f32]).collect();
        let (one, _) = run(&packets, Scaler::Log1pUs, &start, &Options::default());
        Stream::new(9, 9).shuffle(&mut packets);
        let (two, _) = run(&packets, Scaler::Log1pUs, &start, &Options::default());
        assert_eq!(one.codebook.centroids(), two.codebook.centroids());
        assert_eq!(one.inertia, two.inertia);
    }

    #[test]
    fn centroids_without_packets_move_to_points_or_are_dropped() {
        let packets = [0, 10, 1000].map(|size| Packet { size, ipt_us: 0.0 });
        let (fit, _) = run(&packets, Scaler::Log1pUs, &[[0.0, 0.0], [0.0, 9.0], [0.0, 8.0]], &Options::default());
        assert!(fit.codebook.len() == 3 && fit.inertia < 1e-9, "{fit:?}");
        let far: Vec<[f32; 2]> = (0..9).map(|i| [i as f32, 9.0]).collect();
        let (fit, _) = run(&packets, Scaler::Log1pUs, &far, &Options::default());
        assert!(fit.codebook.len() == 3 && fit.inertia < 1e-9, "{fit:?}");
    }

    #[test]
    fn iterations_and_interruption_are_obeyed() {
        let packets = blobs(300);
        let start = [[0.0, 0.0], [0.1, 0.0]];
        let (fit, seen) = run(&packets, Scaler::Log1pUs, &start, &Options { max_iterations: 1, ..Options::default() });
        assert!(!fit.converged && fit.iterations == 1 && seen.len() == 1);
        let data = Data { scaler: Scaler::Log1pUs, moments: Moments::default(), points: vec![] };
        let mut host = Host { packets: &packets, scaler: Scaler::Log1pUs };
        let codebook = Codebook::new(start.to_vec()).unwrap();
        let stop = &mut |_| ControlFlow::Break(());
        let error = iterate(&mut host, &data, &codebook, &Options::default(), stop).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
    }
}
