//! The table that encodes: for every size, the times at which the nearest centroid changes.
//!
//! Sizes are whole bytes, so there are 131,071 lines of one size (`-65,535..=65,535`), and on each of them the token is a
//! step function of the time, an f32. The table holds the steps. A packet costs a look at its column, at one of the
//! column's buckets (equal ranges of the time's bits, which grow with its logarithm) and at the few steps from
//! there on: no logarithm and no distance. Close to a step, where distances rounded to f64 may order centroids
//! otherwise than exact ones, the times are decided one by one when the table is built, so the answer is always that of
//! comparing all distances in f64.
//!
//! It takes less than 64 MB up to K = 131,072 (20 MB for the original project's 9,902 centroids, which build in an eighth
//! of a second). Sizes for which there is no room are left to the search; those of Ethernet come first.

use super::codebook::Codebook;
use super::envelope::{Envelope, Member, ROUNDING, Sites};
use super::scaler::{Point, Scaler};
use crate::packet::Packet;
use crate::tokens::Token;

/// Sizes with a column are `-MAX_SIZE..=MAX_SIZE`: all that an IP packet can have.
pub(crate) const MAX_SIZE: i32 = 65_535;

/// Sizes that are looked at first, up and down from 0: what Ethernet carries.
const COMMON_SIZE: i32 = 1536;

/// Steps that a table may have, which keeps it below 64 MB up to 131,072 centroids. A codebook that needs more, such as one
/// with all its centroids at one size, leaves the rare sizes to the search.
const MAX_STEPS: usize = 3 << 20;

/// Candidates on all lines that building may look at: a second of work, twenty times what a fitted codebook takes.
const MAX_WORK: usize = 1 << 27;

/// Thresholds compared at once.
const GROUP: usize = 4;

/// Most buckets of a column for each of its steps.
const BUCKETS: u32 = 4;

/// Times around one step that are decided one by one; where rounding blurs more of them, [`SEARCH`] stands instead.
const DECIDED: u32 = 32;

/// In place of a token: these packets are left to the search over all centroids.
pub(crate) const SEARCH: Token = Token::MAX;

/// Bits of the largest finite time.
const LAST_TIME: u32 = f32::MAX.to_bits();

/// Bits of a time at which the token changes, and the token of the times below it and not below the step before. Side by
/// side, so that one look gets both.
pub(crate) type Step = [u32; 2];

/// Behind a column's last step: no time reaches it.
const LAST: Step = [f32::INFINITY.to_bits(), SEARCH];

/// Where the steps of one size lie.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Column {
    /// Bits of the time at which the first bucket begins; earlier times belong to it too.
    pub begin: u32,
    /// Low bits of a time that do not tell buckets apart.
    pub shift: u32,
    /// Index of the first bucket.
    pub first: u32,
    /// Buckets after it; later times belong to the last.
    pub more: u32,
}

/// Tokens by size and time.
#[derive(Debug)]
pub struct Table {
    /// By size, from `-MAX_SIZE` on.
    columns: Vec<Column>,
    /// For each bucket, the index of the first threshold above its begin.
    buckets: Vec<u32>,
    /// Each column's steps in order of time, then [`LAST`] [`GROUP`] times, so that no group reads the next column.
    steps: Vec<Step>,
    max_steps: usize,
}

/// What a [`Table`] holds, for those who look tokens up elsewhere.
pub(crate) struct Arrays<'a> {
    pub columns: &'a [Column],
    pub buckets: &'a [u32],
    pub steps: &'a [Step],
}

impl Table {
    /// The table of `codebook` seen through `scaler`.
    pub fn new(scaler: Scaler, codebook: &Codebook) -> Self {
        let common: Vec<i32> = (-COMMON_SIZE..=COMMON_SIZE).collect();
        let sent: Vec<i32> = (COMMON_SIZE + 1..=MAX_SIZE).collect();
        let received: Vec<i32> = sent.iter().map(|size| -size).collect();
        Self::of_sizes(scaler, codebook, [common, sent, received])
    }

