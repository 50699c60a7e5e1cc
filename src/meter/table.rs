//! Packets → flows: the table of flows that have not ended, by the rules of [the module above](super).

use std::collections::HashMap;
use std::net::IpAddr;

use super::frame::Parsed;
use super::{Flow, FlowKey, Options};
use crate::error::Result;
use crate::packet::Packet;

/// Where flows go when they have ended.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Flow) -> Result<()>;

/// One end of a flow.
type End = (IpAddr, u16);

/// A 5-tuple without direction: the lower end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple {
    low: End,
    high: End,
    protocol: u8,
}

impl Tuple {
    fn of(packet: &Parsed) -> Self {
        let (a, b) = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
        Self { low: a.min(b), high: a.max(b), protocol: packet.protocol }
    }
}

/// No slot.
const NONE: u32 = u32::MAX;

/// A flow that goes on, and its neighbours in the list from the longest idle to the latest seen.
struct Slot {
    tuple: Tuple,
    flow: Flow,
    older: u32,
    newer: u32,
}

/// The flows that have not ended.
pub(super) struct Table {
    idle_ns: u64,
    active_ns: u64,
    n_packets: usize,
    max_flows: usize,
    slots: Vec<Slot>,
    places: HashMap<Tuple, u32>,
    oldest: u32,
    newest: u32,
    ended: Vec<Flow>,
    evicted: u64,
}

impl Table {
    pub(super) fn new(options: &Options) -> Self {
        let ns = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            idle_ns: ns(options.idle_timeout),
            active_ns: options.active_timeout.map_or(u64::MAX, ns),
            n_packets: options.n_packets,
            max_flows: options.max_flows.min(NONE as usize),
            slots: Vec::new(),
            places: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            ended: Vec::new(),
            evicted: 0,
        }
    }

    /// Flows that ended for want of room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Adds a packet seen at `ts_ns`, after the flows that it shows to have ended have left.
    pub(super) fn push(&mut self, ts_ns: u64, packet: &Parsed, sink: Sink<'_>) -> Result<()> {
        while self.oldest != NONE && ts_ns.saturating_sub(self.slots[self.oldest as usize].flow.end_ns) >= self.idle_ns
        {
            self.end(self.oldest);
        }
        let tuple = Tuple::of(packet);
        let mut place = self.places.get(&tuple).copied();
        if let Some(at) = place {
            let flow = &self.slots[at as usize].flow;
            if ts_ns.saturating_sub(flow.end_ns) >= self.idle_ns
                || ts_ns.saturating_sub(flow.start_ns) >= self.active_ns
            {
                self.end(at);
                place = None;
            }
        }
        match place {
            Some(at) => self.append(at, ts_ns, packet),
            None => self.begin(tuple, ts_ns, packet),
        }
        self.leave(sink)
    }

    /// Ends every flow.
    pub(super) fn finish(&mut self, sink: Sink<'_>) -> Result<()> {
        while self.oldest != NONE {
            self.end(self.oldest);
        }
        self.leave(sink)
    }

    fn append(&mut self, at: u32, ts_ns: u64, packet: &Parsed) {
        let flow = &mut self.slots[at as usize].flow;
        let from_client = (packet.src, packet.src_port) == (flow.key.client, flow.key.client_port);
        let since_last = ts_ns.saturating_sub(flow.end_ns);
        if flow.packets.len() < self.n_packets {
            flow.packets.push(Packet::seen(packet.len, from_client, since_last));
        }
        flow.n_packets += 1;
        flow.end_ns = flow.end_ns.max(ts_ns);
        self.unlink(at);
        self.link_newest(at);
    }

    fn begin(&mut self, tuple: Tuple, ts_ns: u64, packet: &Parsed) {
        if self.slots.len() >= self.max_flows {
            self.evicted += 1;
            self.end(self.oldest);
        }
        let key = FlowKey {
            client: packet.src,
            server: packet.dst,
            client_port: packet.src_port,
            server_port: packet.dst_port,
            protocol: packet.protocol,
        };
        let packets = vec![Packet::seen(packet.len, true, 0)];
        let flow = Flow { key, start_ns: ts_ns, end_ns: ts_ns, n_packets: 1, packets };
        let at = self.slots.len() as u32;
        self.slots.push(Slot { tuple, flow, older: NONE, newer: NONE });
        self.places.insert(tuple, at);
        self.link_newest(at);
    }

    /// Takes a flow out of the table; the last slot moves into its place, so that slots stay dense.
    fn end(&mut self, at: u32) {
        self.unlink(at);
        let slot = self.slots.swap_remove(at as usize);
        self.places.remove(&slot.tuple);
        if let Some(moved) = self.slots.get(at as usize) {
            let (tuple, older, newer) = (moved.tuple, moved.older, moved.newer);
            self.places.insert(tuple, at);
            self.set_newer(older, at);
            self.set_older(newer, at);
        }
        self.ended.push(slot.flow);
    }

    /// Hands over what has ended: in the order of ends, equal ends in the order of starts, then of keys.
    fn leave(&mut self, sink: Sink<'_>) -> Result<()> {
        self.ended.sort_unstable_by_key(|flow| (flow.end_ns, flow.start_ns, flow.key));
        self.ended.drain(..).try_for_each(sink)
    }

    fn unlink(&mut self, at: u32) {
        let Slot { older, newer, .. } = self.slots[at as usize];
        self.set_newer(older, newer);
        self.set_older(newer, older);
    }

    fn link_newest(&mut self, at: u32) {
        let older = self.newest;
        self.set_newer(older, at);
        self.newest = at;
        let slot = &mut self.slots[at as usize];
        (slot.older, slot.newer) = (older, NONE);
    }

    /// Sets what follows slot `at` in the list, or what the list begins with.
    fn set_newer(&mut self, at: u32, newer: u32) {
        if at == NONE { self.oldest = newer } else { self.slots[at as usize].newer = newer }
    }

    /// Sets what precedes slot `at` in the list, or what the list ends with.
    fn set_older(&mut self, at: u32, older: u32) {
        if at == NONE { self.newest = older } else { self.slots[at as usize].older = older }
    }
}
