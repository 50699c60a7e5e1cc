//! The table that encodes: for every size, the times at which the nearest centroid changes.
//!
//! Sizes are whole bytes, so there are 131,071 lines of one size (`-65,535..=65,535`), and on each of them the token is a
//! step function of the time, an f32. The table holds the steps, laid out so that two looks answer nearly every packet:
//!
//! ```text
//! ranges  u32, 32 a size (one line of cache or two): a range of times is an octave, the first and the last range what
//!         lies beyond. It tells where the range's steps begin and how many bits of a time tell its buckets apart.
//! steps   {time, token of what is earlier}, 8 bytes, one for each bucket: the first step of the bucket or after it.
//!         Buckets are so narrow that a second step in one is rare, so a packet's token is that of its bucket's step or
//!         of the next bucket's, the next 8 bytes. Where several steps do fall into a bucket, its token is the place of
//!         a list of them, behind the steps of its size.
//! ```
//!
//! So a packet is 8 bytes read and 4 written, 4 bytes of `ranges` and 16 of `steps`: no logarithm and no distance, and
//! no branch that depends on it. Packets are taken in blocks, all of the first looks before all of the second, so that
//! none waits for another's memory.
//!
//! Close to a step, where distances rounded to f64 may order centroids otherwise than exact ones, the times are decided
//! one by one when the table is built, so the answer is always that of comparing all distances in f64.
//!
//! It takes less than 64 MB up to K = 131,072: 46 MB for 9,902 centroids fitted to real traffic, 30 MB for the original
//! project's. Sizes for which there is no room are left to the search; those of Ethernet come first, then those of jumbo
//! frames. A fit of 16,384 centroids leaves more than half of the larger ones.

use super::codebook::Codebook;
use super::envelope::{Envelope, Member, ROUNDING, Sites};
use super::scaler::{Point, Scaler};
use crate::backend::prefetch::prefetch;
use crate::backend::simd::vectorised;
use crate::packet::Packet;
use crate::tokens::Token;
use std::hint::select_unpredictable;
use std::ops::{Range, RangeInclusive};

/// Sizes in the table are `-MAX_SIZE..=MAX_SIZE`: all that an IP packet can have.
pub(crate) const MAX_SIZE: i32 = 65_535;

/// Sizes that are looked at first, up and down from 0: what Ethernet carries.
const COMMON_SIZE: i32 = 1536;

/// Sizes that are looked at next: those of jumbo frames.
const JUMBO_SIZE: i32 = 9216;

/// Steps that a table may have, which keeps it below 64 MB up to 131,072 centroids. A codebook that needs more, such as one
/// with all its centroids at one size, leaves the rare sizes to the search.
const MAX_STEPS: usize = 11 << 19;

/// Candidates on all lines that building may look at: a second of work, twenty times what a fitted codebook takes.
const MAX_WORK: usize = 1 << 27;

/// Ranges of times that each size has.
pub(crate) const RANGES: usize = 32;

/// Exponent, as f32 has it, of the first range's times: they are below 0.25 us, and those of the last at least 268 s.
const FIRST_RANGE: i32 = 124;

/// Bits of an f32 below its exponent.
const MANTISSA: u32 = 23;

/// Bits of the first time of the last range. Of the rare sizes, steps behind it are left to the search: they are most of
/// their steps, and waits that long are as rare.
const LAST_RANGE: u32 = (FIRST_RANGE as u32 + RANGES as u32 - 1) << MANTISSA;

/// Most buckets for each step of a range, rounded up to a power of two of them in all.
const BUCKETS: u32 = 2;

/// Times around one step that are decided one by one; where rounding blurs more of them, [`SEARCH`] stands instead.
const DECIDED: u32 = 32;

/// In place of a token: these packets are left to the search over all centroids.
pub(crate) const SEARCH: Token = Token::MAX;

/// In place of a token, less than [`SEARCH`]: the rest of the bits is where a list of steps begins.
pub(crate) const LIST: Token = 1 << 31;

