//! Newton's method on (4.1) inside the ball, for data some of whose pairs can be explained as well as one likes.
//!
//! Let S be the pairs that some direction u with Xu ≥ 0 explains strictly, and O the rest. Towards the maximiser in a
//! large ball the weights of S in the gradient fall off like e^{−z}, below rounding of what O contributes. The
//! coordinates are therefore y = (a, b), a in the span of the rows of O and b orthogonal to it, so that O does not touch
//! the equations of b, and these are divided by ε = e^{−s}, s the smallest margin in S. Without S there is no b, and
//! ε = 1.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::kernels::{self, Weights, margins, weighted_sum};
use crate::{Error, Result};

/// A step that changes no margin by more than this, relative to the largest, is the last: Newton's method
/// converges quadratically in exactly this quantity.
const LAST_STEP: f64 = 1e-8;
/// The same between two balls on the way.
const NEXT_BALL: f64 = 0.3;
/// Relative damping of a factorisation that fails.
const DAMPING: f64 = 1e-15;

/// X in the coordinates (a, b).
pub(super) struct Split {
    /// Rows of O, `[|O|, k_a]`.
    pub overlap: Vec<f64>,
    /// k_a = dim a.
    pub overlap_dim: usize,
    /// Rows of S, `[|S|, k]`.
    pub strict: Vec<f64>,
    /// k = k_a + dim b.
    pub dim: usize,
}

/// Where the iteration is.
pub(super) struct Iterate {
    /// y, `[k]`.
    pub y: DVector<f64>,
    /// Whether ‖y‖ ≤ B is active.
    pub at_bound: bool,
    /// μ.
    pub multiplier: f64,
    /// ‖∇f + μy‖, f = −L + (penalty/2)‖·‖².
    pub residual: f64,
    /// Readings of the data.
    pub passes: usize,
    /// Whether the last step was as small as it must be.
    pub converged: bool,
    /// max |x_iᵀy|.
    pub largest_margin: f64,
}

pub(super) struct Graded<'a> {
    pub split: &'a Split,
    pub penalty: f64,
}

/// First and second derivatives at a y.
struct Model {
    /// s.
    shift: f64,
    /// ε = e^{−s}.
    scale: f64,
    /// Of O: ∇_a f and ∇²_aa f.
    overlap: (DVector<f64>, DMatrix<f64>),
    /// Of S, divided by ε: `[k]`, `[k, k]`.
    strict: (DVector<f64>, DMatrix<f64>),
    largest_margin: f64,
}

/// Factors of the Newton equations at a multiplier.
struct Factors {
    a: Option<Cholesky<f64, Dyn>>,
    /// A⁻¹ of the coupling ∇²_ab f/ε, `[k_a, k_b]`.
    coupling: DMatrix<f64>,
    b: Option<Cholesky<f64, Dyn>>,
}

