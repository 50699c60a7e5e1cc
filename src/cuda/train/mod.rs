//! Training on a GPU: forward with a tape, backward, the losses and AdamW. The counterpart of [`crate::gpt2`]'s training and of
//! `src/train/optimizer.rs`: the same steps, the same masks of dropout, gradients equal to rounding.
//!
//! Every sum has an order of its own that neither the batch nor the scheduling of blocks changes, so that a run repeats bit by
//! bit on one kind of GPU. Gradients and master weights are f32; in bf16 products read rounded factors and add up in f32.

#[cfg(test)]
pub(in crate::cuda) mod checks;
mod kernels;
pub(in crate::cuda) mod modules;
mod parameters;
mod passes;
mod rows;
mod tape;

pub use parameters::Adam;

use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::cuda::gpt2::{Epilogue, Factors, Layout, Shape, check_shape, width};
use crate::cuda::nccl::Floats;
use crate::error::{Error, Kind, Result};
use crate::gpt2::{Config, Dropout, Masks, NO_TARGET, Weights, check_sequences};
use crate::packet::Ragged;
use crate::tokens::Token;
use kernels::{Kernels, Strided};
use parameters::Parameters;
use std::sync::Arc;
use tape::{Net, Tape};

/// A network that learns on a GPU, with a linear head on the mean of its hidden states where there is one.
pub struct Training {
    device: Arc<Device>,
    precision: Precision,
    kernels: Kernels,
    parameters: Parameters,
    tape: Tape,
    adam: Adam,
    /// Bytes that a batch may take.
    memory: usize,
}

/// What of `free` bytes is used: the driver, and what kernels need beside their arguments, take some.
fn without_reserve(free: usize) -> usize {
    free - free / 10
}

impl Training {
    /// Copies `weights`, and the `head`'s weight `[labels, n_embd]` and bias, to `device`.
    ///
    /// # Errors
    /// If the kernels cannot run a network of this shape, or the GPU has too little memory.
    pub fn new(
        device: &Arc<Device>,
        precision: Precision,
        weights: Weights,
        head: Option<[&[f32]; 2]>,
        adam: Adam,
    ) -> Result<Self> {
        check_shape(weights.config(), precision)?;
        let kernels = Kernels::load(device, precision)?;
        let parameters = Parameters::new(device, precision, weights, head)?;
        let memory = without_reserve(device.memory()?.0);
        Ok(Self { device: device.clone(), precision, kernels, parameters, tape: Tape::default(), adam, memory })
    }

    /// How many of the first of these sequences, at least one, go through the network at once: as many as the memory holds that
    /// was free when the network was put on the GPU. Sequence i has rows `offsets[i]..offsets[i + 1]` of a batch.
    ///
    /// # Errors
    /// If the first alone does not fit.
    pub fn fitting(&self, offsets: &[u64]) -> Result<usize> {
        let (begin, ends) = offsets.split_first().ok_or_else(|| Error::invalid("a batch has no offsets"))?;
        let bytes = |i: usize| self.bytes((ends[i] - begin) as usize, i + 1);
        let n = ends.iter().enumerate().take_while(|&(i, _)| bytes(i) <= self.memory).count();
        if n == 0 && !ends.is_empty() {
            let (tokens, mib) = (ends[0] - begin, |bytes: usize| bytes.div_ceil(1 << 20));
            return Err(Error::new(
                Kind::NoMemory,
                format!(
                    "CUDA: a flow of {tokens} tokens takes {} MiB of the GPU's memory to learn, and {} MiB are left beside the \
                     network: free what other programs hold, or train a smaller network (--layers, --width), with fewer packets \
                     of a flow (--n-packets), on a GPU with more memory or on the CPU",
                    mib(bytes(0)),
                    self.memory >> 20
                ),
            ));
        }
        Ok(n)
    }

