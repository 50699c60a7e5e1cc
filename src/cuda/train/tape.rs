//! What a forward pass keeps for the backward pass, and what lies between their kernels.

use super::kernels::Kernels;
use super::rows::{List, Rows};
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::cuda::gpt2::{Buffer, width};
use crate::error::Result;
use crate::gpt2::{Config, Masks};

/// Logits held at a time: 256 MiB.
const WAVE_LOGITS: usize = 1 << 26;

/// The shape of a network with its head, which what a batch takes follows from.
#[derive(Clone, Copy)]
pub(super) struct Net<'a> {
    pub config: &'a Config,
    pub precision: Precision,
    pub n_labels: usize,
}

/// Bytes that a batch takes, by room.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    input: usize,
    /// A layer's activations, which lie one layer after another, the stream's end and its norm behind them.
    layer: usize,
    kept: usize,
    /// What the scratch room is divided into, in the order of [`Places`].
    scratch: [usize; 8],
    logits: usize,
    head: usize,
    losses: usize,
}

impl Net<'_> {
    /// Columns of a row of logits, which begins at a multiple of 16 bytes.
    pub fn stride(self) -> usize {
        self.config.vocab_size.next_multiple_of(8)
    }

    /// Rows whose logits are computed at once, of a batch of `n`.
    pub fn wave_rows(self, n: usize) -> usize {
        (WAVE_LOGITS / self.stride()).clamp(1, n.max(1))
    }

    /// What `n` rows of `sequences` sequences take. More of either never take less.
    pub fn bytes(self, n: usize, sequences: usize) -> Bytes {
        let Config { n_embd: d, n_head: heads, n_layer, vocab_size, n_positions, .. } = *self.config;
        let (w, labels) = (width(self.precision), self.n_labels);
        let [stream, narrow, of_heads] = [aligned(4 * n * d), aligned(w * n * d), aligned(4 * n * heads)];
        let qkv = aligned(3 * w * n * d);
        let layer = 2 * stream + 3 * narrow + qkv + of_heads + aligned(8 * w * n * d);
        let [segments, words] = Rows::most(n, sequences, vocab_size + n_positions);
        let parts = Kernels::parts(n, d, vocab_size).max(segments * d);
        // Of bf16, gradients of logits lie behind these.
        let each_logit = if w == 4 { 4 } else { 4 + w };
        Bytes {
            input: 4 * words,
            layer,
            kept: n_layer * layer + stream + narrow,
            scratch: [narrow, qkv, stream, stream, stream, aligned(8 * n), of_heads, aligned(4 * parts)],
            logits: each_logit * self.wave_rows(n) * self.stride(),
            head: 4 * (sequences * (labels + 2 * d) + sequences.div_ceil(256) * labels),
            losses: (8 * n).max(4 * sequences * (1 + labels)),
        }
    }
}

impl Bytes {
    /// All of them.
    pub fn total(self) -> usize {
        self.input + self.kept + self.scratch.iter().sum::<usize>() + self.logits + self.head + self.losses
    }
}

/// A buffer that grows; what it held is lost then.
#[derive(Default)]
pub(super) struct Room {
    buffer: Option<Buffer>,
    bytes: usize,
}

impl Room {
    /// Where `bytes` bytes may lie.
    pub fn fit(&mut self, device: &Device, bytes: usize, what: &str) -> Result<&mut Buffer> {
        let fits = self.bytes >= bytes;
        let buffer = match self.buffer.take() {
            Some(buffer) if fits => buffer,
            old => {
                drop(old);
                self.bytes = 0;
                Buffer::zeros(device, bytes, what)?
            }
        };
        self.bytes = self.bytes.max(bytes);
        Ok(self.buffer.insert(buffer))
    }

    /// Where it begins; 0 if nothing has been asked for.
    pub fn begin(&self) -> u64 {
        self.buffer.as_ref().map_or(0, Buffer::begin)
    }

    /// Reads from its beginning.
    pub fn read<T: bytemuck::Pod>(&self, device: &Device, values: &mut [T], what: &str) -> Result<()> {
        match &self.buffer {
            Some(buffer) => buffer.read(device, values, what),
            None => Ok(()),
        }
    }
}

/// Where a layer's activations lie.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    /// The residual stream before attention and before the MLP, `[rows, d]` f32.
    pub x: u64,
    pub middle: u64,
    /// Their norms `[rows, d]`.
    pub h: u64,
    pub h_middle: u64,
    /// Queries, keys and values `[rows, 3d]`.
    pub qkv: u64,
    /// `[rows, heads]` f32.
    pub lse: u64,
    /// What attention gives `[rows, d]`.
    pub attention: u64,
    /// The MLP after `gelu`, and behind that before it, `[rows, 4d]` each.
    pub inner: u64,
    pub pre: u64,
}

