//! What the table counts, readable from any thread.

use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Everything that is counted, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Packets pushed, as observations or in frames.
    Packets,
    /// Their lengths added up.
    Bytes,
    /// Frames whose packet is in no flow.
    Skipped,
    /// Packets older than their flow's latest: they came with no time passed.
    Backwards,
    /// Packets of new flows for which there was no room.
    Refused,
    /// Flows begun.
    Flows,
    /// Flows ended, by idle timeout.
    EndedIdle,
    /// By active timeout.
    EndedActive,
    /// By a new connection on the 5-tuple of one that was over.
    EndedTcp,
    /// By giving way to a new flow.
    Evicted,
    /// By a flush.
    Flushed,
    /// Flows that ended with too few packets for a verdict.
    TooShort,
    /// Flows evicted without a verdict because too many waited for theirs.
    VerdictsLost,
    /// Verdicts given.
    Verdicts,
    /// Of those, final ones.
    Final,
    /// Packets made into tokens.
    Tokens,
    /// Classifiers swapped in.
    Swaps,
    /// Now: flows tracked.
    Tracked,
    /// Now: flows due for a verdict.
    Due,
    /// Now: which classifier new flows are given to.
    Epoch,
}

/// Every count with its name.
const NAMES: [(Count, &str); 20] = [
    (Count::Packets, "packets"),
    (Count::Bytes, "bytes"),
    (Count::Skipped, "frames_skipped"),
    (Count::Backwards, "packets_back_in_time"),
    (Count::Refused, "packets_refused"),
    (Count::Flows, "flows"),
    (Count::EndedIdle, "flows_ended_idle"),
    (Count::EndedActive, "flows_ended_active"),
    (Count::EndedTcp, "flows_ended_tcp"),
    (Count::Evicted, "flows_evicted"),
    (Count::Flushed, "flows_flushed"),
    (Count::TooShort, "flows_too_short"),
    (Count::VerdictsLost, "verdicts_lost"),
    (Count::Verdicts, "verdicts"),
    (Count::Final, "verdicts_final"),
    (Count::Tokens, "tokens"),
    (Count::Swaps, "swaps"),
    (Count::Tracked, "flows_tracked"),
    (Count::Due, "flows_due"),
    (Count::Epoch, "epoch"),
];

/// The counts of the thread that pushes.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts([u64; NAMES.len()]);

impl Counts {
    #[inline(always)]
    pub fn add(&mut self, count: Count, n: u64) {
        self.0[count as usize] += n;
    }

    pub fn set(&mut self, count: Count, n: u64) {
        self.0[count as usize] = n;
    }
}

/// The counts as they were after the last call.
#[derive(Default)]
pub(super) struct Published([AtomicU64; NAMES.len()]);

impl Published {
    /// Shows `counts`. One thread at a time.
    pub fn publish(&self, counts: &Counts) {
        for (shown, &count) in self.0.iter().zip(&counts.0) {
            shown.store(count, Relaxed);
        }
    }

    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Relaxed)
    }

    /// All counts by name.
    pub fn report(&self) -> Map<String, Value> {
        NAMES.iter().map(|&(count, name)| (name.to_string(), self.get(count).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_place() {
        for (i, (count, _)) in NAMES.iter().enumerate() {
            assert_eq!(*count as usize, i);
        }
    }
}
