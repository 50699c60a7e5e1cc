//! The figures of a comparison against SciPy's, and pictures of whatever they may be given.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::random::Stream;
use trafficgpt::train::metrics::auc;
use trafficgpt::train::plot;
use trafficgpt::train::similarity::{Grid, autocorrelation, kolmogorov_smirnov, median, wasserstein};

#[test]
fn figures_equal_scipy() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden/similarity.json")).unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let values =
            |name: &str| case[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let (a, b) = (values("a"), values("b"));
        let ks = kolmogorov_smirnov(&a, &b).unwrap();
        assert!((ks - case["ks"].as_f64().unwrap()).abs() < 1e-12, "{ks} in {case}");
        assert_eq!(kolmogorov_smirnov(&b, &a), Some(ks), "the distance is the same from either side");
        let equal = |ours: Option<f64>, name: &str| {
            let close = match (ours, case[name].as_f64()) {
                (Some(ours), Some(theirs)) => (ours - theirs).abs() < 1e-10 * theirs.abs().max(1.0),
                (ours, theirs) => ours.is_none() && theirs.is_none(),
            };
            assert!(close, "{name}: {ours:?} in {case}");
        };
        equal(wasserstein(&a, &b), "wasserstein");
        equal(wasserstein(&b, &a), "wasserstein");
        let grid = Grid::over(&a, case["bins"].as_u64().unwrap() as usize, 0.0).unwrap();
        equal(grid.jensen_shannon(&a, &b), "jensen_shannon");
        equal(autocorrelation([&a[..]], 2), "lag_2");
        equal(auc(&a, &b), "auc");
        assert!((median(a).unwrap() - case["median_a"].as_f64().unwrap()).abs() < 1e-12, "{case}");
    }
}

#[test]
fn a_grid_leaves_the_far_ends_to_its_outer_bins() {
    let values: Vec<f64> = (0..=1000).map(f64::from).chain([1e9]).collect();
    let grid = Grid::over(&values, 10, 0.01).unwrap();
    assert_eq!((grid.edges()[0], grid.edges()[10]), (10.0, 991.0));
    let shares = grid.shares(&values);
    assert!((shares[0] - 10.0 / 1002.0).abs() < 1e-12 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(Grid::over(&[3.0], 2, 0.4).unwrap().edges(), [2.5, 3.0, 3.5]);
    assert!(Grid::over(&[], 5, 0.0).is_none() && Grid::over(&[1.0, f64::INFINITY], 5, 0.0).is_none());
}

fn flows(n: usize, seed: u64) -> Rows<Packet> {
    let mut draws = Stream::new(seed, 0);
    let mut flow = || {
        let n = 1 + (draws.uniform() * 60.0) as usize;
        let mut packet = |i: usize| Packet {
            size: ((draws.uniform() - 0.5) * 3000.0) as i32,
            ipt_us: if i == 0 { 0.0 } else { 10_f64.powf(draws.uniform() * 7.0) as f32 },
        };
        (0..n).map(&mut packet).collect::<Vec<_>>()
    };
    (0..n).map(|_| flow()).collect()
}

/// The picture at `path` is well-formed enough to hold these texts and no number that is none.
fn assert_shows(path: &Path, texts: &[&str]) {
    let svg = fs::read_to_string(path).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{}", path.display());
    for text in texts {
        assert!(svg.contains(text), "\"{text}\" is not in {}", path.display());
    }
    assert!(!svg.contains("NaN") && !svg.contains("\"inf"), "{}", path.display());
}

#[test]
fn a_comparison_shows_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("picture.svg");
    let (real, generated) = (flows(40, 1), flows(25, 2));
    plot::compare(&path, "DNS & <more>", real.as_ragged(), generated.as_ragged()).unwrap();
    assert_shows(
        &path,
        &["DNS &amp; &lt;more&gt;", "Real: 40 flows", "Generated: 25 flows", "Kolmogorov-Smirnov distance 0."],
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing but the picture is left");
}

#[test]
fn extreme_flows_can_be_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("picture.svg");
    let extreme: Rows<Packet> = [
        vec![],
        vec![Packet { size: i32::MIN, ipt_us: f32::MAX }; 3],
        vec![Packet { size: i32::MAX, ipt_us: 0.0 }; 500],
        vec![Packet { size: 0, ipt_us: f32::MIN_POSITIVE }],
    ]
    .into_iter()
    .collect();
    for (real, generated) in [(&extreme, &Rows::new()), (&Rows::new(), &extreme), (&Rows::new(), &Rows::new())] {
        plot::compare(&path, "", real.as_ragged(), generated.as_ragged()).unwrap();
        assert_shows(&path, &["no values to compare"]);
    }
    let packets = extreme.as_ragged();
    let counts: Vec<(Packet, u64)> = packets.values().iter().map(|&p| (p, 1)).collect();
    plot::codebook(&path, "Extreme", &counts, &[]).unwrap();
    plot::codebook(&path, "Nothing", &[], &[]).unwrap();
    assert_shows(&path, &["Nothing: 0 centroids"]);
}

