//! One worker's way through a network on a GPU.

use super::budget::Share;
use super::buffer::Buffer;
use super::cache::Cache;
use super::network::Network;
use super::workspace::{INPUT_WORDS, Workspace};
use crate::cuda::device::Device;
use crate::error::{Error, Kind, Result};
use crate::gpt2::{Config, check_sequences};
use crate::packet::Ragged;
use crate::sampling::Sampling;
use crate::tokens::{Token, Vocabulary};
use std::ops::Range;
use std::sync::Arc;

/// What a kernel gives where no token can be drawn.
const NO_TOKEN: Token = Token::MAX;

/// Flows decoded side by side, and rows whose logits are computed at once, where there is memory.
const MAX_SLOTS: usize = 8192;
const MAX_LOGIT_ROWS: usize = 8192;

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

/// A stream, buffers and caches; belongs to one thread at a time.
pub struct Lane {
    network: Arc<Network>,
    device: Arc<Device>,
    space: Option<Workspace>,
    cache: Option<Cache>,
    logits: Option<Logits>,
    /// What goes to the device, word by word.
    staging: Vec<u32>,
}

/// Room for the logits of `rows` rows.
struct Logits {
    buffer: Buffer,
    rows: usize,
    _share: Share,
}

impl Lane {
    pub(super) fn new(network: Arc<Network>, device: Arc<Device>) -> Self {
        Self { network, device, space: None, cache: None, logits: None, staging: Vec::new() }
    }

    /// Bytes of a row's logits.
    fn bytes_of_logits(config: &Config) -> usize {
        4 * config.vocab_size
    }

    /// Flows that are best decoded side by side: as many as take half of the memory that no other lane has, at least one.
    pub fn slots(&self) -> usize {
        let (config, precision) = (self.network.config(), self.network.precision());
        let (cache, logits) = (Cache::each(config, precision), Self::bytes_of_logits(config));
        let own = self.cache.as_ref().map_or(0, |own| own.slots() * cache)
            + self.logits.as_ref().map_or(0, |own| own.rows * logits);
        let each = cache + logits + Workspace::each(config, precision);
        ((self.network.budget().left() + own) / 2 / each).clamp(1, MAX_SLOTS)
    }

    /// Embeds each sequence: the mean of its last hidden states over positions `first..len`. `out` is row-major
    /// `[sequences.len(), n_embd]`. More sequences than the memory holds are done in several batches.
    pub fn embed(&mut self, sequences: Ragged<'_, Token>, first: usize, out: &mut [f32]) -> Result<()> {
        let d = self.network.config().n_embd;
        let n = sequences.len();
        if out.len() != n * d {
            return Err(Error::invalid(format!("{} values are given for {n} embeddings of {d}", out.len())));
        }
        check_sequences(self.network.config(), sequences)?;
        if let Some(i) = sequences.rows().position(|row| row.len() <= first) {
            let len = sequences.row(i).len();
            return Err(Error::invalid(format!("sequence {i} has {len} tokens; its mean begins at token {first}")));
        }
        self.for_each_part(sequences, |lane, space, part, begins| {
            lane.network.pool(&lane.device, space, part.len(), first, begins)?;
            space.inner.read(&lane.device, &mut out[part.start * d..part.end * d], "embeddings")
        })
    }

    /// Gives the place of each token and the logits after it to `value`, and what comes back to `out`.
    pub fn read(
        &mut self,
        sequences: Ragged<'_, Token>,
        value: &dyn Fn(usize, &[f32]) -> f32,
        out: &mut [f32],
    ) -> Result<()> {
        check_sequences(self.network.config(), sequences)?;
        let v = self.network.config().vocab_size;
        self.fit_logits(sequences.total())?;
        let mut host = Vec::new();
        self.for_each_part(sequences, |lane, space, part, _| {
            let Some(logits) = &lane.logits else { return Ok(()) };
            let offsets = sequences.offsets();
            let [first, end] = [part.start, part.end].map(|i| offsets[i] as usize);
            lane.network.final_norm(&lane.device, space, end - first)?;
            for begin in (first..end).step_by(logits.rows) {
                let rows = logits.rows.min(end - begin);
                lane.network.logits(&lane.device, space, [begin - first, rows], logits.buffer.begin())?;
                host.resize(rows * v, 0.0);
                logits.buffer.read(&lane.device, &mut host, "logits")?;
                for (i, row) in host.chunks_exact(v).enumerate() {
                    out[begin + i] = value(begin + i, row);
                }
            }
            Ok(())
        })
    }

