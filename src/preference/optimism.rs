//! Optimistic fits on tables: XPO, SELM and VPO online, as one problem on a box.

use nalgebra::{DMatrix, DVector};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::boxed::{At, Cell};
use crate::check;
use crate::mdp::Beta;
use crate::numerics::{log_sigmoid, log_sum_exp, sigmoid};
use crate::{Error, Result};

/// argmin over 0 ≤ R ≤ V of L(R) − a \[V*(R) − E_cal R\], with V*(R) = β log Σ π_ref e^{R/β}.
///
/// L is the mean logistic loss of the comparisons. As V*(R) − E_cal R = −β E_cal log(π/π_ref) for π ∝ π_ref e^{R/β}, XPO with bonus
/// α E_ref log π is a = α/β, cal = π_ref; VPO online is any fixed cal; SELM is a = α with the law of the responses drawn so far.
/// Both terms are convex, so their difference is not: [`OptimisticFit::best`] descends from many starts, and
/// [`OptimisticFit::lower_bound`] says how far from global it can be.
#[derive(Debug, Clone)]
pub struct OptimisticFit<'a> {
    log_reference: &'a [f64],
    beta: f64,
    /// How often i beat j, at i n + j, over their number.
    wins: Vec<f64>,
    calibration: &'a [f64],
    weight: f64,
    bound: f64,
}

/// From how many responses on starts are not all vertices of the box any more.
const ALL_VERTICES: usize = 5;

impl<'a> OptimisticFit<'a> {
    /// The problem for counts `wins` (`[n, n]`, how often the row beat the column); their mean is taken over their number, or 1.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Config`] for β = 0, a negative weight, or a bound that is no positive number.
    pub fn try_new(
        log_reference: &'a [f64],
        beta: Beta,
        wins: &[f64],
        calibration: &'a [f64],
        weight: f64,
        bound: f64,
    ) -> Result<Self> {
        let n = log_reference.len();
        check::len("wins", n * n, wins.len())?;
        check::len("calibration", n, calibration.len())?;
        for (what, value, least) in [
            ("beta", beta.get(), f64::MIN_POSITIVE),
            ("bound", bound, f64::MIN_POSITIVE),
            ("weight", weight, 0.0),
        ] {
            if !(value >= least && value.is_finite()) {
                let expected = if least > 0.0 {
                    "a positive number"
                } else {
                    "at least 0"
                };
                return Err(Error::config(what, value, expected));
            }
        }
        let total = wins.iter().sum::<f64>().max(1.0);
        Ok(Self {
            log_reference,
            beta: beta.get(),
            wins: wins.iter().map(|w| w / total).collect(),
            calibration,
            weight,
            bound,
        })
    }

    /// The objective at R.
    pub fn value(&self, r: &[f64]) -> f64 {
        let tilted: Vec<f64> = self
            .log_reference
            .iter()
            .zip(r)
            .map(|(u, r)| u + r / self.beta)
            .collect();
        let mean: f64 = self.calibration.iter().zip(r).map(|(m, r)| m * r).sum();
        self.likelihood(r, None) - self.weight * (self.beta * log_sum_exp(&tilted) - mean)
    }

    /// L, and its derivatives where they are asked for.
    fn likelihood(
        &self,
        r: &[f64],
        mut slopes: Option<(&mut DVector<f64>, &mut DMatrix<f64>)>,
    ) -> f64 {
        let n = r.len();
        let mut total = 0.0;
        for i in 0..n {
            for j in i + 1..n {
                let (won, lost) = (self.wins[i * n + j], self.wins[j * n + i]);
                if won + lost == 0.0 {
                    continue;
                }
                let d = r[i] - r[j];
                total -= won * log_sigmoid(d) + lost * log_sigmoid(-d);
                if let Some((gradient, hessian)) = &mut slopes {
                    let s = sigmoid(d);
                    let (slope, bend) = ((won + lost) * s - won, (won + lost) * s * (1.0 - s));
                    gradient[i] += slope;
                    gradient[j] -= slope;
                    hessian[(i, i)] += bend;
                    hessian[(j, j)] += bend;
                    hessian[(i, j)] -= bend;
                    hessian[(j, i)] -= bend;
                }
            }
        }
        total
    }

