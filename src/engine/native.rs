//! The native engine: [`crate::gpt2`] on the CPU. There without any library, and the oracle of the other engines.

use super::{Engine, EngineKind, Session, Value, check_room};
use crate::backend::packed::Precision;
use crate::error::{Error, Kind, Result};
use crate::gpt2::cache::{Decoder, Slot};
use crate::gpt2::infer::Lane;
use crate::gpt2::network::Network;
use crate::gpt2::{Config, Weights, check_sequences};
use crate::packet::Ragged;
use crate::tokens::Token;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ops::Range;
use std::sync::Arc;

/// Most bytes that the caches of one decode may take: 64 GiB.
const MAX_CACHE: usize = 64 << 30;

/// Most weights that stay in the processor's cache from step to step: 16 MiB.
const WEIGHTS_NEAR: usize = 4 << 20;

/// The network, shared by every session.
pub struct Native {
    network: Network,
    threads: usize,
}

impl Native {
    /// An engine of `f32` whose sessions use `threads` threads each. With one, everything happens on the caller's thread.
    #[allow(clippy::new_ret_no_self, reason = "engines are used behind their trait")]
    pub fn new(weights: Arc<Weights>, threads: usize) -> Arc<dyn Engine> {
        Arc::new(Self { network: Network::new(weights, Precision::F32), threads: threads.max(1) })
    }

    /// The same of another precision.
    ///
    /// # Errors
    /// With [`Kind::Runtime`] if the processor has no instructions for it.
    pub fn with_precision(weights: Arc<Weights>, threads: usize, precision: Precision) -> Result<Arc<dyn Engine>> {
        if !precision.is_there() {
            return Err(Error::new(
                Kind::Runtime,
                "precision is bf16; this processor has no AVX512-BF16, so choose f32",
            ));
        }
        Ok(Arc::new(Self { network: Network::new(weights, precision), threads: threads.max(1) }))
    }
}

impl Engine for Native {
    fn kind(&self) -> EngineKind {
        EngineKind::Native
    }

    fn config(&self) -> &Config {
        self.network.config()
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>> {
        let pool = if self.threads == 1 {
            None
        } else {
            let name = |i| format!("tgpt-{i}");
            let built = ThreadPoolBuilder::new().num_threads(self.threads).thread_name(name).build();
            Some(built.map_err(|e| Error::new(Kind::Runtime, format!("cannot start {} threads: {e}", self.threads)))?)
        };
        let mut threads = Vec::new();
        threads.resize_with(self.threads, Thread::default);
        Ok(Box::new(NativeSession {
            engine: self,
            pool,
            threads,
            slots: Vec::new(),
            taken: Vec::new(),
            stamps: Vec::new(),
            stamp: 0,
        }))
    }
}

/// One thread's scratch.
#[derive(Default)]
struct Thread {
    lane: Lane,
    decoder: Decoder,
}

struct NativeSession {
    engine: Arc<Native>,
    pool: Option<ThreadPool>,
    threads: Vec<Thread>,
    slots: Vec<Slot>,
    /// The slots of one step, in the order of its rows.
    taken: Vec<Slot>,
    /// The step that a slot took part in last, to find a slot that is named twice.
    stamps: Vec<u64>,
    stamp: u64,
}

impl Session for NativeSession {
    fn embed(&mut self, sequences: Ragged<'_, Token>, first: usize, out: &mut [f32]) -> Result<()> {
        let network = &self.engine.network;
        let d = network.config().n_embd;
        let n = sequences.len();
        if out.len() != n * d {
            return Err(Error::invalid(format!("{} values are given for {n} embeddings of {d}", out.len())));
        }
        check_sequences(network.config(), sequences)?;
        if let Some(i) = sequences.rows().position(|row| row.len() <= first) {
            let len = sequences.row(i).len();
            return Err(Error::invalid(format!("sequence {i} has {len} tokens; its mean begins at token {first}")));
        }
        let Some(pool) = &self.pool else {
            self.threads[0].lane.embed(network, sequences, 0..n, first, out);
            return Ok(());
        };
        pool.scope(|scope| {
            let mut rest = out;
            let mut begin = 0;
            for (i, thread) in self.threads.iter_mut().enumerate() {
                let end = share_end(sequences, i, self.engine.threads);
                let (mine, tail) = std::mem::take(&mut rest).split_at_mut((end - begin) * d);
                rest = tail;
                let rows: Range<usize> = begin..end;
                begin = end;
                scope.spawn(move |_| thread.lane.embed(network, sequences, rows, first, mine));
            }
        });
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        self.engine.network.config().vocab_size
    }

