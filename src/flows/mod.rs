//! The streaming table of an appliance: packets in, verdicts out, one table per core.
//!
//! ```text
//! push ─ hash ─ index ─ slot ─ quantizer ─► tokens      poll ─ sweep ─ queue of due flows ─ network ─► verdicts
//! ```
//!
//! # Flows
//! A flow is a bidirectional 5-tuple in a zone; the client sent its first packet. It ends by idle or active timeout, in
//! packet time, by the rules of [`crate::meter`]: at its own next packet, or at a poll. Where it differs from there, it
//! is because a table cannot wait: a TCP connection that is over (FINs of both sides, or a RST) gets its verdict at
//! once. It keeps its place for what trails it, 5 seconds at most; a new SYN on its 5-tuple begins a new flow.
//!
//! A packet older than the latest of its flow is taken to have come with that one.
//!
//! # Verdicts
//! A flow becomes due when it has as many packets as one of [`Options::counts`], and when it ends. [`Flows::poll`] runs
//! the network over flows that are due, in batches, in the order in which they became due. A verdict at a count rests on
//! exactly that many of its first packets, however late the poll; of several counts reached by then, only the last is
//! looked at. **Every flow of at least [`Options::min_packets`] gets exactly one final verdict**: at the last count,
//! at one where the label's probability reaches [`Options::confidence`], or when it ends. The exception, counted, are
//! flows evicted from a table that is not polled.
//!
//! # Memory
//! Everything is allocated, and written once so that it is there, when the table is made: per flow a slot of 64 bytes,
//! 2 bytes for each packet kept, 4 in the queue, 9.2 in the index, and a sixteenth of all but the index on top, where
//! flows that have ended wait for their verdict: 150 bytes at 32 packets. A third of a megabyte more, whatever the
//! size, is for fragments ([`memory`] has it all). The scratch of the network, which only polls use, is not in this.
//!
//! A push allocates nothing, waits for nobody and calls nothing of the system. Nor does its cost grow with the age of
//! the table: there is no rehashing, no list to walk, no heap.
//!
//! # Under attack
//! - Chosen 5-tuples do not meet in a bucket: the hash is keyed with a secret of each table.
//! - In a full table connections that are over and flows of a single packet give way first, so that a
//!   flood of new flows mostly displaces itself. What is displaced or refused is counted.
//! - Time that jumps affects the flow whose packet carries it. The table's clock moves forward only when two packets in
//!   a row say so, and flows from a future that does not come are brought back.
//! - Counters are 64 bits, the packets of one flow saturate at 2^32 - 1.

mod due;
mod frames;
mod hash;
mod index;
mod models;
mod observation;
mod options;
mod poll;
mod push;
mod slot;
mod stats;
mod table;
mod verdict;
mod victims;

pub use frames::FrameInfo;
pub use models::Control;
pub use observation::Observation;
pub(crate) use observation::mapped;
pub(crate) use options::check_counts;
pub use options::{MAX_FLOWS, Options, WhenFull, memory};
pub use stats::Count;
pub use verdict::{Reason, Verdict};

use crate::classifier::Classifier;
use crate::error::Result;
use crate::meter::{Fragments, Tunnel};
use models::{Models, Shared};
use poll::Batch;
use push::Staged;
use serde_json::Value;
use std::sync::Arc;
use table::Table;

/// A table. One thread at a time; what others may do goes through its [`Control`].
pub struct Flows {
    table: Table,
    models: Models,
    staged: Staged,
    batch: Batch,
    last_count: u8,
    confidence: f32,
    tunnel: Tunnel,
    fragments: Fragments,
    clock: Clock,
    shared: Arc<Shared>,
}

impl Flows {
    /// Makes a table whose flows `classifier` tells apart. `tunnel` says which packet of a frame counts.
    ///
    /// Errors: options out of range; [`Kind::NoMemory`](crate::Kind::NoMemory);
    /// [`Kind::Mismatch`](crate::Kind::Mismatch) for a classifier that reads fewer packets than the last count, or whose
    /// codebook has more than 2^16 centroids.
    pub fn new(classifier: &Classifier, options: &Options, tunnel: Tunnel) -> Result<Self> {
        let table = Table::new(options)?;
        models::check(classifier, options.n_kept())?;
        let (max_flows, kept) = (table.max_flows(), options.n_kept());
        Ok(Self {
            table,
            models: Models::new(classifier.clone()),
            staged: Staged::default(),
            batch: Batch::default(),
            last_count: kept as u8,
            confidence: options.confidence,
            tunnel,
            fragments: frames::fragments(),
            clock: Clock::default(),
            shared: Arc::new(Shared::new(memory(max_flows, kept), max_flows, kept)),
        })
    }

    /// A way to this table for other threads.
    pub fn control(&self) -> Control {
        Control { shared: Arc::clone(&self.shared) }
    }

    /// Ends every flow; the polls after it give the final verdicts.
    pub fn flush(&mut self) {
        self.table.end_all();
        self.publish();
    }

    /// Shows other threads what was counted.
    fn publish(&mut self) {
        let table = &mut self.table;
        let (live, due) = (table.live() as u64, table.due.len() as u64);
        table.counts.set(Count::Tracked, live);
        table.counts.set(Count::Due, due);
        self.shared.counts.publish(&table.counts);
    }
}

impl Control {
    /// One of the counts, as it was after the last call.
    pub fn count(&self, count: Count) -> u64 {
        self.shared.counts.get(count)
    }

    /// All counts, the table's room and its memory in bytes, as JSON.
    pub fn stats(&self) -> String {
        let mut report = self.shared.counts.report();
        report.insert("max_flows".into(), self.shared.max_flows.into());
        report.insert("memory".into(), self.shared.memory.into());
        Value::Object(report).to_string()
    }
}

/// The time up to which the packets have come: the earlier of the last two packets' times, so that a single packet with
/// a time far ahead ends nobody's flow but its own.
#[derive(Clone, Copy)]
struct Clock {
    last_ns: u64,
    now_ns: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last_ns: u64::MAX, now_ns: 0 }
    }
}

impl Clock {
    fn tick(&mut self, ts_ns: u64) {
        self.now_ns = self.last_ns.min(ts_ns);
        self.last_ns = ts_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_believes_two_packets_not_one() {
        let mut clock = Clock::default();
        let mut at = |ts_ns| {
            clock.tick(ts_ns);
            clock.now_ns
        };
        assert_eq!([at(10), at(11), at(99_999), at(12), at(13)], [10, 10, 11, 12, 12]);
        assert_eq!([at(99_999), at(99_999), at(5), at(6)], [13, 99_999, 5, 5]);
    }
}
