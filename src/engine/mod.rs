//! Inference behind one trait: embed a batch, or step a decode. Who implements it: [`native`] (our GPT-2 on the CPU),
//! [`onnx`] (ONNX Runtime) and [`cuda`] (our kernels on a GPU). All give the same answers within the stated tolerance.

pub mod cuda;
pub mod draw;
pub mod native;
pub mod onnx;

pub use crate::backend::packed::Precision;
use crate::bundle::Bundle;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::gpt2::Config;
use crate::packet::Ragged;
use crate::tokens::Token;
use draw::{Draw, Drawing};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Who runs the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Our own implementation on the CPU; always there.
    Native,
    /// ONNX Runtime, found at run time.
    Onnx,
    /// Our kernels on a GPU, found at run time.
    Cuda,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Native => "native",
            EngineKind::Onnx => "onnx",
            EngineKind::Cuda => "cuda",
        })
    }
}

/// What a caller asks for: one engine by name, or whichever is best here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// A GPU where one answers, else native; ONNX Runtime where the settings name its library.
    #[default]
    Auto,
    /// This one or an error; never another.
    Named(EngineKind),
}

impl FromStr for EngineChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Named(EngineKind::Native)),
            "onnx" => Ok(Self::Named(EngineKind::Onnx)),
            "cuda" => Ok(Self::Named(EngineKind::Cuda)),
            _ => Err(Error::invalid(format!("engine is \"{text}\"; it must be auto, native, onnx or cuda"))),
        }
    }
}

/// One network, loaded and ready to run. Immutable; shared by any number of sessions.
pub trait Engine: Send + Sync {
    /// Who runs it.
    fn kind(&self) -> EngineKind;

    /// The network's shape.
    fn config(&self) -> &Config;

    /// Tokens that are best given to [`Session::embed`] at once: enough for full matrix products, little enough that what
    /// lies between them stays in the cache.
    fn batch_tokens(&self) -> usize {
        2048
    }

    /// A session for one thread. Sessions share the weights and nothing else.
    fn session(self: Arc<Self>) -> Result<Box<dyn Session>>;
}

