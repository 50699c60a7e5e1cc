//! The ν-SVM of two labels by sequential minimal optimisation (Platt, 1998), with pairs chosen by second-order information
//! as libsvm does (Fan, Chen and Lin, "Working set selection using second order information", 2005).
//!
//! Minimises `½ Σ α_s α_t y_s y_t K(s, t)` over `0 <= α <= 1` with `Σ_{y=1} α = Σ_{y=-1} α = ν n / 2`.

/// Largest violation of optimality that is left, in units of the gradient where the kernel of a point with itself is 1.
const TOLERANCE: f64 = 1e-4;

/// Least curvature along a pair: equal points have none.
const MIN_CURVATURE: f64 = 1e-12;

/// Pairs for each point after which a machine is taken as it is: with kernels that bound nothing the last bits take long.
const MAX_STEPS: usize = 100;

/// A margin this small is none: the reduced hulls of the two labels overlap (Crisp and Burges, 1999).
const MIN_MARGIN: f64 = 100.0 * TOLERANCE;

/// A solved machine: `f(x) = Σ a_t K(t, x) + b`.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// `a` of each point; 0: no support vector.
    pub coefficients: Vec<f32>,
    /// `b`
    pub intercept: f32,
}

/// Points of two labels and how alike they are.
pub struct Problem<'a> {
    /// Row-major `[n, n]`.
    pub kernel: &'a [f32],
    /// Points of the first label, which come first and are to get values above 0.
    pub n_first: usize,
    /// Points of both.
    pub n: usize,
}

impl Problem<'_> {
    /// The machine for `nu`, which is lowered to what the smaller label allows and raised until there is a margin; one that
    /// decides nothing where no `nu` gives one.
    pub fn solve(&self, nu: f64) -> Machine {
        let n_second = self.n - self.n_first;
        let undecided = |intercept| Machine { coefficients: vec![0.0; self.n], intercept };
        match (self.n_first, n_second) {
            (0, 0) => return undecided(0.0),
            (0, _) => return undecided(-1.0),
            (_, 0) => return undecided(1.0),
            _ => {}
        }
        let most = 2.0 * self.n_first.min(n_second) as f64 / self.n as f64;
        let mut nu = nu.min(most);
        loop {
            match self.machine(nu) {
                Some(machine) => return machine,
                None if nu >= most => return undecided(0.0),
                None => nu = (2.0 * nu).min(most),
            }
        }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.kernel[i * self.n..(i + 1) * self.n]
    }

    fn sign(&self, i: usize) -> f64 {
        if i < self.n_first { 1.0 } else { -1.0 }
    }

    /// The machine for exactly `nu`, if it has a margin.
    fn machine(&self, nu: f64) -> Option<Machine> {
        let mut alpha = vec![0.0; self.n];
        for label in [0..self.n_first, self.n_first..self.n] {
            let mut left = nu * self.n as f64 / 2.0;
            for alpha in &mut alpha[label] {
                *alpha = left.min(1.0);
                left -= *alpha;
            }
        }
        let mut gradient = vec![0.0; self.n];
        for t in (0..self.n).filter(|&t| alpha[t] > 0.0) {
            self.step(&mut gradient, t, alpha[t]);
        }
        let scale = (0..self.n).map(|t| f64::from(self.row(t)[t])).sum::<f64>() / self.n as f64;
        for _ in 0..MAX_STEPS * self.n.max(1000) {
            let Some((up, down)) = self.pair(&alpha, &gradient, TOLERANCE * scale) else { break };
            let change = (gradient[down] - gradient[up]) / self.curvature(up, down);
            let change = change.min(1.0 - alpha[up]).min(alpha[down]);
            alpha[up] += change;
            alpha[down] -= change;
            self.step(&mut gradient, up, change);
            self.step(&mut gradient, down, -change);
        }
        let first = level(&alpha[..self.n_first], &gradient[..self.n_first]);
        let second = level(&alpha[self.n_first..], &gradient[self.n_first..]);
        let margin = (first + second) / 2.0;
        if margin <= MIN_MARGIN * scale {
            return None;
        }
        let coefficients = alpha.iter().enumerate().map(|(t, alpha)| (self.sign(t) * alpha / margin) as f32).collect();
        Some(Machine { coefficients, intercept: ((second - first) / (2.0 * margin)) as f32 })
    }

    /// What `alpha[t]` grown by `change` adds to the gradient.
    fn step(&self, gradient: &mut [f64], t: usize, change: f64) {
        let (first, second) = gradient.split_at_mut(self.n_first);
        let (row_first, row_second) = self.row(t).split_at(self.n_first);
        let change = change * self.sign(t);
        first.iter_mut().zip(row_first).for_each(|(g, &k)| *g += change * f64::from(k));
        second.iter_mut().zip(row_second).for_each(|(g, &k)| *g -= change * f64::from(k));
    }

    fn curvature(&self, s: usize, t: usize) -> f64 {
        let k = |s: usize, t: usize| f64::from(self.kernel[s * self.n + t]);
        (k(s, s) + k(t, t) - 2.0 * k(s, t)).max(MIN_CURVATURE)
    }

    /// Two points of one label, the first to grow at the cost of the second, that promise the most; none where nothing is
    /// left to gain, but `tolerance`.
    fn pair(&self, alpha: &[f64], gradient: &[f64], tolerance: f64) -> Option<(usize, usize)> {
        let (mut best, mut best_gain) = (None, 0.0);
        let mut violation: f64 = 0.0;
        for label in [0..self.n_first, self.n_first..self.n] {
            let growing = label.clone().filter(|&t| alpha[t] < 1.0);
            let Some(up) = growing.min_by(|&s, &t| gradient[s].total_cmp(&gradient[t])) else { continue };
            for down in label.filter(|&t| alpha[t] > 0.0) {
                let gap = gradient[down] - gradient[up];
                violation = violation.max(gap);
                let gain = gap * gap / self.curvature(up, down);
                if gap > 0.0 && gain > best_gain {
                    (best, best_gain) = (Some((up, down)), gain);
                }
            }
        }
        best.filter(|_| violation >= tolerance)
    }
}

/// The gradient at the margin of one label: that of points that are free, else what lies between the others'.
fn level(alpha: &[f64], gradient: &[f64]) -> f64 {
    let (mut sum, mut free) = (0.0, 0);
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    for (&alpha, &gradient) in alpha.iter().zip(gradient) {
        if alpha >= 1.0 {
            low = low.max(gradient);
        } else if alpha <= 0.0 {
            high = high.min(gradient);
        } else {
            sum += gradient;
            free += 1;
        }
    }
    match (free, low.is_finite(), high.is_finite()) {
        (0, true, true) => (low + high) / 2.0,
        (0, true, false) => low,
        (0, false, _) => high,
        _ => sum / f64::from(free),
    }
}
