//! Where a recipe that follows its expected gradient comes to rest.

use nalgebra::{DMatrix, DVector, Schur};

use super::field::{UnitTable, check_all, field};
use super::jacobian::{jacobian, largest};
use super::prepared::Prepared;
use super::problem::Problem;
use super::recipe::Recipe;
use super::tables::{log_softmax, visitation};
use crate::Result;

/// How the ascent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Status {
    /// At a zero of E\[g\] inside the simplex.
    Interior,
    /// Some probability falls below every bound: the policy is a limit, known to about 1e-5.
    Boundary,
    /// The field does not vanish where it turns: whitening by a vanishing standard deviation.
    Singular,
}

/// Where the flow from a start ends.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedPoint {
    /// How.
    pub status: Status,
    /// π there, `[S·A]`.
    pub policy: Vec<f64>,
    /// Logits there, `[S·A]`.
    pub theta: Vec<f64>,
    /// The largest |E g| there; none unless interior.
    pub residual: Option<f64>,
    /// The largest real part of the eigenvalues of D apart from its null directions: below 0 the plain flow is locally attracted. None
    /// unless interior, or where the eigenvalues were not found.
    pub largest_eigenvalue: Option<f64>,
    /// J* − J(π) for what the recipe means.
    pub suboptimality: f64,
    /// Steps of the ascent.
    pub steps: usize,
}

/// Steps of the ascent at most.
const MOST_STEPS: usize = 4000;

/// Steps of Newton at most: the error is squared by each.
const MOST_NEWTON: usize = 12;

/// Singular values below this share of the largest are null directions: a softmax has one per state.
const NULL: f64 = 1e-9;

impl FixedPoint {
    /// From π_ref, or from other logits: ascent on E\[g\]/(d(s) π(a|s)), which has the zeros of E\[g\], then Newton.
    ///
    /// The field need not be a gradient, so that there may be several zeros; this is the one that is reached.
    ///
    /// # Errors
    /// Those of [`Summary::at`](super::Summary::at).
    pub fn find(problem: &Problem, recipe: &Recipe, start: Option<&[f64]>) -> Result<Self> {
        Self::find_while(problem, recipe, start, &|| Ok(()))
    }

    /// [`FixedPoint::find`] for one who may have to stop: `go_on` is asked before every step, and its error ends the search.
    ///
    /// # Errors
    /// Those of [`FixedPoint::find`], and that of `go_on`.
    pub fn find_while(
        problem: &Problem,
        recipe: &Recipe,
        start: Option<&[f64]>,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let start = start.unwrap_or(problem.reference());
        check_all(problem, recipe, start, None)?;
        let flow = Flow {
            problem,
            recipe,
            table: UnitTable::new(problem, recipe)?,
            go_on,
        };
        let (mut theta, mut status, steps) = flow.ascend(start.to_vec())?;
        let (mut residual, mut largest_eigenvalue) = (None, None);
        if status == Status::Interior {
            let d = flow.newton(&mut theta)?;
            let left = largest(&flow.at(&theta)?);
            residual = Some(left);
            largest_eigenvalue = eigenvalue(&d, theta.len());
            if !left.is_finite() {
                status = Status::Singular;
            }
        }
        let lp = log_softmax(&theta, problem.tree().n_actions());
        Ok(Self {
            status,
            policy: lp.iter().map(|l| l.exp()).collect(),
            suboptimality: problem.suboptimality(recipe, &theta)?,
            theta,
            residual,
            largest_eigenvalue,
            steps,
        })
    }
}

/// A recipe's field at many θ.
struct Flow<'a> {
    problem: &'a Problem,
    recipe: &'a Recipe,
    table: Option<UnitTable>,
    go_on: &'a dyn Fn() -> Result<()>,
}

