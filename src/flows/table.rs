//! Slots, tokens, index: where flows begin, go on and end.

use super::due::Due;
use super::hash::Secret;
use super::index::Index;
use super::observation::{FIN, Observation, RST, TCP, hash_ends};
use super::options::{self, Options, WhenFull};
use super::slot::{CLOSED, FIN_CLIENT, FIN_SERVER, FINAL, NONE, QUEUED, Slot};
use super::stats::{Count, Counts};
use super::verdict::Reason;
use super::victims::Victims;
use crate::backend::prefetch::prefetch;
use crate::error::{Error, Kind, Result};
use crate::packet::Packet;
use crate::tokens::Token;
use std::time::Duration;

/// A connection that is over keeps its place for at most this long, so that what trails it begins no flow.
const LINGER: Duration = Duration::from_secs(5);

/// A cache line of tokens. The rows of all flows lie one after another in such lines.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct TokenLine([u16; 32]);

impl TokenLine {
    /// Lines for `rows` rows of `kept` tokens.
    pub fn count(rows: usize, kept: usize) -> usize {
        (rows * kept).div_ceil(32)
    }
}

/// `n` copies of `value`, which must not be all zeros: then every page is written and really there. Refused where there
/// is no such memory.
pub(super) fn reserved<T: Copy>(n: usize, value: T) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(n).map_err(|_| {
        let bytes = n.saturating_mul(size_of::<T>());
        Error::new(Kind::NoMemory, format!("no memory for {bytes} bytes of the flow table; set flows.max_flows lower"))
    })?;
    out.resize(n, value);
    Ok(out)
}

/// Where a packet's token goes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub slot: u32,
    pub position: u8,
}

/// The flows that have not ended, and those that wait for their last verdict.
pub(super) struct Table {
    pub slots: Vec<Slot>,
    tokens: Vec<TokenLine>,
    pub index: Index,
    pub due: Due,
    pub secret: Secret,
    pub counts: Counts,
    /// Slots in use by the tokens of each model.
    pub by_model: [u32; super::models::MAX_MODELS],
    /// Which model new flows are given to.
    pub model: u8,
    free: u32,
    live: usize,
    max_flows: usize,
    kept: usize,
    /// Bit n: a verdict is due at n packets.
    at_counts: u128,
    min_packets: u32,
    idle_ns: u64,
    active_ns: u64,
    linger_ns: u64,
    when_full: WhenFull,
    victims: Victims,
    /// Where the search for flows that have ended goes on, and the time up to which it has come.
    hand: usize,
    swept_ns: u64,
}

impl Table {
    pub fn new(options: &Options) -> Result<Self> {
        options.check()?;
        let (max_flows, kept) = (options.n_flows()?, options.n_kept());
        let n = options::n_slots(max_flows);
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut slots = reserved(n, Slot::free(NONE))?;
        for (i, slot) in slots.iter_mut().enumerate().take(n - 1) {
            *slot = Slot::free(i as u32 + 1);
        }
        let idle_ns = ns(options.idle_timeout);
        Ok(Self {
            slots,
            tokens: reserved(TokenLine::count(n, kept), TokenLine([u16::MAX; 32]))?,
            index: Index::new(max_flows)?,
            due: Due::new(n)?,
            secret: Secret::random(),
            counts: Counts::default(),
            by_model: Default::default(),
            model: 0,
            free: 0,
            live: 0,
            max_flows,
            kept,
            at_counts: options.counts.iter().fold(0, |bits, &n| bits | 1 << n),
            min_packets: options.min_packets,
            idle_ns,
            active_ns: options.active_timeout.map_or(u64::MAX, ns),
            linger_ns: ns(LINGER).min(idle_ns),
            when_full: options.when_full,
            victims: Victims::default(),
            hand: 0,
            swept_ns: 0,
        })
    }

    pub fn live(&self) -> usize {
        self.live
    }

    pub fn max_flows(&self) -> usize {
        self.max_flows
    }

