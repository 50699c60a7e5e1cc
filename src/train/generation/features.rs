//! What is measured of flows: distributions to compare, and one row of numbers per flow for a forest to learn from.

use crate::packet::{Packet, Ragged};
use serde::Serialize;

/// First packets of a flow whose sizes and times a forest sees one by one.
const FIRST_PACKETS: usize = 20;

/// Bytes that an Ethernet frame carries.
const MTU: f64 = 1500.0;

/// Numbers that sum up one direction of a flow for a forest.
const SUMMARY: usize = 8;

/// Numbers a forest sees of a flow.
pub const WIDTH: usize = Direction::ALL.len() * SUMMARY + 2 * FIRST_PACKETS;

/// Which packets of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// All.
    Both,
    /// Those of the client.
    ToServer,
    /// Those of the server.
    ToClient,
}

impl Direction {
    /// Every direction.
    pub const ALL: [Self; 3] = [Self::Both, Self::ToServer, Self::ToClient];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::ToServer => "to server",
            Self::ToClient => "to client",
        }
    }

    fn holds(self, packet: &Packet) -> bool {
        match self {
            Self::Both => true,
            Self::ToServer => packet.size > 0,
            Self::ToClient => packet.size <= 0,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Size of a packet, bytes; signed where both directions count.
    Size,
    /// Time since the packet before it in the direction, as the logarithm to base 10 of 1 + microseconds.
    Time,
    /// Bytes of a flow over the time it takes, as the logarithm of 1 + bytes per second; of flows that take time.
    Throughput,
    /// Packets of a flow.
    Packets,
    /// Bytes of a flow, as the logarithm of 1 + bytes.
    Bytes,
    /// Time from a flow's first packet in the direction to its last, as the logarithm of 1 + microseconds.
    Duration,
}

impl Quantity {
    /// Every quantity.
    pub const ALL: [Self; 6] = [Self::Size, Self::Time, Self::Throughput, Self::Packets, Self::Bytes, Self::Duration];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "packet size",
            Self::Time => "inter-packet time",
            Self::Throughput => "throughput",
            Self::Packets => "packets per flow",
            Self::Bytes => "bytes per flow",
            Self::Duration => "duration",
        }
    }

    /// The unit of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Size => "bytes",
            Self::Packets => "packets",
            Self::Time | Self::Throughput | Self::Bytes | Self::Duration => "decades",
        }
    }
}

/// Values of every quantity and direction of a set of flows, and the sequences behind autocorrelations.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// `[Quantity::ALL][Direction::ALL]`
    values: [[Vec<f64>; Direction::ALL.len()]; Quantity::ALL.len()],
    /// Each flow's signed sizes, at most 1500: a few segments that a network card joined would else say it all.
    pub sizes: Vec<Vec<f64>>,
    /// Each flow's times between packets, as logarithms; one less than sizes.
    pub times: Vec<Vec<f64>>,
}

impl Values {
    /// Those of `flows`. A flow without packets in a direction has there neither duration nor throughput.
    pub fn of(flows: Ragged<'_, Packet>) -> Self {
        let mut out = Self::default();
        for flow in flows.rows().filter(|flow| !flow.is_empty()) {
            for direction in Direction::ALL {
                let part = Part::of(flow, direction);
                let sign = |size: i32| if direction == Direction::Both { 1.0 } else { f64::from(size.signum()) };
                let sizes = flow.iter().filter(|p| direction.holds(p)).map(|p| f64::from(p.size) * sign(p.size));
                out.of_mut(Quantity::Size, direction).extend(sizes);
                out.of_mut(Quantity::Time, direction).extend_from_slice(&part.times);
                out.of_mut(Quantity::Throughput, direction).extend(part.throughput());
                out.of_mut(Quantity::Packets, direction).push(part.sizes.len() as f64);
                out.of_mut(Quantity::Bytes, direction).push(log(part.bytes()));
                if !part.sizes.is_empty() {
                    out.of_mut(Quantity::Duration, direction).push(log(part.duration_us));
                }
            }
            out.sizes.push(flow.iter().map(|p| f64::from(p.size).clamp(-MTU, MTU)).collect());
            out.times.push(flow[1..].iter().map(|p| log(f64::from(p.ipt_us))).collect());
        }
        out
    }

    /// The values of one quantity in one direction.
    pub fn get(&self, quantity: Quantity, direction: Direction) -> &[f64] {
        &self.values[quantity as usize][direction as usize]
    }

    fn of_mut(&mut self, quantity: Quantity, direction: Direction) -> &mut Vec<f64> {
        &mut self.values[quantity as usize][direction as usize]
    }

    /// Appends the values of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (mine, its) in self.values.iter_mut().flatten().zip(other.values.iter().flatten()) {
            mine.extend_from_slice(its);
        }
        self.sizes.extend_from_slice(&other.sizes);
        self.times.extend_from_slice(&other.times);
    }
}

