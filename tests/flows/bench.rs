//! A table with a small model, and packets to push.

use crate::common::{TestBundle, random_bundle};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::flows::{Control, Count, Flows, Observation, Options, Reason, Verdict};
use trafficgpt::meter::Tunnel;

pub const SECOND: u64 = 1_000_000_000;
/// When the tests begin: far from 0, as Unix time is.
pub const START: u64 = 1_700_000_000 * SECOND;

pub const UDP: u8 = 17;
pub const TCP: u8 = 6;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub fn classifier(bundle: &TestBundle) -> Classifier {
    let mut settings = Settings::default();
    settings.set("engine", "native").unwrap();
    Classifier::open(&Context::new(settings), bundle.path()).unwrap()
}

/// Every verdict, and never a confident one.
pub fn options() -> Options {
    Options { confidence: 1.0, active_timeout: None, max_flows: 100, ..Options::default() }
}

pub struct Bench {
    pub classifier: Classifier,
    pub flows: Flows,
    pub control: Control,
    _bundle: TestBundle,
}

impl Bench {
    pub fn new(options: &Options) -> Self {
        let bundle = random_bundle();
        let classifier = classifier(&bundle);
        let flows = Flows::new(&classifier, options, Tunnel::Inner).unwrap();
        Self { control: flows.control(), classifier, flows, _bundle: bundle }
    }

    pub fn push(&mut self, observation: Observation) {
        self.flows.push(&[observation]);
    }

    /// All that is due at `now_ns`.
    pub fn poll_at(&mut self, now_ns: u64) -> Vec<Verdict> {
        let mut all = Vec::new();
        loop {
            let mut out = [Verdict::default(); 7];
            let n = self.flows.poll(Some(now_ns), &mut out).unwrap();
            all.extend_from_slice(&out[..n]);
            if n < out.len() {
                return all;
            }
        }
    }

    pub fn count(&self, count: Count) -> u64 {
        self.control.count(count)
    }

    pub fn counts<const N: usize>(&self, counts: [Count; N]) -> [u64; N] {
        counts.map(|count| self.count(count))
    }
}

/// A packet of 100 bytes from the client of flow `id`, at `ms` after the start.
pub fn packet(id: u32, ms: u64) -> Observation {
    let mut src = [0; 16];
    src[10..12].fill(0xff);
    src[12..].copy_from_slice(&id.to_be_bytes());
    let dst = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
    let ts_ns = START + ms * 1_000_000;
    Observation { ts_ns, src, dst, src_port: 5000, dst_port: 443, size: 100, protocol: UDP, ..Observation::default() }
}

pub fn tcp(id: u32, ms: u64, tcp_flags: u8) -> Observation {
    Observation { protocol: TCP, tcp_flags, ..packet(id, ms) }
}

/// The same packet from the other end.
pub fn reply(o: Observation) -> Observation {
    Observation { src: o.dst, dst: o.src, src_port: o.dst_port, dst_port: o.src_port, ..o }
}

/// Of flow `id` of [`packet`], as the client.
pub fn id(verdict: &Verdict) -> u32 {
    u32::from_be_bytes(verdict.client[12..].try_into().unwrap())
}

/// What a verdict says of when and why: flow, reason, packets read, whether it is the last.
pub fn told(verdict: &Verdict) -> (u32, Reason, u8, bool) {
    (id(verdict), Reason::of(verdict.reason).unwrap(), verdict.n_read, verdict.is_final == 1)
}

pub fn all_told(verdicts: &[Verdict]) -> Vec<(u32, Reason, u8, bool)> {
    verdicts.iter().map(told).collect()
}
