//! Generator: flows drawn from the network, token by token, and how likely given flows are to be drawn.

use crate::context::Context;
use crate::engine::EngineKind;
use crate::engine::draw::{Draw, Drawing};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::packet::{Packet, Ragged, Rows};
use crate::quantizer::Quantizer;
use crate::sampling::{Decode, Sampling, nll};
use crate::tokens::Token;
use crate::worker::Worker;
use std::path::Path;
use std::sync::Arc;

/// Tokens scored at a time.
const TOKENS_PER_BATCH: usize = 2048;

/// Most flows one call may ask for; longer runs go by [`Sampling::first_flow`].
pub const MAX_FLOWS: usize = 1 << 24;

/// A bundle's generator. Immutable; any number of threads may use it, each with a worker of its own.
#[derive(Clone, Debug)]
pub struct Generator {
    model: Arc<Model>,
    classes: Vec<String>,
}

/// A flow under way.
struct Draft {
    flow: usize,
    slot: usize,
    last: Token,
    tokens: Vec<Token>,
}

impl Generator {
    /// Opens the bundle at `path`.
    pub fn open(context: &Context, path: &Path) -> Result<Self> {
        let model = context.model(path)?;
        let classes = model.vocabulary().classes.iter().map(|c| c.0.clone()).collect();
        Ok(Self { model, classes })
    }

    /// Who runs the network.
    pub fn engine(&self) -> EngineKind {
        self.model.engine().kind()
    }

    /// The traffic classes that flows can be asked for; [`Sampling::class`] indexes them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Whether [`Decode::Sample`] can be asked for: whether the quantizer knows the packets behind its centroids.
    pub fn can_sample_packets(&self) -> bool {
        self.model.quantizer().spread().is_some()
    }

    /// What turns packets into the model's tokens and back.
    pub fn quantizer(&self) -> &Quantizer {
        self.model.quantizer()
    }

    /// Most packets a generated flow can have.
    pub fn max_packets(&self) -> usize {
        self.model.max_packets()
    }

    /// Generates `n_flows` flows of at least one packet each; `out` is cleared and gets one row per flow. A draw depends
    /// on the seed, the flow's number and the step alone.
    pub fn generate(
        &self,
        worker: &mut Worker,
        sampling: &Sampling,
        n_flows: usize,
        out: &mut Rows<Packet>,
    ) -> Result<()> {
        sampling.check()?;
        let first = self.first_token(sampling.class)?;
        if sampling.decode == Decode::Sample {
            self.model.quantizer().decode_sampled(&[], 0, 0, &mut [])?;
        }
        if n_flows > MAX_FLOWS {
            return Err(Error::invalid(format!("{n_flows} flows asked for; a call gives at most {MAX_FLOWS}")));
        }
        let max_packets = match sampling.max_packets as usize {
            0 => self.max_packets(),
            n => n.min(self.max_packets()),
        };
        let finished = self.decode(worker, sampling, first, n_flows, max_packets)?;
        out.clear();
        let mut packets = Vec::with_capacity(max_packets);
        let quantizer = self.model.quantizer();
        for (i, tokens) in finished.into_iter().enumerate() {
            let flow = sampling.first_flow.wrapping_add(i as u64);
            packets.clear();
            packets.resize(tokens.len(), Packet { size: 0, ipt_us: 0.0 });
            match sampling.decode {
                Decode::Centroid => quantizer.decode(&tokens, &mut packets)?,
                Decode::Sample => quantizer.decode_sampled(&tokens, sampling.seed, flow, &mut packets)?,
            }
            // By definition; the centroid's time may be a little off.
            packets[0].ipt_us = 0.0;
            out.push(packets.iter().copied());
        }
        Ok(())
    }

