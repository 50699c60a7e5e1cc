//! Data parallel training: one process per rank, each with the whole model and its share of every batch.
//!
//! Every rank reads the same flows and draws the same batches; of each it computes the sequences that are its [`Share`], under
//! the draws that they have in the whole. Gradients are summed over the ranks once a step, so that all take the same step:
//! that of one process with the same settings, but for the rounding of sums. Only rank 0 writes.

pub mod device;
mod facts;
mod link;
pub mod ranks;
mod rendezvous;
mod ring;
mod share;
#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use share::Share;

use crate::error::{Error, Kind, Result};
use ranks::Place;
use ring::Ring;
use std::net::SocketAddr;
use std::time::Duration;

/// Most bytes of a small message.
const MAX_SMALL: usize = 1 << 20;

/// What sums values over all ranks, in memory of the kind `V`.
pub trait Transport<V: ?Sized> {
    /// Replaces `values` by their sums over all ranks, which have as many of them; the same bits on each.
    fn sum(&mut self, values: &mut V) -> Result<()>;
}

/// The processes that train one model together. Every rank calls the same functions in the same order.
#[derive(Debug)]
pub struct Group {
    share: Share,
    local_rank: usize,
    timeout: Duration,
    /// None where a process is alone.
    ring: Option<(Ring, SocketAddr)>,
}

impl Group {
    /// A process that is alone.
    pub fn alone() -> Self {
        Self { share: Share::WHOLE, local_rank: 0, timeout: Duration::MAX, ring: None }
    }

    /// Joins the others. A rank that does not come within `timeout`, or later says nothing for as long, ends the run.
    pub fn join(place: &Place, timeout: Duration) -> Result<Self> {
        let ring = rendezvous::join(place, timeout)?;
        let share = Share { rank: place.rank, size: place.size };
        Ok(Self { share, local_rank: place.local_rank, timeout, ring: Some(ring) })
    }

    /// This rank's part of the work.
    pub fn share(&self) -> Share {
        self.share
    }

    /// This rank's number on its machine, so also that of its GPU.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// How long a rank may say nothing before it is given up.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether this is the rank that writes and tells.
    pub fn leads(&self) -> bool {
        self.share.rank == 0
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.ring.is_none()
    }

    /// What each rank gives, by rank; at most `most` bytes each.
    pub fn gather(&mut self, mine: &[u8], most: usize) -> Result<Vec<Vec<u8>>> {
        match &mut self.ring {
            Some((ring, _)) => ring.gather(mine, most),
            None => Ok(vec![mine.to_vec()]),
        }
    }

    /// The values of all ranks, one rank's after another's; there are `total` of them.
    pub fn concatenate<T: bytemuck::Pod>(&mut self, mine: Vec<T>, total: usize) -> Result<Vec<T>> {
        let Some((ring, _)) = &mut self.ring else { return Ok(mine) };
        let all = ring.gather(bytemuck::cast_slice(&mine), total * size_of::<T>())?.concat();
        if all.len() != total * size_of::<T>() {
            let (has, of) = (all.len(), size_of::<T>());
            return Err(Error::mismatch(format!("the ranks gave {has} bytes where {total} values of {of} were due")));
        }
        Ok(all.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }

    /// Makes `bytes` of every rank those of rank 0, at most `most`.
    pub fn tell(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<()> {
        match &mut self.ring {
            Some((ring, _)) => ring.tell(bytes, most),
            None => Ok(()),
        }
    }

    /// Waits until all ranks have come here.
    pub fn meet(&mut self) -> Result<()> {
        self.gather(&[], 0).map(|_| ())
    }

    /// Refuses ranks that know anything else than this one. Rank 0 is right; the message names who differs and in what.
    pub fn agree(&mut self, facts: &Facts) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let all = self.gather(&facts.to_bytes()?, MAX_SMALL)?;
        let of_zero = Facts::parse(&all[0])?;
        let differing = all.iter().zip(0..).skip(1).find_map(|(bytes, rank)| match Facts::parse(bytes) {
            Ok(facts) => Some((rank, facts.difference(&of_zero)?)),
            Err(error) => Some((rank, error.to_string())),
        });
        match differing {
            Some((rank, what)) => Err(Error::mismatch(format!("rank {rank} does not do what rank 0 does: {what}"))),
            None => Ok(()),
        }
    }

    /// Ends the run of all ranks because of `error`, which comes back as this rank is to report it.
    #[must_use]
    pub fn end(self, error: Error) -> Error {
        let Some((ring, address)) = &self.ring else { return error };
        let rank = self.share.rank;
        // What broke elsewhere is passed on as it came; what all know of needs no telling, but does no harm.
        match ring.broken() {
            Some(reason) => ring.fail(reason),
            None => ring.fail(&format!("rank {rank} at {address} failed: {error}")),
        }
        error.at(format_args!("rank {rank}"))
    }
}

impl Transport<[f32]> for Group {
    fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        match &mut self.ring {
            Some((ring, _)) => ring.sum(values),
            None => Ok(()),
        }
    }
}

/// What each rank has to say after its part of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Report {
    /// Its part of the loss.
    pub loss: f64,
    /// Positions that it sent through the network.
    pub tokens: u64,
    /// Not 0 if it was asked to stop.
    pub stop: u64,
}

impl Report {
    /// The reports of all ranks in one: the same on each.
    pub fn total(self, group: &mut Group) -> Result<Self> {
        let size = group.share().size;
        let all = group.concatenate(vec![self], size)?;
        Ok(all
            .into_iter()
            .reduce(|a, b| Self { loss: a.loss + b.loss, tokens: a.tokens + b.tokens, stop: a.stop | b.stop })
            .unwrap_or_default())
    }
}

/// The error of a run that has no meaning for several ranks.
pub fn only_alone(what: &str) -> Error {
    Error::new(Kind::Invalid, format!("{what}: start one process, without RANK and WORLD_SIZE or with WORLD_SIZE=1"))
}
