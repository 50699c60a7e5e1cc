//! Where flows that are judged come from.

use super::chain::Chain;
use super::data::{Class, Classes};
use super::hmm::Hmm;
use super::{Sequences, Settings};
use crate::error::{Error, Result};
use crate::generator::Generator;
use crate::packet::{Packet, Rows};
use crate::quantizer::Quantizer;
use crate::random::Stream;
use crate::sampling::{Decode, Sampling};
use crate::tokens::Token;
use crate::train::table::Table;
use crate::worker::Worker;
use rayon::prelude::*;

/// Flows that one thread draws from the model at a time.
const FLOWS_PER_TASK: usize = 64;

/// Training flows of a class that a hidden Markov model is fitted to at most, and how often it looks at them.
const HMM_FLOWS: usize = 2000;
const HMM_ITERATIONS: usize = 40;

/// Set draws apart from others of the same seed: ASCII "chain", "hmm", "boot".
const CHAIN_DRAWS: u64 = 0x63_6861_696e;
const HMM_DRAWS: u64 = 0x68_6d6d;
const BOOT_DRAWS: u64 = 0x626f_6f74;

/// Flows of a generator that is not ours, in a table with labels.
#[derive(Clone, Debug)]
pub struct Given {
    /// What to call it.
    pub name: String,
    /// Its flows.
    pub table: Table,
}

/// Asked between two pieces of work whether to go on.
pub type GoOn<'a> = dyn Fn() -> Result<()> + Sync + 'a;

/// A generator: gives as many flows of each class as there are real ones.
pub(super) enum Source<'a> {
    Model { generator: &'a Generator, sampling: Sampling },
    Chain { quantizer: &'a Quantizer, seed: u64 },
    Hmm { quantizer: &'a Quantizer, seed: u64, states: usize },
    Resampled { seed: u64 },
    Given(&'a Given),
}

/// The model, the baselines, and what else was given.
pub(super) fn all<'a>(
    generator: &'a Generator,
    classes: &Classes,
    given: &'a [Given],
    settings: &Settings,
) -> Result<Vec<Source<'a>>> {
    let (quantizer, seed) = (generator.quantizer(), settings.seed);
    let mut sources = vec![
        Source::Model { generator, sampling: Sampling { seed, ..settings.sampling.clone() } },
        Source::Chain { quantizer, seed },
    ];
    if settings.states > 0 {
        sources.push(Source::Hmm { quantizer, seed, states: settings.states });
    }
    sources.push(Source::Resampled { seed });
    for given in given {
        for class in &classes.classes {
            if !given.table.rows.iter().any(|row| class.holds(row.label.as_deref())) {
                return Err(Error::invalid(format!(
                    "{}: there are no flows of class {}; flows to judge need every class that is compared",
                    given.name, class.name
                )));
            }
        }
        sources.push(Source::Given(given));
    }
    Ok(sources)
}

impl Source<'_> {
    /// Its name in reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Model { .. } => "model",
            Self::Chain { .. } => "Markov chain",
            Self::Hmm { .. } => "hidden Markov model",
            Self::Resampled { .. } => "resampled",
            Self::Given(given) => &given.name,
        }
    }

    /// What it is, in a few words.
    pub fn what(&self) -> String {
        match self {
            Self::Model { generator, .. } => format!("the bundle's network on engine {}", generator.engine()),
            Self::Chain { .. } => "first order, over tokens, one per class, fitted to split train".into(),
            Self::Hmm { states, .. } => format!(
                "{states} states, over tokens, one per class, Baum-Welch on at most {HMM_FLOWS} flows of split train"
            ),
            Self::Resampled { .. } => "flows of split train drawn with replacement: the best to be hoped for".into(),
            Self::Given(given) => format!("{} flows that were given", given.table.rows.len()),
        }
    }

    /// As many flows of each class as there are real ones, if there are so many.
    pub fn flows(&self, classes: &Classes, go_on: &GoOn<'_>) -> Result<Vec<Rows<Packet>>> {
        let of_class = |(stream, class): (usize, &Class)| {
            go_on()?;
            self.of_class(class, stream as u64, classes.max_packets, go_on)
        };
        classes.classes.par_iter().enumerate().map(of_class).collect()
    }

    fn of_class(&self, class: &Class, stream: u64, max: usize, go_on: &GoOn<'_>) -> Result<Rows<Packet>> {
        let n = class.real.len();
        match self {
            Self::Model { generator, sampling } => {
                let sampling = Sampling { class: class.id, ..sampling.clone() };
                model(generator, &sampling, stream, n, go_on)
            }
            Self::Chain { quantizer, seed } => {
                let (chain, mut draws) = (Chain::fit(&class.train_tokens), Stream::new(seed ^ CHAIN_DRAWS, stream));
                decode(quantizer, class, *seed, stream, (0..n).map(|_| chain.draw(&mut draws, max)))
            }
            Self::Hmm { quantizer, seed, states } => {
                let mut draws = Stream::new(seed ^ HMM_DRAWS, stream);
                let flows = some(&class.train_tokens, &mut draws);
                let mut hmm = Hmm::new(&flows, *states, seed ^ stream);
                hmm.fit(&flows, HMM_ITERATIONS, go_on)?;
                decode(quantizer, class, *seed, stream, (0..n).map(|_| hmm.draw(&mut draws, max)))
            }
            Self::Resampled { seed } => {
                let (train, mut draws) = (class.train.as_ragged(), Stream::new(seed ^ BOOT_DRAWS, stream));
                Ok((0..n).map(|_| train.row(draws.below(train.len())).to_vec()).collect())
            }
            Self::Given(given) => {
                let rows = given.table.rows.iter().filter(|row| class.holds(row.label.as_deref())).take(n);
                Ok(rows.map(|row| row.packets.iter().take(max).copied().collect::<Vec<_>>()).collect())
            }
        }
    }
}