/// Packets encoded together.
const BLOCK: usize = 64;

/// Bits of the largest finite time.
const LAST_TIME: u32 = f32::MAX.to_bits();

/// Bits of a time at which the token changes, and the token of the times below it and not below the step before.
pub(crate) type Step = [u32; 2];

/// Ends the steps of a size and a list of them: no legal time reaches it.
const END: u32 = f32::INFINITY.to_bits();

/// Stands for a size that is not in the table; first in it.
const UNKNOWN: Step = [END, SEARCH];

/// Tokens by size and time.
#[derive(Debug)]
pub struct Table {
    /// [`RANGES`] a size, from `-MAX_SIZE` on and once more for all other sizes: see [`range`].
    ranges: Vec<u32>,
    /// Each size's buckets in order of time, what is behind its last step, and its lists. One more than is looked up.
    steps: Vec<Step>,
    max_steps: usize,
}

/// What a [`Table`] holds, for those who look tokens up elsewhere.
pub(crate) struct Arrays<'a> {
    pub ranges: &'a [u32],
    pub steps: &'a [Step],
}

/// An element of `ranges`: index of the step of the first bucket, and how many low bits of a time do not tell buckets apart.
fn range(first: usize, shift: u32) -> u32 {
    (first as u32) << 5 | shift
}

impl Table {
    /// The table of `codebook` seen through `scaler`.
    pub fn new(scaler: Scaler, codebook: &Codebook) -> Self {
        let up = |sizes: RangeInclusive<i32>| sizes.collect::<Vec<i32>>();
        let down = |sizes: RangeInclusive<i32>| sizes.map(|size| -size).collect();
        let (jumbo, rest) = (COMMON_SIZE + 1..=JUMBO_SIZE, JUMBO_SIZE + 1..=MAX_SIZE);
        let common = up(-COMMON_SIZE..=COMMON_SIZE);
        Self::of_sizes(scaler, codebook, [common, up(jumbo.clone()), down(jumbo), up(rest.clone()), down(rest)])
    }

    /// The table of some sizes, each group of which rises or falls. All others are left to the search.
    pub(crate) fn of_sizes(scaler: Scaler, codebook: &Codebook, groups: impl IntoIterator<Item = Vec<i32>>) -> Self {
        let sites = Sites::new(codebook, scaler.scaled_size(MAX_SIZE));
        let mut table = Self {
            // What is not reached below stays with the search.
            ranges: vec![range(0, MANTISSA); RANGES * (2 * MAX_SIZE as usize + 2)],
            steps: vec![UNKNOWN],
            // Eight tables of the largest codebook together have less than 2^27, the bits that a range has for them.
            max_steps: MAX_STEPS.max(15 * sites.len()),
        };
        let mut steps = Steps::new(scaler, &sites);
        let mut work = MAX_WORK.max(64 * sites.len());
        for sizes in groups {
            let lines: Vec<f64> = sizes.iter().map(|&size| scaler.scaled_size(size)).collect();
            let _ = sites.sweep(&lines, &mut work, &mut |line, envelope| {
                if table.has_room(envelope.members.len()) {
                    table.insert(sizes[line], steps.along(sizes[line], envelope));
                }
            });
        }
        table.steps.push(UNKNOWN);
        table
    }

    /// The token of each packet, whose times are legal, to `tokens` of the same length. `search` tells those that are left
    /// to the search over all centroids.
    pub fn encode(&self, packets: &[Packet], tokens: &mut [Token], search: impl Fn(Packet) -> Token) {
        let (blocks, rest) = packets.as_chunks::<BLOCK>();
        let (token_blocks, token_rest) = tokens.as_chunks_mut::<BLOCK>();
        vectorised!(for (packets, tokens) in blocks.iter().zip(token_blocks) {
            if self.look_up(packets, tokens) {
                self.decide(packets, tokens, &search);
            }
        });
        for (&packet, token) in rest.iter().zip(token_rest) {
            *token = self.token(packet).unwrap_or_else(|| search(packet));
        }
    }