    /// Takes a packet of the flow with this hash. If its token is to be kept, returns it and where the token belongs.
    #[inline(always)]
    pub fn packet(&mut self, o: &Observation, hash: u64, guess: u32) -> Option<(Packet, Place)> {
        let guessed = self.slots.get(guess as usize).is_some_and(|slot| slot.is_live() && slot.has(o));
        let found = if guessed { Some(guess) } else { self.index.find(hash, |s| self.slots[s as usize].has(o)) };
        let Some(at) = found else { return self.begin(o, hash) };
        match self.over(at, o) {
            None => self.append(at, o),
            Some(reason) => {
                self.end(at, reason);
                self.begin(o, hash)
            }
        }
    }

    /// Why the flow at `at` ended before `o`, if it did.
    #[inline(always)]
    fn over(&self, at: u32, o: &Observation) -> Option<Reason> {
        let slot = &self.slots[at as usize];
        if o.ts_ns.saturating_sub(slot.last_ns) >= self.idle_ns {
            Some(Reason::Idle)
        } else if o.ts_ns.saturating_sub(slot.start_ns) >= self.active_ns {
            Some(Reason::Active)
        } else {
            (slot.is(CLOSED) && o.opens()).then_some(Reason::TcpEnd)
        }
    }

    #[inline(always)]
    fn append(&mut self, at: u32, o: &Observation) -> Option<(Packet, Place)> {
        let slot = &mut self.slots[at as usize];
        let from_client = slot.is_from_client(o);
        let since_last = o.ts_ns.saturating_sub(slot.last_ns);
        self.counts.add(Count::Backwards, (o.ts_ns < slot.last_ns).into());
        slot.last_ns = slot.last_ns.max(o.ts_ns);
        slot.n_packets = slot.n_packets.saturating_add(1);
        let mut token = None;
        let mut is_due = false;
        if !slot.is(FINAL | CLOSED) && usize::from(slot.n_tokens) < self.kept {
            let packet = Packet::seen(o.size, from_client, since_last);
            token = Some((packet, Place { slot: at, position: slot.n_tokens }));
            slot.n_tokens += 1;
            is_due = self.at_counts >> slot.n_tokens & 1 == 1;
        }
        if o.tcp_flags & (FIN | RST) != 0 && o.protocol == TCP && !slot.is(CLOSED) {
            if o.tcp_flags & FIN != 0 {
                slot.flags |= if from_client { FIN_CLIENT } else { FIN_SERVER };
            }
            let both = FIN_CLIENT | FIN_SERVER;
            if o.tcp_flags & RST != 0 || slot.flags & both == both {
                slot.flags |= CLOSED;
                is_due |= !slot.is(FINAL);
            }
        }
        if is_due && slot.n_packets >= self.min_packets && !slot.is(QUEUED) {
            slot.flags |= QUEUED;
            self.due.push(at);
        }
        token
    }

    fn begin(&mut self, o: &Observation, hash: u64) -> Option<(Packet, Place)> {
        if !self.make_room() {
            self.counts.add(Count::Refused, 1);
            return None;
        }
        let at = self.free;
        let slot = &mut self.slots[at as usize];
        self.free = slot.next_free();
        *slot = Slot::begin(o, self.model);
        self.by_model[usize::from(self.model)] += 1;
        self.live += 1;
        self.counts.add(Count::Flows, 1);
        self.index.insert(hash, at);
        self.append(at, o)
    }

    /// Whether one more flow can begin, after another has given way if need be.
    fn make_room(&mut self) -> bool {
        if self.live < self.max_flows && self.free != NONE {
            return true;
        }
        if self.when_full == WhenFull::Refuse {
            return false;
        }
        let Some(victim) = self.victims.next(&self.slots, self.min_packets) else { return false };
        let slot = &mut self.slots[victim as usize];
        if self.free == NONE && !slot.is(FINAL) && slot.n_packets >= self.min_packets {
            // It has no place to wait for its verdict.
            slot.flags |= FINAL;
            self.counts.add(Count::VerdictsLost, 1);
        }
        self.end(victim, Reason::Evicted);
        true
    }

