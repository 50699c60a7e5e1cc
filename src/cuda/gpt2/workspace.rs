//! What lies between two kernels: buffers for as many rows as the budget gives.

use super::budget::{Budget, Share};
use super::buffer::Buffer;
use super::width;
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::error::Result;
use crate::gpt2::Config;
use std::sync::Arc;

/// Most rows at once: enough to fill any GPU, and no index of a kernel passes 32 bits.
const MAX_ROWS: usize = 1 << 17;

/// Words of the rule that tokens are drawn by, before all rows.
pub(super) const RULE_WORDS: usize = 8;

/// Words of a row's input: a draw (four), the token, its position, its slot. One more ends the list of sequences, and
/// behind all lies a bit for each token of the vocabulary.
pub(super) const INPUT_WORDS: usize = 7;

/// Buffers for `rows` rows.
pub(super) struct Workspace {
    pub rows: usize,
    /// What the host gives: see [`RULE_WORDS`] and [`INPUT_WORDS`].
    pub input: Buffer,
    /// The residual stream `[rows, d]` f32.
    pub x: Buffer,
    /// Normalised rows `[rows, d]`.
    pub h: Buffer,
    /// Queries, keys and values `[rows, 3d]`.
    pub qkv: Buffer,
    /// What attention gives `[rows, d]`.
    pub attention: Buffer,
    /// The feed-forward layer `[rows, 4d]`, and in the end, when that is done, embeddings `[sequences, d]` f32.
    pub inner: Buffer,
    _share: Share,
}

impl Workspace {
    /// Bytes that a row takes.
    pub(super) fn each(config: &Config, precision: Precision) -> usize {
        4 * INPUT_WORDS + config.n_embd * (4 + 9 * width(precision))
    }

    /// Bytes that any number of rows takes besides.
    fn rest(config: &Config) -> usize {
        4 * (RULE_WORDS + 1 + config.vocab_size.div_ceil(32))
    }

    /// Makes `space` large enough for `wanted` rows or for as many as may be, at least `least`; what it was is lost.
    pub(super) fn fit<'a>(
        space: &'a mut Option<Self>,
        device: &Device,
        budget: &Arc<Budget>,
        config: &Config,
        precision: Precision,
        [least, wanted]: [usize; 2],
    ) -> Result<&'a mut Self> {
        let wanted = wanted.max(least).min(MAX_ROWS.max(least));
        let has = space.as_ref().map_or(0, |space| space.rows);
        let each = Self::each(config, precision);
        if has < wanted {
            // Not more than a half of what is left: others want to work too.
            let most = has.max((budget.left() / 2).saturating_sub(Self::rest(config)) / each);
            let rows = wanted.next_power_of_two().min(MAX_ROWS).min(most).max(least);
            if rows > has {
                *space = None;
                return Ok(space.insert(Self::new(device, budget, config, precision, rows)?));
            }
        }
        match space {
            Some(space) => Ok(space),
            None => Ok(space.insert(Self::new(device, budget, config, precision, least)?)),
        }
    }

    fn new(device: &Device, budget: &Arc<Budget>, config: &Config, precision: Precision, rows: usize) -> Result<Self> {
        let what = format!("a batch of {rows} tokens");
        let share = budget.take(rows * Self::each(config, precision) + Self::rest(config), &what)?;
        let numbers = width(precision) * config.n_embd * rows;
        let room = |bytes| Buffer::zeros(device, bytes, &what);
        Ok(Self {
            rows,
            input: room(4 * INPUT_WORDS * rows + Self::rest(config))?,
            x: room(4 * config.n_embd * rows)?,
            h: room(numbers)?,
            qkv: room(3 * numbers)?,
            attention: room(numbers)?,
            inner: room(4 * numbers)?,
            _share: share,
        })
    }
}
