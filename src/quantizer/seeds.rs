//! First centroids by greedy k-means++ (Arthur and Vassilvitskii, 2007): each next one is a point drawn with probability
//! proportional to weight times squared distance to the nearest seed so far, the best of a few draws.
//!
//! In a column of one size each seed owns a stretch of points, in the order of the seeds' times, and a new seed takes its
//! stretch from one or two neighbours (envelope.rs says why). So a seed costs a look at the columns near it, whatever
//! the number of points, and the draws are those of the textbook.

use super::columns::Columns;
use super::scaler::Point;
use crate::random::Stream;
use std::ops::{ControlFlow, Range};

/// Columns whose masses are summed as one when drawing.
const BLOCK: usize = 64;

/// Points of a stretch that are looked at one by one when drawing.
const FEW: usize = 32;

/// Seeds between two reports of progress.
const TOLD: usize = 64;

/// The points of a column that a seed is nearest to: from the end of the cell before to its own.
#[derive(Clone, Copy)]
struct Cell {
    seed: Point,
    end: usize,
    /// Weight times squared distance, summed.
    cost: f64,
}

/// What a new seed takes of a column: `points`, all those of `cells` and some of the cell on either side.
struct Taken {
    cells: Range<usize>,
    points: Range<usize>,
}

struct Seeds<'a> {
    columns: &'a Columns,
    seeds: Vec<Point>,
    /// By column.
    cells: Vec<Vec<Cell>>,
    /// By column: what its points cost.
    masses: Vec<f64>,
    /// By column: the largest squared distance of a point to its seed.
    far: Vec<f64>,
    /// By block of columns.
    blocks: Vec<f64>,
}

/// Draws `k` points of `columns`, which has as many, `trials` candidates for each. `progress` sees their number now and
/// then; none come back if it stops the work.
pub(super) fn draw(
    columns: &Columns,
    k: usize,
    trials: usize,
    seed: u64,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Option<Vec<Point>> {
    let mut draws = Stream::new(seed, 0);
    let mut seeds = Seeds::first(columns, draws.uniform());
    while seeds.seeds.len() < k {
        if seeds.seeds.len().is_multiple_of(TOLD) && progress(seeds.seeds.len()).is_break() {
            return None;
        }
        let mut best: Option<(f64, Point)> = None;
        for _ in 0..trials.max(1) {
            let candidate = seeds.point_at(draws.uniform());
            let gain = if trials > 1 { seeds.gain(candidate) } else { 0.0 };
            if best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, candidate));
            }
        }
        if let Some((_, point)) = best {
            seeds.insert(point);
        }
    }
    Some(seeds.seeds)
}

impl<'a> Seeds<'a> {
    /// One seed, drawn by weight alone.
    fn first(columns: &'a Columns, u: f64) -> Self {
        let n = columns.xs.len();
        let weight = |column: usize| columns.sums(column, columns.points(column)).w;
        let mut left = u * (0..n).map(weight).sum::<f64>();
        let mut at = 0;
        while at + 1 < n && left >= weight(at) {
            left -= weight(at);
            at += 1;
        }
        let point = columns.point_at_weight(at, columns.points(at), left);
        let mut out = Self {
            columns,
            seeds: Vec::new(),
            cells: vec![Vec::new(); n],
            masses: vec![f64::INFINITY; n],
            far: vec![f64::INFINITY; n],
            blocks: vec![f64::INFINITY; n.div_ceil(BLOCK)],
        };
        out.insert([columns.xs[at], columns.ys[point]]);
        out
    }

    /// Adds a seed, which takes from the others what it is nearer to.
    fn insert(&mut self, seed: Point) {
        self.seeds.push(seed);
        for column in 0..self.columns.xs.len() {
            if !self.reaches(column, seed) {
                continue;
            }
            let Some(taken) = self.taken(column, seed) else { continue };
            let cells = &mut self.cells[column];
            if let Some(below) = taken.cells.start.checked_sub(1) {
                cells[below].end = taken.points.start;
            }
            cells.splice(taken.cells.clone(), [Cell { seed, end: taken.points.end, cost: 0.0 }]);
            self.refresh(column, taken.cells.start);
        }
    }

    /// How much less the points would cost with this seed.
    fn gain(&self, seed: Point) -> f64 {
        let mut gain = 0.0;
        for column in (0..self.columns.xs.len()).filter(|&column| self.reaches(column, seed)) {
            let Some(Taken { cells, points }) = self.taken(column, seed) else { continue };
            gain -= self.columns.cost(column, points.clone(), seed);
            for i in cells.start.saturating_sub(1)..(cells.end + 1).min(self.cells[column].len()) {
                let own = self.points_of(column, i);
                let lost = own.start.max(points.start)..own.end.min(points.end);
                if !lost.is_empty() {
                    gain += self.columns.cost(column, lost, self.cells[column][i].seed);
                }
            }
        }
        gain
    }

    /// Whether a seed may be nearer than its own to any point of the column.
    fn reaches(&self, column: usize, seed: Point) -> bool {
        (self.columns.xs[column] - seed[0]).powi(2) < self.far[column]
    }

