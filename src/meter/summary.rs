//! What metering a capture came to.

use std::fmt;

use super::frame::Skip;

/// Counts of one metered capture. Every record is either a packet of a flow or skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packets in the capture.
    pub records: u64,
    /// Packets that are in flows.
    pub packets: u64,
    /// Their IP lengths added up.
    pub bytes: u64,
    /// Flows.
    pub flows: u64,
    /// Flows that ended only because `max_flows` were tracked.
    pub evicted: u64,
    /// Packets that are in no flow.
    pub skipped: Skipped,
    /// The first link type met that is not supported.
    pub unsupported_link: Option<u32>,
    /// Where the capture is cut or damaged, and what else a user should know.
    pub warning: Option<String>,
}

/// Packets that are in no flow, by reason. Displays as `3 not IP, 1 malformed header`, or `none`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped([u64; Skip::ALL.len()]);

impl Skipped {
    /// Packets skipped for `reason`.
    pub fn count(&self, reason: Skip) -> u64 {
        self.0[reason as usize]
    }

    /// Packets skipped for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons there were, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Skip, u64)> + '_ {
        Skip::ALL.into_iter().map(|reason| (reason, self.count(reason))).filter(|&(_, count)| count > 0)
    }

    pub(super) fn add(&mut self, reason: Skip, count: u64) {
        self.0[reason as usize] += count;
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total() == 0 {
            return f.write_str("none");
        }
        for (i, (reason, count)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {reason}")?;
        }
        Ok(())
    }
}
