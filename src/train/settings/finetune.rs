//! Settings of fine-tuning.

use super::{Loop, range};
use crate::error::{Error, Result};
use crate::train::forest::Trees;
use crate::train::heads;
use crate::train::schedule::Schedule;
use serde::{Deserialize, Serialize};

/// Most trees of a forest.
const MAX_TREES: usize = 10_000;

/// Most times that an epoch may go through the labelled flows.
const MAX_REPEATS: u64 = 1000;

/// How much a flow counts in the classifier's loss, by the number of training flows of its label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeights {
    /// Each flow the same.
    None,
    /// By one over the square root of the label's flows.
    #[default]
    Sqrt,
    /// By one over the label's flows: each label the same.
    Balanced,
}

impl std::str::FromStr for ClassWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "sqrt" => Ok(Self::Sqrt),
            "balanced" => Ok(Self::Balanced),
            _ => Err(Error::invalid(format!("class weights are \"{text}\"; they must be none, sqrt or balanced"))),
        }
    }
}

/// Fine-tuning of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finetune {
    /// The loop.
    #[serde(flatten)]
    pub run: Loop,
    /// Whether the network stays as it is and only the head learns.
    pub freeze: bool,
    /// Which head, and how it is fitted.
    #[serde(flatten)]
    pub head: heads::Options,
    /// Fewest training flows that a label may have.
    pub min_flows: usize,
    /// What the language model's loss is multiplied by beside the classifier's; 0: left out.
    pub lm_weight: f64,
    /// How labels of different size count.
    pub class_weights: ClassWeights,
    /// Probability mass that the target gives to all labels alike.
    pub label_smoothing: f64,
    /// Probability that a training flow is cut after a random number of its packets, whose logarithm is uniform.
    pub crop: f64,
    /// Probability that a training flow is classified with the times of another flow, so that the classifier leans on
    /// sizes: times depend on where a capture was made. The language model does not learn such sequences.
    pub borrow_times: f64,
    /// Trees of a random forest that votes beside the network; 0: none.
    pub forest_trees: usize,
    /// Boosted trees of each label that vote beside the network; 0: none.
    pub boost_rounds: usize,
    /// Share of the trees in the probabilities.
    pub forest_weight: f64,
    /// Whether the trees look at the packets' times as well as at their sizes. Good where flows to come are recorded at the
    /// places of the training flows.
    pub forest_times: bool,
    /// Share of the teachers' answer, beside the label, in what a labelled flow is to give.
    pub teacher_weight: f64,
    /// What a flow without a label, of which only the teachers' answer is known, counts beside one with a label.
    pub unlabelled_weight: f64,
    /// Times that an epoch goes through the labelled flows for each time through those without a label.
    pub labelled_repeats: u64,
    /// What divides the logits before the softmax, or the logarithms of probabilities that a forest has voted on; 0: what
    /// fits the validation flows best.
    pub temperature: f64,
    /// Probability below which the classifier says "unknown"; 0: never.
    pub reject_below: f64,
    /// Share of the groups held out for validation among flows that name no split.
    pub val_share: f64,
}

impl Default for Finetune {
    fn default() -> Self {
        Self {
            run: Loop { lr: 5e-4, schedule: Schedule::Plateau, patience: 8, ..Loop::default() },
            freeze: false,
            head: heads::Options::default(),
            min_flows: 2,
            lm_weight: 0.5,
            class_weights: ClassWeights::Sqrt,
            label_smoothing: 0.0,
            crop: 0.0,
            borrow_times: 0.0,
            forest_trees: 0,
            boost_rounds: 0,
            forest_weight: 0.5,
            forest_times: false,
            teacher_weight: 0.5,
            unlabelled_weight: 1.0,
            labelled_repeats: 1,
            temperature: 0.0,
            reject_below: 0.0,
            val_share: 0.1,
        }
    }
}

impl Finetune {
    /// The trees that are to vote beside the network, if any.
    pub fn trees(&self) -> Option<Trees> {
        match (self.forest_trees, self.boost_rounds) {
            (0, 0) => None,
            (0, rounds) => Some(Trees::Boosted { rounds }),
            (n, _) => Some(Trees::Bagged(n)),
        }
    }

    /// Checks every value against its range and against the others.
    pub fn check(&self) -> Result<()> {
        range("lm_weight", self.lm_weight, 0.0, 1e3)?;
        range("label_smoothing", self.label_smoothing, 0.0, 0.9)?;
        range("crop", self.crop, 0.0, 1.0)?;
        range("borrow_times", self.borrow_times, 0.0, 1.0)?;
        range("forest_weight", self.forest_weight, 0.0, 1.0)?;
        range("teacher_weight", self.teacher_weight, 0.0, 1.0)?;
        range("unlabelled_weight", self.unlabelled_weight, 0.0, 1e3)?;
        range("temperature", self.temperature, 0.0, 100.0)?;
        for (name, n) in [("forest_trees", self.forest_trees), ("boost_rounds", self.boost_rounds)] {
            if n > MAX_TREES {
                return Err(Error::invalid(format!("{name} is {n}; it must be at most {MAX_TREES}")));
            }
        }
        if !(1..=MAX_REPEATS).contains(&self.labelled_repeats) {
            let n = self.labelled_repeats;
            return Err(Error::invalid(format!("labelled_repeats is {n}; it must be in 1..={MAX_REPEATS}")));
        }
        range("reject_below", self.reject_below, 0.0, 1.0)?;
        self.head.check(self.freeze)?;
        if self.forest_trees > 0 && self.boost_rounds > 0 {
            return Err(Error::invalid(
                "forest_trees and boost_rounds: one kind of trees may vote: leave the other at 0",
            ));
        }
        let run = &self.run;
        let changes = self.crop > 0.0 || self.borrow_times > 0.0 || run.time_jitter > 0.0 || !run.reshape.is_none();
        if self.freeze && changes {
            return Err(Error::invalid(
                "crop, borrow_times, time_jitter, size_jitter, header_shift, packet_loss and late_start change what the \
                 network reads anew in every epoch; with freeze it reads every flow once: leave them at 0",
            ));
        }
        range("val_share", self.val_share, 0.0, 0.9)?;
        self.run.check()
    }
}
