//! Classifier: flows → labels with probabilities, or embeddings.

use crate::bundle::manifest::{ClassifierSpec, Pool};
use crate::context::Context;
use crate::engine::EngineKind;
use crate::error::{Error, Result};
use crate::head::{Head, forest};
use crate::model::Model;
use crate::packet::{Packet, Ragged};
use crate::quantizer::Quantizer;
use crate::tokens::Token;
use crate::worker::{Scratch, Worker};
use std::path::Path;
use std::sync::Arc;

/// The label of a flow whose best probability is below the model's threshold.
pub const UNKNOWN: u32 = u32::MAX;

/// A bundle's classifier. Immutable; any number of threads may use it, each with a worker of its own.
#[derive(Clone, Debug)]
pub struct Classifier {
    model: Arc<Model>,
    spec: ClassifierSpec,
    head: Arc<Head>,
}

impl Classifier {
    /// Opens the bundle at `path`. A bundle without a head is refused with [`crate::Kind::Mismatch`].
    pub fn open(context: &Context, path: &Path) -> Result<Self> {
        let model = context.model(path)?;
        match (&model.manifest().classifier, model.head()) {
            (Some(spec), Some(head)) => Ok(Self { spec: spec.clone(), head: head.clone(), model }),
            _ => Err(Error::mismatch(format!(
                "{}: the bundle has no classifier; make one with `trafficgpt finetune`",
                path.display()
            ))),
        }
    }

    /// Who runs the network.
    pub fn engine(&self) -> EngineKind {
        self.model.engine().kind()
    }

    /// Names of the labels; label `i` of a verdict is `labels()[i]`.
    pub fn labels(&self) -> &[String] {
        &self.spec.labels
    }

    /// What makes its tokens.
    pub(crate) fn quantizer(&self) -> &Quantizer {
        self.model.quantizer()
    }

    /// Packets of a flow that it reads at most.
    pub(crate) fn max_packets(&self) -> usize {
        self.model.max_packets()
    }

    /// Length of an embedding.
    pub fn embedding_dim(&self) -> usize {
        self.model.engine().config().n_embd
    }

    /// Classifies each flow by its first packets (as many as the network reads; the rest is ignored).
    ///
    /// `labels` `[flows.len()]` gets the most probable label, or [`UNKNOWN`] below the model's threshold; `scores`,
    /// where given, row-major `[flows.len(), labels().len()]`, the calibrated probability of every label. Nothing is
    /// written on error.
    pub fn classify(
        &self,
        worker: &mut Worker,
        flows: Ragged<'_, Packet>,
        labels: &mut [u32],
        scores: Option<&mut [f32]>,
    ) -> Result<()> {
        self.label(worker, Input::Packets(flows), labels, scores)
    }

    /// As [`Self::classify`], of flows whose packets are tokens already.
    pub(crate) fn classify_tokens(
        &self,
        worker: &mut Worker,
        flows: Ragged<'_, Token>,
        labels: &mut [u32],
        scores: Option<&mut [f32]>,
    ) -> Result<()> {
        self.label(worker, Input::Tokens(flows), labels, scores)
    }

    fn label(
        &self,
        worker: &mut Worker,
        flows: Input<'_>,
        labels: &mut [u32],
        scores: Option<&mut [f32]>,
    ) -> Result<()> {
        let n = self.labels().len();
        check_room("labels", labels.len(), flows.len())?;
        if let Some(scores) = &scores {
            check_room("scores", scores.len(), flows.len().saturating_mul(n))?;
        }
        worker.scratch.scores.clear();
        let voters = self.model.forest().map(|forest| (forest, self.quantizer().codebook().centroids()));
        let d = self.embedding_dim();
        self.for_each_batch(worker, flows, |scratch| {
            let Scratch { sequences, embeddings, scores: staged, head, votes, .. } = scratch;
            let begin = staged.len();
            staged.resize(begin + sequences.len() * n, 0.0);
            let scores = &mut staged[begin..];
            self.head.scores(embeddings, d, head, scores);
            if let Some((forest, centroids)) = voters {
                for (sequence, scores) in sequences.as_ragged().rows().zip(scores.chunks_exact_mut(n)) {
                    forest.vote(&forest::features(&sequence[1..], centroids), scores, votes);
                }
            }
        })?;
        let staged = &worker.scratch.scores;
        for (label, row) in labels.iter_mut().zip(staged.chunks_exact(n)) {
            let (best, score) = argmax(row);
            *label = if score >= self.spec.reject_below { best as u32 } else { UNKNOWN };
        }
        if let Some(scores) = scores {
            scores.copy_from_slice(staged);
        }
        Ok(())
    }

