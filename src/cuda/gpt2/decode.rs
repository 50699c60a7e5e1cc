//! Decoding on a GPU: one token of each of many flows at a time, and the draw of the next.

use super::cache::Cache;
use super::graphs::{Key, Work};
use super::lane::{Lane, Logits};
use super::pinned::Download;
use super::workspace::{RULE_WORDS, Workspace};
use crate::cuda::device::Device;
use crate::error::{Error, Result};
use crate::sampling::Sampling;
use crate::tokens::{Token, Vocabulary};
use std::iter::repeat_n;
use std::ops::Range;

/// What a kernel gives where no token can be drawn.
const NO_TOKEN: Token = Token::MAX;

/// Where a row lies that is no flow's: `NO_SLOT` of `kernels/attend_cached.cu`.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// Which draw of a run a row's token is.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Number of the flow under its seed.
    pub flow: u64,
    /// Number of the token within its flow.
    pub step: u32,
    /// Whether `EOF` may come.
    pub may_end: bool,
}

impl Draw {
    /// As `kernels/sample.cu` reads it.
    fn words(self) -> [u32; 4] {
        [self.flow as u32, (self.flow >> 32) as u32, self.step, u32::from(self.may_end)]
    }
}

/// Of a row that has none: the kernel draws all the same, and nobody looks.
const ANY: Draw = Draw { flow: 0, step: 0, may_end: true };

/// By what rule tokens are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// Which tokens there are.
    pub vocabulary: &'a Vocabulary,
    /// How freely they are drawn, and under which seed.
    pub sampling: &'a Sampling,
    /// What `sampling` bans: bit `i % 32` of word `i / 32` for token `i` of a packet; the end is one past the last.
    pub banned: &'a [u32],
}

impl Rule<'_> {
    /// As `kernels/sample.cu` reads it, but for what is banned.
    pub(super) fn words(&self) -> [u32; RULE_WORDS] {
        let (Vocabulary { n_packet_tokens, eof, .. }, sampling) = (self.vocabulary, self.sampling);
        let [low, high] = [sampling.seed as u32, (sampling.seed >> 32) as u32];
        let [top_p, temperature] = [sampling.top_p, sampling.temperature].map(f32::to_bits);
        [low, high, *n_packet_tokens, *eof, sampling.top_k, top_p, temperature, 0]
    }
}

/// A step's draws, one a row, and their rule.
#[derive(Clone, Copy)]
struct Draws<'a> {
    of_rows: &'a [Option<Draw>],
    rule: &'a Rule<'a>,
}

impl Lane {
    /// Begins a decode with `slots` empty slots.
    pub fn begin(&mut self, slots: usize) -> Result<()> {
        let (config, precision) = (self.network.config(), self.network.precision());
        match &mut self.cache {
            Some(cache) if cache.slots() == slots => cache.clear_all(),
            cache => {
                *cache = None;
                *cache = Some(Cache::new(&self.device, self.network.budget(), config, precision, slots)?);
            }
        }
        self.fit_logits(self.graphs.rows(slots))
    }

    /// Empties a slot; one that does not exist is empty.
    pub fn clear(&mut self, slot: usize) {
        if let Some(cache) = &mut self.cache {
            cache.clear(slot);
        }
    }

    /// Appends `tokens[i]` to the flow in slot `slots[i]` and writes the next token's logits to row `i` of `logits`.
    pub fn step(&mut self, slots: &[usize], tokens: &[Token], logits: &mut [f32]) -> Result<()> {
        let v = self.network.config().vocab_size;
        if logits.len() != slots.len() * v {
            return Err(Error::invalid(format!(
                "a step of {} flows is given room for {} logits of {v}",
                slots.len(),
                logits.len()
            )));
        }
        self.steps(slots, tokens, None, |device, download, _, of_rows, rows| {
            let out = &mut logits[rows.start * v..rows.end * v];
            download.run(device, &of_rows.buffer, bytemuck::cast_slice_mut(out), "logits")
        })
    }

