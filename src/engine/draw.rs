//! Drawing the tokens after a step.

use super::Session;
use crate::error::{Error, Result};
use crate::random::uniform;
use crate::sampling::{Sampler, Sampling};
use crate::tokens::{Token, Vocabulary};

pub use crate::cuda::gpt2::Draw;

/// By what rule tokens are drawn, and the scratch that takes.
pub struct Drawing<'a> {
    /// Which tokens there are.
    pub vocabulary: &'a Vocabulary,
    /// How freely they are drawn, and under which seed.
    pub sampling: &'a Sampling,
    sampler: Sampler,
    logits: Vec<f32>,
}

impl<'a> Drawing<'a> {
    /// By `sampling` from `vocabulary`.
    pub fn new(vocabulary: &'a Vocabulary, sampling: &'a Sampling) -> Self {
        Self { vocabulary, sampling, sampler: Sampler::default(), logits: Vec::new() }
    }
}

/// [`Session::draw`] for an engine that gives logits.
pub(super) fn draw_from_logits<S: Session + ?Sized>(
    session: &mut S,
    slots: &[usize],
    tokens: &mut [Token],
    draws: &[Draw],
    by: &mut Drawing<'_>,
) -> Result<()> {
    let n_logits = session.vocab_size();
    if draws.len() != slots.len() || by.vocabulary.len() > n_logits {
        let (n, n_draws, n_tokens) = (slots.len(), draws.len(), by.vocabulary.len());
        return Err(Error::invalid(format!(
            "a step of {n} flows is given {n_draws} draws from {n_tokens} of {n_logits} tokens"
        )));
    }
    by.logits.resize(slots.len() * n_logits, 0.0);
    session.step(slots, tokens, &mut by.logits)?;
    let seed = by.sampling.seed;
    for ((token, draw), logits) in tokens.iter_mut().zip(draws).zip(by.logits.chunks_exact(n_logits)) {
        let u = uniform(seed, draw.flow, u64::from(draw.step));
        *token = by.sampler.draw(logits, by.vocabulary, draw.may_end, by.sampling, u)?;
    }
    Ok(())
}
