//! One worker's way through a network on a GPU: whole sequences here, decoding in `decode.rs`.

use super::budget::Share;
use super::buffer::Buffer;
use super::cache::Cache;
use super::graphs::{Graphs, Key, Work};
use super::network::Network;
use super::pinned::{Download, Upload};
use super::workspace::Workspace;
use crate::cuda::device::Device;
use crate::error::{Error, Kind, Result};
use crate::gpt2::{Config, check_sequences};
use crate::packet::Ragged;
use crate::tokens::Token;
use std::iter::repeat_n;
use std::ops::Range;
use std::sync::Arc;

/// Flows decoded side by side, and rows whose logits are computed at once, where there is memory.
const MAX_SLOTS: usize = 8192;
const MAX_LOGIT_ROWS: usize = 8192;

/// A stream, buffers and caches; belongs to one thread at a time.
pub struct Lane {
    pub(super) network: Arc<Network>,
    pub(super) device: Arc<Device>,
    pub(super) space: Option<Workspace>,
    pub(super) cache: Option<Cache>,
    pub(super) logits: Option<Logits>,
    pub(super) graphs: Graphs,
    pub(super) upload: Upload,
    pub(super) download: Download,
}

/// Room for the logits of `rows` rows.
pub(super) struct Logits {
    pub(super) buffer: Buffer,
    pub(super) rows: usize,
    _share: Share,
}

/// Sequences whose tokens are on the device.
struct Part {
    sequences: Range<usize>,
    /// Rows of their tokens, and as many as are computed.
    tokens: usize,
    rows: usize,
    /// Where tokens, positions, and the sequences' first rows are listed.
    input: [u64; 2],
    begins: u64,
}

impl Lane {
    /// One that replays its launches, if it `may`.
    pub(super) fn new(network: Arc<Network>, device: Arc<Device>, may: bool) -> Self {
        let (upload, download) = (Upload::default(), Download::default());
        Self { network, device, space: None, cache: None, logits: None, graphs: Graphs::new(may), upload, download }
    }

    /// How often launches were replayed.
    #[cfg(test)]
    pub(in crate::cuda) fn replays(&self) -> usize {
        self.graphs.replays
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
        let network = self.network.clone();
        let mut begin = 0;
        while begin < n {
            let part = self.put(sequences, begin)?;
            let Self { device, space: Some(space), .. } = self else { return Err(no_room()) };
            let key = Key { work: Work::Embed { sequences: part.sequences.len(), first }, rows: part.rows };
            let logits = self.logits.as_ref().map_or(0, |logits| logits.buffer.id());
            let buffers = [space.input.id(), self.cache.as_ref().map_or(0, Cache::id), logits];
            self.graphs.run(device, key, buffers, || {
                read_part(&network, device, space, &part)?;
                network.pool(device, space, part.sequences.len(), first, part.begins)
            })?;
            let out = &mut out[part.sequences.start * d..part.sequences.end * d];
            self.download.run(device, &space.inner, bytemuck::cast_slice_mut(out), "embeddings")?;
            begin = part.sequences.end;
        }
        Ok(())
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
        let (network, offsets) = (self.network.clone(), sequences.offsets());
        let (mut host, mut begin) = (Vec::new(), 0);
        while begin < sequences.len() {
            let part = self.put(sequences, begin)?;
            let Self { device, space: Some(space), logits: Some(logits), .. } = self else { return Err(no_room()) };
            read_part(&network, device, space, &part)?;
            network.final_norm(device, space, part.tokens)?;
            let first = offsets[begin] as usize;
            for done in (0..part.tokens).step_by(logits.rows) {
                let rows = logits.rows.min(part.tokens - done);
                network.logits(device, space, [done, rows], logits.buffer.begin())?;
                host.resize(rows * v, 0.0f32);
                self.download.run(device, &logits.buffer, bytemuck::cast_slice_mut(&mut host), "logits")?;
                for (place, row) in (first + done..).zip(host.chunks_exact(v)) {
                    out[place] = value(place, row);
                }
            }
            begin = part.sequences.end;
        }
        Ok(())
    }

    /// Puts the tokens of sequences from number `begin` on on the device, as many as the memory holds.
    fn put(&mut self, sequences: Ragged<'_, Token>, begin: usize) -> Result<Part> {
        let offsets = sequences.offsets();
        let base = offsets[begin] as usize;
        let wanted = self.graphs.rows(sequences.total() - base);
        self.fit_space(self.network.config().n_positions, wanted)?;
        let Some(space) = &mut self.space else { return Err(no_room()) };
        let fits = offsets[begin..].partition_point(|&end| end as usize - base <= space.rows) - 1;
        let part = begin..begin + fits;
        let tokens = offsets[part.end] as usize - base;
        // With rows behind those of the part that are sequences of one token.
        let rows = self.graphs.rows(tokens).min(space.rows);
        let spare = rows - tokens;
        let given = sequences.values()[base..base + tokens].iter().copied().chain(repeat_n(0, spare));
        let positions = part.clone().flat_map(|i| 0..sequences.row(i).len() as u32).chain(repeat_n(0, spare));
        let begins = offsets[part.start..=part.end].iter().map(|&at| (at as usize - base) as u32);
        let words = 2 * rows + fits + 1;
        self.upload.run(&self.device, &mut space.input, words, given.chain(positions).chain(begins))?;
        let [given, positions, begins] = [0, 1, 2].map(|i| space.input.at(4 * i * rows));
        Ok(Part { sequences: part, tokens, rows, input: [given, positions], begins })
    }

    /// Makes the workspace large enough for `wanted` rows or for as many as may be, at least `least`.
    pub(super) fn fit_space(&mut self, least: usize, wanted: usize) -> Result<()> {
        let (config, precision) = (self.network.config(), self.network.precision());
        let rows = [least, wanted];
        Workspace::fit(&mut self.space, &self.device, self.network.budget(), config, precision, rows).map(drop)
    }

    /// Makes room for the logits of `rows` rows, or of as many as may be.
    pub(super) fn fit_logits(&mut self, rows: usize) -> Result<()> {
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

/// Runs the network over the sequences of `part`.
fn read_part(network: &Network, device: &Device, space: &Workspace, part: &Part) -> Result<()> {
    let places = [space.qkv.begin(), part.input[1], space.attention.begin()];
    let attend = |_| network.kernels().attend(device, network.config(), part.rows, places);
    network.forward(device, space, part.rows, part.input, attend)
}

fn no_room() -> Error {
    Error::new(Kind::Runtime, "CUDA: there is no room for a batch")
}

impl Drop for Lane {
    /// What still runs reads the weights, which may be freed next.
    fn drop(&mut self) {
        let _ = self.device.synchronize();
    }
}
