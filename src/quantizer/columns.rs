//! Weighted points in columns of one size, with running sums, so that any stretch of a column is summed in one step.

use super::histogram::Histogram;
use super::scaler::Scaler;
use crate::error::Result;
use crate::packet::Packet;
use std::ops::Range;

/// The points that a codebook is fitted to.
#[derive(Clone, Debug)]
pub struct Columns {
    scaler: Scaler,
    n_packets: u64,
    /// Sizes, rising.
    pub(super) sizes: Vec<i32>,
    /// The same, scaled.
    pub(super) xs: Vec<f64>,
    /// Index of each column's first point; one more at the end.
    begins: Vec<usize>,
    /// Scaled times, rising within a column.
    pub(super) ys: Vec<f64>,
    /// The same in microseconds; of several that a scaler maps to one, the least.
    pub(super) times: Vec<f32>,
    /// Sums over the points before each in its column, and one more after the column's last: so there is one more for
    /// each column than it has points.
    sums: Vec<Sums>,
}

/// Sums over a stretch of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// Of the weights: packets.
    pub w: f64,
    /// Of weight times y.
    pub wy: f64,
    /// Of weight times y².
    pub wyy: f64,
}

impl Columns {
    /// The points of all packets that `histogram` counted, seen through `scaler`; and how many low bits of the times were
    /// dropped to hold them.
    pub fn new(histogram: Histogram, scaler: Scaler) -> Result<(Self, u32)> {
        let n_packets = histogram.n_packets();
        let (counts, dropped) = histogram.finish()?;
        let mut points: Vec<(Packet, f64, f64)> = counts
            .iter()
            .map(|&(packet, n)| (packet, scaler.scaled_time(f64::from(packet.ipt_us)), n as f64))
            .collect();
        drop(counts);
        // A scaler may map several times to one, and need not keep their order.
        points.sort_by(|(a, ay, _), (b, by, _)| a.size.cmp(&b.size).then(ay.total_cmp(by)));
        points.dedup_by(|next, kept| {
            let equal = (next.0.size, next.1) == (kept.0.size, kept.1);
            kept.2 += if equal { next.2 } else { 0.0 };
            equal
        });
        let mut out = Self {
            scaler,
            n_packets,
            sizes: Vec::new(),
            xs: Vec::new(),
            begins: vec![0],
            ys: points.iter().map(|&(_, y, _)| y).collect(),
            times: points.iter().map(|&(packet, ..)| packet.ipt_us).collect(),
            sums: Vec::with_capacity(points.len() + 1),
        };
        for column in points.chunk_by(|(a, ..), (b, ..)| a.size == b.size) {
            let size = column[0].0.size;
            out.sizes.push(size);
            out.xs.push(scaler.scaled_size(size));
            let mut sums = Sums::default();
            out.sums.push(sums);
            for &(_, y, w) in column {
                sums = Sums { w: sums.w + w, wy: sums.wy + w * y, wyy: sums.wyy + w * y * y };
                out.sums.push(sums);
            }
            out.begins.push(out.begins[out.begins.len() - 1] + column.len());
        }
        Ok((out, dropped))
    }

    /// The scaler that the points were seen through.
    pub fn scaler(&self) -> Scaler {
        self.scaler
    }

    /// Number of packets.
    pub fn n_packets(&self) -> u64 {
        self.n_packets
    }

    /// Number of different points.
    pub fn len(&self) -> usize {
        self.ys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ys.is_empty()
    }

    /// The points of column `column`.
    pub(super) fn points(&self, column: usize) -> Range<usize> {
        self.begins[column]..self.begins[column + 1]
    }

    /// The sums of `points`, which lie in column `column`.
    pub(super) fn sums(&self, column: usize, points: Range<usize>) -> Sums {
        let (a, b) = (self.sums[points.start + column], self.sums[points.end + column]);
        Sums { w: b.w - a.w, wy: b.wy - a.wy, wyy: b.wyy - a.wyy }
    }

    /// What `points` of column `column` cost at the centroid `c`: the sum of weight times squared distance.
    pub(super) fn cost(&self, column: usize, points: Range<usize>, c: [f64; 2]) -> f64 {
        if points.is_empty() {
            return 0.0;
        }
        let across = (self.xs[column] - c[0]).powi(2);
        if points.len() == 1 {
            // Exactly 0 at the point itself.
            let y = self.ys[points.start];
            return self.sums(column, points).w * (across + (y - c[1]).powi(2));
        }
        let Sums { w, wy, wyy } = self.sums(column, points);
        w * across + (wyy - c[1] * (2.0 * wy - c[1] * w)).max(0.0)
    }

    /// The first of `points` up to which, itself included, they weigh more than `weight`; the last if all weigh less.
    pub(super) fn point_at_weight(&self, column: usize, points: Range<usize>, weight: f64) -> usize {
        let (mut low, mut high) = (points.start, points.end - 1);
        while low < high {
            let middle = low.midpoint(high);
            if self.sums(column, points.start..middle + 1).w > weight { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// The first of `points` whose y is at least `y`; the end if there is none. Looks near the start first.
    pub(super) fn first_at_least(&self, points: Range<usize>, y: f64) -> usize {
        let ys = &self.ys[points.clone()];
        let mut step = 1;
        while step < ys.len() && ys[step - 1] < y {
            step *= 2;
        }
        let (from, to) = (step / 2, step.min(ys.len()));
        points.start + from + ys[from..to].partition_point(|&v| v < y)
    }
}
