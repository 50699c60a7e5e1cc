//! Which process of how many this is, as the launcher that started it says in the environment.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Most processes of a run.
pub const MAX_RANKS: usize = 4096;

/// The port of rank 0 where none is given, as other programs that are started so have it.
const DEFAULT_PORT: u16 = 29_500;

/// Ports for jobs of Slurm, which share machines: the job's number chooses among these.
const SLURM_PORTS: std::ops::Range<u64> = 15_000..30_000;

/// The names of one launcher's variables: rank, number of ranks, and rank and number of them on this machine.
struct Names {
    launcher: &'static str,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// In the order in which they are looked for: what is set by hand wins.
const LAUNCHERS: [Names; 4] = [
    Names {
        launcher: "torchrun",
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
    },
    Names {
        launcher: "mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    Names {
        launcher: "mpirun",
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
    },
    Names {
        launcher: "srun",
        rank: "SLURM_PROCID",
        size: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_NTASKS_PER_NODE",
    },
];

/// The place of this process among the ranks of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are; at least 2.
    pub size: usize,
    /// Its number among those on this machine: which GPU is its own.
    pub local_rank: usize,
    /// Name or address of the machine of rank 0.
    pub host: String,
    /// The port that rank 0 listens on.
    pub port: u16,
}

/// The place that the environment `variables` give this process; none if they tell of no other.
///
/// # Errors
/// If they contradict each other or leave something open; the message says what to set.
pub fn place(variables: &BTreeMap<String, String>) -> Result<Option<Place>> {
    let get = |name: &str| variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    // A batch script of Slurm has these variables too, but is one process; what srun starts is a step.
    let is_step = ["SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS"].iter().any(|name| get(name).is_some());
    let is_set = |names: &&Names| match names.launcher {
        "srun" => is_step && get(names.rank).is_some(),
        _ => get(names.rank).is_some() || get(names.size).is_some(),
    };
    let Some(names) = LAUNCHERS.iter().find(is_set) else { return Ok(None) };
    let number = |name: &str| -> Result<Option<usize>> {
        let parse = |text: &str| {
            text.parse().map_err(|_| Error::invalid(format!("{name} is \"{text}\"; set it to a whole number")))
        };
        get(name).map(parse).transpose()
    };
    let of_step = number("SLURM_STEP_NUM_TASKS")?.filter(|_| names.launcher == "srun");
    let size = match of_step {
        Some(size) => Some(size),
        None => number(names.size)?,
    };
    let rank = number(names.rank)?;
    let (rank, size) = match (rank, size) {
        // A number alone says that there is nobody else.
        (None | Some(0), Some(1)) => return Ok(None),
        (Some(rank), Some(size)) => (rank, size),
        (rank, _) => {
            let (has, lacks) = if rank.is_some() { (names.rank, names.size) } else { (names.size, names.rank) };
            return Err(Error::invalid(format!(
                "{has} is set and {lacks} is not: set {lacks} too, or unset {has} to train with one process"
            )));
        }
    };
    if !(1..=MAX_RANKS).contains(&size) {
        return Err(Error::invalid(format!("{} is {size}; set it to 1 to {MAX_RANKS}", names.size)));
    }
    if rank >= size {
        return Err(Error::invalid(format!(
            "{} is {rank} and {} is {size}: ranks count from 0, so set the rank to at most {}",
            names.rank,
            names.size,
            size - 1
        )));
    }
    let local_rank = number(names.local_rank)?.unwrap_or(0);
    if local_rank > rank {
        let (is, of) = (names.local_rank, names.rank);
        return Err(Error::invalid(format!("{is} is {local_rank} and {of} is {rank}: set {is} to at most {rank}")));
    }
    let is_local = number(names.local_size).ok().flatten() == Some(size) && names.launcher == "mpirun";
    let host = match (get("MASTER_ADDR"), names.launcher) {
        (Some(host), _) => host.to_string(),
        (None, "srun") => slurm_host(&get)?,
        (None, _) if is_local => "127.0.0.1".to_string(),
        (None, _) => {
            let how = match names.launcher {
                "mpirun" => " (mpirun -x MASTER_ADDR=NAME)",
                _ => "",
            };
            return Err(Error::invalid(format!(
                "{} is {size} and MASTER_ADDR is not set: set it to the name of the machine that rank 0 runs on{how}, or to \
                 127.0.0.1 if all run on this one",
                names.size
            )));
        }
    };
    Ok(Some(Place { rank, size, local_rank, host, port: port(&get, names.launcher)? }))
}

/// The port of rank 0.
fn port<'a>(get: &impl Fn(&str) -> Option<&'a str>, launcher: &str) -> Result<u16> {
    let Some(text) = get("MASTER_PORT") else {
        let job = get("SLURM_JOB_ID").and_then(|job| job.parse::<u64>().ok()).filter(|_| launcher == "srun");
        let step = get("SLURM_STEP_ID").and_then(|step| step.parse::<u64>().ok()).unwrap_or(0);
        let n = SLURM_PORTS.end - SLURM_PORTS.start;
        return Ok(job.map_or(DEFAULT_PORT, |job| (SLURM_PORTS.start + job.wrapping_add(step) % n) as u16));
    };
    let port = text.parse().ok().filter(|&port: &u16| port > 0);
    let port =
        port.ok_or_else(|| Error::invalid(format!("MASTER_PORT is \"{text}\"; set it to a port, 1 to 65535")))?;
    // There torchrun itself listens on the port.
    let is_taken = launcher == "torchrun" && get("TORCHELASTIC_USE_AGENT_STORE") == Some("True");
    Ok(if is_taken { port.checked_add(1).unwrap_or(port - 1) } else { port })
}