    /// Runs the network over whole sequences, as many at a time as the memory holds, and hands each part to `done`: its
    /// sequences, and where on the device their first rows are listed.
    fn for_each_part(
        &mut self,
        sequences: Ragged<'_, Token>,
        mut done: impl FnMut(&Self, &Workspace, Range<usize>, u64) -> Result<()>,
    ) -> Result<()> {
        let network = self.network.clone();
        let (config, kernels) = (network.config(), network.kernels());
        let offsets = sequences.offsets();
        let mut begin = 0;
        while begin < sequences.len() {
            let base = offsets[begin] as usize;
            let mut space = self.take_space(config.n_positions, sequences.total() - base)?;
            let fits = offsets[begin..].partition_point(|&end| end as usize - base <= space.rows) - 1;
            let part = begin..begin + fits;
            let rows = offsets[part.end] as usize - base;

            self.staging.clear();
            self.staging.extend_from_slice(&sequences.values()[base..base + rows]);
            self.staging.extend(part.clone().flat_map(|i| 0..sequences.row(i).len() as u32));
            self.staging.extend(offsets[part.start..=part.end].iter().map(|&at| (at as usize - base) as u32));
            space.input.write(&self.device, &self.staging, "tokens")?;
            let [positions, begins] = [rows, 2 * rows].map(|word| space.input.at(4 * word));

            let attend = |_| {
                let places = [space.qkv.begin(), positions, space.attention.begin()];
                kernels.attend(&self.device, config, rows, places)
            };
            network.forward(&self.device, &space, rows, [space.input.begin(), positions], attend)?;
            done(self, &space, part.clone(), begins)?;
            begin = part.end;
            self.space = Some(space);
        }
        Ok(())
    }

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
        self.fit_logits(slots)
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
        self.steps(slots, tokens, &[], &[], |lane, _, rows, on_device| {
            on_device.read(&lane.device, &mut logits[rows.start * v..rows.end * v], "logits")
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
        self.steps(slots, &given, draws, rule.banned, |lane, space, rows, logits| {
            // Attention is done, so that its buffer is free.
            let drawn = &space.attention;
            // The draws come first of what the host gives, what is banned last.
            let banned = space.input.at(4 * (INPUT_WORDS * rows.len()));
            let places = [logits.begin(), banned, space.input.begin(), drawn.begin()];
            lane.network.kernels().sample(&lane.device, rows.len(), v, rule, places)?;
            host.resize(rows.len(), NO_TOKEN);
            drawn.read(&lane.device, &mut host, "tokens")?;
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

    /// Appends a token to each of these slots and hands the logits on, in parts of rows.
    fn steps(
        &mut self,
        slots: &[usize],
        tokens: &[Token],
        draws: &[Option<Draw>],
        banned: &[u32],
        mut done: impl FnMut(&Self, &Workspace, Range<usize>, &Buffer) -> Result<()>,
    ) -> Result<()> {
        let network = self.network.clone();
        let (config, kernels) = (network.config(), network.kernels());
        let Some(mut cache) = self.cache.take() else {
            return Err(Error::invalid("a decode must begin before it steps"));
        };
        let mut steps = || {
            cache.check(config, slots, tokens)?;
            let mut begin = 0;
            while begin < slots.len() {
                let mut space = self.take_space(1, slots.len() - begin)?;
                let Some(logits) = &self.logits else { return Err(Error::invalid("a decode has no room for logits")) };
                let rows = (slots.len() - begin).min(space.rows).min(logits.rows);
                let part = begin..begin + rows;
                self.staging.clear();
                for draw in draws.get(part.clone()).unwrap_or_default() {
                    // Where there is none, the kernel draws all the same, and nobody looks.
                    let draw = draw.unwrap_or(Draw { flow: 0, step: 0, may_end: true });
                    let [low, high] = [draw.flow as u32, (draw.flow >> 32) as u32];
                    self.staging.extend([low, high, draw.step, u32::from(draw.may_end)]);
                }
                let first = self.staging.len();
                self.staging.extend_from_slice(&tokens[part.clone()]);
                self.staging.extend(slots[part.clone()].iter().map(|&slot| cache.len(slot) as u32));
                self.staging.extend(slots[part.clone()].iter().map(|&slot| slot as u32));
                self.staging.extend_from_slice(banned);
                space.input.write(&self.device, &self.staging, "tokens")?;
                let [given, positions, in_slots] = [0, 1, 2].map(|i| space.input.at(4 * (first + i * rows)));

                network.forward(&self.device, &space, rows, [given, positions], |layer| {
                    let (qkv, out) = (space.qkv.begin(), space.attention.begin());
                    let lists = [in_slots, positions];
                    kernels.attend_cached(&self.device, config, rows, qkv, lists, cache.of_layer(layer), out)
                })?;
                network.final_norm(&self.device, &space, rows)?;
                network.logits(&self.device, &space, [0, rows], logits.buffer.begin())?;
                done(self, &space, part.clone(), &logits.buffer)?;
                cache.grow(&slots[part]);
                begin += rows;
                self.space = Some(space);
            }
            Ok(())
        };
        let result = steps();
        self.cache = Some(cache);
        result
    }

    /// The workspace, with room for `wanted` rows or as many as may be; to be put back.
    fn take_space(&mut self, least: usize, wanted: usize) -> Result<Workspace> {
        let (config, precision) = (self.network.config(), self.network.precision());
        let mut space = self.space.take();
        Workspace::fit(&mut space, &self.device, self.network.budget(), config, precision, [least, wanted])?;
        space.ok_or_else(|| Error::new(Kind::Runtime, "CUDA: there is no room for a batch"))
    }

    /// Makes room for the logits of `rows` rows, or of as many as may be.
    fn fit_logits(&mut self, rows: usize) -> Result<()> {
        let rows = rows.clamp(1, MAX_LOGIT_ROWS);
        if self.logits.as_ref().is_some_and(|logits| logits.rows >= rows) {
            return Ok(());
        }
        let has = self.logits.as_ref().map_or(0, |logits| logits.rows);
        let each = Self::bytes_of_logits(self.network.config());
        let most = (self.network.budget().left() / 2 / each).max(1);
        let rows = rows.min(most);
        if rows <= has {
            return Ok(());
        }
        self.logits = None;
        let what = format!("the logits of {rows} tokens");
        let share = self.network.budget().take(rows * each, &what)?;
        self.logits = Some(Logits { buffer: Buffer::zeros(&self.device, rows * each, &what)?, rows, _share: share });
        Ok(())
    }
}

impl Drop for Lane {
    /// What still runs reads the weights, which may be freed next.
    fn drop(&mut self) {
        let _ = self.device.synchronize();
    }
}