    /// Puts tokens in the place of what was [`Self::found`].
    #[cold]
    fn decide(&self, packets: &[Packet; BLOCK], tokens: &mut [Token; BLOCK], search: &impl Fn(Packet) -> Token) {
        for (&packet, token) in packets.iter().zip(tokens) {
            *token = self.decided(*token, packet).unwrap_or_else(|| search(packet));
        }
    }

    /// The token of a packet whose time is legal; none where the search over all centroids must tell.
    #[inline(always)]
    pub fn token(&self, packet: Packet) -> Option<Token> {
        let range = self.ranges[range_of(packet) as usize];
        self.decided(self.found(bucket_of(range, packet), packet), packet)
    }

    /// Writes what is [`Self::found`] for `packets`; whether some of it is not a token yet.
    #[inline(always)]
    fn look_up(&self, packets: &[Packet; BLOCK], tokens: &mut [Token; BLOCK]) -> bool {
        // One loop for each look, so that many are under way at once.
        let mut at = [0; BLOCK];
        for (at, &packet) in at.iter_mut().zip(packets) {
            *at = range_of(packet);
        }
        for at in &mut at {
            *at = self.ranges[*at as usize];
        }
        for (at, &packet) in at.iter_mut().zip(packets) {
            *at = bucket_of(*at, packet);
        }
        for &at in &at {
            prefetch(&self.steps[at as usize]);
        }
        let mut all = 0;
        for ((token, &at), &packet) in tokens.iter_mut().zip(&at).zip(packets) {
            *token = self.found(at, packet);
            all |= *token;
        }
        all >= LIST
    }

    /// What stands for the time of `packet`, which falls into the bucket of step `at`: a token, a [`LIST`] or [`SEARCH`].
    #[inline(always)]
    fn found(&self, at: u32, packet: Packet) -> Token {
        let steps = &self.steps[at as usize..at as usize + 2];
        select_unpredictable(bits(packet) < steps[0][0] as i32, steps[0][1], steps[1][1])
    }

    /// The token of `packet`, for which `found` was found; none where the search over all centroids must tell.
    #[inline(always)]
    fn decided(&self, found: Token, packet: Packet) -> Option<Token> {
        if found < LIST { Some(found) } else { self.listed(found, packet) }
    }

    #[cold]
    fn listed(&self, found: Token, packet: Packet) -> Option<Token> {
        let list = self.steps.get((found & !LIST) as usize..)?;
        list.iter().find(|step| bits(packet) < step[0] as i32).map(|step| step[1]).filter(|&token| token != SEARCH)
    }

    /// The arrays it consists of.
    pub(crate) fn arrays(&self) -> Arrays<'_> {
        Arrays { ranges: &self.ranges, steps: &self.steps }
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.ranges) + size_of_val(&*self.steps)
    }

    /// Whether a size with so many steps may be entered: at most four buckets for each, one and a half in a list, and one
    /// behind the last.
    fn has_room(&self, steps: usize) -> bool {
        self.steps.len() + 6 * steps <= self.max_steps
    }

    /// Enters `steps` as those of `size`; the last of them is at [`END`].
    fn insert(&mut self, size: i32, steps: &[Step]) {
        if !self.has_room(steps.len()) {
            return;
        }
        let ranges = (size + MAX_SIZE) as usize * RANGES;
        let mut crowded = Vec::new();
        let mut next = 0;
        for i in 0..RANGES {
            let first = next;
            let end = if i + 1 < RANGES { (FIRST_RANGE as u32 + i as u32 + 1) << MANTISSA } else { END };
            next += steps[next..].iter().take_while(|step| step[0] < end).count();
            let inside = &steps[first..next];
            let shift = if i == 0 || i + 1 == RANGES { MANTISSA } else { bucket_width(inside) };
            self.ranges[ranges + i] = range(self.steps.len(), shift);
            if inside.is_empty() {
                // The bucket that follows has the answer.
                continue;
            }
            let bucket = |step: &Step| (step[0] & ((1 << MANTISSA) - 1)) >> shift;
            let mut at = first;
            for b in 0..1 << (MANTISSA - shift) {
                let n = steps[at..next].iter().take_while(|step| bucket(step) == b).count();
                if n > 1 {
                    crowded.push((self.steps.len(), at..at + n));
                }
                self.steps.push(steps[at]);
                at += n;
            }
        }
        self.steps.push(steps[next]);
        for (bucket, list) in crowded {
            self.steps[bucket] = [END, LIST | self.steps.len() as u32];
            let later = steps[list.end][1];
            self.steps.extend_from_slice(&steps[list]);
            self.steps.push([END, later]);
        }
    }
}

