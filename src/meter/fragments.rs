//! Fragments → the flow of the packet they are pieces of, in bounded memory.
//!
//! Only a packet's first fragment has ports. It is remembered for [`TIMEOUT`] of packet time, and later fragments with
//! the same addresses, protocol and identification join its flow, each a packet of its own size. Those that overtook
//! the first wait for it as long, and then go before it, in their order. Nothing is reassembled.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::frame::{Fragment, FragmentKey, Parsed, Skip};
use crate::error::Result;

/// How long a first fragment is remembered and others wait for one; Linux waits as long to reassemble.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// First fragments remembered at once; the oldest goes when one more comes.
pub(super) const MAX_FIRSTS: usize = 8192;

/// Fragments that wait for their first at once; the oldest goes when one more comes.
pub(super) const MAX_WAITING: usize = 1024;

/// What later fragments belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A flow, through what only the first fragment tells.
    Flow { src_port: u16, dst_port: u16, protocol: u8 },
    /// No flow: a tunnel, whose packet inside was metered with the first fragment.
    Tunnel,
}

/// A fragment that came before its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    key: FragmentKey,
    ts_ns: u64,
    len: u32,
}

/// The fragmented packets of the last [`TIMEOUT`].
pub(crate) struct Fragments {
    max_firsts: usize,
    max_waiting: usize,
    firsts: HashMap<FragmentKey, First>,
    /// Keys of `firsts` in the order of their coming, with the number that tells a key from its reuse.
    order: VecDeque<(FragmentKey, u64)>,
    waiting: VecDeque<Waiting>,
    /// Those that a first fragment set free.
    overtook: Vec<Waiting>,
    count: u64,
}

impl Default for Fragments {
    fn default() -> Self {
        Self {
            max_firsts: MAX_FIRSTS,
            max_waiting: MAX_WAITING,
            firsts: HashMap::new(),
            order: VecDeque::new(),
            waiting: VecDeque::new(),
            overtook: Vec::new(),
            count: 0,
        }
    }
}

struct First {
    owner: Owner,
    ts_ns: u64,
    number: u64,
}

impl Fragments {
    /// With other bounds, and all memory for them from the start.
    pub(crate) fn reserved(max_firsts: usize, max_waiting: usize) -> Self {
        Self {
            max_firsts,
            max_waiting,
            // Places of what was taken out are cleared up where they are, without more memory, while half are free.
            firsts: HashMap::with_capacity(Self::places(max_firsts)),
            order: VecDeque::with_capacity(max_firsts),
            waiting: VecDeque::with_capacity(max_waiting),
            overtook: Vec::with_capacity(max_waiting),
            count: 0,
        }
    }

    fn places(max_firsts: usize) -> usize {
        2 * (max_firsts + 1)
    }

    /// Bytes that [`Self::reserved`] takes, at most.
    pub(crate) fn memory(max_firsts: usize, max_waiting: usize) -> usize {
        // The standard library's map fills at most seven of eight places, of a power of two, and has a byte more for each.
        let places = (Self::places(max_firsts) * 8 / 7 + 1).next_power_of_two();
        places * (size_of::<(FragmentKey, First)>() + 1)
            + max_firsts * size_of::<(FragmentKey, u64)>()
            + 2 * max_waiting * size_of::<Waiting>()
    }

    /// Hands to `push` the packets that are known to be in a flow now that `packet` has come: itself, if it is whole, a
    /// first fragment or one whose first is known; before it those that waited for it, at most as many as may wait.
    /// What is in no flow goes to `skip`, with how many.
    pub(crate) fn packet(
        &mut self,
        ts_ns: u64,
        packet: Parsed,
        skip: &mut dyn FnMut(Skip, u64),
        push: &mut dyn FnMut(u64, &Parsed) -> Result<()>,
    ) -> Result<()> {
        if let Some(key) = packet.carrier {
            self.first(key, ts_ns, Owner::Tunnel);
            skip(Skip::CarrierFragment, self.overtook.len() as u64);
        }
        match packet.fragment {
            Fragment::Whole => push(ts_ns, &packet),
            Fragment::First(key) => {
                let Parsed { src_port, dst_port, protocol, .. } = packet;
                self.first(key, ts_ns, Owner::Flow { src_port, dst_port, protocol });
                for waited in &self.overtook {
                    push(waited.ts_ns, &Parsed { len: waited.len, tcp_flags: 0, ..packet })?;
                }
                push(ts_ns, &packet)
            }
            Fragment::Later(key) => match self.owner(&key, ts_ns) {
                Some(Owner::Flow { src_port, dst_port, protocol }) => {
                    push(ts_ns, &Parsed { src_port, dst_port, protocol, ..packet })
                }
                Some(Owner::Tunnel) => {
                    skip(Skip::CarrierFragment, 1);
                    Ok(())
                }
                None => {
                    let gave_up = self.wait(Waiting { key, ts_ns, len: packet.len });
                    skip(Skip::LoneFragment, gave_up);
                    Ok(())
                }
            },
        }
    }

    /// Remembers a first fragment, and moves those that waited for it to `overtook`, in their order.
    fn first(&mut self, key: FragmentKey, ts_ns: u64, owner: Owner) {
        while self.order.len() >= self.max_firsts {
            if let Some((oldest, number)) = self.order.pop_front()
                && self.firsts.get(&oldest).is_some_and(|first| first.number == number)
            {
                self.firsts.remove(&oldest);
            }
        }
        self.count += 1;
        self.order.push_back((key, self.count));
        self.firsts.insert(key, First { owner, ts_ns, number: self.count });
        self.overtook.clear();
        self.waiting.retain(|fragment| {
            let is_ours = fragment.key == key && !is_over(fragment.ts_ns, ts_ns);
            if is_ours {
                self.overtook.push(*fragment);
            }
            !is_ours
        });
    }

    /// What a later fragment belongs to, if its first was seen within [`TIMEOUT`].
    fn owner(&self, key: &FragmentKey, ts_ns: u64) -> Option<Owner> {
        self.firsts.get(key).filter(|first| !is_over(first.ts_ns, ts_ns)).map(|first| first.owner)
    }

    /// Lets a later fragment wait for its first; how many others gave up waiting.
    fn wait(&mut self, fragment: Waiting) -> u64 {
        let before = self.waiting.len();
        while self.waiting.len() >= self.max_waiting
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