    /// Responses along whose common rise the objective in all of ℝⁿ falls without end or has no minimum, in the class without a bound;
    /// `None` where there are none, and a minimiser exists.
    ///
    /// Along a direction d the slope at infinity is L_∞(d) − a (max d − E_cal d), with L_∞(d) = Σ (share of i beating j) (d_j − d_i)⁺. All
    /// three terms are integrals over the level sets {d ≥ s} of the same terms of their indicators, so the sign is decided on sets S:
    /// L_∞(1_S) > a (1 − cal(S)) for every S that is neither empty nor all. There are 2ⁿ of them, n at most 16.
    pub fn unbounded_along(&self) -> Option<Vec<usize>> {
        let n = self.log_reference.len();
        if n > 16 {
            return None;
        }
        let mut worst: Option<(f64, usize)> = None;
        for set in 1..(1usize << n) - 1 {
            let within = |i: &usize| set >> i & 1 == 1;
            let mut slope = 0.0;
            for i in (0..n).filter(|i| !within(i)) {
                for j in (0..n).filter(within) {
                    slope += self.wins[i * n + j];
                }
            }
            let outside: f64 = (0..n)
                .filter(|i| !within(i))
                .map(|i| self.calibration[i])
                .sum();
            let slope = slope - self.weight * outside;
            if slope <= 0.0 && worst.is_none_or(|(least, _)| slope < least) {
                worst = Some((slope, set));
            }
        }
        worst.map(|(_, set)| (0..n).filter(|i| set >> i & 1 == 1).collect())
    }

    /// A local minimiser from `start`, with its value: projected Newton steps, on the convex part alone where the whole is not convex.
    pub fn descend(&self, start: &[f64]) -> (Vec<f64>, f64) {
        let inside = Cell::cube(start.len(), self.bound);
        let exact = |r: &[f64]| {
            let (mut gradient, mut convex) = zeros(r.len());
            let likelihood = self.likelihood(r, Some((&mut gradient, &mut convex)));
            let tilted: Vec<f64> = (self.log_reference.iter().zip(r))
                .map(|(u, r)| u + r / self.beta)
                .collect();
            let log_z = log_sum_exp(&tilted);
            let pi: Vec<f64> = tilted.iter().map(|t| (t - log_z).exp()).collect();
            let mean: f64 = self.calibration.iter().zip(r).map(|(m, r)| m * r).sum();
            let mut whole = convex.clone();
            for i in 0..r.len() {
                gradient[i] -= self.weight * (pi[i] - self.calibration[i]);
                whole[(i, i)] -= self.weight / self.beta * pi[i];
                for j in 0..r.len() {
                    whole[(i, j)] += self.weight / self.beta * pi[i] * pi[j];
                }
            }
            At {
                value: likelihood - self.weight * (self.beta * log_z - mean),
                gradient,
                hessians: vec![whole, convex],
            }
        };
        let (r, at) = inside.minimise(start, &exact, 60, 1e-12);
        (r, at.value)
    }

    /// The best of many descents, with its value: from `more`, from the middle, and from the vertices of the box (all of them up to
    /// five responses, beyond that those with one response up or down).
    pub fn best(&self, more: &[Vec<f64>]) -> (Vec<f64>, f64) {
        let n = self.log_reference.len();
        let mut starts = more.to_vec();
        starts.push(vec![self.bound / 2.0; n]);
        if n <= ALL_VERTICES {
            let vertex = |k: usize| (0..n).map(|i| self.bound * (k >> i & 1) as f64).collect();
            starts.extend((0..1usize << n).map(vertex));
        } else {
            for k in 0..n {
                let one = |up: bool| {
                    (0..n)
                        .map(|i| if (i == k) == up { self.bound } else { 0.0 })
                        .collect()
                };
                starts.extend([one(true), one(false)]);
            }
        }
        starts
            .iter()
            .map(|start| self.descend(start))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .expect("a start at least")
    }

    /// A lower bound of the objective over the whole box, within `tolerance` of `known` (a value that was reached) unless `nodes`
    /// boxes do not suffice: branch and bound.
    ///
    /// On a smaller box each e^{R/β} lies below its chord, so V* lies below β log of an affine function of R, and the objective
    /// above a convex one. That is minimised; its tangent at the point reached is a bound whatever the precision of the point.
    pub fn lower_bound(&self, known: f64, tolerance: f64, nodes: usize) -> f64 {
        let n = self.log_reference.len();
        let root = Cell::cube(n, self.bound);
        let (bound, split) = self.relax(&root);
        let mut open = BinaryHeap::from([Node {
            bound,
            split,
            cell: root,
        }]);
        for _ in 0..nodes {
            let Some(node) = open.peek() else { break };
            if node.bound >= known - tolerance {
                break;
            }
            let Node {
                bound,
                split: (k, at),
                cell,
            } = open.pop().expect("peeked");
            for part in cell.halves(k, at) {
                let (own, split) = self.relax(&part);
                // A part is never bounded worse than the whole.
                open.push(Node {
                    bound: own.max(bound),
                    split,
                    cell: part,
                });
            }
        }
        open.peek().map_or(known, |node| node.bound)
    }

