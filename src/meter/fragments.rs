//! Fragments → the flow of the packet they are pieces of, in bounded memory.
//!
//! Only a packet's first fragment has ports. It is remembered for [`TIMEOUT`] of packet time, and later fragments with
//! the same addresses, protocol and identification join its flow, each a packet of its own size. Those that overtook
//! the first wait for it as long, and then go before it, in their order. Nothing is reassembled.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::frame::FragmentKey;

/// How long a first fragment is remembered and others wait for one; Linux waits as long to reassemble.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// First fragments remembered at once; the oldest goes when one more comes.
pub(super) const MAX_FIRSTS: usize = 8192;

/// Fragments that wait for their first at once; the oldest goes when one more comes.
pub(super) const MAX_WAITING: usize = 1024;

/// What later fragments belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A flow, through what only the first fragment tells.
    Flow { src_port: u16, dst_port: u16, protocol: u8 },
    /// No flow: a tunnel, whose packet inside was metered with the first fragment.
    Tunnel,
}

/// A fragment that came before its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub key: FragmentKey,
    pub ts_ns: u64,
    pub len: u32,
}

/// The fragmented packets of the last [`TIMEOUT`].
#[derive(Default)]
pub(super) struct Fragments {
    firsts: HashMap<FragmentKey, First>,
    /// Keys of `firsts` in the order of their coming, with the number that tells a key from its reuse.
    order: VecDeque<(FragmentKey, u64)>,
    waiting: VecDeque<Waiting>,
    count: u64,
}

struct First {
    owner: Owner,
    ts_ns: u64,
    number: u64,
}

impl Fragments {
    /// Remembers a first fragment, and appends those that waited for it to `overtook`, in their order.
    pub(super) fn first(&mut self, key: FragmentKey, ts_ns: u64, owner: Owner, overtook: &mut Vec<Waiting>) {
        while self.order.len() >= MAX_FIRSTS {
            if let Some((oldest, number)) = self.order.pop_front()
                && self.firsts.get(&oldest).is_some_and(|first| first.number == number)
            {
                self.firsts.remove(&oldest);
            }
        }
        self.count += 1;
        self.order.push_back((key, self.count));
        self.firsts.insert(key, First { owner, ts_ns, number: self.count });
        self.waiting.retain(|fragment| {
            let is_ours = fragment.key == key && !is_over(fragment.ts_ns, ts_ns);
            if is_ours {
                overtook.push(*fragment);
            }
            !is_ours
        });
    }

    /// What a later fragment belongs to, if its first was seen within [`TIMEOUT`].
    pub(super) fn owner(&self, key: &FragmentKey, ts_ns: u64) -> Option<Owner> {
        self.firsts.get(key).filter(|first| !is_over(first.ts_ns, ts_ns)).map(|first| first.owner)
    }

    /// Lets a later fragment wait for its first; how many others gave up waiting.
    pub(super) fn wait(&mut self, fragment: Waiting) -> u64 {
        let before = self.waiting.len();
        while self.waiting.len() >= MAX_WAITING
            || self.waiting.front().is_some_and(|oldest| is_over(oldest.ts_ns, fragment.ts_ns))
        {
            self.waiting.pop_front();
        }
        let gave_up = before - self.waiting.len();
        self.waiting.push_back(fragment);
        gave_up as u64
    }

    /// How many fragments still wait.
    pub(super) fn n_waiting(&self) -> u64 {
        self.waiting.len() as u64
    }
}

/// Whether [`TIMEOUT`] passed between two times; a clock that ran backwards passed none.
fn is_over(since_ns: u64, now_ns: u64) -> bool {
    u128::from(now_ns.saturating_sub(since_ns)) > TIMEOUT.as_nanos()
}
