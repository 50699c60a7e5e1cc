//! Keys and values of the flows of a decode.
//!
//! Per layer one buffer `[slots, heads, capacity, head_dim]`: the graph reads its first rows as they lie, so the slots
//! of a step must lie in the first rows. Flows begin at position 0 of their row whatever their age; a mask tells the
//! graph how far each goes. The capacity follows the longest flow.

use crate::error::{Error, Kind, Result};
use crate::gpt2::Config;
use std::iter::once;

/// The capacity grows and shrinks by this many positions: few moves, and little attention to nothing.
const STRIDE: usize = 16;

/// One layer's keys or values.
type Buffer = Vec<f32>;

/// The cache of one session.
pub struct Cache {
    heads: usize,
    head_dim: usize,
    capacity: usize,
    keys: Vec<Buffer>,
    values: Vec<Buffer>,
    /// Where a buffer is laid out anew.
    spare: Buffer,
    /// Which row a slot has, and which slot a row.
    row_of: Vec<usize>,
    slot_of: Vec<usize>,
    /// Tokens of each slot's flow so far.
    lengths: Vec<usize>,
}

impl Cache {
    /// A cache without slots.
    pub fn new(config: &Config) -> Self {
        let buffers = || vec![Buffer::new(); config.n_layer];
        Self {
            heads: config.n_head,
            head_dim: config.head_dim(),
            capacity: 0,
            keys: buffers(),
            values: buffers(),
            spare: Buffer::new(),
            row_of: Vec::new(),
            slot_of: Vec::new(),
            lengths: Vec::new(),
        }
    }

    /// Starts anew with `slots` empty slots; the memory is kept.
    pub fn reset(&mut self, slots: usize) {
        self.capacity = 0;
        self.keys.iter_mut().chain(&mut self.values).for_each(Vec::clear);
        self.row_of.clear();
        self.row_of.extend(0..slots);
        self.slot_of.clone_from(&self.row_of);
        self.lengths.clear();
        self.lengths.resize(slots, 0);
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Positions that every row has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens in `slot`.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// The slot that lies in `row`.
    pub fn slot_of(&self, row: usize) -> usize {
        self.slot_of[row]
    }

    /// The row in which `slot` lies.
    pub fn row_of(&self, slot: usize) -> usize {
        self.row_of[slot]
    }

    /// A layer's keys and values in the first `rows` rows.
    pub fn past(&self, layer: usize, rows: usize) -> [&[f32]; 2] {
        let n = rows * self.row_size();
        [&self.keys[layer][..n], &self.values[layer][..n]]
    }

    /// Moves `slots` (each once) into the first rows, in any order, touching as few rows as can be.
    pub fn gather(&mut self, slots: &[usize]) {
        let n = slots.len();
        let mut wanted = vec![false; self.slots()];
        slots.iter().for_each(|&slot| wanted[slot] = true);
        let mut free: Vec<usize> = (0..n).filter(|&row| !wanted[self.slot_of[row]]).collect();
        for &slot in slots {
            let row = self.row_of[slot];
            if row >= n
                && let Some(target) = free.pop()
            {
                self.swap_rows(target, row);
            }
        }
    }

    /// Makes room for one more token in every slot, and gives back what no flow needs any more.
    pub fn fit(&mut self) -> Result<()> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let needed = (longest + 1).next_multiple_of(STRIDE);
        if needed > self.capacity || needed * 2 <= self.capacity {
            self.set_capacity(needed)?;
        }
        Ok(())
    }

    /// Appends one position to the first rows' flows. `keys` and `values` are `[rows, heads, head_dim]` per layer.
    pub fn append(&mut self, rows: usize, keys: &[Vec<f32>], values: &[Vec<f32>]) {
        let (heads, width, capacity) = (self.heads, self.head_dim, self.capacity);
        let buffers = self.keys.iter_mut().zip(keys).chain(self.values.iter_mut().zip(values));
        for (buffer, new) in buffers {
            for (i, vector) in new.chunks_exact(width).take(rows * heads).enumerate() {
                let at = (i * capacity + self.lengths[self.slot_of[i / heads]]) * width;
                buffer[at..at + width].copy_from_slice(vector);
            }
        }
        for &slot in &self.slot_of[..rows] {
            self.lengths[slot] += 1;
        }
    }

    /// Empties a slot. Its row becomes 0: masked positions are read and weighted with 0, so they must be finite
    /// whatever the flow before had there.
    pub fn clear(&mut self, slot: usize) {
        let (row, size) = (self.row_of[slot], self.row_size());
        for buffer in self.keys.iter_mut().chain(&mut self.values) {
            if let Some(row) = buffer.get_mut(row * size..(row + 1) * size) {
                row.fill(0.0);
            }
        }
        self.lengths[slot] = 0;
    }

    /// Values of one row of a buffer.
    fn row_size(&self) -> usize {
        self.heads * self.capacity * self.head_dim
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        let size = self.row_size();
        let (low, high) = (a.min(b), a.max(b));
        if low == high {
            return;
        }
        for buffer in self.keys.iter_mut().chain(&mut self.values) {
            let (head, tail) = buffer.split_at_mut(high * size);
            head[low * size..(low + 1) * size].swap_with_slice(&mut tail[..size]);
        }
        self.slot_of.swap(a, b);
        for row in [a, b] {
            self.row_of[self.slot_of[row]] = row;
        }
    }

    /// Lays every buffer out anew. On error nothing has changed.
    fn set_capacity(&mut self, capacity: usize) -> Result<()> {
        let (heads, width, old) = (self.heads, self.head_dim, self.capacity);
        let slots = self.slots();
        let no_room = || {
            let message = format!("no room to decode {slots} flows of {capacity} tokens side by side");
            Error::new(Kind::NoMemory, message)
        };
        let size = (slots * heads).checked_mul(capacity * width).ok_or_else(no_room)?;
        // All of the memory first: moving half of the layers and failing would lose flows.
        for buffer in self.keys.iter_mut().chain(&mut self.values).chain(once(&mut self.spare)) {
            buffer.try_reserve_exact(size.saturating_sub(buffer.len())).map_err(|_| no_room())?;
        }
        for buffer in self.keys.iter_mut().chain(&mut self.values) {
            self.spare.clear();
            self.spare.resize(size, 0.0);
            for (row, &slot) in self.slot_of.iter().enumerate() {
                let n = self.lengths[slot] * width;
                for i in row * heads..(row + 1) * heads {
                    self.spare[i * capacity * width..][..n].copy_from_slice(&buffer[i * old * width..][..n]);
                }
            }
            std::mem::swap(buffer, &mut self.spare);
        }
        self.capacity = capacity;
        Ok(())
    }
}
