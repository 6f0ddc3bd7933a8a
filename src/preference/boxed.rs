//! Newton steps within a box.

use nalgebra::{DMatrix, DVector};

/// A function at a point, with matrices to step by: the first that is positive definite on the free coordinates is taken.
pub(super) struct At {
    pub value: f64,
    pub gradient: DVector<f64>,
    pub hessians: Vec<DMatrix<f64>>,
}

/// A box.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub low: Vec<f64>,
    pub high: Vec<f64>,
}

/// Steps of a projected line search before it gives way to one that stops at the first bound.
const PROJECTED: i32 = 6;

impl Cell {
    /// The cube \[0, side\]ⁿ.
    pub fn cube(n: usize, side: f64) -> Self {
        Self {
            low: vec![0.0; n],
            high: vec![side; n],
        }
    }

    /// The parts below and above a value of one coordinate.
    pub fn halves(self, k: usize, at: f64) -> [Self; 2] {
        let (mut left, mut right) = (self.clone(), self);
        (left.high[k], right.low[k]) = (at, at);
        [left, right]
    }

    /// Whether coordinate k is at a bound that a step of this sign would leave.
    fn blocks(&self, x: &[f64], k: usize, step: f64) -> bool {
        (x[k] <= self.low[k] && step < 0.0) || (x[k] >= self.high[k] && step > 0.0)
    }

    /// The largest entry of the gradient that points out of no bound: 0 at a stationary point.
    pub fn residual(&self, x: &[f64], at: &At) -> f64 {
        (0..x.len())
            .filter(|&k| !self.blocks(x, k, -at.gradient[k]))
            .fold(0.0, |m, k| m.max(at.gradient[k].abs()))
    }

    /// Newton steps on the coordinates that are free, until the residual is at most `tolerance` or no step lowers the function.
    ///
    /// A step is first cut to the box coordinate by coordinate, which lets many bounds change at once. Where that does not go down, it
    /// is followed only to the first bound it meets: along it a positive definite matrix always goes down.
    pub fn minimise(
        &self,
        start: &[f64],
        fun: &dyn Fn(&[f64]) -> At,
        steps: usize,
        tolerance: f64,
    ) -> (Vec<f64>, At) {
        let clamp = |k: usize, v: f64| v.clamp(self.low[k], self.high[k]);
        let mut x: Vec<f64> = start
            .iter()
            .enumerate()
            .map(|(k, v)| clamp(k, *v))
            .collect();
        let mut at = fun(&x);
        for _ in 0..steps {
            if self.residual(&x, &at) <= tolerance {
                break;
            }
            let mut free: Vec<usize> = (0..x.len())
                .filter(|&k| !self.blocks(&x, k, -at.gradient[k]))
                .collect();
            let mut step = self.newton_step(&at, &free);
            // What the matrix would push out of a bound although its own slope does not stays for this step.
            while free.iter().zip(&step).any(|(&k, s)| self.blocks(&x, k, *s)) {
                let kept = free
                    .iter()
                    .zip(&step)
                    .filter(|(k, s)| !self.blocks(&x, **k, **s));
                free = kept.map(|(k, _)| *k).collect();
                step = self.newton_step(&at, &free);
            }
            let first = free.iter().zip(&step).map(|(&k, &s)| match s {
                s if s > 0.0 => (self.high[k] - x[k]) / s,
                s if s < 0.0 => (self.low[k] - x[k]) / s,
                _ => f64::INFINITY,
            });
            let first = first.fold(1.0, f64::min);
            let lengths = (0..PROJECTED).map(|i| 0.5f64.powi(i));
            let within = (0..40).map(|i| first * 0.5f64.powi(i));
            let moved = lengths.chain(within).find_map(|length| {
                let mut next = x.clone();
                for (&k, s) in free.iter().zip(&step) {
                    next[k] = clamp(k, x[k] + length * s);
                }
                let drop: f64 = (0..x.len())
                    .map(|k| at.gradient[k] * (next[k] - x[k]))
                    .sum();
                if drop >= 0.0 {
                    return None;
                }
                let there = fun(&next);
                let rounding = 1e-15 * (1.0 + at.value.abs());
                (there.value <= at.value + 1e-4 * drop + rounding).then_some((next, there))
            });
            let Some((next, there)) = moved else { break };
            (x, at) = (next, there);
        }
        (x, at)
    }

    fn newton_step(&self, at: &At, free: &[usize]) -> Vec<f64> {
        if free.is_empty() {
            return Vec::new();
        }
        let gradient = DVector::from_iterator(free.len(), free.iter().map(|&k| at.gradient[k]));
        let slope = gradient.amax();
        let widest = free
            .iter()
            .map(|&k| self.high[k] - self.low[k])
            .fold(0.0, f64::max);
        let step = at.hessians.iter().find_map(|h| {
            // Where nothing bends a step is long, but no longer than a thousand boxes.
            let ridge = 1e-10 * h.diagonal().amax() + 1e-3 * slope / widest;
            let block = DMatrix::from_fn(free.len(), free.len(), |i, j| {
                h[(free[i], free[j])] + if i == j { ridge } else { 0.0 }
            });
            Some(block.cholesky()?.solve(&-&gradient))
        });
        let step = step.unwrap_or_else(|| -&gradient * (widest / slope.max(f64::MIN_POSITIVE)));
        step.iter().copied().collect()
    }
}