impl Flow<'_> {
    fn at(&self, theta: &[f64]) -> Result<Vec<f64>> {
        (self.go_on)()?;
        let prepared = Prepared::new(self.problem, self.recipe, theta, None)?;
        Ok(match &self.table {
            Some(table) => table.field(&prepared),
            None => field(&prepared, &mut ()),
        })
    }

    fn jacobian(&self, theta: &[f64]) -> Result<Vec<f64>> {
        (self.go_on)()?;
        let table = self.table.as_ref();
        jacobian(self.problem, self.recipe, theta, None, None, table)
    }

    fn ascend(&self, mut theta: Vec<f64>) -> Result<(Vec<f64>, Status, usize)> {
        let tree = self.problem.tree();
        let a = tree.n_actions();
        let (mut status, mut eta) = (Status::Singular, 0.5 / self.recipe.beta.max(0.3));
        let mut last: Option<Vec<f64>> = None;
        for step in 0..MOST_STEPS {
            let lp = log_softmax(&theta, a);
            let pi: Vec<f64> = lp.iter().map(|l| l.exp()).collect();
            let g = self.at(&theta)?;
            if !g.iter().all(|v| v.is_finite()) {
                return Ok((theta, Status::Boundary, step));
            }
            let d = visitation(tree, &lp);
            let ahead = |(k, g): (usize, &f64)| g / (pi[k] * d[k / a]).max(1e-290);
            let ahead: Vec<f64> = g.iter().enumerate().map(ahead).collect();
            let (size, least) = (largest(&ahead), pi.iter().copied().fold(1.0, f64::min));
            if least < 1e-7 && size > 1e-4 {
                status = Status::Boundary;
            }
            if least < 1e-12 {
                return Ok((theta, Status::Boundary, step));
            }
            if size < 1e-6 {
                return Ok((theta, Status::Interior, step));
            }
            if eta * size < 1e-12 {
                return Ok((theta, status, step));
            }
            if let Some(last) = &last {
                let both = ahead.iter().zip(last).zip(&pi);
                let onward: f64 = both.map(|((x, y), p)| x * y * p).sum();
                eta *= if onward > 0.0 { 1.05 } else { 0.5 };
            }
            let shrink = (2.0 / (eta * size)).min(1.0);
            for (t, x) in theta.iter_mut().zip(&ahead) {
                *t += eta * x * shrink;
            }
            theta = log_softmax(&theta, a);
            last = Some(ahead);
        }
        Ok((theta, status, MOST_STEPS))
    }

    /// Newton steps with the pseudo-inverse, as long as they are small and the field falls; D there.
    fn newton(&self, theta: &mut Vec<f64>) -> Result<Vec<f64>> {
        let (n, a) = (theta.len(), self.problem.tree().n_actions());
        let mut g = self.at(theta)?;
        let mut d = self.jacobian(theta)?;
        for _ in 0..MOST_NEWTON {
            if !d.iter().all(|v| v.is_finite()) {
                break;
            }
            let svd = DMatrix::from_row_slice(n, n, &d).svd(true, true);
            let cut = NULL * svd.singular_values.max();
            let down = DVector::from_iterator(n, g.iter().map(|v| -v));
            let Ok(step) = svd.solve(&down, cut) else {
                break;
            };
            let size = step.amax();
            if !size.is_finite() || size > 0.1 {
                break;
            }
            let moved: Vec<f64> = theta.iter().zip(step.iter()).map(|(t, x)| t + x).collect();
            let moved = log_softmax(&moved, a);
            let next = self.at(&moved)?;
            // Rounding is reached where the field falls no more.
            let falls = largest(&next) < 0.5 * largest(&g);
            if !falls {
                break;
            }
            (*theta, g) = (moved, next);
            d = self.jacobian(theta)?;
        }
        Ok(d)
    }
}

/// The largest real part among eigenvalues that are not null.
fn eigenvalue(d: &[f64], n: usize) -> Option<f64> {
    if !d.iter().all(|v| v.is_finite()) {
        return None;
    }
    let schur = Schur::try_new(DMatrix::from_row_slice(n, n, d), f64::EPSILON, 100_000)?;
    let real: Vec<f64> = schur.complex_eigenvalues().iter().map(|z| z.re).collect();
    let scale = NULL * real.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let kept = real.into_iter().filter(|v| v.abs() > scale);
    kept.max_by(f64::total_cmp)
}