/// Bits of a legal time, which order as the times do. The sign of -0 makes it less than all others.
#[inline(always)]
fn bits(packet: Packet) -> i32 {
    packet.ipt_us.to_bits() as i32
}

/// Index of the range that has the time of `packet`.
#[inline(always)]
fn range_of(packet: Packet) -> u32 {
    let line = (packet.size.wrapping_add(MAX_SIZE) as u32).min(2 * MAX_SIZE as u32 + 1);
    let range = ((bits(packet) >> MANTISSA) - FIRST_RANGE).clamp(0, RANGES as i32 - 1);
    line * RANGES as u32 + range as u32
}

/// Index of the step of the bucket that has the time of `packet`, which is in `range`.
#[inline(always)]
fn bucket_of(range: u32, packet: Packet) -> u32 {
    let within = bits(packet) as u32 & ((1 << MANTISSA) - 1);
    (range >> 5) + (within >> (range & 31))
}

/// How many low bits of a time do not tell the buckets of a range apart: as many as leave no two of its `steps` in one
/// bucket, if there is room for that.
fn bucket_width(steps: &[Step]) -> u32 {
    let room = (steps.len() as u32 * BUCKETS).max(1).next_power_of_two().ilog2().min(MANTISSA);
    let apart = steps.windows(2).map(|pair| (pair[0][0] ^ pair[1][0]).ilog2()).min();
    apart.unwrap_or(MANTISSA).max(MANTISSA - room)
}

/// Members of an envelope that follow each other, and the times y between which rounding decides which is nearest.
struct Zone {
    low: f64,
    high: f64,
    first: usize,
    last: usize,
}

/// The steps of one line after another.
struct Steps<'a> {
    scaler: Scaler,
    sites: &'a Sites,
    zones: Vec<Zone>,
    steps: Vec<Step>,
}

impl<'a> Steps<'a> {
    fn new(scaler: Scaler, sites: &'a Sites) -> Self {
        Self { scaler, sites, zones: Vec::new(), steps: Vec::new() }
    }

    /// The steps on the line of `size` with the envelope given; the last is at [`END`].
    fn along(&mut self, size: i32, envelope: &Envelope) -> &[Step] {
        let x = self.scaler.scaled_size(size);
        let end = if size.abs() <= COMMON_SIZE { END } else { LAST_RANGE };
        self.steps.clear();
        self.find_zones(x, &envelope.members);
        let zeros = self.scaler.last_zero_time();
        if zeros > 0 {
            self.run(0, self.decide([x, 0.0], &envelope.members));
        }
        self.rising(x, &envelope.members, if zeros > 0 { zeros + 1 } else { 0 }..end);
        &self.steps
    }

    /// The zones around the borders between `members`, from low to high; those that meet are one.
    fn find_zones(&mut self, x: f64, members: &[Member]) {
        self.zones.clear();
        for (i, pair) in members.windows(2).enumerate() {
            let (y, doubt) = self.sites.border(x, pair[0].rank, pair[1].rank);
            let mut zone = Zone { low: y - doubt, high: y + doubt, first: i, last: i + 1 };
            while let Some(before) = self.zones.pop_if(|before| before.high >= zone.low) {
                zone.low = zone.low.min(before.low);
                zone.high = zone.high.max(before.high);
                zone.first = before.first;
            }
            self.zones.push(zone);
        }
    }

