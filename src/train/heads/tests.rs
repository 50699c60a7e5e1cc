use super::options::KernelKind;
use super::*;
use crate::head::knn::FLOOR;
use crate::head::{Knn, Scratch};
use crate::random::Stream;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    knn: Vec<Case>,
    svm: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    n_labels: usize,
    width: usize,
    points: Vec<f32>,
    labels: Vec<u32>,
    queries: Vec<f32>,
    k: Option<usize>,
    shares: Option<Vec<f32>>,
    nu: Option<f64>,
    kernel: Option<String>,
    support: Option<Vec<u32>>,
    decisions: Option<Vec<f32>>,
}

impl Case {
    fn sample(&self) -> Sample<'_> {
        Sample { embeddings: &self.points, n_embd: self.width, labels: &self.labels, n_labels: self.n_labels }
    }

    fn scores(&self, head: &Head) -> Vec<f32> {
        let mut out = vec![0.0; self.queries.len() / self.width * self.n_labels];
        head.scores(&self.queries, self.width, &mut Scratch::default(), &mut out);
        out
    }
}

/// What scikit-learn says of the same points (`dev/golden_heads.py`).
fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../tests/golden/heads.json")).unwrap()
}

#[test]
fn neighbours_vote_as_scikit_learns_do() {
    for case in golden().knn {
        let options = Options { head: HeadKind::Knn, knn_k: case.k.unwrap(), ..Options::default() };
        let head = fit(&options, case.sample(), 0).unwrap().unwrap();
        let scale = 1.0 + FLOOR * case.n_labels as f32;
        let shares = case.scores(&head).into_iter().map(|p| p * scale - FLOOR);
        for (i, (ours, theirs)) in shares.zip(case.shares.unwrap()).enumerate() {
            assert!((ours - theirs).abs() < 1e-4, "k {}, value {i}: {ours}, not {theirs}", options.knn_k);
        }
    }
}

#[test]
fn machines_decide_as_scikit_learns_do() {
    for case in golden().svm {
        let (kernel, nu) = (case.kernel.as_ref().unwrap(), case.nu.unwrap());
        let svm_kernel: KernelKind = kernel.parse().unwrap();
        let options = Options { head: HeadKind::Svm, svm_kernel, svm_nu: nu, ..Options::default() };
        let head = fit(&options, case.sample(), 0).unwrap().unwrap();
        let Head::Svm(svm) = &head else { panic!("{head:?}") };
        assert_eq!(Some(&svm.counts), case.support.as_ref(), "{kernel} {nu}");
        let (n, pairs) = (case.n_labels, svm.intercepts.len());
        let scores = case.scores(&head);
        for (scores, decisions) in scores.chunks(n).zip(case.decisions.unwrap().chunks(pairs)) {
            let mut logits = vec![0.0f64; n];
            let mut pair = 0;
            for i in 0..n {
                for j in i + 1..n {
                    let f = f64::from(decisions[pair]);
                    logits[i] -= (-f).exp().ln_1p();
                    logits[j] -= f.exp().ln_1p();
                    pair += 1;
                }
            }
            let sum: f64 = logits.iter().map(|z| z.exp()).sum();
            for (score, logit) in scores.iter().zip(&logits) {
                let expected = logit.exp() / sum;
                assert!((f64::from(*score) - expected).abs() < 5e-4, "{kernel} {nu}: {scores:?}, not {expected}");
            }
        }
    }
}

/// `n` points around each of `n_labels` places, which are always the same.
fn clouds(n_labels: usize, n: usize, d: usize, seed: u64) -> (Vec<f32>, Vec<u32>) {
    let (mut places, mut draws) = (Stream::new(9, 0), Stream::new(seed, 1));
    let centers: Vec<f64> = (0..n_labels * d).map(|_| places.normal()).collect();
    let labels: Vec<u32> = (0..n_labels * n).map(|i| (i % n_labels) as u32).collect();
    let mut points = Vec::new();
    for &label in &labels {
        points.extend(centers[label as usize * d..][..d].iter().map(|center| (center + draws.normal()) as f32));
    }
    (points, labels)
}