/// The activations and gradient scratch of one ragged batch. Memory grows to the largest batch seen and is kept.
#[derive(Default)]
pub(super) struct Tape {
    pub rows: Rows,
    pub masks: Option<Masks>,
    input: Room,
    kept: Room,
    scratch: Room,
    pub logits: Room,
    pub head: Room,
    pub losses: Room,
    places: Places,
}

/// Addresses within the rooms; `n` is the batch's rows.
#[derive(Clone, Copy, Default)]
pub(super) struct Places {
    n: usize,
    d: usize,
    heads: usize,
    width: usize,
    kept: u64,
    layer: usize,
    /// The end of the residual stream, and its norm.
    pub x: u64,
    pub hidden: u64,
    /// A branch's output, later its gradient, `[rows, d]`.
    pub y: u64,
    /// The gradient of queries, keys and values `[rows, 3d]`.
    pub d_qkv: u64,
    /// Gradients in f32 `[rows, d]`: of the hidden states, of a norm's output or of what attention gives, of the stream.
    pub d_hidden: u64,
    pub dh: u64,
    pub dx: u64,
    /// `[rows, 2]` and `[rows, heads]` f32.
    pub stats: u64,
    pub delta: u64,
    /// Parts of sums.
    pub parts: u64,
}

/// Bytes, so that what follows begins at a multiple of 256.
fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

impl Tape {
    /// Makes room for the rows, all that they take until they are done with, and copies them to the device.
    pub fn prepare(&mut self, device: &Device, net: Net<'_>) -> Result<()> {
        let (n, sequences) = (self.rows.n, self.rows.begins.len - 1);
        let Bytes { input, layer, kept, scratch, logits, head, losses } = net.bytes(n, sequences);
        let what = format!("a batch of {n} tokens");
        for (room, bytes) in [(&mut self.logits, logits), (&mut self.head, head), (&mut self.losses, losses)] {
            room.fit(device, bytes, &what)?;
        }
        let kept = self.kept.fit(device, kept, &what)?.begin();
        let mut at = self.scratch.fit(device, scratch.iter().sum(), &what)?.begin();
        self.input.fit(device, input, &what)?.write(device, &self.rows.words, &what)?;
        let [y, d_qkv, d_hidden, dh, dx, stats, delta, parts] = scratch.map(|bytes| {
            at += bytes as u64;
            at - bytes as u64
        });
        let (d, heads, width) = (net.config.n_embd, net.config.n_head, width(net.precision));
        let x = kept + (net.config.n_layer * layer) as u64;
        let hidden = x + aligned(4 * n * d) as u64;
        self.places =
            Places { n, d, heads, width, kept, layer, x, hidden, y, d_qkv, d_hidden, dh, dx, stats, delta, parts };
        Ok(())
    }

    /// Gives all memory back.
    pub fn give_back(&mut self, device: &Device) -> Result<()> {
        *self = Self::default();
        // Only now it is free for others, too.
        device.synchronize()
    }

    /// Sets the gradient of the hidden states to zero.
    pub fn clear_d_hidden(&mut self, device: &Device) -> Result<()> {
        let Places { n, d, d_hidden, .. } = self.places;
        match &mut self.scratch.buffer {
            Some(scratch) => scratch.clear(device, (d_hidden - scratch.begin()) as usize, 4 * n * d),
            None => Ok(()),
        }
    }

    pub fn places(&self) -> Places {
        self.places
    }

    /// Where a list of the rows lies.
    pub fn list(&self, list: List) -> u64 {
        self.input.begin() + 4 * list.begin as u64
    }
}

impl Places {
    pub fn layer(&self, layer: usize) -> Layer {
        let Self { n, d, heads, width: w, .. } = *self;
        let mut at = self.kept + (layer * self.layer) as u64;
        let mut next = |bytes: usize| {
            at += aligned(bytes) as u64;
            at - aligned(bytes) as u64
        };
        let [x, middle] = [4 * n * d; 2].map(&mut next);
        let [h, h_middle, attention] = [w * n * d; 3].map(&mut next);
        let (qkv, lse, inner) = (next(3 * w * n * d), next(4 * n * heads), next(8 * w * n * d));
        Layer { x, middle, h, h_middle, qkv, lse, attention, inner, pre: inner + (4 * w * n * d) as u64 }
    }
}
