//! Which centroids are nearest along a line of one size.
//!
//! Where the scaled size x is fixed, the squared distance to each centroid is a parabola in the scaled time y, and all
//! these parabolas have the same shape: any two cross once. The nearest centroids from low to high y are therefore the
//! lower envelope of straight lines, they follow each other in the order of their own times, and one pass with a stack
//! finds them. Lines of neighbouring sizes share most of them: a Voronoi cell is convex, so one that meets a line
//! between two others either meets one of the two or lies between them, its centroid with it. [`Sites::sweep`] thus
//! halves the lines again and again and looks at a handful of centroids on each.
//!
//! Distances are compared as rounded to f64 elsewhere, so a crossing is known to within a zone only ([`Sites::border`]),
//! and a centroid whose parabola comes within `slack` of the envelope is kept on it. The argument above holds for cells
//! widened by a constant slack too: they are convex and hold their centroid.

use super::codebook::Codebook;
use super::scaler::Point;
use crate::tokens::Token;
use std::ops::ControlFlow;

/// Four times the relative error of comparing two squared distances computed in f64.
pub(super) const ROUNDING: f64 = 16.0 * f64::EPSILON;

/// Below this twice the difference of two centroids' times can drown in the rounding of their distances, wherever the
/// packet is. It takes centroids within 2e-13 of each other and of 0, which fitting does not give.
const MIN_GAP: f64 = 1.0 / (1u64 << 41) as f64;

/// Scaled times of f32 microseconds end below this.
const TIME_SPAN: f64 = 40.0;

/// The different centroids of a codebook by rising time, then size: the rank is the position in this order.
pub(super) struct Sites {
    points: Vec<Point>,
    tokens: Vec<Token>,
    /// How far above the envelope a parabola may stay and be kept: the rounding of the largest distance there is.
    slack: f64,
}

/// One centroid of an [`Envelope`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// The centroid's rank.
    pub rank: u32,
    /// y of the crossing with the member before; minus infinity for the first.
    pub border: f64,
    /// Whether a centroid of the same time is as near, as far as f64 tells.
    pub tied: bool,
    /// How far from the border its parabola or its predecessor's may be within the slack.
    margin: f64,
    /// Which candidates share its time and its distance to within the slack, itself included.
    near: (usize, usize),
}

/// The nearest centroids along one line, from low to high y.
#[derive(Clone, Debug, Default)]
pub(super) struct Envelope {
    pub members: Vec<Member>,
    /// Ranks that neighbouring lines must look at: those of the members and of their ties.
    ranks: Vec<u32>,
}

impl Sites {
    /// The centroids of `codebook`, for lines with x in `-reach..=reach`.
    pub fn new(codebook: &Codebook, reach: f64) -> Self {
        let point = |token: Token| codebook.centroid(token);
        let mut tokens: Vec<Token> = (0..codebook.len() as Token).collect();
        tokens.sort_unstable_by(|&a, &b| {
            let ([ax, ay], [bx, by]) = (point(a), point(b));
            // -0 and 0 are one place.
            (ay + 0.0).total_cmp(&(by + 0.0)).then((ax + 0.0).total_cmp(&(bx + 0.0))).then(a.cmp(&b))
        });
        tokens.dedup_by(|next, first| point(*next) == point(*first));
        let points: Vec<Point> = tokens.iter().map(|&t| point(t)).collect();
        let far = |axis: usize| points.iter().map(|p| p[axis].abs()).fold(0.0, f64::max);
        let slack = ROUNDING * ((far(0) + reach).powi(2) + (far(1) + TIME_SPAN).powi(2));
        Self { points, tokens, slack }
    }

    /// Number of different centroids.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// The centroid of rank `rank`.
    pub fn point(&self, rank: u32) -> Point {
        self.points[rank as usize]
    }

    /// Its token, the lowest of those at this place.
    pub fn token(&self, rank: u32) -> Token {
        self.tokens[rank as usize]
    }

    /// y where the centroid of rank `above` becomes nearer than that of rank `below` on the line at `x`, and how far
    /// from there a comparison of rounded distances may still go either way.
    pub fn border(&self, x: f64, below: u32, above: u32) -> (f64, f64) {
        let ([ax, ay], [bx, by]) = (self.point(below), self.point(above));
        let (middle, gap) = (0.5 * (ay + by), 2.0 * (by - ay));
        let offset = (ax - bx) * (2.0 * x - ax - bx) / gap;
        let y = middle + offset;
        if gap < MIN_GAP {
            return (y, f64::INFINITY);
        }
        // Away from the border the distances differ by `gap` for each unit of y, and so faster than they lose digits. A
        // border outside of all times matters only up to their end.
        let along = (y - ay).abs().min(TIME_SPAN + ay.abs());
        let distance = (x - ax).powi(2) + along.powi(2);
        (y, ROUNDING * (distance / gap + middle.abs() + offset.abs()))
    }

