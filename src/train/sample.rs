//! Some of many flows, in bounded memory, whatever their order: for what need not see them all.

use crate::packet::Packet;
use crate::random::philox;
use std::collections::BTreeMap;

/// The flows whose hashes are lowest. Flows that are equal, packet by packet, count as one.
#[derive(Clone, Debug)]
pub struct Sample {
    flows: BTreeMap<u64, Vec<Packet>>,
    /// Hashes from here on are left out, because there was no room for this one.
    end: u64,
    n_packets: usize,
    room: usize,
}

impl Sample {
    /// Room for `room` packets.
    pub fn new(room: usize) -> Self {
        Self { flows: BTreeMap::new(), end: u64::MAX, n_packets: 0, room }
    }

    /// Considers `flow`.
    pub fn add(&mut self, flow: &[Packet]) {
        let hash = hash(flow);
        if hash >= self.end || self.flows.contains_key(&hash) {
            return;
        }
        self.n_packets += flow.len();
        self.flows.insert(hash, flow.to_vec());
        while self.n_packets > self.room
            && let Some((hash, dropped)) = self.flows.pop_last()
        {
            self.end = hash;
            self.n_packets -= dropped.len();
        }
    }

    /// The flows, in an order of their own.
    pub fn flows(&self) -> impl Iterator<Item = &[Packet]> {
        self.flows.values().map(Vec::as_slice)
    }

    /// Number of packets.
    pub fn n_packets(&self) -> usize {
        self.n_packets
    }
}

fn hash(flow: &[Packet]) -> u64 {
    flow.iter().fold(flow.len() as u64, |key, packet| {
        let [a, b, ..] = philox(key, [packet.size as u32, packet.ipt_us.to_bits(), 0, 0]);
        u64::from(a) << 32 | u64::from(b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn flows() -> Vec<Vec<Packet>> {
        let mut draws = Stream::new(2, 0);
        let mut flow = |i: usize| -> Vec<Packet> {
            let packets = 0..1 + draws.below(9);
            packets.map(|j| Packet { size: (i % 700) as i32, ipt_us: j as f32 }).collect()
        };
        (0..5000).map(&mut flow).collect()
    }

    fn sampled(flows: &[Vec<Packet>], room: usize) -> Vec<Vec<Packet>> {
        let mut sample = Sample::new(room);
        flows.iter().for_each(|flow| sample.add(flow));
        let chosen: Vec<Vec<Packet>> = sample.flows().map(<[Packet]>::to_vec).collect();
        assert_eq!(chosen.iter().map(Vec::len).sum::<usize>(), sample.n_packets());
        chosen
    }

    #[test]
    fn the_order_of_the_flows_does_not_matter_and_the_room_is_kept() {
        let mut flows = flows();
        for room in [0, 1, 100, 3000] {
            let one = sampled(&flows, room);
            Stream::new(3, 3).shuffle(&mut flows);
            assert_eq!(one, sampled(&flows, room));
            assert!(one.iter().map(Vec::len).sum::<usize>() <= room);
            assert!(room < 100 || one.iter().map(Vec::len).sum::<usize>() > room - 10);
        }
    }

    #[test]
    fn with_room_for_all_each_different_flow_is_there_once() {
        let mut different = flows();
        let sample = sampled(&different, 1 << 20);
        let key = |flow: &Vec<Packet>| (flow[0].size, flow.len());
        different.sort_by_key(key);
        different.dedup();
        let mut found = sample;
        found.sort_by_key(key);
        assert_eq!(found, different);
    }
}