    /// The bound of a box, and where to split it: the response whose chord is the furthest from its exponential.
    fn relax(&self, cell: &Cell) -> (f64, (usize, f64)) {
        /// Exponents by which a chord rises at most: from a higher left end it lies above the exponential as well, and the squares
        /// of its slope over its value are no infinities.
        const STEEPEST: f64 = 300.0;
        let n = cell.low.len();
        // Weights relative to the largest that the box has, so that nothing overflows and not all vanish.
        let exponent = |i: usize, r: f64| self.log_reference[i] + r / self.beta;
        let top = (0..n).map(|i| exponent(i, cell.high[i]));
        let top = top.fold(f64::NEG_INFINITY, f64::max);
        let lift = |i: usize, r: f64| (exponent(i, r) - top).exp();
        let ends: Vec<(f64, f64)> = (0..n)
            .map(|i| {
                let high = exponent(i, cell.high[i]) - top;
                let low = (exponent(i, cell.low[i]) - top).max(high - STEEPEST);
                (low.exp(), high.exp())
            })
            .collect();
        let rise: Vec<f64> = (0..n)
            .map(|i| (ends[i].1 - ends[i].0) / (cell.high[i] - cell.low[i]))
            .collect();
        let chord = |i: usize, r: f64| ends[i].0 + rise[i] * (r - cell.low[i]);
        let relaxed = |r: &[f64]| {
            let (mut gradient, mut hessian) = zeros(n);
            let likelihood = self.likelihood(r, Some((&mut gradient, &mut hessian)));
            let z: f64 = (0..n).map(|i| chord(i, r[i])).sum();
            let mean: f64 = self.calibration.iter().zip(r).map(|(m, r)| m * r).sum();
            let scale = self.weight * self.beta;
            for i in 0..n {
                gradient[i] += self.weight * self.calibration[i] - scale * rise[i] / z;
                for j in 0..n {
                    hessian[(i, j)] += scale * rise[i] * rise[j] / (z * z);
                }
            }
            At {
                value: likelihood - scale * (z.ln() + top) + self.weight * mean,
                gradient,
                hessians: vec![hessian],
            }
        };
        let middle: Vec<f64> = (0..n).map(|i| 0.5 * (cell.low[i] + cell.high[i])).collect();
        let (r, at) = cell.minimise(&middle, &relaxed, 40, 1e-12);
        let slack: f64 = (0..n)
            .map(|i| {
                (at.gradient[i] * (cell.low[i] - r[i])).min(at.gradient[i] * (cell.high[i] - r[i]))
            })
            .sum();
        // Where the tangent is steep it says nothing; L ≥ 0 and V* is largest at the upper corner whatever it says.
        let highest = self.beta * (ends.iter().map(|e| e.1).sum::<f64>().ln() + top);
        let lowest: f64 = self
            .calibration
            .iter()
            .zip(&cell.low)
            .map(|(m, r)| m * r)
            .sum();
        let bound = (at.value + slack).max(-self.weight * (highest - lowest));
        let gap = |i: &usize| chord(*i, r[*i]) - lift(*i, r[*i]);
        let wide = |i: &usize| cell.high[*i] - cell.low[*i];
        let k = (0..n)
            .max_by(|i, j| gap(i).total_cmp(&gap(j)).then(wide(i).total_cmp(&wide(j))))
            .unwrap_or(0);
        // Near an end a split there would leave one part as it was.
        let share = ((r[k] - cell.low[k]) / wide(&k)).clamp(0.2, 0.8);
        (bound, (k, cell.low[k] + share * wide(&k)))
    }
}

fn zeros(n: usize) -> (DVector<f64>, DMatrix<f64>) {
    (DVector::zeros(n), DMatrix::zeros(n, n))
}

/// An open box: the one with the lowest bound comes first.
struct Node {
    bound: f64,
    split: (usize, f64),
    cell: Cell,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Node {}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> Ordering {
        other.bound.total_cmp(&self.bound)
    }
}