    /// The steps at `times`, along which y rises, and one more; what is behind is left to the search.
    fn rising(&mut self, x: f64, members: &[Member], times: Range<u32>) {
        let mut next = times.start;
        for i in 0..self.zones.len() {
            if next >= times.end && next <= LAST_TIME {
                return self.run(next, SEARCH);
            }
            let Zone { low, high, first, last } = self.zones[i];
            let (begin, end) = (self.first_time(low), self.first_time(high));
            if begin > next {
                self.run(next, self.certain(members[first]));
                next = begin;
            }
            if end > next.saturating_add(DECIDED) {
                self.run(next, SEARCH);
                next = end;
            }
            while next < end {
                let y = self.scaler.scaled_time(f64::from(f32::from_bits(next)));
                self.run(next, self.decide([x, y], &members[first..=last]));
                next += 1;
            }
        }
        if next <= LAST_TIME {
            self.run(next, self.certain(members[members.len() - 1]));
        }
    }

    /// The token is `token` from the time of bits `first` on.
    fn run(&mut self, first: u32, token: Token) {
        match self.steps.last_mut() {
            Some([_, before]) if *before == token => return,
            Some([time, _]) => *time = first,
            None => {}
        }
        self.steps.push([END, token]);
    }

    /// The token away from the borders.
    fn certain(&self, member: Member) -> Token {
        if member.tied { SEARCH } else { self.sites.token(member.rank) }
    }

    /// The token at `point`, as distances in f64 tell it.
    fn decide(&self, point: Point, members: &[Member]) -> Token {
        let distance = |member: &Member| Codebook::distance(point, self.sites.point(member.rank));
        let nearest = members.iter().map(distance).fold(f64::INFINITY, f64::min);
        let close = |member: &&Member| member.tied && distance(member) <= nearest * (1.0 + 2.0 * ROUNDING);
        if members.iter().any(|member| close(&member)) {
            return SEARCH;
        }
        let equal = members.iter().filter(|member| distance(member) == nearest);
        equal.map(|member| self.sites.token(member.rank)).min().unwrap_or(SEARCH)
    }