    /// What `seed` takes of the column, if anything.
    fn taken(&self, column: usize, seed: Point) -> Option<Taken> {
        let cells = &self.cells[column];
        if cells.is_empty() {
            return Some(Taken { cells: 0..0, points: self.columns.points(column) });
        }
        let place = cells.partition_point(|cell| cell.seed[1] < seed[1]);
        let middle = place.checked_sub(1).map_or(self.columns.points(column).start, |below| cells[below].end);
        let x = self.columns.xs[column];
        // It takes a stretch around the border of its neighbours in time, or nothing.
        let nearer = |point: usize, own: Point| {
            let [new, old] = [seed, own].map(|s| (x - s[0]).powi(2) + (self.columns.ys[point] - s[1]).powi(2));
            new < old
        };
        let above = cells.get(place).is_some_and(|cell| nearer(middle, cell.seed));
        if !above && !place.checked_sub(1).is_some_and(|below| nearer(middle - 1, cells[below].seed)) {
            return None;
        }
        let mut taken = Taken { cells: place..place, points: middle..middle };
        while let Some(above) = cells.get(taken.cells.end) {
            let own = taken.points.end..above.end;
            taken.points.end = self.columns.first_at_least(own, border(x, seed, above.seed));
            if taken.points.end < above.end {
                break;
            }
            taken.cells.end += 1;
        }
        while let Some(below) = taken.cells.start.checked_sub(1) {
            let own = self.points_of(column, below);
            let low = border(x, cells[below].seed, seed);
            taken.points.start = self.columns.first_at_least(own.clone(), low);
            if taken.points.start > own.start {
                break;
            }
            taken.cells.start = below;
        }
        Some(taken).filter(|taken| !taken.points.is_empty())
    }

    /// The points of cell `i` of the column.
    fn points_of(&self, column: usize, i: usize) -> Range<usize> {
        let cells = &self.cells[column];
        i.checked_sub(1).map_or(self.columns.points(column).start, |before| cells[before].end)..cells[i].end
    }

    /// Brings the costs up to date after cell `new` of the column was put between its neighbours.
    fn refresh(&mut self, column: usize, new: usize) {
        for i in new.saturating_sub(1)..(new + 2).min(self.cells[column].len()) {
            let seed = self.cells[column][i].seed;
            self.cells[column][i].cost = self.columns.cost(column, self.points_of(column, i), seed);
        }
        let x = self.columns.xs[column];
        let mut begin = self.columns.points(column).start;
        let (mut mass, mut far) = (0.0, 0.0f64);
        for cell in &self.cells[column] {
            let [sx, sy] = cell.seed;
            mass += cell.cost;
            // Distances along a stretch are largest at its ends.
            for end in [begin, cell.end - 1] {
                far = far.max((x - sx).powi(2) + (self.columns.ys[end] - sy).powi(2));
            }
            begin = cell.end;
        }
        (self.masses[column], self.far[column]) = (mass, far);
        let block = column / BLOCK;
        self.blocks[block] = self.masses[block * BLOCK..].iter().take(BLOCK).sum();
    }

    /// The point in whose share of all costs `u` of 0..1 falls. Never a seed, while any other point is left.
    fn point_at(&self, u: f64) -> Point {
        let mut left = u * self.blocks.iter().sum::<f64>();
        let block = pick(&self.blocks, &mut left);
        let masses = &self.masses[block * BLOCK..];
        let column = block * BLOCK + pick(&masses[..masses.len().min(BLOCK)], &mut left);
        let costs: Vec<f64> = self.cells[column].iter().map(|cell| cell.cost).collect();
        let cell = pick(&costs, &mut left);
        let seed = self.cells[column][cell].seed;
        let points = self.points_of(column, cell);
        let cost = |point: usize| self.columns.cost(column, point..point + 1, seed);
        let mut point = points.start;
        if points.len() > FEW {
            let mut high = points.end - 1;
            while point < high {
                let middle = point.midpoint(high);
                let passed = self.columns.cost(column, points.start..middle + 1, seed) <= left;
                (point, high) = if passed { (middle + 1, high) } else { (point, middle) };
            }
        } else {
            while point + 1 < points.end && left >= cost(point) {
                left -= cost(point);
                point += 1;
            }
        }
        if cost(point) == 0.0 {
            // Rounding led to the seed itself; one of the ends is not it.
            point = if cost(points.start) > 0.0 { points.start } else { points.end - 1 };
        }
        [self.columns.xs[column], self.columns.ys[point]]
    }
}

/// y where the seed `above` becomes nearer than the seed `below` on the line at `x`.
fn border(x: f64, below: Point, above: Point) -> f64 {
    let across = (below[0] - above[0]) * (2.0 * x - below[0] - above[0]);
    match 2.0 * (above[1] - below[1]) {
        // The same time: one of them is nearer everywhere.
        0.0 if across < 0.0 => f64::NEG_INFINITY,
        0.0 => f64::INFINITY,
        gap => 0.5 * (below[1] + above[1]) + across / gap,
    }
}

/// The index in whose share of `masses` the rest `left` falls; takes those before it from `left`. Never one without mass
/// unless all are.
fn pick(masses: &[f64], left: &mut f64) -> usize {
    for (i, &mass) in masses.iter().enumerate() {
        if *left < mass {
            return i;
        }
        *left -= mass;
    }
    // Rounding left a remainder past the end.
    let last = masses.iter().rposition(|&mass| mass > 0.0).unwrap_or(0);
    *left = masses[last];
    last
}
