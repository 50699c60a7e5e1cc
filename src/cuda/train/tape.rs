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
    /// Copies the rows to the device and makes room for them.
    pub fn prepare(&mut self, device: &Device, config: &Config, precision: Precision) -> Result<()> {
        let (n, d, heads, w) = (self.rows.n, config.n_embd, config.n_head, width(precision));
        let what = format!("a batch of {n} tokens");
        self.input.fit(device, 4 * self.rows.words.len(), &what)?.write(device, &self.rows.words, &what)?;

        let [stream, narrow, of_heads] = [aligned(4 * n * d), aligned(w * n * d), aligned(4 * n * heads)];
        let layer = 2 * stream + 3 * narrow + aligned(3 * w * n * d) + of_heads + aligned(8 * w * n * d);
        let kept = self.kept.fit(device, config.n_layer * layer + stream + narrow, &what)?.begin();
        let segments = self.rows.segments.len * d;
        let parts = Kernels::parts(n, d, config.vocab_size).max(segments);
        let bytes =
            [narrow, aligned(3 * w * n * d), stream, stream, stream, aligned(8 * n), of_heads, aligned(4 * parts)];
        let mut at = self.scratch.fit(device, bytes.iter().sum(), &what)?.begin();
        let [y, d_qkv, d_hidden, dh, dx, stats, delta, parts] = bytes.map(|bytes| {
            at += bytes as u64;
            at - bytes as u64
        });
        let x = kept + (config.n_layer * layer) as u64;
        let hidden = x + stream as u64;
        self.places =
            Places { n, d, heads, width: w, kept, layer, x, hidden, y, d_qkv, d_hidden, dh, dx, stats, delta, parts };
        Ok(())
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

    /// Rows whose logits are computed at once.
    pub fn wave_rows(&self, stride: usize) -> usize {
        (WAVE_LOGITS / stride).clamp(1, self.rows.n.max(1))
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
