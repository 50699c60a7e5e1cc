//! How alike two sets of flows are, in figures: medians, and distances of distributions.

use crate::packet::{Packet, Ragged};
use serde::Serialize;

/// The three distributions of a set of flows that one sees without looking at order.
#[derive(Clone, Debug, Default)]
pub struct Marginals {
    /// Packets of each flow.
    pub lengths: Vec<f64>,
    /// Signed size of each packet, bytes.
    pub sizes: Vec<f64>,
    /// Time since the flow's previous packet, microseconds; the first packet of a flow has none.
    pub times_us: Vec<f64>,
}

impl Marginals {
    /// Those of `flows`. Flows without packets count for nothing.
    pub fn of(flows: Ragged<'_, Packet>) -> Self {
        let mut marginals = Self::default();
        for flow in flows.rows().filter(|flow| !flow.is_empty()) {
            marginals.lengths.push(flow.len() as f64);
            marginals.sizes.extend(flow.iter().map(|p| f64::from(p.size)));
            marginals.times_us.extend(flow[1..].iter().map(|p| f64::from(p.ipt_us)));
        }
        marginals
    }

    /// Their medians.
    pub fn summary(&self) -> Summary {
        let from = |client: bool| self.sizes.iter().filter(|&&s| (s > 0.0) == client).map(|s| s.abs()).collect();
        Summary {
            flows: self.lengths.len(),
            packets: self.sizes.len(),
            length: median(self.lengths.clone()),
            client_size: median(from(true)),
            server_size: median(from(false)),
            time_us: median(self.times_us.clone()),
        }
    }
}

/// What is typical of a set of flows; `None` where there is nothing to take the median of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Flows that have packets.
    pub flows: usize,
    /// Packets of all of them.
    pub packets: usize,
    /// Median packets of a flow.
    pub length: Option<f64>,
    /// Median bytes of the client's packets.
    pub client_size: Option<f64>,
    /// Median bytes of the server's packets.
    pub server_size: Option<f64>,
    /// Median time between packets, microseconds.
    pub time_us: Option<f64>,
}

/// Kolmogorov-Smirnov distances of two sets of flows, each in 0 (the same distribution) to 1 (nothing in common).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distances {
    /// Of the packets per flow.
    pub length: Option<f64>,
    /// Of the signed packet sizes.
    pub size: Option<f64>,
    /// Of the times between packets.
    pub time: Option<f64>,
}

impl Distances {
    /// Between `a` and `b`; `None` where one of them has no value.
    pub fn between(a: &Marginals, b: &Marginals) -> Self {
        Self {
            length: kolmogorov_smirnov(&a.lengths, &b.lengths),
            size: kolmogorov_smirnov(&a.sizes, &b.sizes),
            time: kolmogorov_smirnov(&a.times_us, &b.times_us),
        }
    }
}

/// Two-sample Kolmogorov-Smirnov statistic, the largest gap between the empirical distribution functions, ties counted
/// as `scipy.stats.ks_2samp` counts them. `None` if either sample is empty.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (a, b) = (sorted(a.to_vec()), sorted(b.to_vec()));
    let (mut i, mut j, mut largest) = (0, 0, 0.0_f64);
    while i < a.len() && j < b.len() {
        let value = if a[i].total_cmp(&b[j]).is_le() { a[i] } else { b[j] };
        while i < a.len() && a[i].total_cmp(&value).is_le() {
            i += 1;
        }
        while j < b.len() && b[j].total_cmp(&value).is_le() {
            j += 1;
        }
        largest = largest.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    Some(largest)
}

/// Two-sample Wasserstein distance of order 1, the area between the empirical distribution functions, in the unit of
/// the values, as `scipy.stats.wasserstein_distance`. `None` if either sample is empty.
pub fn wasserstein(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (a, b) = (sorted(a.to_vec()), sorted(b.to_vec()));
    let (mut i, mut j, mut area) = (0, 0, 0.0);
    let mut last = a[0].min(b[0]);
    while i < a.len() || j < b.len() {
        let next = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => break,
        };
        area += (i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs() * (next - last);
        last = next;
        // Each step takes at least one value, also one that is no number.
        if a.get(i).is_some_and(|x| b.get(j).is_none_or(|y| x.total_cmp(y).is_le())) {
            i += 1;
        } else {
            j += 1;
        }
    }
    Some(area)
}

/// The grid on which the shares of values are counted: bins of equal width over the values of a reference, and one bin
/// for all that is below and one for all that is above, so that everything compared with the reference has one support.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Edges of the bins, rising; a value on an edge belongs to the bin above it, but on the last to the last.
    edges: Vec<f64>,
}

