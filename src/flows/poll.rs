//! Verdicts out: flows that are due, a batch at a time, through the network.

use super::Flows;
use super::slot::{CLOSED, FINAL, QUEUED};
use super::stats::Count;
use super::verdict::{Reason, Verdict};
use crate::classifier::argmax;
use crate::error::Result;
use crate::packet::Rows;
use crate::tokens::Token;
use crate::worker::Worker;

/// Flows that go through the network together: enough for full matrix products.
const FLOWS_PER_BATCH: usize = 256;

/// What a batch needs; grows to the largest and is kept.
#[derive(Default)]
pub(super) struct Batch {
    worker: Worker,
    flows: Vec<(u32, u8)>,
    tokens: Rows<Token>,
    labels: Vec<u32>,
    scores: Vec<f32>,
}

impl Flows {
    /// Ends flows whose time is over, then classifies flows that are due and writes at most as many verdicts as `out`
    /// has places; how many were written. Fewer than there are places: no flow is due any more.
    ///
    /// `now_ns` is the time, on the packets' clock, up to which all packets have been pushed; `None` takes the packets'
    /// own. Also takes in a classifier that was swapped.
    ///
    /// Errors: those of the engine, if they come before the first verdict. The flows stay due.
    pub fn poll(&mut self, now_ns: Option<u64>, out: &mut [Verdict]) -> Result<usize> {
        if self.models.adopt(&self.shared, &self.table.by_model) {
            self.table.model = self.models.current();
            let epoch = self.models.get(self.table.model.into()).map_or(0, |model| model.epoch);
            self.table.counts.set(Count::Epoch, epoch.into());
            self.table.counts.add(Count::Swaps, 1);
        }
        self.table.sweep(now_ns.unwrap_or(self.clock.now_ns));
        let mut n = 0;
        let mut result = Ok(());
        while n < out.len() {
            match self.verdicts(&mut out[n..]) {
                Ok(0) => break,
                Ok(more) => n += more,
                Err(error) => {
                    result = if n == 0 { Err(error) } else { Ok(()) };
                    break;
                }
            }
        }
        self.publish();
        result.map(|()| n)
    }

    /// Classifies one batch: the first flows that are due and share a model.
    fn verdicts(&mut self, out: &mut [Verdict]) -> Result<usize> {
        let Self { table, models, batch, .. } = self;
        let Batch { worker, flows, tokens, labels, scores } = batch;
        let Some(first) = table.due.iter().next() else { return Ok(0) };
        let which = table.slots[first as usize].model();
        let Some(model) = models.get(which) else { return Ok(0) };

        flows.clear();
        tokens.clear();
        for at in table.due.iter().take(out.len().min(FLOWS_PER_BATCH)) {
            if table.slots[at as usize].model() != which {
                break;
            }
            let n_read = table.n_read(at);
            flows.push((at, n_read));
            tokens.push(table.tokens(at, n_read).iter().map(|&token| token.into()));
        }
        let n_labels = model.classifier.labels().len();
        labels.resize(flows.len(), 0);
        scores.resize(flows.len() * n_labels, 0.0);
        model.classifier.classify_tokens(worker, tokens.as_ragged(), labels, Some(scores))?;

        let epoch = model.epoch;
        for (((&(at, n_read), &label), scores), out) in
            flows.iter().zip(&*labels).zip(scores.chunks_exact(n_labels)).zip(out)
        {
            let score = argmax(scores).1;
            let slot = &mut table.slots[at as usize];
            let ended = if slot.is(CLOSED) { Some(Reason::TcpEnd) } else { slot.ended() };
            let confident = score >= self.confidence;
            let reason = ended.unwrap_or(if confident { Reason::Confident } else { Reason::Count });
            let is_final = ended.is_some() || confident || n_read == self.last_count;
            *out = Verdict::of(slot, n_read, label, score, epoch, reason, is_final);
            slot.flags &= !QUEUED;
            if is_final {
                slot.flags |= FINAL;
                table.counts.add(Count::Final, 1);
            }
            if slot.ended().is_some() {
                table.release(at);
            }
        }
        let n = flows.len();
        table.due.drop_first(n);
        table.counts.add(Count::Verdicts, n as u64);
        Ok(n)
    }
}
