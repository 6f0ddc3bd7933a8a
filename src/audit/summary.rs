//! What an audit says of a recipe at given logits.

use super::field::{UnitTable, check_all, field};
use super::jacobian::{curl, jacobian, norm};
use super::prepared::Prepared;
use super::problem::Problem;
use super::recipe::Recipe;
use super::variance::{Variance, pull_back};
use crate::{Error, Result};

/// Features of a log-linear policy, θ = Φw.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Φ, `[S·A][d]` row by row.
    pub phi: &'a [f64],
    /// d ≥ 1.
    pub dim: usize,
}

/// E\[g\] beside ∇J, both in the parameters of the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// E\[g\], the direction of ascent: `[S·A]`, or `[d]` with features.
    pub field: Vec<f64>,
    /// ∇J of the objective that is meant.
    pub target: Vec<f64>,
    /// |E g|/|∇J|.
    pub norm_ratio: f64,
    /// cos(E g, ∇J).
    pub cosine: f64,
    /// |E g − ∇J|/|∇J|.
    pub bias: f64,
    /// tr Cov of a unit.
    pub trace_unit: f64,
    /// n, responses of a unit.
    pub responses_per_unit: usize,
    /// n times [`Summary::trace_unit`], so that recipes with different n compare.
    pub trace_per_response: f64,
}

/// Whether a field is a gradient near a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotation {
    /// |D − Dᵀ|_F/2 with D = ∂E\[g\]/∂θ.
    pub curl: f64,
    /// |D|_F.
    pub jacobian: f64,
}

/// Squared bias after the best common scale c, and variance of c·g per response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaled {
    /// |cE g − ∇J|²/|∇J|².
    pub bias2: f64,
    /// c² n tr Cov/|∇J|².
    pub variance: f64,
}

/// Biases below this share of |∇J|² are rounding.
const NO_BIAS: f64 = 1e-20;

impl Scaled {
    /// n*: the number of responses at which squared bias equals variance; none where the field points along ∇J.
    pub fn n_star(self) -> Option<f64> {
        (self.bias2 > NO_BIAS).then(|| self.variance / self.bias2)
    }
}

impl Summary {
    /// At logits θ, with responses drawn from the policy of `old`, or from θ itself.
    ///
    /// # Errors
    /// [`Error::Config`] of the recipe, or of units too many to enumerate; [`Error::Shape`]; [`Error::NonFinite`].
    pub fn at(
        problem: &Problem,
        recipe: &Recipe,
        theta: &[f64],
        old: Option<&[f64]>,
        features: Option<Features<'_>>,
    ) -> Result<Self> {
        check_all(problem, recipe, theta, old)?;
        let phi = pulled(problem, features)?;
        let prepared = Prepared::new(problem, recipe, theta, old)?;
        let mut variance = Variance::new(&prepared, phi);
        let g = field(&prepared, &mut variance);
        let trace_unit = variance.trace(&g);
        let target = problem.target(recipe, theta)?;
        let (g, target) = match phi {
            None => (g, target),
            Some((phi, d)) => (pull_back(phi, d, &g), pull_back(phi, d, &target)),
        };
        Ok(Self::new(g, target, trace_unit, recipe.unit()))
    }

    /// Of E\[g\], ∇J, and tr Cov of a unit of n responses.
    pub(super) fn new(g: Vec<f64>, target: Vec<f64>, trace_unit: f64, n: usize) -> Self {
        let gap: Vec<f64> = g.iter().zip(&target).map(|(g, t)| g - t).collect();
        let dot: f64 = g.iter().zip(&target).map(|(g, t)| g * t).sum();
        let (size, goal) = (norm(&g), norm(&target));
        Self {
            norm_ratio: size / goal,
            cosine: dot / (size * goal),
            bias: norm(&gap) / goal,
            trace_unit,
            responses_per_unit: n,
            trace_per_response: trace_unit * n as f64,
            field: g,
            target,
        }
    }

    /// n tr Cov/|E g|²: the number of responses at which the squared error of their mean is as large as the squared mean. No constant factor of the
    /// loss has a say in it.
    pub fn noise(&self) -> f64 {
        self.trace_per_response / self.field.iter().map(|g| g * g).sum::<f64>()
    }

    /// With the scale c = |∇J|²/(E g · ∇J), under which the learning rate has no say.
    pub fn scaled(&self) -> Scaled {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
        let goal = dot(&self.target, &self.target);
        let c = goal / dot(&self.field, &self.target);
        let gap = self.field.iter().zip(&self.target).map(|(g, t)| c * g - t);
        Scaled {
            bias2: gap.map(|x| x * x).sum::<f64>() / goal,
            variance: c * c * self.trace_per_response / goal,
        }
    }
}

/// E\[g\] alone, `[S·A]`.
///
/// # Errors
/// Those of [`Summary::at`].
pub fn expected_gradient(
    problem: &Problem,
    recipe: &Recipe,
    theta: &[f64],
    old: Option<&[f64]>,
) -> Result<Vec<f64>> {
    check_all(problem, recipe, theta, old)?;
    Ok(field(&Prepared::new(problem, recipe, theta, old)?, &mut ()))
}

impl Rotation {
    /// At logits θ; see [`Summary::at`].
    ///
    /// # Errors
    /// Those of [`Summary::at`].
    pub fn at(
        problem: &Problem,
        recipe: &Recipe,
        theta: &[f64],
        old: Option<&[f64]>,
        features: Option<Features<'_>>,
    ) -> Result<Self> {
        check_all(problem, recipe, theta, old)?;
        let phi = pulled(problem, features)?;
        let table = UnitTable::new(problem, recipe)?;
        let d = jacobian(problem, recipe, theta, old, phi, table.as_ref())?;
        let n = phi.map_or(theta.len(), |f| f.1);
        Ok(Self {
            curl: curl(&d, n),
            jacobian: norm(&d),
        })
    }
}

fn pulled<'a>(
    problem: &Problem,
    features: Option<Features<'a>>,
) -> Result<Option<(&'a [f64], usize)>> {
    let Some(Features { phi, dim }) = features else {
        return Ok(None);
    };
    if dim == 0 {
        return Err(Error::config("dim of the features", 0, "at least 1"));
    }
    let expected = dim * problem.tree().n_pairs();
    match phi.len() == expected {
        true => Ok(Some((phi, dim))),
        false => Err(Error::Shape {
            what: "features".into(),
            expected,
            got: phi.len(),
        }),
    }
}