/// One direction of a flow.
struct Part {
    /// Bytes without sign.
    sizes: Vec<f64>,
    /// Logarithms of times since the packet before in this direction.
    times: Vec<f64>,
    duration_us: f64,
}

impl Part {
    fn of(flow: &[Packet], direction: Direction) -> Self {
        let mut part = Self { sizes: Vec::new(), times: Vec::new(), duration_us: 0.0 };
        let mut since = 0.0;
        for (i, packet) in flow.iter().enumerate() {
            since += if i == 0 { 0.0 } else { f64::from(packet.ipt_us) };
            if !direction.holds(packet) {
                continue;
            }
            if !part.sizes.is_empty() {
                part.times.push(log(since));
                part.duration_us += since;
            }
            since = 0.0;
            part.sizes.push(f64::from(packet.size).abs());
        }
        part
    }

    fn bytes(&self) -> f64 {
        self.sizes.iter().sum()
    }

    fn throughput(&self) -> Option<f64> {
        (self.duration_us > 0.0).then(|| log(self.bytes() / self.duration_us * 1e6))
    }
}

/// The row of numbers by which a forest tells flows apart: for both directions and each, packets, bytes, duration,
/// throughput, mean and deviation of sizes, mean and deviation of times; then the sizes and the times of the first 20
/// packets. What there is not is -1, packets past the end are 0.
pub fn row(flow: &[Packet], out: &mut Vec<f32>) {
    let begin = out.len();
    for direction in Direction::ALL {
        let part = Part::of(flow, direction);
        let (size, size_deviation) = mean_and_deviation(&part.sizes);
        let (time, time_deviation) = mean_and_deviation(&part.times);
        out.extend(
            [
                part.sizes.len() as f64,
                log(part.bytes()),
                log(part.duration_us),
                part.throughput().unwrap_or(-1.0),
                size,
                size_deviation,
                time,
                time_deviation,
            ]
            .map(|value| value as f32),
        );
    }
    out.extend(flow.iter().take(FIRST_PACKETS).map(|p| p.size as f32));
    out.resize(begin + WIDTH - FIRST_PACKETS, 0.0);
    out.extend(flow.iter().take(FIRST_PACKETS).map(|p| log(f64::from(p.ipt_us)) as f32));
    out.resize(begin + WIDTH, -1.0);
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (-1.0, -1.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
}

fn log(value: f64) -> f64 {
    (1.0 + value).log10()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Rows;

    fn flow() -> Vec<Packet> {
        [(60, 0.0), (-90, 9.0), (40, 90.0), (-1500, 900.0)].map(|(size, ipt_us)| Packet { size, ipt_us }).to_vec()
    }

    #[test]
    fn directions_have_values_of_their_own() {
        let rows: Rows<Packet> = [flow(), vec![], vec![Packet { size: 50, ipt_us: 0.0 }]].into_iter().collect();
        let values = Values::of(rows.as_ragged());
        let get = |quantity, direction| values.get(quantity, direction).to_vec();
        assert_eq!(get(Quantity::Size, Direction::Both), [60.0, -90.0, 40.0, -1500.0, 50.0]);
        assert_eq!(get(Quantity::Size, Direction::ToClient), [90.0, 1500.0]);
        assert_eq!(get(Quantity::Time, Direction::ToServer), [100f64.log10()]);
        assert_eq!(get(Quantity::Time, Direction::ToClient), [991f64.log10()]);
        assert_eq!(get(Quantity::Packets, Direction::ToClient), [2.0, 0.0]);
        assert_eq!(get(Quantity::Bytes, Direction::ToServer), [101f64.log10(), 51f64.log10()]);
        assert_eq!(get(Quantity::Duration, Direction::Both), [3.0, 0.0]);
        assert_eq!(
            get(Quantity::Duration, Direction::ToClient),
            [991f64.log10()],
            "a side that is silent takes no time"
        );
        let throughput = get(Quantity::Throughput, Direction::Both);
        assert!(throughput.len() == 1 && (throughput[0] - (1.0 + 1690.0 / 999e-6f64).log10()).abs() < 1e-12);
        assert_eq!((values.sizes.len(), values.times[0].len(), values.times[1].len()), (2, 3, 0));
    }

    #[test]
    fn every_flow_has_a_row_of_the_same_width_and_finite_numbers() {
        let long: Vec<Packet> = flow().into_iter().cycle().take(500).collect();
        let mut out = Vec::new();
        for flow in [&flow()[..], &flow()[..1], &long, &[], &[Packet { size: i32::MIN, ipt_us: f32::MAX }; 3]] {
            row(flow, &mut out);
        }
        assert_eq!(out.len(), 5 * WIDTH);
        assert!(out.iter().all(|v| v.is_finite()));
    }
}
