//! When generated flows begin: at a steady rate, or as a Poisson process has it.

use trafficgpt::random::uniform;
use trafficgpt::train::table::pcap::EPOCH_NS;
use trafficgpt::{Error, Result};

/// Sets these draws apart from others of the same seed: ASCII "arrive".
const ARRIVAL_DRAWS: u64 = 0x6172_7269_7665;

/// Most flows of one run.
const MAX_FLOWS: u64 = 1 << 32;

/// Latest beginning, in seconds from the first: a capture's clock has no room for more than 82 years from 2024.
const MAX_SECONDS: f64 = 80.0 * 365.0 * 86_400.0;

/// How many flows, and when they begin.
#[derive(clap::Args)]
#[command(next_help_heading = "Flows")]
pub struct ArrivalArgs {
    /// Number of flows.
    #[arg(short, long = "number", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_FLOWS),
        required_unless_present_any = ["duration", "begun"], conflicts_with = "duration")]
    n: Option<u64>,
    /// So many flows begin every second, at even distances.
    #[arg(long, value_name = "N", conflicts_with = "poisson")]
    rate: Option<f64>,
    /// So many flows begin every second on average, independently of each other.
    #[arg(long, value_name = "N")]
    poisson: Option<f64>,
    /// Flows begin for so many seconds; takes --rate or --poisson, and says how many flows there are.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
}

impl ArrivalArgs {
    /// The beginnings, and their number: `default` where nothing says how many.
    pub fn plan(&self, seed: u64, default: Option<u64>) -> Result<(Arrivals, u64)> {
        let per_second = self.rate.or(self.poisson);
        for (option, value) in [("--rate", self.rate), ("--poisson", self.poisson), ("--duration", self.duration)] {
            if let Some(value) = value.filter(|v| !(*v > 0.0 && v.is_finite())) {
                return Err(Error::invalid(format!("{option} {value}: must be a number above 0")));
            }
        }
        let arrivals = Arrivals { seed, next: 0, seconds: 0.0, per_second, poisson: self.poisson.is_some() };
        let asked = self.n.or(default.filter(|_| self.duration.is_none()));
        let n = match (asked, self.duration, per_second) {
            (Some(n), ..) => n,
            (None, Some(_), None) => {
                return Err(Error::invalid("--duration needs --rate or --poisson, or else it says nothing"));
            }
            (None, Some(duration), Some(per_second)) => {
                // A Poisson process strays from its mean by a few times the square root of it.
                if per_second * duration > MAX_FLOWS as f64 / 2.0 {
                    return Err(Error::invalid(format!(
                        "{per_second} flows per second for {duration} s: a run makes at most {} flows; make several",
                        MAX_FLOWS / 2
                    )));
                }
                let mut counted = arrivals.clone();
                let mut n = 0;
                while counted.advance() < duration {
                    n += 1;
                }
                n
            }
            (None, None, _) => return Err(Error::invalid("-n or --duration must say how many flows")),
        };
        if n == 0 {
            return Err(Error::invalid("no flow begins in that time; take a longer one, or another seed"));
        }
        if per_second.is_some_and(|rate| n as f64 / rate > MAX_SECONDS) {
            return Err(Error::invalid(format!("{n} flows at that rate take more than 80 years")));
        }
        Ok((arrivals, n))
    }
}

/// Gives the beginning of one flow after another; the same seed gives the same.
#[derive(Clone, Debug)]
pub struct Arrivals {
    seed: u64,
    next: u64,
    /// When the last one began.
    seconds: f64,
    per_second: Option<f64>,
    poisson: bool,
}

impl Arrivals {
    /// When the next flow begins, in nanoseconds since 1970; none if no rate was asked for.
    pub fn next_ns(&mut self) -> Option<u64> {
        self.per_second?;
        Some(EPOCH_NS + (self.advance() * 1e9).round() as u64)
    }

    /// The same in seconds from the beginning of all.
    fn advance(&mut self) -> f64 {
        let per_second = self.per_second.unwrap_or(1.0);
        if self.poisson {
            self.seconds -= (1.0 - uniform(self.seed ^ ARRIVAL_DRAWS, 0, self.next)).ln() / per_second;
        } else {
            self.seconds = self.next as f64 / per_second;
        }
        self.next += 1;
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(n: Option<u64>, rate: Option<f64>, poisson: Option<f64>, duration: Option<f64>) -> ArrivalArgs {
        ArrivalArgs { n, rate, poisson, duration }
    }

    #[test]
    fn a_rate_and_a_time_make_a_number() {
        let (mut arrivals, n) = args(None, Some(4.0), None, Some(2.0)).plan(1, None).unwrap();
        let begins: Vec<u64> = (0..n).map(|_| arrivals.next_ns().unwrap() - EPOCH_NS).collect();
        assert_eq!(begins, [0, 250, 500, 750, 1000, 1250, 1500, 1750].map(|ms| ms * 1_000_000));
        assert_eq!(args(Some(5), None, None, None).plan(1, None).unwrap().0.next_ns(), None);
        assert_eq!(args(Some(5), Some(0.5), None, None).plan(1, None).unwrap().1, 5);
    }

    #[test]
    fn a_poisson_process_has_its_rate_and_exponential_distances() {
        let (mut arrivals, n) = args(None, None, Some(200.0), Some(50.0)).plan(7, None).unwrap();
        assert!((n as f64 - 10_000.0).abs() < 400.0, "{n}: four deviations of the mean are 400");
        let begins: Vec<f64> = (0..n).map(|_| (arrivals.next_ns().unwrap() - EPOCH_NS) as f64 / 1e9).collect();
        assert!(begins.is_sorted() && *begins.last().unwrap() < 50.0 && arrivals.advance() >= 50.0);
        let gaps: Vec<f64> = begins.windows(2).map(|w| w[1] - w[0]).collect();
        let above = |t: f64| gaps.iter().filter(|g| **g > t).count() as f64 / gaps.len() as f64;
        for t in [0.5, 1.0, 2.0] {
            assert!((above(t / 200.0) - (-t).exp()).abs() < 0.02, "{t}: {}", above(t / 200.0));
        }
        assert_ne!(args(None, None, Some(200.0), Some(50.0)).plan(8, None).unwrap().1, n);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (bad, says) in [
            (args(None, None, None, Some(1.0)), "--rate or --poisson"),
            (args(None, Some(0.0), None, Some(1.0)), "--rate 0"),
            (args(None, None, Some(f64::NAN), Some(1.0)), "--poisson NaN"),
            (args(None, Some(1.0), None, Some(f64::INFINITY)), "--duration inf"),
            (args(None, Some(1e9), None, Some(1e9)), "at most"),
            (args(None, None, Some(1e-9), Some(1e-9)), "no flow begins"),
            (args(Some(1 << 20), Some(1e-9), None, None), "80 years"),
        ] {
            let error = bad.plan(1, None).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }
}