    /// The table of some sizes, each group of which rises or falls. All others are left to the search.
    pub(crate) fn of_sizes(scaler: Scaler, codebook: &Codebook, groups: impl IntoIterator<Item = Vec<i32>>) -> Self {
        let sites = Sites::new(codebook, scaler.scaled_size(MAX_SIZE));
        // What is not reached below stays with the search.
        let unknown = Column { begin: 0, shift: 0, first: 0, more: 0 };
        let mut table = Self {
            columns: vec![unknown; 2 * MAX_SIZE as usize + 1],
            buckets: vec![0],
            steps: vec![LAST; GROUP],
            max_steps: MAX_STEPS.max(16 * sites.len()),
        };
        let mut steps = Steps::new(scaler, &sites);
        let mut work = MAX_WORK.max(64 * sites.len());
        for sizes in groups {
            let lines: Vec<f64> = sizes.iter().map(|&size| scaler.scaled_size(size)).collect();
            let _ = sites.sweep(&lines, &mut work, &mut |line, envelope| {
                table.insert(sizes[line], steps.along(lines[line], envelope));
            });
        }
        table
    }

    /// The token of a packet whose time is legal; none where the search over all centroids must tell.
    #[inline(always)]
    pub fn token(&self, packet: Packet) -> Option<Token> {
        let column = self.columns.get(packet.size.wrapping_add(MAX_SIZE) as u32 as usize)?;
        // Without the sign: -0 is 0.
        let bits = packet.ipt_us.to_bits() & LAST_TIME.next_power_of_two().wrapping_sub(1);
        let bucket = (bits.saturating_sub(column.begin) >> column.shift).min(column.more);
        let mut at = self.buckets[(column.first + bucket) as usize] as usize;
        loop {
            let group = &self.steps[at..at + GROUP];
            let passed: usize = group.iter().map(|&[time, _]| usize::from(time <= bits)).sum();
            at += passed;
            if passed < GROUP {
                break;
            }
        }
        Some(self.steps[at][1]).filter(|&token| token != SEARCH)
    }

    /// The arrays it consists of.
    pub(crate) fn arrays(&self) -> Arrays<'_> {
        let Self { columns, buckets, steps, .. } = self;
        Arrays { columns, buckets, steps }
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.columns) + size_of_val(&*self.buckets) + size_of_val(&*self.steps)
    }

    /// Enters the column of `size`: `runs` has the first time of each token, as bits, the first from 0 on.
    fn insert(&mut self, size: i32, runs: &[(u32, Token)]) {
        let steps = &runs[1..];
        let base = self.steps.len();
        if base + steps.len() > self.max_steps {
            return;
        }
        let (begin, shift, more) = bucket_widths(steps);
        self.columns[(size + MAX_SIZE) as usize] = Column { begin, shift, first: self.buckets.len() as u32, more };
        self.buckets.push(base as u32);
        for bucket in 1..=more {
            let passed = steps.partition_point(|&(time, _)| time <= begin + (bucket << shift));
            self.buckets.push((base + passed) as u32);
        }
        // A run's token lies before the step that ends it, the last one's before infinity.
        let times = steps.iter().map(|step| step.0).chain([LAST[0]]);
        self.steps.extend(times.zip(runs).map(|(time, run)| [time, run.1]));
        self.steps.resize(base + steps.len() + GROUP, LAST);
    }
}

/// The widest buckets, as `begin`, `shift` and `more` of a [`Column`], that hold less than a group of steps each, or the
/// narrowest that there is room for.
fn bucket_widths(steps: &[(u32, Token)]) -> (u32, u32, u32) {
    let [(begin, _), .., (end, _)] = *steps else { return (0, 0, 0) };
    let bucket = |i: usize, shift: u32| (steps[i].0 - begin) >> shift;
    let crowded = |shift: u32| (GROUP - 1..steps.len()).any(|i| bucket(i, shift) == bucket(i + 1 - GROUP, shift));
    let room = steps.len() as u32 * BUCKETS;
    let narrowest = (0..31).find(|&shift| (end - begin) >> shift <= room).unwrap_or(31);
    let shift = (narrowest + 1..32).take_while(|&shift| !crowded(shift)).last().unwrap_or(narrowest);
    (begin, shift, (end - begin) >> shift)
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
    runs: Vec<(u32, Token)>,
}