    /// Ends a flow. If a verdict is still to come it stays in its slot until then.
    pub fn end(&mut self, at: u32, reason: Reason) {
        self.counts.add(
            match reason {
                Reason::Idle => Count::EndedIdle,
                Reason::Active => Count::EndedActive,
                Reason::Evicted => Count::Evicted,
                Reason::Flushed => Count::Flushed,
                Reason::TcpEnd | Reason::Count | Reason::Confident => Count::EndedTcp,
            },
            1,
        );
        let slot = &mut self.slots[at as usize];
        let (client, server) = ((slot.client, slot.client_port), (slot.server, slot.server_port));
        let hash = hash_ends(self.secret, client, server, slot.zone, slot.protocol);
        self.index.remove(hash, at);
        self.live -= 1;
        slot.end(reason);
        if slot.is(QUEUED) {
            return;
        }
        if slot.is(FINAL) {
            self.release(at);
        } else if slot.n_packets < self.min_packets {
            self.counts.add(Count::TooShort, 1);
            self.release(at);
        } else {
            slot.flags |= QUEUED;
            self.due.push(at);
        }
    }

    /// Gives the place of a flow that has ended to others.
    pub fn release(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        self.by_model[slot.model()] -= 1;
        *slot = Slot::free(self.free);
        self.free = at;
    }

    /// Ends every flow.
    pub fn end_all(&mut self) {
        for at in 0..self.slots.len() as u32 {
            if self.slots[at as usize].is_live() {
                self.end(at, Reason::Flushed);
            }
        }
    }

    /// Ends flows whose time is over at `now_ns`: looks at all of a small table, and at as much of a large one as lets
    /// none wait longer than an eighth of the idle timeout.
    pub fn sweep(&mut self, now_ns: u64) {
        const AT_ONCE: usize = 4096;
        let passed = now_ns.saturating_sub(self.swept_ns);
        self.swept_ns = now_ns;
        let n = self.slots.len();
        let share = (u128::from(passed) * n as u128 / u128::from((self.idle_ns / 8).max(1))).min(n as u128) as usize;
        for _ in 0..share.max(AT_ONCE).min(n) {
            self.look_at(self.hand as u32, now_ns);
            self.hand = if self.hand + 1 == n { 0 } else { self.hand + 1 };
        }
    }

    fn look_at(&mut self, at: u32, now_ns: u64) {
        let slot = &mut self.slots[at as usize];
        if !slot.is_live() {
            return;
        }
        if slot.last_ns.saturating_sub(now_ns) > self.idle_ns {
            // Of a time that is not to come for long: a clock jumped. It would never be idle.
            (slot.start_ns, slot.last_ns) = (slot.start_ns.min(now_ns), now_ns);
        }
        let idle = now_ns.saturating_sub(slot.last_ns);
        if idle >= self.idle_ns {
            self.end(at, Reason::Idle);
        } else if now_ns.saturating_sub(slot.start_ns) >= self.active_ns {
            self.end(at, Reason::Active);
        } else if idle >= self.linger_ns && slot.is(CLOSED) {
            self.end(at, Reason::TcpEnd);
        }
    }

    /// The first `n` tokens of the flow at `at`.
    pub fn tokens(&self, at: u32, n: u8) -> &[u16] {
        let row = at as usize * self.kept;
        &bytemuck::cast_slice(&self.tokens)[row..row + usize::from(n)]
    }

    /// Brings the memory of a token near.
    #[inline(always)]
    pub fn prefetch_token(&self, place: Place) {
        let token = place.slot as usize * self.kept + usize::from(place.position);
        if let Some(line) = self.tokens.get(token / 32) {
            prefetch(line);
        }
    }

    /// Writes a token. Tokens are below 2^16, which was checked with their quantizer.
    #[inline(always)]
    pub fn set_token(&mut self, place: Place, token: Token) {
        let tokens: &mut [u16] = bytemuck::cast_slice_mut(&mut self.tokens);
        tokens[place.slot as usize * self.kept + usize::from(place.position)] = token as u16;
    }

    /// The largest packet count that the flow at `at` has reached; all its packets kept, where it is over.
    pub fn n_read(&self, at: u32) -> u8 {
        let slot = &self.slots[at as usize];
        if slot.is(CLOSED) || slot.ended().is_some() {
            return slot.n_tokens;
        }
        let reached = self.at_counts & (u128::MAX >> (127 - u32::from(slot.n_tokens)));
        (127 - (reached | 1).leading_zeros()) as u8
    }
}