impl Class {
    /// Whether flows with this label are of the class.
    fn holds(&self, label: Option<&str>) -> bool {
        self.id.is_none() || label == Some(&self.name)
    }
}

/// At most [`HMM_FLOWS`] of `flows`.
fn some(flows: &Sequences, draws: &mut Stream) -> Sequences {
    let mut chosen: Vec<_> = flows.iter().collect();
    if chosen.len() > HMM_FLOWS {
        draws.shuffle(&mut chosen);
        chosen.truncate(HMM_FLOWS);
    }
    let mut out = Sequences::default();
    chosen.into_iter().for_each(|(tokens, ended)| out.push(tokens, ended));
    out
}

/// The packets of flows of tokens, as the generator makes them of its own.
fn decode(
    quantizer: &Quantizer,
    class: &Class,
    seed: u64,
    stream: u64,
    flows: impl Iterator<Item = Vec<Token>>,
) -> Result<Rows<Packet>> {
    let mut out = Rows::new();
    for (i, tokens) in (0..).zip(flows) {
        let mut packets = vec![Packet { size: 0, ipt_us: 0.0 }; tokens.len()];
        match quantizer.spread() {
            Some(_) => quantizer.decode_sampled(&tokens, class.id, seed, numbered(stream, i), &mut packets)?,
            None => quantizer.decode(&tokens, &mut packets)?,
        }
        if let Some(first) = packets.first_mut() {
            first.ipt_us = 0.0;
        }
        out.push(packets);
    }
    Ok(out)
}

/// The number of flow `i` of a class, so that no two classes share draws.
fn numbered(class: u64, i: u64) -> u64 {
    (class << 32) + i
}

/// `n` flows of the model, on all cores; each depends on its number alone.
fn model(generator: &Generator, sampling: &Sampling, stream: u64, n: usize, go_on: &GoOn<'_>) -> Result<Rows<Packet>> {
    let decode = if generator.can_sample_packets() { sampling.decode } else { Decode::Centroid };
    let draw = |worker: &mut Worker, task: usize| {
        go_on()?;
        let first = task * FLOWS_PER_TASK;
        let first_flow = numbered(stream, first as u64);
        let mut flows = Rows::new();
        let sampling = Sampling { first_flow, decode, ..sampling.clone() };
        generator.generate(worker, &sampling, FLOWS_PER_TASK.min(n - first), &mut flows)?;
        Ok(flows)
    };
    let tasks = (0..n.div_ceil(FLOWS_PER_TASK)).into_par_iter();
    let drawn: Vec<Rows<Packet>> = tasks.map_init(Worker::new, draw).collect::<Result<_>>()?;
    Ok(drawn.iter().flat_map(|flows| flows.as_ragged().rows().map(<[Packet]>::to_vec).collect::<Vec<_>>()).collect())
}