    fn best_slots(&self) -> usize {
        // A step reads all weights, and every flow's own cache: where the weights stay in the processor's cache, few flows
        // at a time leave room for theirs; where they do not, many share the way of the weights from memory. Either number is
        // one of full tiles of a product's rows.
        let per_thread = if self.engine.network.weights().data().len() <= WEIGHTS_NEAR { 15 } else { 60 };
        per_thread * self.engine.threads
    }

    fn begin(&mut self, slots: usize) -> Result<()> {
        let config = self.engine.network.config();
        let precision = self.engine.network.precision();
        let bytes = Slot::size(config, precision).saturating_mul(4).saturating_mul(slots);
        if bytes > MAX_CACHE {
            let gib = MAX_CACHE >> 30;
            return Err(Error::new(
                Kind::NoMemory,
                format!("decoding {slots} flows at once needs {bytes} bytes of cache, above the limit of {gib} GiB"),
            ));
        }
        self.slots.truncate(slots);
        self.slots.iter_mut().for_each(|slot| slot.len = 0);
        self.slots.resize_with(slots, || Slot::new(config, precision));
        self.stamps.resize(slots, 0);
        Ok(())
    }

    fn step(&mut self, slots: &[usize], tokens: &[Token], logits: &mut [f32]) -> Result<()> {
        self.check_step(slots, tokens, logits)?;
        let v = self.vocab_size();
        if slots.is_empty() {
            return Ok(());
        }

        self.take(slots);
        let network = &self.engine.network;
        match &self.pool {
            Some(pool) if slots.len() > 1 => pool.scope(|scope| {
                let per_thread = slots.len().div_ceil(self.threads.len());
                let shares = self.taken.chunks_mut(per_thread).zip(tokens.chunks(per_thread));
                for ((thread, (slots, tokens)), logits) in
                    self.threads.iter_mut().zip(shares).zip(logits.chunks_mut(per_thread * v))
                {
                    scope.spawn(move |_| thread.decoder.step(network, slots, tokens, logits));
                }
            }),
            _ => self.threads[0].decoder.step(network, &mut self.taken, tokens, logits),
        }
        self.put_back(slots);
        Ok(())
    }

    fn clear(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.len = 0;
        }
    }

    fn prefill(&mut self, slots: &[usize], begun: Ragged<'_, Token>) -> Result<bool> {
        let network = &self.engine.network;
        if slots.len() != begun.len() {
            let (n, rows) = (slots.len(), begun.len());
            return Err(Error::invalid(format!("{n} slots are to take {rows} rows of tokens")));
        }
        check_sequences(network.config(), begun)?;
        self.check_slots(slots, |row| begun.row(row).len())?;

        self.take(slots);
        let (network, threads) = (&self.engine.network, self.engine.threads);
        match &self.pool {
            Some(pool) => pool.scope(|scope| {
                let mut rest = &mut self.taken[..];
                let mut begin = 0;
                for (i, thread) in self.threads.iter_mut().enumerate() {
                    let rows = begin..share_end(begun, i, threads);
                    let (mine, tail) = std::mem::take(&mut rest).split_at_mut(rows.len());
                    (rest, begin) = (tail, rows.end);
                    scope.spawn(move |_| thread.decoder.prefill(network, mine, begun, rows));
                }
            }),
            None => self.threads[0].decoder.prefill(network, &mut self.taken, begun, 0..slots.len()),
        }
        self.put_back(slots);
        Ok(true)
    }

