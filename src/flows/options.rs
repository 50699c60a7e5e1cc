//! How a table is made, and what memory it takes.

use super::due::Due;
use super::index::Index;
use super::slot::Slot;
use super::table::TokenLine;
use crate::error::{Error, Result};
use crate::packet::N_PACKETS;
use std::time::Duration;

/// Flows one table may be made for.
pub const MAX_FLOWS: usize = 1 << 26;

/// What happens to a new flow when the table is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// One that is idle gives way to it.
    #[default]
    Evict,
    /// It is not tracked.
    Refuse,
}

/// How packets become flows, and when a verdict is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Flows tracked at once, 1..=[`MAX_FLOWS`].
    pub max_flows: usize,
    /// Bytes that the table may take; where given, `max_flows` is what fits.
    pub memory: Option<usize>,
    /// Packet counts at which a flow is classified: rising, in 1..=126. The last is how many packets are kept.
    pub counts: Vec<u8>,
    /// A verdict with at least this probability is the flow's last; more than 0, at most 1.
    pub confidence: f32,
    /// A flow with fewer packets gets no verdict; at least 1.
    pub min_packets: u32,
    /// A flow ends when no packet came for this long; more than 0.
    pub idle_timeout: Duration,
    /// A flow ends this long after its first packet; more than 0, or `None` for never.
    pub active_timeout: Option<Duration>,
    /// What happens to a new flow when the table is full.
    pub when_full: WhenFull,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_flows: 1 << 16,
            memory: None,
            counts: vec![4, 8, 16, 32],
            confidence: 0.95,
            min_packets: 2,
            idle_timeout: Duration::from_secs(60),
            active_timeout: Some(Duration::from_secs(60)),
            when_full: WhenFull::Evict,
        }
    }
}

impl Options {
    /// Why a table cannot be made this way, if it cannot.
    pub fn check(&self) -> Result<()> {
        check_counts(&self.counts)?;
        let wrong = if !(1..=MAX_FLOWS).contains(&self.max_flows) {
            format!("max_flows is {}; it must be in 1..={MAX_FLOWS}", self.max_flows)
        } else if !(self.confidence > 0.0 && self.confidence <= 1.0) {
            format!("confidence is {}; it must be more than 0 and at most 1", self.confidence)
        } else if self.min_packets == 0 {
            "min_packets is 0; it must be at least 1".into()
        } else if self.idle_timeout.is_zero() {
            "idle_timeout is 0; it must be more".into()
        } else if self.active_timeout.is_some_and(|timeout| timeout.is_zero()) {
            "active_timeout is 0; it must be more, or absent".into()
        } else {
            return Ok(());
        };
        Err(Error::invalid(wrong))
    }

    /// Packets of a flow that are kept.
    pub fn n_kept(&self) -> usize {
        self.counts.last().copied().unwrap_or(1).into()
    }

    /// Flows that are tracked at once: `max_flows`, or as many as fit into `memory`.
    pub fn n_flows(&self) -> Result<usize> {
        let Some(budget) = self.memory else { return Ok(self.max_flows) };
        let kept = self.n_kept();
        if memory(1, kept) > budget {
            let least = memory(1, kept);
            return Err(Error::invalid(format!("a table in {budget} bytes holds no flow; one needs {least}")));
        }
        let (mut fits, mut too_many) = (1, MAX_FLOWS + 1);
        while fits + 1 < too_many {
            let middle = fits + (too_many - fits) / 2;
            if memory(middle, kept) <= budget { fits = middle } else { too_many = middle }
        }
        Ok(fits)
    }
}

/// That packet counts rise and the network can read as many.
pub(crate) fn check_counts(counts: &[u8]) -> Result<()> {
    let rise = counts.windows(2).all(|pair| pair[0] < pair[1]);
    let in_range = counts.iter().all(|&n| (1..=N_PACKETS).contains(&usize::from(n)));
    if !counts.is_empty() && rise && in_range {
        return Ok(());
    }
    Err(Error::invalid(format!("counts are {counts:?}; they must rise and be in 1..={N_PACKETS}")))
}

/// Slots of a table for `n` flows: some more, where flows that have ended wait for their verdict.
pub(super) fn n_slots(n: usize) -> usize {
    n + (n / 16).max(16)
}

/// Bytes of a table for `n` flows that keeps `kept` packets of each, all included.
pub fn memory(n: usize, kept: usize) -> usize {
    let slots = n_slots(n);
    slots * size_of::<Slot>()
        + TokenLine::count(slots, kept) * size_of::<TokenLine>()
        + Due::memory(slots)
        + Index::memory(n)
        + super::frames::memory()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_takes_what_the_docs_say() {
        let fragments = super::super::frames::memory();
        assert!(fragments < 350_000, "{fragments}");
        let per_flow = |n: usize, kept: usize| (memory(n, kept) - fragments) as f64 / n as f64;
        assert!(per_flow(1 << 20, 32) < 150.0, "{}", per_flow(1 << 20, 32));
        assert!(per_flow(10_000_000, 32) < 150.0 && per_flow(1000, 32) < 150.0);
        assert!(per_flow(1 << 20, 16) < 116.0 && per_flow(1 << 20, 126) < 350.0);
    }

    #[test]
    fn a_budget_is_used_and_kept() {
        for budget in [400_000, 1 << 20, 123_456_789] {
            let options = Options { memory: Some(budget), ..Options::default() };
            let n = options.n_flows().unwrap();
            assert!(memory(n, 32) <= budget && memory(n + 1, 32) > budget, "{budget}: {n}");
        }
        let options = Options { memory: Some(usize::MAX), ..Options::default() };
        assert_eq!(options.n_flows().unwrap(), MAX_FLOWS);
        let error = Options { memory: Some(1000), ..Options::default() }.n_flows().unwrap_err();
        assert!(error.message().contains("1000"), "{error}");
        assert_eq!(Options::default().n_flows().unwrap(), 65_536);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let good = Options::default;
        good().check().unwrap();
        for (bad, says) in [
            (Options { max_flows: 0, ..good() }, "max_flows"),
            (Options { max_flows: MAX_FLOWS + 1, ..good() }, "max_flows"),
            (Options { counts: vec![], ..good() }, "counts"),
            (Options { counts: vec![4, 4], ..good() }, "counts"),
            (Options { counts: vec![0, 4], ..good() }, "counts"),
            (Options { counts: vec![127], ..good() }, "counts"),
            (Options { confidence: 0.0, ..good() }, "confidence"),
            (Options { confidence: f32::NAN, ..good() }, "confidence"),
            (Options { min_packets: 0, ..good() }, "min_packets"),
            (Options { idle_timeout: Duration::ZERO, ..good() }, "idle_timeout"),
            (Options { active_timeout: Some(Duration::ZERO), ..good() }, "active_timeout"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }
}