    /// Bits of the first time not below scaled time `y`; one more than the last finite one's if there is none.
    fn first_time(&self, y: f64) -> u32 {
        let us = self.scaler.time_us(y);
        if us > f64::from(f32::MAX) {
            return LAST_TIME + 1;
        }
        if us <= 0.0 {
            return 0;
        }
        let near = us as f32;
        near.to_bits() + u32::from(f64::from(near) < us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn brute_force(codebook: &Codebook, point: Point) -> Token {
        let mut best = (0, f64::INFINITY);
        for token in 0..codebook.len() as Token {
            let distance = Codebook::distance(point, codebook.centroid(token));
            if distance < best.1 {
                best = (token, distance);
            }
        }
        best.0
    }

    /// Times of the steps of `size`, but for lists of its last range.
    fn steps_of(table: &Table, size: i32) -> BTreeSet<u32> {
        let ranges = &table.ranges[(size + MAX_SIZE) as usize * RANGES..][..RANGES];
        let buckets = &table.steps[(ranges[0] >> 5) as usize..=(ranges[RANGES - 1] >> 5) as usize];
        let lists = buckets.iter().filter(|step| (LIST..SEARCH).contains(&step[1]));
        let listed = lists.flat_map(|step| &table.steps[(step[1] & !LIST) as usize..][..4]);
        buckets.iter().chain(listed).map(|step| step[0]).filter(|&time| time < END).collect()
    }

    /// Compares the table with brute force at `sizes`: around every step, and at the ends of the times. Returns how many
    /// packets the table left to the search that it could tell.
    fn compare(scaler: Scaler, codebook: &Codebook, sizes: impl IntoIterator<Item = i32>) -> usize {
        let table = Table::new(scaler, codebook);
        let mut searched = 0;
        for size in sizes {
            let steps = steps_of(&table, size);
            let mut times = vec![0.0, -0.0, f32::from_bits(1), 1e-5, 1.0, 1000.0, 6e7, f32::MAX];
            times.extend(
                steps.iter().flat_map(|time| [-2, -1, 0, 1].map(|by| f32::from_bits(time.saturating_add_signed(by)))),
            );
            for ipt_us in times {
                let packet = Packet { size, ipt_us };
                match table.token(packet) {
                    Some(token) => assert_eq!(token, brute_force(codebook, scaler.point(packet)), "{packet:?}"),
                    None => searched += usize::from(size.abs() <= COMMON_SIZE || ipt_us.to_bits() < LAST_RANGE),
                }
            }
        }
        searched
    }

    #[test]
    fn a_random_codebook_is_encoded_as_by_brute_force() {
        let mut draws = Stream::new(1, 0);
        for scaler in Scaler::ALL {
            let centroids = (0..500).map(|_| [draws.uniform() as f32 * 2.0 - 1.0, draws.uniform() as f32 * 9.0 - 1.0]);
            let codebook = Codebook::new(centroids.collect()).unwrap();
            let searched = compare(scaler, &codebook, [-65_535, -9000, -1500, -52, 0, 1, 40, 700, 1500, 1501, 65_535]);
            assert_eq!(searched, 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Centroids on a coarse grid, some a rounding step off it: ties, duplicates, equal times, needles of cells.
        #[test]
        fn codebooks_full_of_ties_are_encoded_as_by_brute_force(
            grid in prop::collection::vec((-6i8..6, -3i8..6, 0u8..4), 1..50),
        ) {
            let nudge = |v: f32, by: bool| if by { f32::from_bits(v.to_bits() + 1) } else { v };
            let centroids = grid.iter().map(|&(x, y, off)| {
                [nudge(f32::from(x) / 4.0, off & 1 != 0), nudge(f32::from(y) / 2.0, off & 2 != 0)]
            });
            let codebook = Codebook::new(centroids.collect()).unwrap();
            for scaler in Scaler::ALL {
                compare(scaler, &codebook, [-65_535, -1500, -375, 0, 75, 188, 375, 750, 2250, 65_535]);
            }
        }
    }

    #[test]
    fn what_the_table_cannot_tell_is_left_to_the_search() {
        let codebook = Codebook::new(vec![[-0.5, 0.0], [0.5, 0.0], [0.0, 5.0]]).unwrap();
        let table = Table::new(Scaler::Log1pUs, &codebook);
        let at = |size| table.token(Packet { size, ipt_us: 0.0 });
        assert_eq!([at(-1), at(0), at(1)], [Some(0), None, Some(1)]);
        assert_eq!([at(65_536), at(-65_536), at(i32::MAX), at(i32::MIN)], [None; 4]);
    }

    #[test]
    fn its_size_is_stated_honestly() {
        let codebook = Codebook::new(vec![[0.0, 0.0]]).unwrap();
        let ranges = 131_072 * RANGES * 4;
        assert_eq!(Table::new(Scaler::Log1pUs, &codebook).bytes(), ranges + (131_071 + 2) * 8);
    }

    /// Every centroid is nearest somewhere at every size.
    #[test]
    fn a_codebook_of_one_size_takes_bounded_memory_and_stays_exact() {
        let codebook = Codebook::new((0..1000).map(|i| [0.0, i as f32 / 125.0]).collect()).unwrap();
        let table = Table::new(Scaler::Log1pUs, &codebook);
        assert!(table.bytes() < 64_000_000, "{} bytes", table.bytes());
        assert!(table.token(Packet { size: -60_000, ipt_us: 9.0 }).is_none());
        compare(Scaler::Log1pUs, &codebook, [0, 700]);
    }
}
