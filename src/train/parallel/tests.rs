//! Ranks as threads of one process.

use super::*;
use crate::random::Stream;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A port that nobody listens on, at least not now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn place(rank: usize, size: usize, port: u16) -> Place {
    Place { rank, size, local_rank: rank, host: "127.0.0.1".into(), port }
}

/// Runs `work` as each of `size` ranks; what each returned, by rank.
pub(super) fn ranks<T: Send>(size: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
    let (port, work) = (free_port(), &work);
    thread::scope(|scope| {
        let start = |rank| scope.spawn(move || work(Group::join(&place(rank, size, port), TIMEOUT).unwrap()));
        let started: Vec<_> = (0..size).map(start).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn values(rank: usize, n: usize) -> Vec<f32> {
    let mut draws = Stream::new(4, rank as u64);
    (0..n).map(|_| (draws.uniform() - 0.5) as f32).collect()
}

#[test]
fn sums_are_right_and_the_same_bits_on_every_rank_in_every_run() {
    for size in [2, 3, 5] {
        // Less than a value for each rank, odd numbers, and more than a bucket.
        for n in [0, 1, 4, 1001, (1 << 22) + 77] {
            let run = || {
                ranks(size, |mut group| {
                    let mut mine = values(group.share().rank, n);
                    group.sum(&mut mine[..]).unwrap();
                    mine
                })
            };
            let all = run();
            assert!(all.iter().all(|sums| sums == &all[0]), "{size} ranks, {n} values");
            let expected = (0..size).map(|rank| values(rank, n)).reduce(|mut a, b| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            });
            assert!(all[0].iter().zip(expected.unwrap()).all(|(a, b)| (a - b).abs() < 1e-6));
            if n < 10_000 {
                assert_eq!(run(), all, "another time");
            }
        }
    }
}

#[test]
fn ranks_gather_tell_and_report() {
    let long = vec![7; (9 << 20) + 1];
    ranks(3, |mut group| {
        let rank = group.share().rank;
        let all = group.gather(&vec![rank as u8; rank], 2).unwrap();
        assert_eq!(all, [vec![], vec![1], vec![2, 2]]);
        let mut told = if rank == 0 { long.clone() } else { vec![1, 2, 3] };
        group.tell(&mut told, long.len()).unwrap();
        assert!(told == long);
        assert_eq!(group.concatenate(vec![rank as f64; rank], 3).unwrap(), [1.0, 2.0, 2.0]);
        let mine = Report { loss: rank as f64, tokens: 10, stop: u64::from(rank == 1) };
        assert_eq!(mine.total(&mut group).unwrap(), Report { loss: 3.0, tokens: 30, stop: 1 });
        group.meet().unwrap();
    });
}

#[test]
fn who_does_something_else_is_named() {
    let errors = ranks(3, |mut group| {
        let rank = group.share().rank;
        let facts = |lr: f64| Facts::default().with("setting lr", lr).with("data", "d");
        group.agree(&facts(1.0)).unwrap();
        let error = group.agree(&facts(if rank == 2 { 2.0 } else { 1.0 })).unwrap_err();
        group.end(error).to_string()
    });
    for (rank, error) in errors.iter().enumerate() {
        let words = "rank 2 does not do what rank 0 does: setting lr is 2 there and 1 at rank 0";
        assert_eq!(*error, format!("rank {rank}: {words}"));
    }
}

#[test]
fn a_failure_is_told_to_all_with_its_reason() {
    let errors = ranks(4, |mut group| {
        let rank = group.share().rank;
        let error = match rank {
            1 => Error::invalid("the disk is full"),
            _ => group.sum(&mut [1.0; 100][..]).unwrap_err(),
        };
        group.end(error).to_string()
    });
    assert_eq!(errors[1], "rank 1: the disk is full");
    for rank in [0, 2, 3] {
        let said = &errors[rank];
        assert!(said.starts_with(&format!("rank {rank}: rank 1 at 127.0.0.1:")), "{said}");
        assert!(said.ends_with("failed: the disk is full"), "{said}");
    }
}

#[test]
fn a_rank_that_leaves_or_calls_something_else_breaks_the_run_at_once() {
    let began = Instant::now();
    let errors = ranks(3, |mut group| match group.share().rank {
        1 => String::new(),
        _ => {
            let error = group.sum(&mut [1.0; 100][..]).unwrap_err();
            group.end(error).to_string()
        }
    });
    assert!(errors[0].contains("rank 1 at") && errors[2].contains("rank 1 at"), "{errors:?}");
    let errors = ranks(2, |mut group| {
        let rank = group.share().rank;
        group
            .sum(&mut vec![1.0; 100 + 10 * rank][..])
            .and_then(|()| group.meet())
            .err()
            .map(|e| group.end(e).to_string())
    });
    assert!(errors.iter().any(Option::is_some), "{errors:?}");
    assert!(began.elapsed() < TIMEOUT);
}

#[test]
fn strangers_do_not_disturb() {
    let port = free_port();
    let error_of = |place: Place| Group::join(&place, TIMEOUT).unwrap_err().to_string();
    thread::scope(|scope| {
        let zero = scope.spawn(move || Group::join(&place(0, 2, port), TIMEOUT).unwrap().meet());
        let mut strangers = Vec::new();
        for say in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"tgptrank", &[0xff; 5000], b"tgptrank\x01\0\0\0\xff\xff\xff\xff"]
        {
            let mut stranger = loop {
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                    break stream;
                }
                thread::sleep(Duration::from_millis(5));
            };
            stranger.write_all(say).unwrap();
            strangers.push(stranger);
        }
        // A rank of another version hears that it is.
        let mut old = TcpStream::connect(("127.0.0.1", port)).unwrap();
        old.write_all(b"tgptrank\x63\0\0\0\x02\0\0\0{}").unwrap();
        let mut answer = Vec::new();
        old.read_to_end(&mut answer).unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("version 99"), "{answer:?}");
        let said = error_of(place(1, 3, port));
        assert!(said.contains("one of 3 ranks") && said.contains("one of 2"), "{said}");
        let said = error_of(place(2, 2, port));
        assert!(said.contains("one of 2 ranks") || said.contains("2 cannot come"), "{said}");
        let one = scope.spawn(move || Group::join(&place(1, 2, port), TIMEOUT).unwrap().meet());
        zero.join().unwrap().unwrap();
        one.join().unwrap().unwrap();
    });
}