impl<'a> Steps<'a> {
    fn new(scaler: Scaler, sites: &'a Sites) -> Self {
        Self { scaler, sites, zones: Vec::new(), runs: Vec::new() }
    }

    /// The first time of each run of equal tokens, as bits, on the line at `x` with the envelope given.
    fn along(&mut self, x: f64, envelope: &Envelope) -> &[(u32, Token)] {
        self.runs.clear();
        self.find_zones(x, &envelope.members);
        let zeros = self.scaler.last_zero_time();
        if zeros > 0 {
            self.run(0, self.decide([x, 0.0], &envelope.members));
        }
        self.rising(x, &envelope.members, if zeros > 0 { zeros + 1 } else { 0 });
        &self.runs
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

    /// The runs of times from the one of bits `first` on, along which y rises.
    fn rising(&mut self, x: f64, members: &[Member], first: u32) {
        let mut next = first;
        for i in 0..self.zones.len() {
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

    fn run(&mut self, first: u32, token: Token) {
        if self.runs.last().is_none_or(|&(_, before)| before != token) {
            self.runs.push((first, token));
        }
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

    const SCALERS: [Scaler; 3] = [Scaler::Log1pUs, Scaler::Log1pUsFine, Scaler::Log10Ms];

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

    /// Compares the table with brute force at `sizes`: around every step, and at the ends of the times. Returns how many
    /// packets the table left to the search.
    fn compare(scaler: Scaler, codebook: &Codebook, sizes: impl IntoIterator<Item = i32>) -> usize {
        let table = Table::new(scaler, codebook);
        let mut searched = 0;
        for size in sizes {
            let column = table.columns[(size + MAX_SIZE) as usize];
            let begin = table.buckets[column.first as usize] as usize;
            let steps = table.steps[begin..].iter().map(|step| step[0]).take_while(|time| *time < LAST[0]);
            let mut times = vec![0.0, -0.0, f32::from_bits(1), 1e-5, 1.0, 1000.0, 6e7, f32::MAX];
            times
                .extend(steps.flat_map(|time| [-2, -1, 0, 1].map(|by| f32::from_bits(time.saturating_add_signed(by)))));
            for ipt_us in times {
                let packet = Packet { size, ipt_us };
                match table.token(packet) {
                    Some(token) => assert_eq!(token, brute_force(codebook, scaler.point(packet)), "{packet:?}"),
                    None => searched += 1,
                }
            }
        }
        searched
    }

    #[test]
    fn a_random_codebook_is_encoded_as_by_brute_force() {
        let mut draws = Stream::new(1, 0);
        for scaler in SCALERS {
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
            for scaler in SCALERS {
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
        let columns = 131_071 * size_of::<Column>();
        assert_eq!(Table::new(Scaler::Log1pUs, &codebook).bytes(), columns + 131_072 * (4 + GROUP * 8));
    }

    /// Every centroid is nearest somewhere at every size.
    #[test]
    fn a_codebook_of_one_size_takes_bounded_memory_and_stays_exact() {
        let codebook = Codebook::new((0..1000).map(|i| [0.0, i as f32 / 125.0]).collect()).unwrap();
        let table = Table::new(Scaler::Log1pUs, &codebook);
        assert!(table.bytes() < 64 << 20, "{} bytes", table.bytes());
        assert!(table.token(Packet { size: -60_000, ipt_us: 9.0 }).is_none());
        compare(Scaler::Log1pUs, &codebook, [0, 700]);
    }
}