    /// Bytes that `rows` rows of `sequences` sequences take of the GPU's memory.
    pub fn bytes(&self, rows: usize, sequences: usize) -> usize {
        self.net().bytes(rows, sequences).total()
    }

    /// Allows batches to take at most `bytes` of the GPU's memory.
    pub fn limit_memory(&mut self, bytes: usize) {
        self.memory = self.memory.min(bytes);
    }

    /// Gives up half of what batches may take, since others have taken memory meanwhile. What a forward pass kept is lost.
    pub fn give_back(&mut self) -> Result<()> {
        self.tape.give_back(&self.device)?;
        self.memory = (self.memory / 2).min(without_reserve(self.device.memory()?.0));
        Ok(())
    }

    fn net(&self) -> Net<'_> {
        Net { config: self.config(), precision: self.precision, n_labels: self.parameters.n_labels }
    }

    /// The network's shape.
    pub fn config(&self) -> &Config {
        self.parameters.shape.config()
    }

    /// Parameters in all: the network's, then the head's weight and bias.
    pub fn len(&self) -> usize {
        self.parameters.len()
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all parameters.
    pub fn read(&self, values: &mut [f32]) -> Result<()> {
        self.parameters.read(&self.device, values)
    }

    /// Takes up these parameters.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        self.parameters.write(&self.device, values)
    }

    /// Reads all gradients, in the order of the parameters.
    pub fn read_gradients(&self, values: &mut [f32]) -> Result<()> {
        self.parameters.read_grads(&self.device, values)
    }

    /// Takes up these gradients.
    pub fn write_gradients(&mut self, values: &[f32]) -> Result<()> {
        self.parameters.write_grads(&self.device, values)
    }

    /// All gradients, to be summed with those of others.
    pub fn gradients(&mut self) -> &mut Floats {
        &mut self.parameters.grads
    }

    /// Reads the optimizer's means of gradients and of their squares.
    pub fn read_moments(&self, m: &mut [f32], v: &mut [f32]) -> Result<()> {
        self.parameters.read_moments(&self.device, [m, v])
    }

    /// Takes up the optimizer's state after `steps` steps.
    pub fn write_moments(&mut self, steps: u64, m: &[f32], v: &[f32]) -> Result<()> {
        self.parameters.write_moments(&self.device, steps, [m, v])
    }

    /// Runs the network over `sequences` and keeps what [`Self::backward`] needs.
    ///
    /// # Errors
    /// As [`crate::gpt2::forward`], and those of the GPU.
    pub fn forward(&mut self, sequences: Ragged<'_, Token>, dropout: Option<Dropout>) -> Result<()> {
        check_sequences(self.config(), sequences)?;
        self.tape.masks = Masks::new(dropout)?;
        self.tape.rows.read(sequences, self.parameters.shape.config().vocab_size);
        let (config, n_labels) = (self.parameters.shape.config(), self.parameters.n_labels);
        self.tape.prepare(&self.device, Net { config, precision: self.precision, n_labels })?;
        self.tape.clear_d_hidden(&self.device)?;
        self.run_forward()
    }

    /// The negative log-likelihood of each row's target, in nats; 0 where it is [`NO_TARGET`]. With `scale`, adds the
    /// gradient of `scale` times their sum.
    ///
    /// # Errors
    /// If `targets` are not one per token, or a target is no token.
    pub fn lm_loss(&mut self, targets: &[Token], scale: Option<f32>) -> Result<Vec<f32>> {
        let (n, d, v) = (self.tape.rows.n, self.config().n_embd, self.config().vocab_size);
        if targets.len() != n {
            return Err(Error::invalid(format!("{} targets are given for {n} tokens", targets.len())));
        }
        if let Some(row) = targets.iter().position(|&t| t != NO_TARGET && t as usize >= v) {
            return Err(Error::invalid(format!(
                "target of row {row} is {}; the vocabulary has {v} tokens",
                targets[row]
            )));
        }
        // What stands behind the token embedding gives the logits that pad the rows, which do not count.
        let (stride, wave) = (self.net().stride(), self.net().wave_rows(n));
        let w = width(self.precision);
        // Where the gradient is narrower than the logits, it lies behind them.
        let behind = if w == 4 { 0 } else { 4 * wave * stride };
        let (device, kernels, parameters) = (&self.device, &self.kernels, &self.parameters);
        let logits = self.tape.logits.fit(device, behind + w * wave * stride, "logits")?.begin();
        let losses = self.tape.losses.fit(device, 8 * n, "losses")?;
        losses.write(device, targets, "targets")?;
        let (targets_at, nll) = (losses.begin(), losses.begin() + 4 * n as u64);
        let places = self.tape.places();
        let wte = parameters.matrix(parameters.shape.wte());
        for begin in (0..n).step_by(wave) {
            let rows = wave.min(n - begin);
            let hidden = places.hidden + (w * begin * d) as u64;
            let shape = Shape { m: rows, n: stride, k: d };
            kernels.through(hidden, wte, logits, shape, Epilogue::Plain)?;
            let d_logits = if scale.is_some() { logits + behind as u64 } else { 0 };
            let at = 4 * begin as u64;
            let scale = scale.unwrap_or_default();
            kernels.cross_entropy(rows, [logits, targets_at + at], [v, stride], scale, [nll + at, d_logits])?;
            if d_logits == 0 {
                continue;
            }
            let c = places.d_hidden + (4 * begin * d) as u64;
            let factors = Factors { a: d_logits, b: wte, layout: Layout::Dense, bias: 0, c };
            kernels.shared.product(device, Shape { m: rows, n: d, k: stride }, factors, Epilogue::Add)?;
            let to = parameters.grad(parameters.shape.wte());
            kernels.gradient([d_logits, hidden], [v, d, rows], stride, places.parts, to)?;
        }
        let mut out = vec![0u32; 2 * n];
        self.tape.losses.read(device, &mut out, "losses")?;
        Ok(out[n..].iter().map(|&bits| f32::from_bits(bits)).collect())
    }

    /// The head's logits for the first `n` sequences, `[n, labels]`: of the means over all rows of each but its first.
    ///
    /// # Errors
    /// If there is no head, or a sequence has one row alone.
    pub fn logits(&mut self, n: usize) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; n * self.parameters.n_labels];
        self.run_head(n)?;
        self.tape.head.read(&self.device, &mut logits, "logits")?;
        Ok(logits)
    }

    /// The classifier's loss of the first `n` sequences: `targets` `[n, labels]` are what each label's negative log-likelihood
    /// is multiplied by, `total` divides the sum. Adds the gradients.
    ///
    /// # Errors
    /// As [`Self::logits`], and if there are not as many targets.
    pub fn head_loss(&mut self, n: usize, targets: &[f32], total: f32) -> Result<f64> {
        let (d, labels) = (self.config().n_embd, self.parameters.n_labels);
        if targets.len() != n * labels {
            return Err(Error::invalid(format!(
                "{} targets are given for {n} sequences of {labels} labels",
                targets.len()
            )));
        }
        self.run_head(n)?;
        let Some([logits, embeddings, d_embeddings, parts]) = self.head_room(n)? else { return Ok(0.0) };
        let (device, kernels, parameters) = (&self.device, &self.kernels, &self.parameters);
        let losses = self.tape.losses.fit(device, 4 * (n + targets.len()), "losses")?;
        // Losses come first, so that they are read alone.
        let both = [&vec![0.0; n][..], targets].concat();
        losses.write(device, &both, "targets")?;
        let (loss, targets) = (losses.begin(), losses.begin() + 4 * n as u64);
        kernels.soft_cross_entropy([n, labels], [logits, targets], total, loss)?;
        let [weight, bias] = parameters.head();
        kernels.add_columns(logits, true, [n, labels], parts, parameters.grad(bias))?;
        let plain = |at, row| Strided { at, row, column: 1 };
        let across = Strided { at: logits, row: 1, column: labels };
        let to = parameters.grad(weight.clone());
        kernels.strided(across, plain(embeddings, d), 0, to, Shape { m: labels, n: d, k: n }, Epilogue::Add)?;
        let weight = plain(parameters.vector(weight), d);
        let shape = Shape { m: n, n: d, k: labels };
        kernels.strided(plain(logits, labels), weight, 0, d_embeddings, shape, Epilogue::Plain)?;
        let (begins, places) = (self.tape.list(self.tape.rows.begins), self.tape.places());
        kernels.pool_backward(n, d_embeddings, begins, 1, d, places.d_hidden)?;
        let mut out = vec![0.0f32; n];
        self.tape.losses.read(device, &mut out, "losses")?;
        Ok(out.iter().map(|&loss| f64::from(loss)).sum())
    }

    /// The head's room for `n` sequences: where logits, embeddings, their gradients and parts of sums lie.
    fn head_room(&mut self, n: usize) -> Result<Option<[u64; 4]>> {
        let (d, labels) = (self.parameters.shape.config().n_embd, self.parameters.n_labels);
        if n == 0 || labels == 0 {
            return Ok(None);
        }
        let sizes = [n * labels, n * d, n * d, n.div_ceil(256) * labels].map(|numbers| 4 * numbers);
        let mut at = self.tape.head.fit(&self.device, sizes.iter().sum(), "embeddings")?.begin();
        let places = sizes.map(|bytes| {
            at += bytes as u64;
            at - bytes as u64
        });
        Ok(Some(places))
    }

    /// Embeds the first `n` sequences and computes their logits.
    fn run_head(&mut self, n: usize) -> Result<()> {
        let begins = self.tape.rows.begins;
        let rows = &self.tape.rows.words[begins.begin..begins.begin + begins.len];
        if self.parameters.n_labels == 0 || n >= begins.len {
            return Err(Error::invalid(format!(
                "{n} of {} sequences are to be classified",
                begins.len.saturating_sub(1)
            )));
        }
        if let Some(i) = (0..n).find(|&i| rows[i + 1] - rows[i] < 2) {
            return Err(Error::invalid(format!("sequence {i} has no packet to classify it by")));
        }
        let Some([logits, embeddings, ..]) = self.head_room(n)? else { return Ok(()) };
        let (kernels, parameters) = (&self.kernels, &self.parameters);
        let config = parameters.shape.config();
        let (d, labels) = (config.n_embd, parameters.n_labels);
        let norm = parameters.norm(parameters.norm_before(config.n_layer));
        let places = [self.tape.places().x, self.tape.list(begins), embeddings];
        kernels.shared.pool(&self.device, config, n, 1, norm, places)?;
        let [weight, bias] = parameters.head().map(|range| parameters.vector(range));
        let (a, b) = (Strided { at: embeddings, row: d, column: 1 }, Strided { at: weight, row: 1, column: d });
        kernels.strided(a, b, bias, logits, Shape { m: n, n: labels, k: d }, Epilogue::Bias)
    }

    /// Adds the gradient of every weight of the network, from the losses of the last forward pass. Takes the tape up.
    pub fn backward(&mut self) -> Result<()> {
        if self.tape.rows.n == 0 {
            return Err(Error::invalid("the tape is empty; run forward first"));
        }
        self.run_backward()?;
        self.tape.rows.n = 0;
        Ok(())
    }

    /// Clips the gradients, steps down them at learning rate `lr` and sets them to zero. Returns their norm before clipping;
    /// if that is not finite, nothing was stepped.
    pub fn step(&mut self, lr: f32) -> Result<f64> {
        self.parameters.step(&self.device, &self.kernels, &self.adam, lr)
    }
}

impl Drop for Training {
    /// What still runs reads buffers that are freed next.
    fn drop(&mut self) {
        let _ = self.device.synchronize();
    }
}
