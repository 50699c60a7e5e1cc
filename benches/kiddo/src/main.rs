//! Nearest centroids by a k-d tree: CENTROIDS POINTS, two files of `f64` pairs in the machine's byte order.

use kiddo::{ImmutableKdTree, SquaredEuclidean};
use std::time::Instant;

fn pairs(path: &str) -> Vec<[f64; 2]> {
    let bytes = std::fs::read(path).expect("the file is there");
    let number = |b: &[u8]| f64::from_ne_bytes(b.try_into().expect("eight bytes"));
    bytes.chunks_exact(16).map(|pair| [number(&pair[..8]), number(&pair[8..])]).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, centroids, points] = args.as_slice() else { panic!("CENTROIDS POINTS") };
    let tree = ImmutableKdTree::<f64, 2>::new_from_slice(&pairs(centroids));
    let points = pairs(points);
    let mut sum = 0;
    let begin = Instant::now();
    for point in &points {
        sum += tree.nearest_one::<SquaredEuclidean>(point).item as u64;
    }
    let rate = points.len() as f64 / begin.elapsed().as_secs_f64() / 1e6;
    println!("kiddo                {rate:.3} M packets/s (sum of tokens {sum})");
}
