//! What a classifier has to beat: methods that know nothing of networks, fitted to the raw packets of the training flows.
//!
//! A baseline sees a flow's first [`PACKETS`] packets as they are, unquantised: their signed sizes and, where it says so,
//! the logarithms of their times. It is fitted with the settings that its library ships, none of them chosen by the flows
//! that are judged.

mod features;
mod neighbours;

use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::train::boosting;
use crate::train::generation::forest::Forest;
use crate::train::interrupt::Interrupt;
use features::View;
use neighbours::Neighbours;
use std::str::FromStr;

/// Packets of a flow that a baseline sees.
pub const PACKETS: usize = 20;

/// A method to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Always the label with most training flows.
    Majority,
    /// A random forest on sizes.
    Forest,
    /// A random forest on sizes and times.
    ForestTimes,
    /// Gradient boosting on sizes.
    Boosting,
    /// Gradient boosting on sizes and times.
    BoostingTimes,
    /// The nearest training flows by sizes.
    Neighbours,
}

/// Flows to fit to, and the label of each.
#[derive(Clone, Copy, Debug)]
pub struct Lessons<'a> {
    /// Each flow's first packets.
    pub flows: &'a [&'a [Packet]],
    /// Its label, less than `n_labels`.
    pub labels: &'a [u32],
    /// Number of labels.
    pub n_labels: usize,
}

/// A method that has seen the training flows.
#[derive(Debug)]
pub struct Fitted {
    view: View,
    n_labels: usize,
    method: Method,
}

#[derive(Debug)]
enum Method {
    /// Share of each label.
    Majority(Vec<f32>),
    Forest(Forest),
    Neighbours(Neighbours),
}

impl Baseline {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Majority, Self::Forest, Self::ForestTimes, Self::Boosting, Self::BoostingTimes, Self::Neighbours];

    /// Its name in commands and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::Forest => "forest",
            Self::ForestTimes => "forest-times",
            Self::Boosting => "boosting",
            Self::BoostingTimes => "boosting-times",
            Self::Neighbours => "neighbours",
        }
    }

    /// What it is, in a sentence.
    pub fn what(self) -> String {
        let sizes = format!("the sizes of the first {PACKETS} packets");
        let both = format!("the sizes and the logarithms of the times of the first {PACKETS} packets");
        let boosted = format!("gradient-boosted trees ({}), one booster a label, on", boosting::SETTINGS);
        match self {
            Self::Majority => "always the label with most training flows; probabilities are the labels' shares".into(),
            Self::Forest => format!("random forest of 100 trees on {sizes}"),
            Self::ForestTimes => format!("random forest of 100 trees on {both}"),
            Self::Boosting => format!("{boosted} {sizes}"),
            Self::BoostingTimes => format!("{boosted} {both}"),
            Self::Neighbours => {
                format!("the {} nearest training flows by the Euclidean distance of {sizes}", neighbours::K)
            }
        }
    }

    /// Fits it to whole flows; the same seed gives the same answers, on any number of threads.
    pub fn fit(self, lessons: Lessons<'_>, seed: u64, interrupt: &Interrupt) -> Result<Fitted> {
        self.fit_early(lessons, PACKETS, seed, interrupt)
    }

    /// Fits it to the first `packets` packets of each flow, at most [`PACKETS`].
    pub fn fit_early(self, lessons: Lessons<'_>, packets: usize, seed: u64, interrupt: &Interrupt) -> Result<Fitted> {
        let Lessons { flows, labels, n_labels } = lessons;
        if flows.is_empty() || flows.len() != labels.len() || labels.iter().any(|&l| l as usize >= n_labels) {
            let (flows, labels) = (flows.len(), labels.len());
            return Err(Error::invalid(format!("{flows} flows with {labels} labels are nothing to fit a baseline to")));
        }
        let times = matches!(self, Self::ForestTimes | Self::BoostingTimes);
        let view = View { packets: packets.clamp(1, PACKETS), times };
        let method = match self {
            Self::Majority => {
                let mut shares = vec![0.0; n_labels];
                labels.iter().for_each(|&label| shares[label as usize] += 1.0 / labels.len() as f32);
                Method::Majority(shares)
            }
            Self::Forest | Self::ForestTimes => {
                Method::Forest(Forest::fit(&view.matrix(flows), labels, n_labels, seed)?)
            }
            Self::Boosting | Self::BoostingTimes => {
                Method::Forest(Forest::boosted(&view.matrix(flows), labels, n_labels, interrupt)?)
            }
            Self::Neighbours => Method::Neighbours(Neighbours::new(view.matrix(flows), labels.to_vec())),
        };
        Ok(Fitted { view, n_labels, method })
    }
}

impl FromStr for Baseline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|baseline| baseline.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("baseline is \"{text}\"; it must be one of {names}"))
        })
    }
}

