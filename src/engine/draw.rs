//! Drawing the tokens after a step.

use super::Session;
use crate::error::{Error, Result};
use crate::random::uniform;
use crate::sampling::{Sampler, Sampling};
use crate::tokens::{Token, Vocabulary};

pub use crate::cuda::gpt2::Draw;
use crate::cuda::gpt2::Rule;

/// By what rule tokens are drawn, and the scratch that takes.
pub struct Drawing<'a> {
    vocabulary: &'a Vocabulary,
    sampling: &'a Sampling,
    /// A bit for each packet's token and the end's.
    banned: Vec<u32>,
    sampler: Sampler,
    logits: Vec<f32>,
}

impl<'a> Drawing<'a> {
    /// By `sampling`, whose values were checked, from `vocabulary`; fails as [`Sampler::new`] does.
    pub fn new(vocabulary: &'a Vocabulary, sampling: &'a Sampling) -> Result<Self> {
        let sampler = Sampler::new(sampling, vocabulary)?;
        let mut banned = vec![0; (vocabulary.n_packet_tokens as usize + 1).div_ceil(32)];
        sampling.banned.iter().for_each(|&token| banned[token as usize / 32] |= 1 << (token % 32));
        Ok(Self { vocabulary, sampling, banned, sampler, logits: Vec::new() })
    }

    /// The rule, as a GPU takes it.
    pub(crate) fn rule(&self) -> Rule<'_> {
        Rule { vocabulary: self.vocabulary, sampling: self.sampling, banned: &self.banned }
    }
}

/// [`Session::draw`] for an engine that gives logits.
pub(super) fn draw_from_logits<S: Session + ?Sized>(
    session: &mut S,
    slots: &[usize],
    tokens: &mut [Token],
    draws: &[Option<Draw>],
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
        let Some(draw) = draw else { continue };
        let u = uniform(seed, draw.flow, u64::from(draw.step));
        *token = by.sampler.draw(logits, draw.may_end, u)?;
    }
    Ok(())
}