    fn read(&mut self, sequences: Ragged<'_, Token>, value: &Value<'_>, out: &mut [f32]) -> Result<()> {
        let network = &self.engine.network;
        check_room(sequences, out)?;
        check_sequences(network.config(), sequences)?;
        let n = sequences.len();
        let Some(pool) = &self.pool else {
            self.threads[0].lane.logits(network, sequences, 0..n, value, out);
            return Ok(());
        };
        pool.scope(|scope| {
            let mut rest = out;
            let mut begin = 0;
            for (i, thread) in self.threads.iter_mut().enumerate() {
                let rows = begin..share_end(sequences, i, self.engine.threads);
                let n_tokens = sequences.offsets()[rows.end] - sequences.offsets()[rows.start];
                let (mine, tail) = std::mem::take(&mut rest).split_at_mut(n_tokens as usize);
                (rest, begin) = (tail, rows.end);
                scope.spawn(move |_| thread.lane.logits(network, sequences, rows, value, mine));
            }
        });
        Ok(())
    }
}

impl NativeSession {
    fn check_step(&mut self, slots: &[usize], tokens: &[Token], logits: &[f32]) -> Result<()> {
        let config = self.engine.network.config();
        let (n, v) = (slots.len(), config.vocab_size);
        if tokens.len() != n || logits.len() != n * v {
            return Err(Error::invalid(format!(
                "a step of {n} flows is given {} tokens and room for {} logits of {v}",
                tokens.len(),
                logits.len()
            )));
        }
        if let Some(i) = tokens.iter().position(|&token| token as usize >= v) {
            return Err(Error::invalid(format!("row {i}: token {} is above {}", tokens[i], v - 1)));
        }
        self.check_slots(slots, |_| 1)
    }

    /// Checks that each of `slots` is there, once, and has room for as many tokens as `more` says of its row.
    fn check_slots(&mut self, slots: &[usize], more: impl Fn(usize) -> usize) -> Result<()> {
        let most = self.engine.network.config().n_positions;
        self.stamp += 1;
        for (i, &slot) in slots.iter().enumerate() {
            let Some(flow) = self.slots.get(slot) else {
                let n = self.slots.len();
                return Err(Error::invalid(format!("row {i}: slot {slot} is not one of the {n} begun")));
            };
            if self.stamps[slot] == self.stamp {
                return Err(Error::invalid(format!("row {i}: slot {slot} is named twice in one step")));
            }
            self.stamps[slot] = self.stamp;
            if flow.len == most {
                return Err(Error::invalid(format!("row {i}: the flow in slot {slot} has all its {most} tokens")));
            }
            if more(i) > most - flow.len {
                let (n, len) = (more(i), flow.len);
                return Err(Error::invalid(format!(
                    "row {i}: {n} tokens more for the flow in slot {slot}, which has {len} and may have {most}"
                )));
            }
        }
        Ok(())
    }

    /// Gathers these slots, in this order, until [`Self::put_back`].
    fn take(&mut self, slots: &[usize]) {
        self.taken.clear();
        self.taken.extend(slots.iter().map(|&slot| std::mem::take(&mut self.slots[slot])));
    }

    fn put_back(&mut self, slots: &[usize]) {
        for (&slot, taken) in slots.iter().zip(self.taken.drain(..)) {
            self.slots[slot] = taken;
        }
    }
}

/// Where the share of thread `i` of `threads` ends, so that all have about equally many tokens.
fn share_end(sequences: Ragged<'_, Token>, i: usize, threads: usize) -> usize {
    if i + 1 == threads {
        return sequences.len();
    }
    let tokens = (sequences.total() * (i + 1) / threads) as u64;
    sequences.offsets()[1..].partition_point(|&end| end <= tokens)
}
