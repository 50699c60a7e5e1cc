//! The CUDA engine: [`crate::cuda::gpt2`] on a GPU, found at run time.

use super::draw::{Draw, Drawing};
use super::{Engine, EngineKind, Precision, Session, Value, check_room, native};
use crate::cuda::gpt2::{Lane, Network, Options};
use crate::error::{Error, Kind, Result};
use crate::gpt2::{Config, Weights};
use crate::packet::{Ragged, Rows};
use crate::random::Stream;
use crate::tokens::Token;
use std::sync::Arc;

/// Tokens of a batch: enough for every multiprocessor of a large GPU.
const BATCH_TOKENS: usize = 1 << 16;

/// A network on a GPU.
pub struct Cuda(Arc<Network>);

impl Cuda {
    /// Puts the network of `weights` on the GPU that `options` name, and has it compute something that the CPU computes too:
    /// a GPU that comes to other results is refused.
    pub fn open(weights: Arc<Weights>, precision: Precision, options: &Options) -> Result<Arc<Self>> {
        let engine = Arc::new(Self(Network::open(weights, precision, options)?));
        engine.check()?;
        Ok(engine)
    }

    /// Compares embeddings and logits with the native engine's.
    fn check(self: &Arc<Self>) -> Result<()> {
        let config = self.config();
        let mut draws = Stream::new(1, 0);
        let longest = config.n_positions.min(40);
        let sequences: Rows<Token> = [1, longest / 2 + 1, longest]
            .map(|n| (0..n).map(|_| draws.below(config.vocab_size) as Token).collect::<Vec<_>>())
            .into_iter()
            .collect();
        let run = |mut session: Box<dyn Session>| -> Result<Vec<f32>> {
            let (d, v) = (config.n_embd, config.vocab_size);
            let mut results = vec![0.0; 3 * d + 2 * v];
            let (embeddings, logits) = results.split_at_mut(3 * d);
            session.embed(sequences.as_ragged(), 0, embeddings)?;
            session.begin(2)?;
            for &token in &sequences.row(1)[..longest.min(3)] {
                session.step(&[1, 0], &[token, 0], logits)?;
            }
            Ok(results)
        };
        let native = native::Native::new(self.0.weights().clone(), 1);
        let (expected, got) = (run(native.session()?)?, run(self.clone().session()?)?);
        let off = distance(&got, &expected);
        // Ten times what rounding does to networks of ours.
        let allowed = match self.0.precision() {
            Precision::F32 => 1e-3,
            Precision::Bf16 => 0.1,
        };
        if off <= allowed {
            return Ok(());
        }
        Err(Error::new(
            Kind::Runtime,
            format!("CUDA: this GPU's results are off by {off:.1e} of the CPU's; use native or onnx, and report it"),
        ))
    }
}

/// ‖a - b‖ / ‖b‖.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let all: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (off / all.max(f64::MIN_POSITIVE)).sqrt()
}

impl Engine for Cuda {
    fn kind(&self) -> EngineKind {
        EngineKind::Cuda
    }

    fn config(&self) -> &Config {
        self.0.config()
    }

    fn batch_tokens(&self) -> usize {
        BATCH_TOKENS
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>> {
        let lane = self.0.lane()?;
        Ok(Box::new(CudaSession { engine: self, lane }))
    }
}

struct CudaSession {
    engine: Arc<Cuda>,
    lane: Lane,
}

impl Session for CudaSession {
    fn embed(&mut self, sequences: Ragged<'_, Token>, first: usize, out: &mut [f32]) -> Result<()> {
        self.lane.embed(sequences, first, out)
    }

    fn vocab_size(&self) -> usize {
        self.engine.config().vocab_size
    }

    fn best_slots(&self) -> usize {
        self.lane.slots()
    }

    fn begin(&mut self, slots: usize) -> Result<()> {
        self.lane.begin(slots)
    }

    fn step(&mut self, slots: &[usize], tokens: &[Token], logits: &mut [f32]) -> Result<()> {
        self.lane.step(slots, tokens, logits)
    }

    fn clear(&mut self, slot: usize) {
        self.lane.clear(slot);
    }

    fn draw(
        &mut self,
        slots: &[usize],
        tokens: &mut [Token],
        draws: &[Option<Draw>],
        by: &mut Drawing<'_>,
    ) -> Result<()> {
        self.lane.draw(slots, tokens, draws, &by.rule())
    }

    fn read(&mut self, sequences: Ragged<'_, Token>, value: &Value<'_>, out: &mut [f32]) -> Result<()> {
        check_room(sequences, out)?;
        self.lane.read(sequences, value, out)
    }
}
