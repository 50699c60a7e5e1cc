//! Judging a bundle's generator: are its flows like real flows that it has never seen, and more so than those of simpler
//! generators?
//!
//! Real flows of a held-out split are compared, class by class, with as many flows of the model and of three others that
//! were fitted to the split `train`: a first-order Markov chain, a hidden Markov model, and resampling of the training
//! flows themselves, which is the best that can be hoped for. Flows count up to the packets that the model generates.

pub mod chain;
mod data;
pub mod features;
pub mod forest;
pub mod hmm;
mod judge;
pub mod page;
mod report;
mod sources;

pub use data::Classes;
pub use judge::Pictures;
pub use report::{Autocorrelation, ClassReport, Feature, Report, SourceReport};
pub use sources::Given;

use crate::error::{Error, Kind, Result};
use crate::generator::Generator;
use crate::packet::{Ragged, Rows};
use crate::sampling::{Decode, Sampling};
use crate::tokens::Token;
use crate::train::interrupt::Interrupt;
use crate::train::progress::Progress;
use crate::train::table::{Split, Table};
use judge::Judge;

/// How to judge.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The split to compare with, which is not `train`.
    pub split: Split,
    /// Most flows of a class.
    pub per_class: usize,
    /// Classes with fewer held-out flows are left out: their figures would be noise.
    pub min_flows: usize,
    /// Seed of every draw.
    pub seed: u64,
    /// How freely the model chooses; its class, seed and number of the first flow are ignored. Packets are drawn only
    /// where the quantizer knows them.
    pub sampling: Sampling,
    /// States of the hidden Markov model; 0 to leave it out.
    pub states: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            split: Split::Val,
            per_class: 500,
            min_flows: 10,
            seed: 0,
            sampling: Sampling { decode: Decode::Sample, ..Sampling::default() },
            states: 16,
        }
    }
}

/// Flows as tokens, and whether each ended or was cut.
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    tokens: Rows<Token>,
    ended: Vec<bool>,
}

impl Sequences {
    /// Appends a flow.
    pub fn push(&mut self, tokens: &[Token], ended: bool) {
        self.tokens.push(tokens.iter().copied());
        self.ended.push(ended);
    }

    /// Every flow: its tokens, and whether it ended with them.
    pub fn iter(&self) -> impl Iterator<Item = (&[Token], bool)> {
        (0..self.ended.len()).map(|i| (self.tokens.row(i), self.ended[i]))
    }

    /// The tokens alone.
    pub fn tokens(&self) -> Ragged<'_, Token> {
        self.tokens.as_ragged()
    }
}

/// Judges `generator` by the flows of `table`; flows of other generators, in `given`, are judged with it. Interrupted, it
/// reports on those that were judged, if there is one.
pub fn evaluate(
    generator: &Generator,
    table: &Table,
    given: &[Given],
    settings: &Settings,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<(Report, Pictures)> {
    let classes = Classes::new(generator, table, settings)?;
    let sources = sources::all(generator, &classes, given, settings)?;
    let mut judge = Judge::new(generator, &classes, settings)?;
    progress.begin("evaluate", Some((sources.len() * classes.len()) as u64));
    for (n_judged, source) in sources.iter().enumerate() {
        progress.note(source.name());
        let flows = interrupt.check().and_then(|()| source.flows(&classes, &|| interrupt.check()));
        match flows {
            Ok(flows) => judge.add(source.name(), source.what(), &flows)?,
            Err(e) if e.kind() == Kind::Interrupted && n_judged == 0 => {
                let told = "interrupted before a generator was judged; nothing is written";
                return Err(Error::new(Kind::Interrupted, told));
            }
            Err(e) if e.kind() == Kind::Interrupted => {
                judge.interrupted(format!("interrupted: {n_judged} of {} generators were judged", sources.len()));
                break;
            }
            Err(e) => return Err(e),
        }
        progress.advance(classes.len() as u64);
    }
    progress.end();
    Ok(judge.finish())
}
