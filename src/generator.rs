//! Generator: flows drawn from the network, token by token, and how likely given flows are to be drawn.

use crate::context::Context;
use crate::engine::draw::{Draw, Drawing};
use crate::engine::{EngineKind, Session};
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
    /// Its packets so far.
    tokens: Vec<Token>,
    /// How many of its sequence the network has read: of the token that begins it, then of its packets.
    n_read: usize,
}

/// What a decode is asked for.
struct Task<'a> {
    sampling: &'a Sampling,
    /// What every sequence begins with: `BOF`, or the class.
    first: Token,
    /// The packets that each flow has already.
    known: Ragged<'a, Token>,
    min_packets: usize,
    max_packets: usize,
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
        check_number(n_flows)?;
        let offsets = vec![0; n_flows + 1];
        self.run(worker, sampling, Ragged::new(&[], &offsets)?, out)
    }

    /// Continues flows whose first packets are given, one flow for each row of `begun`: `out` is cleared and gets the
    /// whole flows, of which the packets given come as they are. A row without packets begins a new flow. A draw depends
    /// on the seed, the flow's number and the packet's place in it, so that a generated flow that is cut anywhere goes
    /// on as it did, wherever its packets are centroids.
    ///
    /// # Errors
    /// As of [`Self::generate`], or if a row has more packets than a flow may have, or one that is none.
    pub fn continue_flows(
        &self,
        worker: &mut Worker,
        sampling: &Sampling,
        begun: Ragged<'_, Packet>,
        out: &mut Rows<Packet>,
    ) -> Result<()> {
        check_number(begun.len())?;
        self.run(worker, sampling, begun, out)
    }

    fn run(
        &self,
        worker: &mut Worker,
        sampling: &Sampling,
        begun: Ragged<'_, Packet>,
        out: &mut Rows<Packet>,
    ) -> Result<()> {
        sampling.check()?;
        let first = self.first_token(sampling.class)?;
        let quantizer = self.model.quantizer();
        if sampling.decode == Decode::Sample {
            quantizer.decode_sampled(&[], None, 0, 0, &mut [])?;
        }
        let most = self.max_packets();
        let max_packets = match sampling.max_packets as usize {
            0 => most,
            n => n.min(most),
        };
        let min_packets = sampling.min_packets as usize;
        if min_packets > most {
            return Err(Error::invalid(format!(
                "min_packets is {min_packets}; a flow of this model has at most {most}"
            )));
        }
        let mut known = vec![0; begun.total()];
        for (i, (row, span)) in begun.rows().zip(begun.offsets().windows(2)).enumerate() {
            let n = row.len();
            if n > max_packets {
                let told = format!("flow {i} has {n} packets already; it may have {max_packets} at most");
                return Err(Error::invalid(told));
            }
            let tokens = &mut known[span[0] as usize..span[1] as usize];
            quantizer.encode(row, tokens).map_err(|e| e.at(format!("flow {i}")))?;
        }
        let known = Ragged::new(&known, begun.offsets())?;
        let finished = self.decode(worker, &Task { sampling, first, known, min_packets, max_packets })?;
        out.clear();
        let mut packets = Vec::with_capacity(max_packets);
        for (i, (tokens, given)) in finished.into_iter().zip(begun.rows()).enumerate() {
            let flow = sampling.first_flow.wrapping_add(i as u64);
            packets.clear();
            packets.resize(tokens.len(), Packet { size: 0, ipt_us: 0.0 });
            match sampling.decode {
                Decode::Centroid => quantizer.decode(&tokens, &mut packets)?,
                Decode::Sample => {
                    quantizer.decode_sampled(&tokens, sampling.class, sampling.seed, flow, &mut packets)?
                }
            }
            // By definition; the centroid's time may be a little off.
            packets[0].ipt_us = 0.0;
            packets[..given.len()].copy_from_slice(given);
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

    /// The packet tokens of every flow, in flow order.
    fn decode(&self, worker: &mut Worker, task: &Task<'_>) -> Result<Vec<Vec<Token>>> {
        let vocabulary = self.model.vocabulary();
        let mut drawing = Drawing::new(vocabulary, task.sampling)?;
        let mut flows: Vec<Vec<Token>> = task.known.rows().map(<[Token]>::to_vec).collect();
        // Flows that have all their packets need no work.
        let mut waiting = (0..flows.len()).filter(|&flow| task.known.row(flow).len() < task.max_packets);
        let n_waiting = waiting.clone().count();
        if n_waiting == 0 {
            return Ok(flows);
        }
        let (session, scratch) = worker.session(&self.model)?;
        let n_slots = n_waiting.min(session.best_slots());
        session.begin(n_slots)?;
        let mut free: Vec<usize> = (0..n_slots).rev().collect();
        let mut drafts: Vec<Draft> = Vec::with_capacity(n_slots);
        let (mut slots, mut draws) = (Vec::with_capacity(n_slots), Vec::with_capacity(n_slots));
        loop {
            // A flow that has ended leaves its slot to the next one.
            let begun = drafts.len();
            drafts.extend(free.drain(..).zip(&mut waiting).map(|(slot, flow)| {
                let mut tokens = std::mem::take(&mut flows[flow]);
                tokens.reserve_exact(task.max_packets - tokens.len());
                Draft { flow, slot, tokens, n_read: 0 }
            }));
            if drafts.is_empty() {
                return Ok(flows);
            }
            task.prefill(session, &mut drafts[begun..], &mut scratch.sequences)?;
            slots.clear();
            slots.extend(drafts.iter().map(|d| d.slot));
            scratch.tokens.clear();
            scratch.tokens.extend(drafts.iter().map(|d| task.next(d)));
            draws.clear();
            draws.extend(drafts.iter().map(|draft| task.draw(draft)));
            session.draw(&slots, &mut scratch.tokens, &draws, &mut drawing)?;
            // From the last on, so that one that takes the place of another was looked at before.
            for (i, draw) in draws.iter().enumerate().rev() {
                let (draft, drawn) = (&mut drafts[i], scratch.tokens[i]);
                draft.n_read += 1;
                if draw.is_none() {
                    continue;
                }
                if drawn != vocabulary.eof {
                    draft.tokens.push(drawn);
                }
                if drawn == vocabulary.eof || draft.tokens.len() == task.max_packets {
                    let draft = drafts.swap_remove(i);
                    flows[draft.flow] = draft.tokens;
                    session.clear(draft.slot);
                    free.push(draft.slot);
                }
            }
        }
    }
}

impl Task<'_> {
    /// The token of `draft` that the network reads next.
    fn next(&self, draft: &Draft) -> Token {
        draft.n_read.checked_sub(1).map_or(self.first, |i| draft.tokens[i])
    }

    /// How the token after that is drawn; none where it is known.
    fn draw(&self, draft: &Draft) -> Option<Draw> {
        let step = draft.n_read;
        let flow = self.sampling.first_flow.wrapping_add(draft.flow as u64);
        let draw = Draw { flow, step: step as u32, may_end: step >= self.min_packets.max(1) };
        (step == draft.tokens.len()).then_some(draw)
    }

    /// Has `session` read what is known of fresh flows, where it can at once: all but their last tokens, after which the
    /// next is drawn.
    fn prefill(&self, session: &mut dyn Session, drafts: &mut [Draft], sequences: &mut Rows<Token>) -> Result<()> {
        sequences.clear();
        let mut slots = Vec::new();
        for draft in drafts.iter() {
            if let Some((_, known)) = draft.tokens.split_last() {
                sequences.push(std::iter::once(self.first).chain(known.iter().copied()));
                slots.push(draft.slot);
            }
        }
        if !slots.is_empty() && session.prefill(&slots, sequences.as_ragged())? {
            drafts.iter_mut().for_each(|draft| draft.n_read = draft.tokens.len());
        }
        Ok(())
    }
}

fn check_number(n_flows: usize) -> Result<()> {
    if n_flows > MAX_FLOWS {
        return Err(Error::invalid(format!("{n_flows} flows asked for; a call gives at most {MAX_FLOWS}")));
    }
    Ok(())
}