#[test]
fn cells_hold_most_neighbours_and_all_cells_hold_all() {
    let (points, labels) = clouds(6, 300, 8, 1);
    let sample = Sample { embeddings: &points, n_embd: 8, labels: &labels, n_labels: 6 };
    let knn = |probes: usize| {
        let options = Options { head: HeadKind::Knn, knn_cells: 40, knn_probes: probes, ..Options::default() };
        match fit(&options, sample, 3).unwrap().unwrap() {
            Head::Knn(head) => head,
            other => panic!("{other:?}"),
        }
    };
    let queries = clouds(6, 20, 8, 2).0;
    let recalls = [1, 4, 10, 40].map(|probes| knn::recall(&knn(probes), &queries));
    assert!(recalls.is_sorted() && recalls[0] < 0.9 && recalls[2] > 0.9 && recalls[3] == 1.0, "{recalls:?}");
    let exact = Knn { cells: None, ..knn(4) };
    assert_eq!(knn::recall(&exact, &queries), 1.0);

    // Added one by one or all at once, in whatever cells.
    let (head, tail) = (sample.labels.len() - 7, 7);
    let first = Sample { embeddings: &points[..head * 8], labels: &labels[..head], ..sample };
    let options = Options { head: HeadKind::Knn, knn_cells: 40, knn_probes: 40, ..Options::default() };
    let Some(Head::Knn(mut grown)) = fit(&options, first, 3).unwrap() else { panic!() };
    for i in head..head + tail {
        let one = Sample { embeddings: &points[i * 8..(i + 1) * 8], labels: &labels[i..=i], ..sample };
        knn::add(&mut grown, one).unwrap();
    }
    assert_eq!((grown.len(), grown.cells.as_ref().unwrap().ends.len()), (head + tail, 40));
    let found = grown.neighbours(&points[head * 8..(head + 1) * 8], false);
    assert!(found.iter().any(|&i| grown.labels[i as usize] == labels[head]));
    let stranger = Sample { embeddings: &points[..8], labels: &[6], ..sample };
    assert!(knn::add(&mut grown, stranger).unwrap_err().message().contains("label 6"));
}

#[test]
fn cells_without_references_know_nothing() {
    let (points, labels) = clouds(3, 20, 4, 1);
    let sample = Sample { embeddings: &points, n_embd: 4, labels: &labels, n_labels: 3 };
    let options = Options { head: HeadKind::Knn, knn_cells: 2, knn_probes: 1, ..Options::default() };
    let Some(Head::Knn(mut head)) = fit(&options, sample, 3).unwrap() else { panic!() };
    head.cells.as_mut().unwrap().ends.fill(60);
    head.cells.as_mut().unwrap().centroids[4..].copy_from_slice(&[1.0, 0.0, 0.0, 0.0]);
    head.cells.as_mut().unwrap().centroids[..4].copy_from_slice(&[-1.0, 0.0, 0.0, 0.0]);
    let head = Head::Knn(head);
    head.check(3, 4).unwrap();
    let mut scores = vec![0.0; 60 * 3];
    head.scores(&points, 4, &mut Scratch::default(), &mut scores);
    assert!(scores.chunks(3).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5), "{scores:?}");
    assert!(scores.chunks(3).any(|row| row.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-5)), "{scores:?}");
}

#[test]
fn neighbours_as_near_as_the_last_vote_too() {
    // Six equal points, of which any three would do.
    let points = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 1.0, 0.0, -1.0];
    let labels = [0, 1, 0, 0, 1, 0, 1, 1];
    let sample = Sample { embeddings: &points, n_embd: 2, labels: &labels, n_labels: 2 };
    let options = Options { head: HeadKind::Knn, knn_k: 3, ..Options::default() };
    let head = fit(&options, sample, 0).unwrap().unwrap();
    let mut scores = [0.0; 2];
    head.scores(&[1.0, 0.0], 2, &mut Scratch::default(), &mut scores);
    assert!((scores[0] - (4.0 / 6.0 + FLOOR) / (1.0 + 2.0 * FLOOR)).abs() < 1e-4, "{scores:?}");
}

#[test]
fn labels_that_cannot_be_told_apart_are_left_undecided_and_those_without_flows_lose() {
    // Labels 0 and 1 have the same points; label 2 has none; label 3 stands apart.
    let points = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 9.0, 9.0, 9.0, 8.0];
    let labels = [0, 1, 0, 1, 3, 3];
    let sample = Sample { embeddings: &points, n_embd: 2, labels: &labels, n_labels: 4 };
    let head = fit(&Options { head: HeadKind::Svm, ..Options::default() }, sample, 0).unwrap().unwrap();
    let mut scores = [0.0; 8];
    head.scores(&[0.0, 1.0, 9.0, 8.5], 2, &mut Scratch::default(), &mut scores);
    assert!((scores[0] - scores[1]).abs() < 1e-4 && scores[0] > scores[3] && scores[3] > scores[2], "{scores:?}");
    assert!(scores[7] > scores[4] && scores[4] > scores[6], "{scores:?}");
    let equal = log_scores(&head, &[0.0, 1.0, 9.0, 8.5], 2, 4);
    assert!(equal.iter().zip(&scores).all(|(ln, p)| (ln.exp() - p).abs() < 1e-6));
}

#[test]
fn sizes_past_the_limits_are_refused() {
    let (points, labels) = clouds(3, 5, 2, 4);
    let sample = Sample { embeddings: &points, n_embd: 2, labels: &labels, n_labels: 3 };
    let options = Options { head: HeadKind::Knn, knn_cells: 16, ..Options::default() };
    assert!(fit(&options, sample, 0).unwrap_err().message().contains("only 15 training flows"));
    let many = Sample { n_labels: 1025, ..sample };
    assert!(fit(&Options { head: HeadKind::Svm, ..options }, many, 0).unwrap_err().message().contains("1025 labels"));
    assert!(fit(&Options::default(), sample, 0).unwrap().is_none());
}
