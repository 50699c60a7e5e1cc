//! Another classifier, while packets flow.

use crate::bench::{Bench, START, classifier, id, options, packet};
use crate::common::{TestBundle, other_bundle, random_bundle};
use trafficgpt::flows::{Count, Flows, Options};
use trafficgpt::meter::Tunnel;

#[test]
fn with_the_same_codebook_flows_go_on() {
    let mut bench = Bench::new(&options());
    for ms in 0..3 {
        bench.push(packet(1, ms));
    }
    let again = random_bundle();
    assert_eq!(bench.control.swap(&classifier(&again)).unwrap(), 1);
    bench.poll_at(START);
    bench.push(packet(1, 3));
    let verdicts = bench.poll_at(START);
    assert_eq!((verdicts[0].epoch, verdicts[0].n_read), (1, 4));
    assert_eq!(bench.counts([Count::Epoch, Count::Swaps]), [1, 1]);
}

#[test]
fn with_another_codebook_flows_finish_as_they_began() {
    let mut bench = Bench::new(&options());
    let first = classifier(&random_bundle());
    let mut alone = Flows::new(&first, &options(), Tunnel::Inner).unwrap();
    for ms in 0..3 {
        bench.push(packet(1, ms));
    }
    bench.control.swap(&classifier(&other_bundle(48))).unwrap();
    bench.poll_at(START);
    // In one burst, so that packets for both quantizers are mixed.
    let burst: Vec<_> = (3..8).flat_map(|ms| [packet(1, ms), packet(2, ms)]).collect();
    bench.flows.push(&burst);
    let verdicts = bench.poll_at(START);
    assert_eq!(verdicts.iter().map(|v| (id(v), v.epoch, v.n_read)).collect::<Vec<_>>(), [(1, 0, 8), (2, 1, 4)]);
    // The first as if nothing had been swapped.
    let packets: Vec<_> = (0..8).map(|ms| packet(1, ms)).collect();
    alone.push(&packets);
    let mut out = [Default::default(); 2];
    assert_eq!(alone.poll(None, &mut out).unwrap(), 1);
    assert_eq!((out[0].label, out[0].score), (verdicts[0].label, verdicts[0].score));
}

#[test]
fn the_fifth_codebook_waits_until_flows_of_one_have_ended() {
    let mut bench = Bench::new(&options());
    bench.flows.push(&[packet(0, 0), packet(0, 0)]);
    for (flow, k) in (1..).zip([40, 41, 42, 43, 44]) {
        assert_eq!(bench.control.swap(&classifier(&other_bundle(k))).unwrap(), flow);
        bench.poll_at(START);
        bench.flows.push(&[packet(flow, 0), packet(flow, 0)]);
    }
    // 43 and 44 found no place, and 44 came last.
    assert_eq!(bench.counts([Count::Epoch, Count::Swaps]), [3, 3]);
    bench.flows.flush();
    let epochs: Vec<_> = bench.poll_at(START).iter().map(|v| (id(v), v.epoch)).collect();
    assert_eq!(epochs, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 3)]);
    bench.poll_at(START);
    bench.flows.push(&[packet(9, 0), packet(9, 0)]);
    bench.flows.flush();
    assert_eq!(bench.poll_at(START)[0].epoch, 5);
    assert_eq!(bench.counts([Count::Epoch, Count::Swaps]), [5, 4]);
}

#[test]
fn a_classifier_that_does_not_fit_is_refused() {
    let bench = Bench::new(&Options { counts: vec![126], ..options() });
    let short: TestBundle = crate::common::short_bundle();
    let error = bench.control.swap(&classifier(&short)).unwrap_err();
    assert!(error.message().contains("126"), "{error}");
    let error = Flows::new(&classifier(&short), &Options { counts: vec![4, 60], ..options() }, Tunnel::Inner).err();
    assert!(error.unwrap().message().contains("flows.counts"));
    assert_eq!(bench.counts([Count::Epoch, Count::Swaps]), [0, 0]);
}

/// One thread pushes and polls, three swap: every flow gets its final verdict, and every packet is counted.
#[test]
fn swaps_under_load_lose_nothing() {
    let mut bench = Bench::new(&Options { max_flows: 60_000, counts: vec![2, 5], ..options() });
    let classifiers: Vec<_> = [random_bundle(), other_bundle(50), other_bundle(51)].iter().map(classifier).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (control, stop) = (bench.control.clone(), &stop);
    let mut rounds = 0u32;
    std::thread::scope(|scope| {
        for classifier in &classifiers {
            let control = control.clone();
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    control.swap(classifier).unwrap();
                    std::thread::yield_now();
                }
            });
        }
        let mut finals = 0;
        // On a machine with much else to do the swapping threads come late.
        while rounds < 60 || (rounds < 1000 && bench.count(Count::Swaps) <= 10) {
            for ms in 0..5 {
                let burst: Vec<_> = (0..50).map(|flow| packet(rounds * 50 + flow, ms)).collect();
                bench.flows.push(&burst);
                finals += bench.poll_at(START).iter().filter(|v| v.is_final == 1).count();
            }
            rounds += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(finals, 50 * rounds as usize);
    });
    let flows = u64::from(50 * rounds);
    assert_eq!(bench.counts([Count::Packets, Count::Flows, Count::Final, Count::Due]), [5 * flows, flows, flows, 0]);
    assert!(bench.count(Count::Swaps) > 10, "{}", bench.count(Count::Swaps));
}