    /// Writes the envelope at `x` of the centroids of the ranks in `candidates`, which rise, to `out`.
    pub fn envelope(&self, x: f64, candidates: &[u32], out: &mut Envelope) {
        out.members.clear();
        out.ranks.clear();
        let mut next = 0;
        while next < candidates.len() {
            let time = self.point(candidates[next])[1];
            let equal = candidates[next..].iter().take_while(|&&rank| self.point(rank)[1] == time).count();
            let mut member = self.nearest_of_equal_times(x, candidates, (next, next + equal));
            next += equal;
            while let Some(last) = out.members.last() {
                let (border, _) = self.border(x, last.rank, member.rank);
                let margin = self.slack / (2.0 * (self.point(member.rank)[1] - self.point(last.rank)[1]));
                // The last one loses to this one before it wins over its predecessor: it is nowhere the nearest.
                if last.border - last.margin > border + margin {
                    out.members.pop();
                } else {
                    (member.border, member.margin) = (border, margin);
                    break;
                }
            }
            out.members.push(member);
        }
        for member in &out.members {
            out.ranks.extend_from_slice(&candidates[member.near.0..member.near.1]);
        }
    }

    /// The nearest to `x` of centroids of one time, `candidates[group]`, which rise in size.
    fn nearest_of_equal_times(&self, x: f64, candidates: &[u32], group: (usize, usize)) -> Member {
        let distance = |i: usize| (x - self.point(candidates[i])[0]).powi(2);
        let right = group.0 + candidates[group.0..group.1].partition_point(|&rank| self.point(rank)[0] < x);
        let best = (right.saturating_sub(1).max(group.0)..(right + 1).min(group.1))
            .min_by(|&a, &b| {
                distance(a).total_cmp(&distance(b)).then(self.token(candidates[a]).cmp(&self.token(candidates[b])))
            })
            .unwrap_or(group.0);
        let within = |slack: f64| {
            let near = |&i: &usize| distance(i) - distance(best) <= slack;
            let below = (group.0..best).rev().take_while(near).count();
            let above = (best + 1..group.1).take_while(near).count();
            (best - below, best + above + 1)
        };
        let point = self.point(candidates[best]);
        let doubt = ROUNDING * (distance(best) + (TIME_SPAN + point[1].abs()).powi(2));
        let (first, last) = within(doubt);
        Member {
            rank: candidates[best],
            border: f64::NEG_INFINITY,
            tied: last - first > 1,
            margin: 0.0,
            near: within(self.slack),
        }
    }

    /// Shows `visit` the index and the envelope of every line of `xs`, which rises or falls, from first to last. Ends
    /// early when more than `work` candidates have been looked at, and takes from it those that were.
    pub fn sweep(&self, xs: &[f64], work: &mut usize, visit: &mut dyn FnMut(usize, &Envelope)) -> ControlFlow<()> {
        let Some(end) = xs.len().checked_sub(1) else { return ControlFlow::Continue(()) };
        let all: Vec<u32> = (0..self.len() as u32).collect();
        let [mut first, mut last] = [Envelope::default(), Envelope::default()];
        self.envelope(xs[0], &all, &mut first);
        self.envelope(xs[end], &all, &mut last);
        visit(0, &first);
        if end > 0 {
            let ends = [(0, &*first.ranks), (end, &*last.ranks)];
            self.halve(xs, ends, all, work, visit)?;
            visit(end, &last);
        }
        ControlFlow::Continue(())
    }

    /// The lines between two whose envelopes have the ranks given. `inside` has at least the centroids between them.
    fn halve(
        &self,
        xs: &[f64],
        [first, last]: [(usize, &[u32]); 2],
        mut inside: Vec<u32>,
        work: &mut usize,
        visit: &mut dyn FnMut(usize, &Envelope),
    ) -> ControlFlow<()> {
        if last.0 - first.0 < 2 {
            return ControlFlow::Continue(());
        }
        let (low, high) = (xs[first.0].min(xs[last.0]), xs[first.0].max(xs[last.0]));
        inside.retain(|&rank| (low..=high).contains(&self.point(rank)[0]));
        let mut envelope = Envelope::default();
        if inside.is_empty() && first.1 == last.1 {
            // Halving on would give every line these same candidates: so it is with most, the rare sizes.
            for (line, &x) in xs.iter().enumerate().take(last.0).skip(first.0 + 1) {
                spend(work, first.1.len())?;
                self.envelope(x, first.1, &mut envelope);
                visit(line, &envelope);
            }
            return ControlFlow::Continue(());
        }
        let candidates = union(&union(first.1, last.1), &inside);
        spend(work, candidates.len())?;
        let middle = first.0.midpoint(last.0);
        self.envelope(xs[middle], &candidates, &mut envelope);
        self.halve(xs, [first, (middle, &envelope.ranks)], inside.clone(), work, visit)?;
        visit(middle, &envelope);
        self.halve(xs, [(middle, &envelope.ranks), last], inside, work, visit)
    }
}

/// Takes `candidates` from `work`, if as many are left.
fn spend(work: &mut usize, candidates: usize) -> ControlFlow<()> {
    match work.checked_sub(candidates) {
        Some(left) => *work = left,
        None => return ControlFlow::Break(()),
    }
    ControlFlow::Continue(())
}

/// The values of two rising lists, each once.
fn union(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let next = a[i].min(b[j]);
        i += usize::from(a[i] == next);
        j += usize::from(b[j] == next);
        out.push(next);
    }
    out.extend_from_slice(&a[i..]);
    out.extend_from_slice(&b[j..]);
    out
}
