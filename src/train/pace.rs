//! How a run gets on: loss and speed of late, and when it will end.

use crate::train::trainer::StepLoss;
use std::time::{Duration, Instant};

/// Counters of a run since the last log line and since the last evaluation. They are for the reader alone: nothing a
/// step computes depends on them.
#[derive(Clone, Debug)]
pub struct Pace {
    began: Instant,
    /// Share of the run done when the first step of this process was.
    first: Option<f64>,
    interval: Sums,
    since_evaluation: Sums,
}

#[derive(Clone, Copy, Debug)]
struct Sums {
    began: Instant,
    paused: Duration,
    loss: f64,
    steps: u64,
    tokens: u64,
}

impl Sums {
    fn start() -> Self {
        Self { began: Instant::now(), paused: Duration::ZERO, loss: 0.0, steps: 0, tokens: 0 }
    }

    fn add(&mut self, step: StepLoss) {
        self.loss += step.loss;
        self.steps += 1;
        self.tokens += step.tokens as u64;
    }

    fn mean(&self) -> f64 {
        self.loss / self.steps.max(1) as f64
    }

    fn tokens_per_second(&self) -> f64 {
        let time = self.began.elapsed().saturating_sub(self.paused);
        self.tokens as f64 / time.as_secs_f64().max(1e-9)
    }
}

impl Pace {
    /// Begins now.
    pub fn start() -> Self {
        Self { began: Instant::now(), first: None, interval: Sums::start(), since_evaluation: Sums::start() }
    }

    /// Counts a step.
    pub fn add(&mut self, step: StepLoss) {
        self.interval.add(step);
        self.since_evaluation.add(step);
    }

    /// Time that went into something else than steps.
    pub fn pause(&mut self, time: Duration) {
        self.interval.paused += time;
        self.since_evaluation.paused += time;
    }

    /// Mean loss of this interval.
    pub fn loss(&self) -> f64 {
        self.interval.mean()
    }

    /// Tokens a second in this interval.
    pub fn tokens_per_second(&self) -> f64 {
        self.interval.tokens_per_second()
    }

    /// Begins the next interval.
    pub fn next_interval(&mut self) {
        self.interval = Sums::start();
    }

    /// Mean loss and tokens a second since the last evaluation, if there were steps; begins anew.
    pub fn take(&mut self) -> Option<(f64, f64)> {
        let sums = std::mem::replace(&mut self.since_evaluation, Sums::start());
        (sums.steps > 0).then(|| (sums.mean(), sums.tokens_per_second()))
    }

    /// How long the run will take at the pace so far, now that the share `done` of it is done; early stopping apart.
    pub fn left(&mut self, done: f64) -> String {
        let Some(first) = self.first else {
            self.first = Some(done);
            self.began = Instant::now();
            return "?".to_string();
        };
        let progressed = done - first;
        if progressed <= 0.0 {
            return "?".to_string();
        }
        duration(self.began.elapsed().as_secs_f64() * (1.0 - done).max(0.0) / progressed)
    }
}

/// `seconds` as people say it.
fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_their_interval() {
        let mut pace = Pace::start();
        for loss in [4.0, 2.0] {
            pace.add(StepLoss { loss, tokens: 10 });
        }
        assert_eq!(pace.loss(), 3.0);
        pace.next_interval();
        pace.add(StepLoss { loss: 1.0, tokens: 10 });
        let (loss, rate) = pace.take().unwrap();
        assert!(rate > 0.0);
        assert_eq!((pace.loss(), loss, pace.take()), (1.0, 7.0 / 3.0, None));
        assert_eq!(pace.left(0.5), "?");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!([duration(3.4), duration(75.0), duration(7260.0)], ["3 s", "1 min 15 s", "2 h 01 min"]);
    }
}