impl Graded<'_> {
    fn ka(&self) -> usize {
        self.split.overlap_dim
    }

    fn kb(&self) -> usize {
        self.split.dim - self.split.overlap_dim
    }

    /// Minimises f inside the ball of radius `bound` from `start`, on the way through balls of radii that double
    /// from `first` on, beyond what O alone wants where the ball has room for that.
    pub fn minimise(
        &self,
        start: DVector<f64>,
        first: f64,
        bound: f64,
        limit: usize,
    ) -> Result<Iterate> {
        let mut at = Iterate {
            y: start,
            at_bound: false,
            multiplier: 0.0,
            residual: f64::NAN,
            passes: 0,
            converged: false,
            largest_margin: 0.0,
        };
        let mut radius = first;
        let wants = if first < bound {
            self.alone(limit)?
        } else {
            None
        };
        let reach = wants.as_ref().map_or(0.0, |a| a.norm());
        // A ball that O's part of θ does not fit into is one that the path to S need not visit.
        let inner = match wants {
            Some(a) if reach < bound => {
                at.y.rows_mut(0, self.ka()).copy_from(&a);
                reach
            }
            _ => 0.0,
        };
        let mut ball = radius.hypot(inner).min(bound);
        while ball < bound {
            self.within(&mut at, ball, NEXT_BALL, limit)?;
            radius *= 2.0;
            let next = radius.hypot(inner).min(bound);
            self.widen(&mut at.y, ball, next, reach);
            ball = next;
        }
        self.within(&mut at, bound, LAST_STEP, limit)?;
        Ok(at)
    }

    /// a at the minimiser of O's part of f alone; none where there is no S, or the steps do not end.
    fn alone(&self, limit: usize) -> Result<Option<DVector<f64>>> {
        let (ka, s) = (self.ka(), self.split);
        if ka == 0 || self.kb() == 0 {
            return Ok(None);
        }
        let alone = Split {
            overlap: s.overlap.clone(),
            overlap_dim: ka,
            strict: Vec::new(),
            dim: ka,
        };
        let alone = Graded {
            split: &alone,
            penalty: self.penalty,
        };
        let (zero, infinite) = (DVector::zeros(ka), f64::INFINITY);
        let at = alone.minimise(zero, infinite, infinite, limit)?;
        Ok(at.converged.then_some(at.y))
    }

    /// From the sphere of one ball to that of the next: a stays, b is stretched to what a leaves of the ball once O has
    /// what it wants of it. In a ball that is too small for O the multiplier is of the size of O's pull, and the
    /// margins of S grow with its logarithm only: stretching b would take ε below the smallest number, and with it the
    /// ball out of the equations of a.
    fn widen(&self, y: &mut DVector<f64>, from: f64, to: f64, reach: f64) {
        let (ka, kb) = (self.ka(), self.kb());
        let (a, b) = (y.rows(0, ka).norm().max(reach), y.rows(ka, kb).norm());
        if y.norm() >= from * (1.0 - 1e-6) && b > 0.0 {
            let stretch = (to - a) * (to + a) / (b * b);
            y.rows_mut(ka, kb).scale_mut(stretch.max(1.0).sqrt());
        }
    }

    /// Damped Newton steps inside one ball.
    fn within(&self, at: &mut Iterate, ball: f64, enough: f64, limit: usize) -> Result<()> {
        let mut smallest = f64::INFINITY;
        let mut stalled = 0;
        at.converged = false;
        while at.passes < limit {
            at.passes += 1;
            let model = self.model(&at.y)?;
            let (to, multiplier) = self.inside(&model, &at.y, ball, at.multiplier)?;
            let step = &to - &at.y;
            let change = self.largest_change(&step);
            let relative = change / (1.0 + 1e-7 * model.largest_margin);
            (at.multiplier, at.at_bound) = (multiplier, multiplier > 0.0);
            if relative <= enough {
                at.y = to;
                at.converged = true;
                break;
            }
            // Rounding keeps steps from shrinking further.
            stalled = if change < 0.5 * smallest {
                0
            } else {
                stalled + 1
            };
            smallest = smallest.min(change);
            let exact = 1e-6 * (1.0 + 1e-8 * model.largest_margin);
            if stalled >= 8 && smallest <= exact && change <= 2.0 * smallest {
                at.y = to;
                at.converged = true;
                break;
            }
            let share = self.share(&model, &at.y, &step, change);
            at.y.axpy(share, &step, 1.0);
        }
        if enough <= LAST_STEP {
            let model = self.model(&at.y)?;
            let mu = if at.at_bound {
                self.multiplier(&model, &at.y)
            } else {
                0.0
            };
            at.residual = self.residual(&model, &at.y, mu).1;
            at.largest_margin = model.largest_margin;
            at.multiplier = mu * model.scale;
        }
        Ok(())
    }

    /// The share of a step δ that is taken. The logistic loss is generalised self-concordant: with
    /// m = max |x_iᵀδ| a whole step decreases f where m ≤ 1, and a share log(1 + m)/m always does (Sun & Tran-Dinh
    /// 2019), whatever rounding says. A larger share is taken where f still falls at its end.
    fn share(&self, model: &Model, y: &DVector<f64>, step: &DVector<f64>, change: f64) -> f64 {
        if change <= 1.0 {
            return 1.0;
        }
        let least = change.ln_1p() / change;
        let ((zo, zs), (co, cs)) = (self.margins(y), self.margins(step));
        let mut t = 1.0;
        while t > least {
            let (mut slope, mut size) = (0.0, 0.0);
            for (z, c) in zo.iter().zip(&co) {
                let term = -c / (1.0 + (z + t * c).exp());
                (slope, size) = (slope + term, size + term.abs());
            }
            let ya = y.rows(0, self.ka());
            let da = step.rows(0, self.ka());
            slope += self.penalty * (ya.dot(&da) + t * da.norm_squared());
            // Where O does not decide beyond rounding, S does.
            if slope.abs() <= 1e-14 * size {
                slope = 0.0;
            }
            let lifted = |z: f64| (model.shift - z.max(0.0)).exp() / (1.0 + (-z.abs()).exp());
            let strict: f64 = zs
                .iter()
                .zip(&cs)
                .map(|(z, c)| -c * lifted(z + t * c))
                .sum();
            let strict = if slope == 0.0 {
                strict
            } else {
                strict * model.scale
            };
            if slope + strict <= 0.0 {
                return t;
            }
            t *= 0.5;
        }
        least
    }

    /// max_i |x_iᵀδ|.
    fn largest_change(&self, step: &DVector<f64>) -> f64 {
        let (zo, zs) = self.margins(step);
        zo.iter().chain(&zs).fold(0.0, |m, z| m.max(z.abs()))
    }

    /// Xy over O and over S.
    fn margins(&self, y: &DVector<f64>) -> (Vec<f64>, Vec<f64>) {
        let (s, ka) = (self.split, self.ka());
        let overlap = match ka {
            0 => vec![0.0; 0],
            _ => margins(&s.overlap, ka, &y.as_slice()[..ka]),
        };
        (overlap, margins(&s.strict, s.dim, y.as_slice()))
    }

    fn model(&self, y: &DVector<f64>) -> Result<Model> {
        let (ka, k) = (self.ka(), self.split.dim);
        let (zo, zs) = self.margins(y);
        let finite = zo.iter().chain(&zs).all(|z| z.is_finite());
        if !finite {
            return Err(Error::NonFinite {
                what: "margin of a pair in the estimate (4.1)".into(),
                value: f64::INFINITY,
            });
        }
        let smallest = zs.iter().copied().fold(f64::INFINITY, f64::min);
        let shift = if zs.is_empty() {
            0.0
        } else {
            smallest.max(0.0)
        };
        let tail = |z: f64| 1.0 / (1.0 + z.exp());
        let wo: Vec<f64> = zo.iter().map(|z| -tail(*z)).collect();
        let ho: Vec<f64> = zo.iter().map(|z| kernels::sigmoid_slope(*z)).collect();
        // e^{shift}σ(−z), and the same times σ(z).
        let lifted = |z: f64| {
            if z < 0.0 {
                tail(z)
            } else {
                (shift - z).exp() / (1.0 + (-z).exp())
            }
        };
        let ws: Vec<f64> = zs.iter().map(|z| -lifted(*z)).collect();
        let hs: Vec<f64> = zs.iter().map(|z| lifted(*z) * tail(-z)).collect();
        let of = |rows: &[f64], d: usize, w: &[f64], h: &[f64]| match d {
            0 => (DVector::zeros(0), DMatrix::zeros(0, 0)),
            d => (
                DVector::from_vec(weighted_sum(rows, d, w)),
                DMatrix::from_vec(d, d, kernels::gram(rows, d, Weights::Given(h))),
            ),
        };
        let mut overlap = of(&self.split.overlap, ka, &wo, &ho);
        overlap.0.axpy(self.penalty, &y.rows(0, ka), 1.0);
        for i in 0..ka {
            overlap.1[(i, i)] += self.penalty;
        }
        Ok(Model {
            shift,
            scale: (-shift).exp(),
            overlap,
            strict: of(&self.split.strict, k, &ws, &hs),
            largest_margin: zo.iter().chain(&zs).fold(0.0, |m, z| m.max(z.abs())),
        })
    }

    /// ∇f + εμ̂y, the part of b divided by ε, and its norm in the units of f.
    fn residual(&self, model: &Model, y: &DVector<f64>, mu: f64) -> (DVector<f64>, f64) {
        let (ka, kb) = (self.ka(), self.kb());
        let lifted = &model.strict.0 + y * mu;
        let mut out = lifted.clone();
        let top = &model.overlap.0 + lifted.rows(0, ka) * model.scale;
        out.rows_mut(0, ka).copy_from(&top);
        let norm = top.norm().hypot(model.scale * lifted.rows(ka, kb).norm());
        (out, norm)
    }

    /// μ̂ at a point on the sphere, by the equations that determine it best.
    fn multiplier(&self, model: &Model, y: &DVector<f64>) -> f64 {
        let (ka, kb) = (self.ka(), self.kb());
        let b = y.rows(ka, kb);
        let (along, square) = match b.norm_squared() {
            0.0 => (model.overlap.0.dot(&y.rows(0, ka)), y.norm_squared()),
            square => (model.strict.0.rows(ka, kb).dot(&b), square),
        };
        (-along / square).max(0.0)
    }

    /// (∇²f + εμ̂I), the rows of b divided by ε, as factors.
    fn factors(&self, model: &Model, mu: f64) -> Option<Factors> {
        let (ka, kb) = (self.ka(), self.kb());
        let strict = &model.strict.1;
        let mut a = &model.overlap.1 + strict.view((0, 0), (ka, ka)) * model.scale;
        (0..ka).for_each(|i| a[(i, i)] += model.scale * mu);
        let a = if ka > 0 { Some(factor(a)?) } else { None };
        let cross = strict.view((0, ka), (ka, kb)).into_owned();
        let coupling = match &a {
            Some(a) => a.solve(&cross),
            None => cross.clone(),
        };
        let mut b = strict.view((ka, ka), (kb, kb)).into_owned();
        b -= cross.tr_mul(&coupling) * model.scale;
        (0..kb).for_each(|i| b[(i, i)] += mu);
        let b = if kb > 0 { Some(factor(b)?) } else { None };
        Some(Factors { a, coupling, b })
    }

    /// The solution of (∇²f + εμ̂I)δ = −r for r as in [`Self::residual`].
    fn solve(&self, model: &Model, f: &Factors, r: &DVector<f64>) -> DVector<f64> {
        let (ka, kb) = (self.ka(), self.kb());
        let mut out = DVector::zeros(ka + kb);
        let ra = r.rows(0, ka).into_owned();
        let alone = f.a.as_ref().map_or(ra.clone(), |a| a.solve(&ra));
        let mut delta_a = -&alone;
        if let Some(b) = &f.b {
            let right = f.coupling.tr_mul(&ra) - r.rows(ka, kb);
            let delta_b = b.solve(&right);
            delta_a -= &f.coupling * &delta_b * model.scale;
            out.rows_mut(ka, kb).copy_from(&delta_b);
        }
        out.rows_mut(0, ka).copy_from(&delta_a);
        out
    }

    /// The minimiser of the quadratic model inside the ball, and μ̂.
    fn inside(
        &self,
        model: &Model,
        y: &DVector<f64>,
        ball: f64,
        hint: f64,
    ) -> Result<(DVector<f64>, f64)> {
        let at = |mu: f64| -> Option<(DVector<f64>, Factors)> {
            let factors = self.factors(model, mu)?;
            let (r, _) = self.residual(model, y, mu);
            let u = y + self.solve(model, &factors, &r);
            u.iter().all(|x| x.is_finite()).then_some((u, factors))
        };
        // μ̂ = 0 where the model's minimiser lies inside.
        let free = at(0.0);
        if let Some((u, _)) = &free
            && u.norm() <= ball
        {
            return Ok((u.clone(), 0.0));
        }
        // ‖u(μ̂)‖ falls: Newton on 1/ball − 1/‖u‖, which is nearly linear in μ̂, inside a bracket.
        let (mut low, mut high) = (0.0f64, f64::INFINITY);
        let natural = self.natural_multiplier(model, ball);
        let mut mu = if hint > 0.0 && hint.is_finite() {
            hint
        } else {
            natural
        };
        let mut best: Option<(DVector<f64>, f64)> = None;
        for _ in 0..200 {
            let Some((u, factors)) = at(mu) else {
                low = mu;
                mu = (2.0 * mu).max(1e-12 * natural);
                continue;
            };
            let norm = u.norm();
            if (norm - ball).abs() <= 2e-16 * ball {
                best = Some((u, mu));
                break;
            }
            if norm > ball {
                low = mu
            } else {
                high = mu
            }
            // d‖u‖/dμ̂ = −uᵀ(∇²f + εμ̂I)⁻¹εu/‖u‖.
            let mut right = u.clone();
            right.rows_mut(0, self.ka()).scale_mut(model.scale);
            let slope = u.dot(&self.solve(model, &factors, &right)) / norm;
            let newton = mu + (norm - ball) / slope * (norm / ball);
            best = Some((u, mu));
            let next = if newton > low && newton < high && newton.is_finite() {
                newton
            } else if high.is_infinite() {
                4.0 * mu
            } else if low == 0.0 {
                high * 1e-3
            } else {
                (low * high).sqrt()
            };
            if (next - mu).abs() <= 4e-16 * mu || next < f64::MIN_POSITIVE {
                break;
            }
            mu = next;
        }
        let (mut u, mu) = best.ok_or_else(|| Error::NotConverged {
            what: "factorisation of the information matrix".into(),
            iterations: 0,
            residual: mu,
        })?;
        let norm = u.norm();
        u *= ball / norm;
        Ok((u, mu))
    }

    /// The size of μ̂ where the gradient is that of S, or of everything.
    fn natural_multiplier(&self, model: &Model, ball: f64) -> f64 {
        let (ka, kb) = (self.ka(), self.kb());
        let slope = match kb {
            0 => model.overlap.0.norm(),
            _ => model.strict.0.rows(ka, kb).norm(),
        };
        (slope / ball).max(f64::MIN_POSITIVE)
    }
}

/// Cholesky, with the least damping that lets it succeed; each coordinate is damped in its own scale.
fn factor(matrix: DMatrix<f64>) -> Option<Cholesky<f64, Dyn>> {
    let n = matrix.nrows();
    let floor = (matrix.diagonal().max() * 1e-30).max(f64::MIN_POSITIVE / DAMPING);
    let mut damping = 0.0;
    loop {
        let mut shifted = matrix.clone();
        for i in 0..n {
            shifted[(i, i)] += damping * matrix[(i, i)].max(floor);
        }
        if let Some(found) = Cholesky::new(shifted) {
            return Some(found);
        }
        if damping >= 1.0 {
            return None;
        }
        damping = if damping == 0.0 {
            DAMPING
        } else {
            100.0 * damping
        };
    }
}