impl Fitted {
    /// The probability of every label for every flow, row-major `[flows.len(), n_labels]`.
    pub fn probabilities(&self, flows: &[&[Packet]]) -> Vec<f32> {
        match &self.method {
            Method::Majority(shares) => shares.repeat(flows.len()),
            Method::Forest(forest) => forest.scores(&self.view.matrix(flows)),
            Method::Neighbours(neighbours) => neighbours.probabilities(&self.view.matrix(flows), self.n_labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use serde::Deserialize;

    fn packet(size: i32, ipt_us: f32) -> Packet {
        Packet { size, ipt_us }
    }

    /// Two labels that the third size tells, two more that only times tell.
    fn flows(n: usize, seed: u64) -> (Vec<Vec<Packet>>, Vec<u32>) {
        let mut draws = Stream::new(seed, 0);
        let mut flow = |label: u32| {
            let size = if label < 2 { 300 + 300 * label as i32 } else { 1200 };
            let wait = if label == 2 { 100.0 } else { 5e4 };
            let noise = draws.below(40) as i32;
            let ipt_us = wait * (1.0 + draws.uniform() as f32);
            vec![packet(60 + noise, 0.0), packet(-60, 9e3), packet(size + noise, ipt_us)]
        };
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 4).collect();
        (labels.iter().map(|&label| flow(label)).collect(), labels)
    }

    fn accuracy(baseline: Baseline, packets: usize) -> f64 {
        let ((train, labels), (test, truths)) = (flows(400, 1), flows(200, 2));
        let train: Vec<&[Packet]> = train.iter().map(Vec::as_slice).collect();
        let test: Vec<&[Packet]> = test.iter().map(Vec::as_slice).collect();
        // A label without flows is legal and never likely.
        let lessons = Lessons { flows: &train, labels: &labels, n_labels: 5 };
        let fitted = baseline.fit_early(lessons, packets, 3, &Interrupt::none()).unwrap();
        let probabilities = fitted.probabilities(&test);
        let again = baseline.fit_early(lessons, packets, 3, &Interrupt::none()).unwrap();
        assert_eq!(probabilities, again.probabilities(&test), "the same seed, the same answers");
        let mut right = 0;
        for (row, truth) in probabilities.chunks_exact(5).zip(&truths) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4 && row[4] < 1e-6, "{row:?}");
            right += usize::from(crate::classifier::argmax(row).0 == *truth as usize);
        }
        right as f64 / truths.len() as f64
    }

    #[test]
    fn each_learns_what_it_can_see_and_no_more() {
        for baseline in [Baseline::Forest, Baseline::Boosting, Baseline::Neighbours] {
            let found = accuracy(baseline, PACKETS);
            assert!((0.6..0.95).contains(&found), "{}: {found}", baseline.name());
            // Before the third packet all flows are alike.
            assert!(accuracy(baseline, 2) < 0.4, "{}", baseline.name());
        }
        for baseline in [Baseline::ForestTimes, Baseline::BoostingTimes] {
            assert!(accuracy(baseline, PACKETS) > 0.97, "{}", baseline.name());
        }
        assert_eq!(accuracy(Baseline::Majority, PACKETS), 0.25);
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let flow = [packet(60, 0.0)];
        for (flows, labels) in [(vec![], vec![]), (vec![&flow[..]], vec![]), (vec![&flow[..]], vec![2])] {
            let lessons = Lessons { flows: &flows, labels: &labels, n_labels: 2 };
            let error = Baseline::Forest.fit(lessons, 0, &Interrupt::none()).unwrap_err();
            assert!(error.message().contains("nothing to fit"), "{error}");
        }
        assert_eq!("forest-times".parse::<Baseline>().unwrap(), Baseline::ForestTimes);
        assert!("tree".parse::<Baseline>().unwrap_err().message().contains("boosting-times"));
    }

    #[derive(Deserialize)]
    struct Case {
        train: Vec<Vec<i32>>,
        labels: Vec<u32>,
        test: Vec<Vec<i32>>,
        n_labels: usize,
        neighbours: Vec<f32>,
        forest_log_loss: f64,
        boosting_log_loss: f64,
        truths: Vec<u32>,
    }

    /// Flows of numbers and the answers of scikit-learn (`dev/golden_baselines.py`): those of its k-NN exactly; those of
    /// its forest and its boosting, which draw and stop otherwise, at most a quarter worse.
    #[test]
    fn they_are_as_good_as_those_of_scikit_learn() {
        let case: Case = serde_json::from_str(include_str!("../../../tests/golden/baselines.json")).unwrap();
        let flows = |rows: &[Vec<i32>]| -> Vec<Vec<Packet>> {
            rows.iter().map(|row| row.iter().map(|&size| packet(size, 0.0)).collect()).collect()
        };
        let (train, test) = (flows(&case.train), flows(&case.test));
        let train: Vec<&[Packet]> = train.iter().map(Vec::as_slice).collect();
        let test: Vec<&[Packet]> = test.iter().map(Vec::as_slice).collect();
        let lessons = Lessons { flows: &train, labels: &case.labels, n_labels: case.n_labels };
        let answers = |baseline: Baseline| baseline.fit(lessons, 0, &Interrupt::none()).unwrap().probabilities(&test);
        let ours = answers(Baseline::Neighbours);
        assert!(ours.iter().zip(&case.neighbours).all(|(a, b)| (a - b).abs() < 1e-6) && ours.len() > 100);
        let loss = |baseline: Baseline| {
            let rows = answers(baseline);
            let p = |(row, &truth): (&[f32], &u32)| -f64::from(row[truth as usize]).max(1e-3).ln();
            rows.chunks_exact(case.n_labels).zip(&case.truths).map(p).sum::<f64>() / case.truths.len() as f64
        };
        for (baseline, theirs) in
            [(Baseline::Forest, case.forest_log_loss), (Baseline::Boosting, case.boosting_log_loss)]
        {
            let ours = loss(baseline);
            assert!(ours < 1.25 * theirs, "{}: {ours} beside {theirs}", baseline.name());
        }
    }
}
