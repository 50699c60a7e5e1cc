//! Sums of what lies on GPUs: NCCL, whose ranks find each other through the ring.

use super::{Group, Transport};
use crate::cuda::device::Device;
use crate::cuda::nccl::{Communicator, Floats, Id};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// Connects the GPUs of the ranks of `group`, of which this rank has `device`; each must have one of its own. A sum that takes
/// longer than `timeout` is an error.
pub fn connect(group: &mut Group, device: &Arc<Device>, timeout: Duration) -> Result<Communicator> {
    let mut id = if group.leads() { Id::new()?.bytes().to_vec() } else { Vec::new() };
    group.tell(&mut id, Id::BYTES)?;
    let id = id.try_into().map_err(|_| Error::mismatch("rank 0 tells no id of NCCL: it runs another program"))?;
    let share = group.share();
    Communicator::new(device, Id::from_bytes(id), share.rank, share.size, timeout)
}

impl Transport<Floats> for Communicator {
    fn sum(&mut self, values: &mut Floats) -> Result<()> {
        Communicator::sum(self, values)
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "says why a test was skipped")]
mod tests {
    use super::super::tests::ranks;
    use super::*;
    use crate::cuda::device::count;
    use crate::error::Kind;
    use std::time::Instant;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// How many ranks to test with: those of the driver that runs on the CPU, else one a GPU.
    fn size() -> Option<usize> {
        let of_cpu = std::env::var("TRAFFICGPT_NCCL_RANKS").ok().and_then(|n| n.parse().ok());
        let found = count().and_then(|n| Id::new().map(|_| n));
        match found {
            Err(error) if error.kind() == Kind::NoRuntime => {
                println!("skipped: {error}");
                None
            }
            Ok(1) if of_cpu.is_none() => {
                println!("skipped: NCCL needs a GPU for each rank, and there is one");
                None
            }
            n => Some(of_cpu.unwrap_or(n.unwrap())),
        }
    }

    fn device(rank: usize) -> Arc<Device> {
        Device::open(rank % count().unwrap()).unwrap()
    }

    #[test]
    fn gpus_sum() {
        let Some(size) = size() else { return };
        let all = ranks(size, |mut group| {
            let (rank, device) = (group.share().rank, device(group.share().rank));
            let mut transport = connect(&mut group, &device, TIMEOUT).unwrap();
            let sums = [0, 1, 70_001].map(|n| {
                let mut sums: Vec<f32> = (0..n).map(|i| (i % 97 * (rank + 1)) as f32).collect();
                let mut values = Floats::of(&device, &sums).unwrap();
                Transport::sum(&mut transport, &mut values).unwrap();
                values.read(&device, &mut sums).unwrap();
                sums
            });
            group.meet().unwrap();
            sums
        });
        let ranks: usize = (1..=size).sum();
        for sums in &all {
            assert!(sums[2].iter().enumerate().all(|(i, &sum)| sum == (i % 97 * ranks) as f32));
            assert_eq!(sums, &all[0]);
        }
    }

    #[test]
    fn a_gpu_that_does_not_come_to_a_sum_is_an_error_in_time() {
        let Some(size) = size() else { return };
        let began = Instant::now();
        let errors = ranks(size, |mut group| {
            let (rank, device) = (group.share().rank, device(group.share().rank));
            let mut transport = connect(&mut group, &device, Duration::from_secs(3)).unwrap();
            if rank == 0 {
                group.meet().unwrap();
                return None;
            }
            let mut values = Floats::of(&device, &[1.0; 100]).unwrap();
            let error = transport.sum(&mut values).unwrap_err();
            assert!(transport.sum(&mut values).unwrap_err().message().contains("earlier"));
            group.meet().unwrap();
            Some(error)
        });
        assert!(errors.iter().flatten().all(|e| e.kind() == Kind::Runtime && e.message().contains("NCCL, summing")));
        assert!(began.elapsed() < TIMEOUT);
    }

    #[test]
    fn ranks_that_do_not_come_are_an_error_in_time() {
        if size().is_none() {
            return;
        }
        let (began, short) = (Instant::now(), Duration::from_millis(300));
        let error = Communicator::new(&device(0), Id::new().unwrap(), 0, 2, short).unwrap_err();
        assert!(error.message().contains("0.3 s"), "{error}");
        assert!(began.elapsed() < TIMEOUT);
        let error = Communicator::new(&device(0), Id::new().unwrap(), 2, 2, short).unwrap_err();
        assert!(error.message().contains("rank 2 of 2"), "{error}");
    }

    #[test]
    fn without_nccl_it_is_said_what_to_do() {
        match Id::new() {
            Ok(_) => println!("skipped: NCCL is here"),
            Err(error) => {
                assert!(error.kind() == Kind::NoRuntime && error.message().contains("libnccl.so.2"), "{error}")
            }
        }
    }
}