#[test]
fn who_does_not_come_is_named_in_time() {
    let (port, short) = (free_port(), Duration::from_millis(700));
    let began = Instant::now();
    thread::scope(|scope| {
        let zero = scope.spawn(move || Group::join(&place(0, 4, port), short).unwrap_err().to_string());
        let two = scope.spawn(move || Group::join(&place(2, 4, port), short).unwrap_err().to_string());
        let said = zero.join().unwrap();
        assert!(said.contains("rank 1, 3 has not come within 0.7 s"), "{said}");
        let said = two.join().unwrap();
        assert!(said.contains("rank 0 at 127.0.0.1") && said.contains("rank 1, 3 has not come"), "{said}");
    });
    let said = Group::join(&place(1, 2, port), short).unwrap_err().to_string();
    assert!(said.contains("rank 0 at 127.0.0.1") && said.contains("MASTER_ADDR"), "{said}");
    assert!(began.elapsed() < TIMEOUT);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = Group::join(&place(0, 2, taken.local_addr().unwrap().port()), short).unwrap_err().to_string();
    assert!(said.contains("MASTER_PORT"), "{said}");
    let nowhere = Place { host: "no.such.machine.invalid".into(), ..place(1, 2, port) };
    let said = Group::join(&nowhere, short).unwrap_err().to_string();
    assert!(said.contains("MASTER_ADDR is \"no.such.machine.invalid\""), "{said}");
}

#[test]
fn a_process_that_is_alone_changes_nothing() {
    let mut group = Group::alone();
    let mut values = [1.5, -0.0];
    group.sum(&mut values[..]).unwrap();
    assert_eq!(values.map(f32::to_bits), [1.5f32, -0.0].map(f32::to_bits));
    assert_eq!(group.concatenate(vec![1u64, 2], 9).unwrap(), [1, 2]);
    assert_eq!(group.end(Error::invalid("why")).to_string(), "why");
}