    /// Embeds each flow: row-major `[flows.len(), embedding_dim()]` to `out`. Nothing is written on error.
    pub fn embed(&self, worker: &mut Worker, flows: Ragged<'_, Packet>, out: &mut [f32]) -> Result<()> {
        check_room("embeddings", out.len(), flows.len().saturating_mul(self.embedding_dim()))?;
        worker.scratch.scores.clear();
        self.for_each_batch(worker, Input::Packets(flows), |scratch| {
            scratch.scores.extend_from_slice(&scratch.embeddings);
        })?;
        out.copy_from_slice(&worker.scratch.scores);
        Ok(())
    }

    /// Runs the network over all flows, in batches, and lets `consume` see each with its `sequences` and `embeddings`.
    fn for_each_batch(
        &self,
        worker: &mut Worker,
        flows: Input<'_>,
        mut consume: impl FnMut(&mut Scratch),
    ) -> Result<()> {
        let d = self.embedding_dim();
        let first = match self.spec.pool {
            Pool::Packets => 1,
            Pool::All => 0,
        };
        let (session, scratch) = worker.session(&self.model)?;
        let mut next = 0;
        while next < flows.len() {
            next = self.fill(flows, next, scratch)?;
            let sequences = scratch.sequences.as_ragged();
            scratch.embeddings.resize(sequences.len() * d, 0.0);
            session.embed(sequences, first, &mut scratch.embeddings)?;
            consume(scratch);
        }
        Ok(())
    }

    /// Fills `scratch.sequences` with the sequences of flows from `begin` on, up to a batch; returns the flow after.
    fn fill(&self, flows: Input<'_>, begin: usize, scratch: &mut Scratch) -> Result<usize> {
        let vocabulary = self.model.vocabulary();
        let (n_positions, most) = (self.model.engine().config().n_positions, self.model.engine().batch_tokens());
        scratch.sequences.clear();
        for i in begin..flows.len() {
            let n_packets = match flows {
                Input::Packets(flows) => {
                    let flow = flows.row(i);
                    self.model.encode(flow, &mut scratch.tokens).map_err(|e| e.at(format_args!("flow {i}")))?;
                    flow.len()
                }
                Input::Tokens(flows) => {
                    let flow = flows.row(i);
                    scratch.tokens.clear();
                    scratch.tokens.extend_from_slice(&flow[..flow.len().min(self.max_packets())]);
                    flow.len()
                }
            };
            let sequence = std::iter::once(vocabulary.bof).chain(scratch.tokens.iter().copied());
            match self.spec.pool {
                // EOF comes after every packet and is left out of the mean, so it cannot change it.
                Pool::Packets => scratch.sequences.push(sequence),
                Pool::All => {
                    let ended = (n_packets == scratch.tokens.len()).then_some(vocabulary.eof);
                    let padding = std::iter::repeat(vocabulary.pad);
                    scratch.sequences.push(sequence.chain(ended).chain(padding).take(n_positions));
                }
            }
            if scratch.sequences.as_ragged().total() >= most {
                return Ok(i + 1);
            }
        }
        Ok(flows.len())
    }
}

/// Flows as they come: packets, or tokens of the classifier's own quantizer.
#[derive(Clone, Copy)]
enum Input<'a> {
    Packets(Ragged<'a, Packet>),
    Tokens(Ragged<'a, Token>),
}

impl Input<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Packets(flows) => flows.len(),
            Self::Tokens(flows) => flows.len(),
        }
    }
}

fn check_room(what: &str, has: usize, needs: usize) -> Result<()> {
    if has == needs {
        return Ok(());
    }
    Err(Error::invalid(format!("room for {has} {what} is given; these flows need {needs}")))
}

/// The first largest value and where it is.
pub(crate) fn argmax(values: &[f32]) -> (usize, f32) {
    values.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), |best, v| if v.1 > best.1 { v } else { best })
}