impl Grid {
    /// The grid of `bins` bins over `reference` but for the share `trim` of its values at either end, so that a few far
    /// away do not make all others fall together; `None` if it is empty or has values that are not finite.
    pub fn over(reference: &[f64], bins: usize, trim: f64) -> Option<Self> {
        let values = sorted(reference.to_vec());
        let last = values.len().checked_sub(1)?;
        if bins == 0 || !(values[0].is_finite() && values[last].is_finite()) {
            return None;
        }
        let beyond = (trim * last as f64) as usize;
        let (low, high) = (values[beyond], values[last.saturating_sub(beyond).max(beyond)]);
        // One value makes a bin too.
        let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
        let step = (high - low) / bins as f64;
        let edge = |i| if i == bins { high } else { low + i as f64 * step };
        Some(Self { edges: (0..=bins).map(edge).collect() })
    }

    /// Edges of the bins between the first and the last.
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// Share of the `values` in each bin; the first and the last bin are what is beyond the edges.
    pub fn shares(&self, values: &[f64]) -> Vec<f64> {
        let last = self.edges.len() - 1;
        let mut shares = vec![0.0; last + 2];
        for &value in values {
            let bin = if value == self.edges[last] { last } else { self.edges.partition_point(|e| *e <= value) };
            shares[bin] += 1.0 / values.len() as f64;
        }
        shares
    }

    /// Jensen-Shannon distance of two samples on this grid: the square root of the divergence to base 2, from 0 to 1,
    /// as `scipy.spatial.distance.jensenshannon` with `base=2`. `None` if either is empty.
    pub fn jensen_shannon(&self, a: &[f64], b: &[f64]) -> Option<f64> {
        if a.is_empty() || b.is_empty() {
            return None;
        }
        let entropy = |p: f64, m: f64| if p > 0.0 { p * (p / m).log2() } else { 0.0 };
        let sides = self.shares(a).into_iter().zip(self.shares(b));
        let divergence: f64 = sides.map(|(p, q)| entropy(p, (p + q) / 2.0) + entropy(q, (p + q) / 2.0)).sum();
        Some((divergence / 2.0).clamp(0.0, 1.0).sqrt())
    }
}

/// Correlation of the values of `flows` with those `lag` places later in the same flow: Pearson's, of the pairs of all
/// flows together. `None` if there are fewer than two pairs or one side of them does not vary.
pub fn autocorrelation<'a>(flows: impl IntoIterator<Item = &'a [f64]>, lag: usize) -> Option<f64> {
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for flow in flows.into_iter().filter(|flow| flow.len() > lag) {
        x.extend_from_slice(&flow[..flow.len() - lag]);
        y.extend_from_slice(&flow[lag..]);
    }
    if x.len() < 2 {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().map(|x| x - mean_x).zip(y.iter().map(|y| y - mean_y)) {
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    let spread = (xx * yy).sqrt();
    (spread > 0.0 && spread.is_finite()).then(|| (xy / spread).clamp(-1.0, 1.0))
}

/// The middle value, or the mean of the middle two.
pub fn median(values: Vec<f64>) -> Option<f64> {
    let values = sorted(values);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    // Adding 0 makes -0 and 0 one value for the total order.
    values.iter_mut().for_each(|v| *v += 0.0);
    values.sort_unstable_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Rows;

    #[test]
    fn the_first_packet_of_a_flow_has_no_time() {
        let packet = |size, ipt_us| Packet { size, ipt_us };
        let flows: Rows<Packet> =
            [vec![packet(60, 0.0), packet(-90, 5.0), packet(40, 7.0)], vec![], vec![packet(50, 0.0)]]
                .into_iter()
                .collect();
        let marginals = Marginals::of(flows.as_ragged());
        assert_eq!(marginals.times_us, [5.0, 7.0]);
        assert_eq!(marginals.lengths, [3.0, 1.0]);
        let expected = Summary {
            flows: 2,
            packets: 4,
            length: Some(2.0),
            client_size: Some(50.0),
            server_size: Some(90.0),
            time_us: Some(6.0),
        };
        assert_eq!(marginals.summary(), expected);
    }

    #[test]
    fn nothing_has_neither_median_nor_distance() {
        let nothing = Marginals::default();
        assert_eq!(nothing.summary().time_us, None);
        assert_eq!(Distances::between(&nothing, &nothing).size, None);
    }

    #[test]
    fn a_nan_ends() {
        // Packets never hold one; the loop must end all the same.
        let _ = kolmogorov_smirnov(&[f64::NAN, 1.0], &[2.0, f64::NAN]);
    }
}
