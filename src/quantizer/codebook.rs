//! K centroids and the exact nearest one of a point.

use super::scaler::Point;
use crate::error::{Error, Result};
use crate::tokens::Token;

/// Most centroids a codebook may have: a bound on what a file can ask for, not on the method.
pub const MAX_CENTROIDS: usize = 1 << 20;

/// Largest coordinate of a centroid, positive or negative. No scaler maps a packet past half of it.
const MAX_COORDINATE: f32 = 16_384.0;

/// Centroids in token order, and the same sorted along the size axis for the search.
#[derive(Clone, Debug)]
pub struct Codebook {
    centroids: Vec<[f32; 2]>,
    /// Centroids by rising first coordinate; equal ones by rising token.
    sorted: Vec<(Point, Token)>,
}

impl Codebook {
    /// A codebook of `centroids`; token `i` is row `i`. Refuses an empty one, too many, and coordinates that
    /// are not finite or past [`MAX_COORDINATE`].
    pub fn new(centroids: Vec<[f32; 2]>) -> Result<Self> {
        if centroids.is_empty() || centroids.len() > MAX_CENTROIDS {
            let n = centroids.len();
            return Err(Error::format(format!("codebook: {n} centroids; it must have 1..={MAX_CENTROIDS}")));
        }
        if let Some(i) = centroids.iter().position(|c| !c.iter().all(|v| v.abs() <= MAX_COORDINATE)) {
            let c = centroids[i];
            return Err(Error::format(format!(
                "codebook: centroid {i} is {c:?}; its coordinates must be numbers of at most {MAX_COORDINATE}"
            )));
        }
        let mut sorted: Vec<(Point, Token)> =
            centroids.iter().zip(0..).map(|(c, token)| (c.map(f64::from), token)).collect();
        sorted.sort_by(|a, b| a.0[0].total_cmp(&b.0[0]).then(a.1.cmp(&b.1)));
        Ok(Self { centroids, sorted })
    }

    /// Number of centroids K.
    pub fn len(&self) -> usize {
        self.centroids.len()
    }

    /// Never: a codebook has at least one centroid.
    pub fn is_empty(&self) -> bool {
        self.centroids.is_empty()
    }

    /// All centroids in token order.
    pub fn centroids(&self) -> &[[f32; 2]] {
        &self.centroids
    }

    /// The centroid of `token`, which must be less than [`Self::len`].
    pub fn centroid(&self, token: Token) -> Point {
        self.centroids[token as usize].map(f64::from)
    }

    /// The squared distance of `point` from the centroid of `token`, which must be less than [`Self::len`].
    pub fn distance_to(&self, token: Token, point: Point) -> f64 {
        Self::distance(point, self.centroid(token))
    }

    /// The squared distance as every comparison of this crate rounds it.
    pub(super) fn distance(a: Point, b: Point) -> f64 {
        let (dx, dy) = (a[0] - b[0], a[1] - b[1]);
        dx * dx + dy * dy
    }

    /// The token of the centroid nearest to `point`, ties to the lowest token, and the squared distance in f64.
    pub fn nearest_with_distance(&self, point: Point) -> (Token, f64) {
        let mut best = (Token::MAX, f64::INFINITY);
        let mut consider = |(centroid, token): (Point, Token)| {
            let distance = Self::distance(point, centroid);
            if distance < best.1 || (distance == best.1 && token < best.0) {
                best = (token, distance);
            }
            // Farther along this axis than the best so far: nothing beyond can win, nor tie.
            (point[0] - centroid[0]).powi(2) <= best.1
        };
        let middle = self.sorted.partition_point(|(c, _)| c[0] < point[0]);
        let _ = self.sorted[middle..].iter().copied().take_while(|&c| consider(c)).count();
        let _ = self.sorted[..middle].iter().rev().copied().take_while(|&c| consider(c)).count();
        best
    }

    /// The token of the centroid nearest to `point`, ties to the lowest token.
    pub fn nearest(&self, point: Point) -> Token {
        self.nearest_with_distance(point).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn brute_force(centroids: &[[f32; 2]], p: Point) -> Token {
        let mut best = (0, f64::INFINITY);
        for (i, c) in centroids.iter().enumerate() {
            let d = (p[0] - f64::from(c[0])).powi(2) + (p[1] - f64::from(c[1])).powi(2);
            if d < best.1 {
                best = (i as Token, d);
            }
        }
        best.0
    }

    proptest! {
        /// A coarse grid makes ties and duplicate centroids common.
        #[test]
        fn nearest_equals_brute_force(
            grid in prop::collection::vec((-8i8..8, -8i8..8), 1..60),
            points in prop::collection::vec((-20i8..20, -20i8..20), 1..60),
        ) {
            let centroids: Vec<[f32; 2]> = grid.iter().map(|&(a, b)| [f32::from(a), f32::from(b)]).collect();
            let codebook = Codebook::new(centroids.clone()).unwrap();
            for (a, b) in points {
                let p = [f64::from(a) / 2.0, f64::from(b) / 2.0];
                prop_assert_eq!(codebook.nearest(p), brute_force(&centroids, p));
            }
        }
    }

    #[test]
    fn codebooks_that_cannot_be_searched_are_refused() {
        assert!(Codebook::new(vec![]).is_err());
        assert!(Codebook::new(vec![[0.0, f32::NAN]]).is_err());
        assert!(Codebook::new(vec![[0.0, 0.0], [-16_385.0, 0.0]]).unwrap_err().message().contains("centroid 1"));
    }
}