#[test]
fn a_codebook_lies_over_its_packets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("codebook.svg");
    let rows = flows(300, 3);
    let packets = rows.as_ragged().values();
    let counts: Vec<(Packet, u64)> = packets.iter().map(|&p| (p, 1)).collect();
    plot::codebook(&path, "Codebook", &counts, &packets[..64]).unwrap();
    let dots = fs::read_to_string(&path).unwrap().matches("<circle").count();
    assert_eq!(dots, 64);
}

#[test]
fn curves_leave_out_what_is_no_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("loss.svg");
    let train = (1..400).map(|i| (f64::from(i) * 10.0, 2.0 + 7.0 * (-f64::from(i) / 80.0).exp())).collect();
    let holes = vec![(0.0, f64::NAN), (100.0, 8.0), (f64::INFINITY, 1.0), (2000.0, 4.0), (4000.0, 3.2)];
    let series = [("train".to_string(), train), ("validation".to_string(), holes), ("none".to_string(), vec![])];
    plot::curves(&path, "Loss", "step", "nats per token", &series).unwrap();
    assert_shows(&path, &["Loss", "step", "nats per token", "train", "validation", "4000"]);
    plot::curves(&path, "Nothing", "x", "y", &[]).unwrap();
    plot::curves(&path, "A point", "x", "y", &[("one".into(), vec![(1e300, -1e300)])]).unwrap();
    assert_shows(&path, &["A point"]);
}

#[test]
fn a_confusion_matrix_shows_shares_of_its_rows() {
    let labels = ["DNS", "FTP_CONTROL", "TLS"].map(String::from);
    let rows: [&[u64]; 3] = [&[90, 5, 5, 0], &[0, 0, 0, 0], &[1, 0, 2, 1]];
    let svg = plot::confusion("Test", &labels, &rows).unwrap();
    for text in ["FTP_CONTROL", "unknown", "\n90\n", "\n50\n", "\n100\n"] {
        assert!(svg.contains(text), "{text}");
    }
    let square: [&[u64]; 3] = [&[1, 0, 0], &[0, 1, 0], &[0, 0, 1]];
    assert!(!plot::confusion("Test", &labels, &square).unwrap().contains("unknown"));
}

#[test]
fn judgements_are_drawn_whatever_they_hold() {
    let names = ["1", "2", "all"].map(String::from);
    let svg = plot::steps("Early", "packets", &names, &[("model", &[0.2, 0.5, 0.9]), ("forest", &[1.0, 0.0])]).unwrap();
    assert!(["Early", "packets", "\nall\n", "forest"].iter().all(|text| svg.contains(text)), "{svg}");
    assert_eq!(svg.matches("<circle").count(), 5);
    plot::steps("Nothing", "x", &[], &[]).unwrap();
    let svg = plot::reliability("Sure", &[(0.3, 0.5), (1.0, 0.9)]).unwrap();
    assert!(svg.contains("best probability") && !svg.contains("NaN"));
    assert_eq!(svg.matches("<circle").count(), 2);
    plot::reliability("Nothing", &[]).unwrap();
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let labels = ["a", "b"].map(String::from);
    let ragged: [&[u64]; 2] = [&[1, 2], &[1]];
    let narrow: [&[u64]; 2] = [&[1], &[1]];
    for rows in [&ragged[..], &narrow[..], &ragged[..1], &[]] {
        assert!(plot::confusion("Test", &labels, rows).is_err());
    }
    let error = plot::curves(&directory.path().join("no/such.svg"), "", "", "", &[]).unwrap_err();
    assert!(error.message().contains("no/such.svg"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no partial file is left");
}

fn compare(directory: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_trafficgpt");
    Command::new(program).arg("compare").args(arguments).current_dir(directory).output().unwrap()
}

#[test]
fn the_command_compares_flows_of_a_class() {
    let directory = tempfile::tempdir().unwrap();
    let real = "label,sizes,ipt_us\nDNS,60 -120,0 1000\nDNS,64 -200,0 3000\nTLS,52 -52 40,0 1 2\n";
    let generated = "sizes,ipt_us\n60 -120,0 1000\n60 -120,0 1000\n";
    fs::write(directory.path().join("real.csv"), real).unwrap();
    fs::write(directory.path().join("generated.csv"), generated).unwrap();
    let run = |arguments: &[&str]| compare(directory.path(), &[&["real.csv", "generated.csv"], arguments].concat());

    let done = run(&["--label", "DNS", "-o", "dns.svg"]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(line("flows"), ["flows", "2", "2"]);
    assert_eq!(line("size server to client")[5..], ["160", "120"]);
    assert_eq!(line("time between packets")[4..], ["2.0", "ms", "1.0", "ms", "0.500"]);
    assert_eq!(line("packets per flow")[4..], ["2", "2", "0.000"]);
    assert_shows(&directory.path().join("dns.svg"), &["DNS: real and generated flows"]);

    for (arguments, complaint) in [
        (["--label", "SSH", "-o", "x.svg"], "no flow has label \"SSH\"; there are: DNS, TLS"),
        (["--label", "DNS", "-o", "x.png"], "x.png"),
    ] {
        let failed = run(&arguments);
        assert_eq!(failed.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&failed.stderr).contains(complaint), "{failed:?}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "failures leave no file");
}