    /// Scores each flow by its packets, as many as the network reads: the negative log-likelihood of one, in nats, on
    /// average over the flow. It is that of [`Self::generate`] drawing these packets' tokens with default settings, for
    /// flows of the class `class` or, with `None`, of any. Where a flow ends is not scored, so that the first packets
    /// of a longer one may be given. `out` is `[flows.len()]`; nothing is written on error.
    pub fn score(
        &self,
        worker: &mut Worker,
        class: Option<u32>,
        flows: Ragged<'_, Packet>,
        out: &mut [f32],
    ) -> Result<()> {
        let first = self.first_token(class)?;
        if out.len() != flows.len() {
            return Err(Error::invalid(format!("{} scores are given for {} flows", out.len(), flows.len())));
        }
        let vocabulary = self.model.vocabulary();
        let (session, scratch) = worker.session(&self.model)?;
        scratch.scores.clear();
        let mut next = 0;
        while next < flows.len() {
            scratch.sequences.clear();
            while next < flows.len() && scratch.sequences.as_ragged().total() < TOKENS_PER_BATCH {
                self.model.encode(flows.row(next), &mut scratch.tokens).map_err(|e| e.at(format!("flow {next}")))?;
                scratch.sequences.push(std::iter::once(first).chain(scratch.tokens.iter().copied()));
                next += 1;
            }
            let sequences = scratch.sequences.as_ragged();
            let tokens = sequences.values();
            let value = |place: usize, logits: &[f32]| match tokens.get(place + 1) {
                Some(&token) if token < vocabulary.n_packet_tokens => {
                    nll(logits, vocabulary, tokens[place] != first, token)
                }
                // Of the last token of a flow: what comes after it is not known.
                _ => 0.0,
            };
            scratch.logits.resize(tokens.len(), 0.0);
            session.read(sequences, &value, &mut scratch.logits)?;
            for (row, span) in sequences.rows().zip(sequences.offsets().windows(2)) {
                let sum: f64 = scratch.logits[span[0] as usize..span[1] as usize].iter().map(|&x| f64::from(x)).sum();
                let mean = sum / (row.len() - 1) as f64;
                if !mean.is_finite() {
                    return Err(Error::format(format!("the network's logits are not finite (a score is {mean})")));
                }
                scratch.scores.push(mean as f32);
            }
        }
        out.copy_from_slice(&scratch.scores);
        Ok(())
    }

    fn first_token(&self, class: Option<u32>) -> Result<Token> {
        let vocabulary = self.model.vocabulary();
        let Some(class) = class else { return Ok(vocabulary.bof) };
        vocabulary.classes.get(class as usize).map(|c| c.1).ok_or_else(|| {
            let n = self.classes.len();
            Error::invalid(format!("class {class} is asked for; the model has {n} classes, numbered from 0"))
        })
    }

    /// The packet tokens of `n_flows` flows, in flow order.
    fn decode(
        &self,
        worker: &mut Worker,
        sampling: &Sampling,
        first: Token,
        n_flows: usize,
        max_packets: usize,
    ) -> Result<Vec<Vec<Token>>> {
        let vocabulary = self.model.vocabulary();
        let mut finished = vec![Vec::new(); n_flows];
        if n_flows == 0 {
            return Ok(finished);
        }
        let (session, scratch) = worker.session(&self.model)?;
        // A flow that ends leaves its slot to the next one.
        let n_slots = n_flows.min(session.slots());
        session.begin(n_slots)?;
        let mut waiting = n_slots..n_flows;
        let mut drafts: Vec<Draft> =
            (0..n_slots).map(|i| Draft { flow: i, slot: i, last: first, tokens: Vec::new() }).collect();
        let mut drawing = Drawing::new(vocabulary, sampling);
        let (mut slots, mut draws) = (Vec::with_capacity(n_slots), Vec::with_capacity(n_slots));
        while !drafts.is_empty() {
            slots.clear();
            slots.extend(drafts.iter().map(|d| d.slot));
            scratch.tokens.clear();
            scratch.tokens.extend(drafts.iter().map(|d| d.last));
            draws.clear();
            draws.extend(drafts.iter().map(|draft| Draw {
                flow: sampling.first_flow.wrapping_add(draft.flow as u64),
                step: draft.tokens.len() as u32,
                may_end: !draft.tokens.is_empty(),
            }));
            session.draw(&slots, &mut scratch.tokens, &draws, &mut drawing)?;
            for (draft, &token) in drafts.iter_mut().zip(&scratch.tokens) {
                draft.last = token;
                if draft.last != vocabulary.eof {
                    draft.tokens.push(draft.last);
                }
            }
            let mut i = 0;
            while i < drafts.len() {
                let draft = &mut drafts[i];
                if draft.last != vocabulary.eof && draft.tokens.len() < max_packets {
                    i += 1;
                    continue;
                }
                finished[draft.flow] = std::mem::take(&mut draft.tokens);
                session.clear(draft.slot);
                match waiting.next() {
                    Some(flow) => *draft = Draft { flow, slot: draft.slot, last: first, tokens: Vec::new() },
                    None => {
                        drafts.swap_remove(i);
                    }
                }
            }
        }
        Ok(finished)
    }
}