/// The first machine of a step of Slurm, where its rank 0 runs.
fn slurm_host<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Result<String> {
    let lists = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"];
    let list = lists.iter().find_map(|name| get(name));
    list.and_then(first_host).ok_or_else(|| {
        Error::invalid(format!(
            "{} names no machine: set MASTER_ADDR to the name of the machine that rank 0 runs on",
            lists[0]
        ))
    })
}

/// The first name of a list as Slurm writes them: `node[003-007,9],other` begins with `node003`.
fn first_host(list: &str) -> Option<String> {
    let (mut host, mut rest) = (String::new(), list);
    while let Some(at) = rest.find(['[', ',']) {
        host.push_str(&rest[..at]);
        if rest[at..].starts_with(',') {
            rest = "";
            break;
        }
        let (inside, after) = rest[at + 1..].split_once(']')?;
        host.push_str(inside.split([',', '-']).next()?);
        rest = after;
    }
    host.push_str(rest);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Place>> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        place(&pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn is(text: &str, rank: usize, size: usize, local_rank: usize, host: &str, port: u16) {
        let expected = Place { rank, size, local_rank, host: host.to_string(), port };
        assert_eq!(of(text).unwrap(), Some(expected), "{text}");
    }

    #[test]
    fn every_launcher_is_understood() {
        is("RANK=2 WORLD_SIZE=4 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=123", 2, 4, 0, "a", 123);
        is("RANK=1 WORLD_SIZE=2 MASTER_ADDR=::1", 1, 2, 0, "::1", 29_500);
        let torchrun = "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=h MASTER_PORT=29400";
        is(&format!("{torchrun} TORCHELASTIC_USE_AGENT_STORE=True"), 1, 2, 1, "h", 29_401);
        is(&format!("{torchrun} TORCHELASTIC_USE_AGENT_STORE=False"), 1, 2, 1, "h", 29_400);

        let open_mpi = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1";
        is(&format!("{open_mpi} MASTER_ADDR=head MASTER_PORT=5"), 3, 4, 1, "head", 5);
        is(&format!("{open_mpi} OMPI_COMM_WORLD_LOCAL_SIZE=4"), 3, 4, 1, "127.0.0.1", 29_500);
        is("PMI_RANK=0 PMI_SIZE=2 MPI_LOCALRANKID=0 MASTER_ADDR=x", 0, 2, 0, "x", 29_500);
        // Started by mpirun within a job of Slurm.
        is(&format!("{open_mpi} MASTER_ADDR=head SLURM_PROCID=0 SLURM_NTASKS=9"), 3, 4, 1, "head", 29_500);

        let slurm = "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_STEP_ID=0 SLURM_JOB_ID=77";
        is(&format!("{slurm} SLURM_JOB_NODELIST=node[003-007,9],other"), 5, 8, 1, "node003", 15_077);
        is(&format!("{slurm} SLURM_STEP_NUM_TASKS=6 SLURM_STEP_NODELIST=n1,n2"), 5, 6, 1, "n1", 15_077);
        is(&format!("{slurm} MASTER_ADDR=a MASTER_PORT=9"), 5, 8, 1, "a", 9);
    }

    #[test]
    fn one_process_is_none() {
        for text in [
            "",
            "WORLD_SIZE=1",
            "RANK=0 WORLD_SIZE=1",
            "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1",
            // A batch script that has not called srun, and one process that was asked for by hand.
            "SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_JOB_NODELIST=n[1-2]",
            "WORLD_SIZE=1 SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_STEP_ID=0",
            "MASTER_ADDR=a MASTER_PORT=5",
        ] {
            assert_eq!(of(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn what_is_missing_or_contradicts_is_named() {
        for (text, word) in [
            ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a", "at most 1"),
            ("RANK=1 WORLD_SIZE=1", "at most 0"),
            ("RANK=1", "WORLD_SIZE"),
            ("WORLD_SIZE=2 MASTER_ADDR=a", "set RANK"),
            ("RANK=one WORLD_SIZE=2", "RANK is \"one\""),
            ("RANK=0 WORLD_SIZE=-2", "WORLD_SIZE"),
            ("RANK=0 WORLD_SIZE=0", "WORLD_SIZE is 0"),
            ("RANK=0 WORLD_SIZE=5000 MASTER_ADDR=a", "4096"),
            ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR"),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=a", "LOCAL_RANK"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", "MASTER_PORT"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=0", "MASTER_PORT"),
            ("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2", "-x MASTER_ADDR"),
            ("SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_ID=1", "MASTER_ADDR"),
            ("SLURM_PROCID=0 SLURM_STEP_ID=1 SLURM_NODELIST=a", "SLURM_NTASKS"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.message().contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn lists_of_machines_have_a_first() {
        for (list, first) in [
            ("a", Some("a")),
            ("a,b", Some("a")),
            ("n[1,5-7]", Some("n1")),
            ("rack[2-3]n[04-09],x", Some("rack2n04")),
            ("n[1-2].lab,b", Some("n1.lab")),
            ("n[1", None),
            (",", None),
        ] {
            assert_eq!(first_host(list).as_deref(), first, "{list}");
        }
    }
}
