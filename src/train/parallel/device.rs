//! The GPUs of the ranks: which is whose, and sums of what lies on them: NCCL, whose ranks find each other through the ring.

use super::{Group, MAX_SMALL, Transport};
use crate::cuda::device::{self, Device};
use crate::cuda::nccl::{self, Communicator, Floats, Id};
use crate::error::{Error, Result};
use crate::train::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What a rank trains on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seat {
    device: settings::Device,
    gpu: Option<Gpu>,
}

/// A GPU as a rank sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gpu {
    uuid: String,
    name: String,
    /// Its number, and how many the rank is shown.
    number: usize,
    of: usize,
}

/// Which of the GPUs that this rank is shown is its own: that of its number on its machine. Where each rank is shown GPUs of its
/// own, they are counted anew.
fn number(group: &Group) -> Result<(usize, usize)> {
    let n = device::count()?;
    Ok((group.local_rank() % n, n))
}

/// Opens this rank's GPU. One that does not answer within the time that ranks wait for each other is given up: who waits for a
/// GPU still says over the ring that it is there.
pub fn open(group: &Group) -> Result<Arc<Device>> {
    let device = Device::open(number(group)?.0)?;
    if !group.is_alone() {
        device.give_up_after(group.timeout());
    }
    Ok(device)
}

/// Sees that all ranks train on what `device` is, each on a GPU of its own if it is one, and, where there will be `sums` over
/// GPUs, that NCCL is there: before anything is read.
///
/// # Errors
/// Naming the ranks that have one GPU, or that train on different devices; if NCCL is missing.
pub fn check(group: &mut Group, device: settings::Device, sums: bool) -> Result<()> {
    if group.is_alone() {
        return Ok(());
    }
    let mut mine = Seat { device, gpu: None };
    if device != settings::Device::Cpu {
        if sums {
            nccl::check()?;
        }
        let (number, of) = number(group)?;
        let own = Device::open(number)?;
        let uuid = own.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
        mine.gpu = Some(Gpu { uuid, name: own.name().to_string(), number, of });
    }
    let broken = |e: serde_json::Error| Error::mismatch(format!("what ranks train on: {e}"));
    let bytes = serde_json::to_vec(&mine).map_err(broken)?;
    let all = group.gather(&bytes, MAX_SMALL)?;
    let seats: Vec<Seat> =
        all.iter().map(|bytes| serde_json::from_slice(bytes).map_err(broken)).collect::<Result<_>>()?;
    check_seats(&seats)
}

fn check_seats(seats: &[Seat]) -> Result<()> {
    for (rank, seat) in seats.iter().enumerate() {
        if seat.device != seats[0].device {
            let [is, first] = [seat, &seats[0]].map(|seat| seat.device.name());
            return Err(Error::mismatch(format!(
                "rank {rank} trains with --device {is} and rank 0 with {first}: give all the same"
            )));
        }
        let Some(gpu) = &seat.gpu else { continue };
        let same = |other: &Seat| other.gpu.as_ref().is_some_and(|other| other.uuid == gpu.uuid);
        if let Some(other) = seats[..rank].iter().position(same) {
            let Gpu { uuid, name, number, of } = gpu;
            return Err(Error::invalid(format!(
                "ranks {other} and {rank} have one GPU, {name} (UUID {uuid}; rank {rank} is shown {of}, of which it is number \
                 {number}): start at most as many ranks on a machine as it has GPUs, and give each its LOCAL_RANK, as torchrun, \
                 mpirun and srun do, or a CUDA_VISIBLE_DEVICES of its own"
            )));
        }
    }
    Ok(())
}

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

    #[test]
    fn ranks_with_one_gpu_or_other_devices_are_named() {
        let seat = |device, uuid: &str| {
            let gpu = Gpu { uuid: uuid.into(), name: "a GPU".into(), number: 0, of: 1 };
            Seat { device, gpu: (device != settings::Device::Cpu).then_some(gpu) }
        };
        let (cpu, cuda, f32) = (settings::Device::Cpu, settings::Device::Cuda, settings::Device::CudaF32);
        check_seats(&[seat(cpu, ""), seat(cpu, "")]).unwrap();
        check_seats(&[seat(cuda, "a"), seat(cuda, "b"), seat(cuda, "c")]).unwrap();
        for (seats, words) in [
            (vec![seat(cuda, "a"), seat(cuda, "b"), seat(cuda, "a")], ["ranks 0 and 2", "UUID a", "LOCAL_RANK"]),
            (vec![seat(cuda, "a"), seat(cpu, "")], ["rank 1", "--device cpu", "rank 0 with cuda"]),
            (vec![seat(cuda, "a"), seat(f32, "b")], ["rank 1", "--device cuda-f32", "same"]),
        ] {
            let error = check_seats(&seats).unwrap_err();
            assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        }
    }

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