    /// As [`Self::step`], and draws the next tokens by the rule of [`crate::sampling`]: `tokens` become those drawn, and
    /// stay where there is no draw.
    pub fn draw(
        &mut self,
        slots: &[usize],
        tokens: &mut [Token],
        draws: &[Option<Draw>],
        rule: &Rule<'_>,
    ) -> Result<()> {
        let v = self.network.config().vocab_size;
        let vocabulary = rule.vocabulary;
        let words = (vocabulary.n_packet_tokens as usize + 1).div_ceil(32);
        if draws.len() != slots.len() || vocabulary.len() > v || rule.banned.len() != words {
            return Err(Error::invalid(format!(
                "a step of {} flows is given {} draws from {} of {v} tokens",
                slots.len(),
                draws.len(),
                vocabulary.len()
            )));
        }
        let (given, mut host) = (tokens.to_vec(), Vec::new());
        let by = Draws { of_rows: draws, rule };
        self.steps(slots, &given, Some(by), |device, download, space, _, rows| {
            host.resize(rows.len(), NO_TOKEN);
            download.run(device, drawn(space), bytemuck::cast_slice_mut(&mut host), "tokens")?;
            for ((row, &drawn), token) in rows.clone().zip(&host).zip(&mut tokens[rows]) {
                if draws[row].is_none() {
                    continue;
                }
                if drawn == NO_TOKEN {
                    return Err(Error::format(format!(
                        "row {row}: the network's logits are not finite, so that no token can be drawn"
                    )));
                }
                *token = drawn;
            }
            Ok(())
        })
    }

    /// Appends a token to each of these slots and hands the results on, in parts of rows: with `by` the tokens drawn, else
    /// logits.
    fn steps(
        &mut self,
        slots: &[usize],
        tokens: &[Token],
        by: Option<Draws<'_>>,
        mut done: impl FnMut(&Device, &mut Download, &Workspace, &Logits, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let network = self.network.clone();
        let config = network.config();
        let Some(cache) = &mut self.cache else { return Err(Error::invalid("a decode must begin before it steps")) };
        cache.check(config, slots, tokens)?;
        let mut begin = 0;
        while begin < slots.len() {
            self.fit_space(1, self.graphs.rows(slots.len() - begin))?;
            let Self { device, space: Some(space), cache: Some(cache), logits: Some(logits), .. } = self else {
                return Err(Error::invalid("a decode has no room for its step"));
            };
            let most = space.rows.min(logits.rows);
            let part = begin..begin + (slots.len() - begin).min(most);
            // With rows that are nobody's behind those of the part.
            let rows = self.graphs.rows(part.len()).min(most);
            let spare = rows - part.len();

            let in_slots = &slots[part.clone()];
            let of_draws = by.iter().flat_map(|by| {
                let draws = by.of_rows[part.clone()].iter().map(|draw| draw.unwrap_or(ANY)).chain(repeat_n(ANY, spare));
                by.rule.words().into_iter().chain(draws.flat_map(Draw::words))
            });
            let given = tokens[part.clone()].iter().copied().chain(repeat_n(0, spare));
            let positions = in_slots.iter().map(|&slot| cache.len(slot) as u32).chain(repeat_n(0, spare));
            let places = in_slots.iter().map(|&slot| slot as u32).chain(repeat_n(NO_SLOT, spare));
            let banned = by.map_or(&[][..], |by| by.rule.banned);
            let first = if by.is_some() { RULE_WORDS + 4 * rows } else { 0 };
            let words = first + 3 * rows + banned.len();
            let values = of_draws.chain(given).chain(positions).chain(places).chain(banned.iter().copied());
            self.upload.run(device, &mut space.input, words, values)?;

            let [given, positions, places, banned] = [0, 1, 2, 3].map(|i| space.input.at(4 * (first + i * rows)));
            let launches = || {
                network.forward(device, space, rows, [given, positions], |layer| {
                    let (qkv, out) = (space.qkv.begin(), space.attention.begin());
                    let lists = [places, positions];
                    network.kernels().attend_cached(device, config, rows, qkv, lists, cache.of_layer(layer), out)
                })?;
                network.final_norm(device, space, rows)?;
                network.logits(device, space, [0, rows], logits.buffer.begin())?;
                if by.is_none() {
                    return Ok(());
                }
                let [rule, draws] = [0, RULE_WORDS].map(|word| space.input.at(4 * word));
                let places = [logits.buffer.begin(), rule, banned, draws, drawn(space).begin()];
                network.kernels().sample(device, rows, config.vocab_size, places)
            };
            let key = Key { work: if by.is_some() { Work::Draws } else { Work::Logits }, rows };
            let buffers = [space.input.id(), cache.id(), logits.buffer.id()];
            self.graphs.run(device, key, buffers, launches)?;
            done(device, &mut self.download, space, logits, part.clone())?;
            cache.grow(&slots[part.clone()]);
            begin = part.end;
        }
        Ok(())
    }
}

/// Where drawn tokens go: attention is done, so that its buffer is free.
fn drawn(space: &Workspace) -> &super::Buffer {
    &space.attention
}