/// One thread's way through an engine: its scratch, caches and staging. Memory grows to the largest batch seen and is
/// kept.
pub trait Session: Send {
    /// Embeds each sequence: the mean of its last hidden states (after the final layer norm) over positions
    /// `first..len`. Every sequence has between `first + 1` and `n_positions` tokens.
    /// `out` is row-major `[sequences.len(), n_embd]`.
    fn embed(&mut self, sequences: Ragged<'_, Token>, first: usize, out: &mut [f32]) -> Result<()>;

    /// Number of logits of a row.
    fn vocab_size(&self) -> usize;

    /// How many flows are best decoded side by side; any other number gives the same logits.
    fn best_slots(&self) -> usize {
        64
    }

    /// Begins a decode with room for `slots` flows of up to `n_positions` tokens, all of them empty. Ends the one
    /// before.
    fn begin(&mut self, slots: usize) -> Result<()>;

    /// Appends `tokens[i]` to the flow in slot `slots[i]` (each slot at most once) and writes the next token's logits
    /// to row `i` of `logits`, row-major `[slots.len(), vocab_size]`.
    fn step(&mut self, slots: &[usize], tokens: &[Token], logits: &mut [f32]) -> Result<()>;

    /// As [`Self::step`], and draws the next tokens: `tokens[i]` becomes the one drawn by `draws[i]`. Without a draw it is
    /// left as it was, as what comes after it is known already.
    fn draw(
        &mut self,
        slots: &[usize],
        tokens: &mut [Token],
        draws: &[Option<Draw>],
        by: &mut Drawing<'_>,
    ) -> Result<()> {
        draw::draw_from_logits(self, slots, tokens, draws, by)
    }

    /// Appends the tokens of row `i` of `begun` to the flow in slot `slots[i]` (each slot at most once), all at once. Later
    /// steps go on as if each token had been stepped. An engine that can only step does nothing and says so by `false`.
    fn prefill(&mut self, slots: &[usize], begun: Ragged<'_, Token>) -> Result<bool> {
        let _ = (slots, begun);
        Ok(false)
    }

    /// Empties a slot: the next token given to it is the first of a new flow.
    fn clear(&mut self, slot: usize);

    /// Reads sequences that are known already: gives each token to `value`, by its place among all tokens and with the
    /// logits `[vocab_size]` of the token after it, and writes what comes back to `out`, one value a token. Every
    /// sequence has between 1 and `n_positions` tokens. Ends the decode that was begun.
    fn read(&mut self, sequences: Ragged<'_, Token>, value: &Value<'_>, out: &mut [f32]) -> Result<()> {
        read_by_steps(self, sequences, value, out)
    }
}

/// What [`Session::read`] makes of a token's place and the logits after it.
pub type Value<'a> = dyn Fn(usize, &[f32]) -> f32 + Sync + 'a;

/// Sequences that [`read_by_steps`] decodes side by side.
const READ_SLOTS: usize = 64;

/// [`Session::read`] for an engine that can only decode: the tokens that are known take the place of those drawn.
pub(crate) fn read_by_steps<S: Session + ?Sized>(
    session: &mut S,
    sequences: Ragged<'_, Token>,
    value: &Value<'_>,
    out: &mut [f32],
) -> Result<()> {
    check_room(sequences, out)?;
    let offsets = sequences.offsets();
    let v = session.vocab_size();
    let mut logits = vec![0.0; sequences.len().min(READ_SLOTS) * v];
    let (mut slots, mut tokens) = (Vec::new(), Vec::new());
    for begin in (0..sequences.len()).step_by(READ_SLOTS) {
        let rows = begin..sequences.len().min(begin + READ_SLOTS);
        session.begin(rows.len())?;
        let longest = rows.clone().map(|i| sequences.row(i).len()).max().unwrap_or(0);
        for at in 0..longest {
            slots.clear();
            slots.extend(rows.clone().filter(|&i| at < sequences.row(i).len()).map(|i| i - begin));
            tokens.clear();
            tokens.extend(slots.iter().map(|slot| sequences.row(begin + slot)[at]));
            let logits = &mut logits[..slots.len() * v];
            session.step(&slots, &tokens, logits)?;
            for (slot, logits) in slots.iter().zip(logits.chunks_exact(v)) {
                let place = offsets[begin + slot] as usize + at;
                out[place] = value(place, logits);
            }
        }
    }
    Ok(())
}

/// [`Session::read`] writes one value a token.
fn check_room(sequences: Ragged<'_, Token>, out: &[f32]) -> Result<()> {
    let n = sequences.total();
    if out.len() != n {
        return Err(Error::invalid(format!("{} values are given for {n} tokens", out.len())));
    }
    Ok(())
}

/// Puts the network of `bundle` on the engine that `settings` ask for. `auto` goes without a GPU where none can be used. On the
/// CPU it is native, which was faster than ONNX Runtime at every size measured (benches/RESULTS.md) and needs no library; a
/// library that the settings name is meant to be used, and must be there.
pub fn open(bundle: &Bundle, settings: &Settings) -> Result<Arc<dyn Engine>> {
    let native = || native::Native::with_precision(bundle.weights.clone(), settings.threads, settings.precision);
    let onnx = || -> Result<Arc<dyn Engine>> {
        Ok(onnx::Onnx::open(bundle, settings.onnx_library.as_deref(), settings.threads)?)
    };
    let cuda = || -> Result<Arc<dyn Engine>> {
        Ok(cuda::Cuda::open(bundle.weights.clone(), settings.precision, &settings.cuda)?)
    };
    match settings.engine {
        EngineChoice::Named(EngineKind::Native) => native(),
        EngineChoice::Named(EngineKind::Onnx) if settings.precision != Precision::F32 => {
            Err(Error::invalid("precision is bf16, which only the engines native and cuda have; the engine is onnx"))
        }
        EngineChoice::Named(EngineKind::Onnx) => onnx(),
        EngineChoice::Named(EngineKind::Cuda) => cuda(),
        // ONNX Runtime's graphs are of f32.
        EngineChoice::Auto if settings.onnx_library.is_some() && settings.precision == Precision::F32 => onnx(),
        EngineChoice::Auto => cuda().or_else(|_| native()),
    }
}
