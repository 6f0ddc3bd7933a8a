//! (B.1), Theorem B.1 and the baselined form.

use nalgebra::{DMatrix, DVector};

use super::convex::{Objective, Solution, minimise};
use super::frame::Frame;
use crate::check;
use crate::estimate::ConfidenceSet;
use crate::features::{DenseFeatures, FeatureMap};
use crate::mdp::{Beta, Problem, Reachable, TabularMdp, TabularPolicy};
use crate::plan::{
    SoftOptimum, Truth, action_covariance, feature_advantages, mean_value, soft_value_iteration,
    visitation,
};
use crate::reward::{LinearReward, RewardFunction};
use crate::{Error, Result};

/// What is subtracted from E_{d^π}\[φ\] in (B.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Nothing: (B.1) as printed.
    None,
    /// ν = E_{d^{π_ref}}\[φ\]. The value of the output is then never below that of π_ref when θ* ∈ Θ, and
    /// constants per prompt in φ do not matter.
    Reference,
}

/// The solution of (B.1).
#[derive(Debug, Clone, PartialEq)]
pub struct MaxMin {
    /// θ̂ ∈ Θ, the worst parameter, `[d]`.
    pub theta: Vec<f64>,
    /// min_{θ∈Θ} V*_β(ρ; θ) − νᵀθ.
    pub value: f64,
    /// What ν is.
    pub baseline: Baseline,
    /// ν, `[d]`: zero without a baseline.
    pub nu: Vec<f64>,
    /// π̂ (the saddle policy: soft-optimal for θ̂) with its values under θ̂.
    pub optimum: SoftOptimum,
    /// Danskin's gradient E_{d^π̂}\[φ\] − ν at θ̂, `[d]`.
    pub gradient: Vec<f64>,
    /// Whether ‖θ − θ_MLE‖_M ≤ ϱ is active: whether each multiplier of it at θ̂ is positive, so that θ̂ would move without it.
    /// None where floating point does not tell: where either constraint alone would hold θ̂ (the ellipsoid and the ball are the
    /// same set, or tangent at θ̂), or where the multiplier is hardly more than rounding. The criterion has no unit.
    pub ellipsoid_active: Option<bool>,
    /// Whether ‖θ‖ ≤ B is active, in the same sense.
    pub ball_active: Option<bool>,
    /// Multipliers (m₁, m₂) of ‖θ−θ_MLE‖²_M − ϱ² and ‖θ‖² − B²: 0 of a constraint that is not active, None where that is not
    /// known, and of the ellipsoid where ϱ = 0.
    pub multipliers: (Option<f64>, Option<f64>),
    /// An upper bound, by weak duality, on min_Θ max_π − max_π min_Θ at (θ̂, π̂).
    pub duality_gap: f64,
    /// How large the terms are that add up to `value`, β included: what the gap is small or large beside.
    pub scale: f64,
    /// Newton steps.
    pub iterations: usize,
}

struct SoftValue<'a, F> {
    mdp: &'a TabularMdp,
    features: &'a F,
    /// The same in the coordinates of the [`Frame`].
    framed: &'a DenseFeatures,
    reference: &'a TabularPolicy,
    beta: Beta,
    /// What the gradient is an expectation of, in those coordinates: φ, or what remains of it when ν is subtracted.
    centred: &'a DenseFeatures,
    nu: &'a [f64],
}

impl<F: FeatureMap> SoftValue<'_, F> {
    fn optimum(&self, theta: &[f64], beta: Beta) -> Result<SoftOptimum> {
        let reward = LinearReward::try_new(self.features, theta)?;
        soft_value_iteration(Problem::new(self.mdp, self.reference, beta), &reward)
    }
}

impl<F: FeatureMap> Objective for SoftValue<'_, F> {
    fn features(&self) -> Result<(DVector<f64>, DMatrix<f64>)> {
        let mean = visitation(self.mdp, self.reference)?.features(self.framed)?;
        let covariance = action_covariance(self.mdp, self.reference, self.framed)?;
        Ok((DVector::from_vec(mean), covariance))
    }

    fn beta(&self) -> f64 {
        self.beta.get()
    }

    fn size(&self, theta: &DVector<f64>) -> Result<f64> {
        let optimum = self.optimum(theta.as_slice(), self.beta)?;
        let phi = visitation(self.mdp, &optimum.policy)?.feature_sizes(self.features)?;
        let terms = phi.iter().zip(self.nu).zip(theta);
        let reward: f64 = terms.map(|((p, n), t)| (p + n.abs()) * t.abs()).sum();
        Ok(reward + self.beta())
    }

    fn gradient(&self, theta: &DVector<f64>, beta: f64) -> Result<DVector<f64>> {
        let optimum = self.optimum(theta.as_slice(), Beta::try_new(beta)?)?;
        let gradient = visitation(self.mdp, &optimum.policy)?.features(self.centred)?;
        Ok(DVector::from_vec(gradient))
    }

    fn hessian(&self, theta: &DVector<f64>, beta: f64) -> Result<DMatrix<f64>> {
        let optimum = self.optimum(theta.as_slice(), Beta::try_new(beta)?)?;
        let covariance = action_covariance(self.mdp, &optimum.policy, self.framed)?;
        Ok(covariance / beta)
    }
}

/// π̂ = argmax_π min_{θ∈Θ} (E_{d^π}\[φ\] − ν)ᵀθ − β E_{d^π}\[KL(π ‖ π_ref)\] of (B.1), solved as the smooth convex
/// program min_{θ∈Θ} V*_β(ρ; θ) − νᵀθ over ellipsoid ∩ ball. Max and min may be exchanged (Sion): the
/// objective is linear in θ and concave in the occupancy measure.
///
/// # Errors
/// [`crate::Error::Config`] when β = 0 (the program is then not smooth); [`crate::Error::Shape`];
/// [`crate::Error::NotConverged`].
pub fn maxmin(
    problem: Problem<'_>,
    features: &impl FeatureMap,
    set: &ConfidenceSet<'_>,
    baseline: Baseline,
) -> Result<MaxMin> {
    let Problem {
        mdp,
        reference,
        beta,
    } = problem;
    beta.positive()?;
    check::len("metric (rows)", features.dim(), set.metric.dim())?;
    if features.shape() != (mdp.n_states(), mdp.n_actions()) {
        let (n, na) = features.shape();
        return Err(Error::Shape {
            what: "features (state-action pairs)".into(),
            expected: mdp.n_states() * mdp.n_actions(),
            got: n * na,
        });
    }
    let nu = match baseline {
        Baseline::None => vec![0.0; features.dim()],
        Baseline::Reference => visitation(mdp, reference)?.features(features)?,
    };
    let frame = Frame::of(set);
    let framed = frame.features(features, &Reachable::new(mdp, reference)?)?;
    let over_reference = match baseline {
        Baseline::None => None,
        Baseline::Reference => Some(feature_advantages(mdp, reference, &framed)?),
    };
    let objective = SoftValue {
        mdp,
        features,
        framed: &framed,
        reference,
        beta,
        centred: over_reference.as_ref().unwrap_or(&framed),
        nu: &nu,
    };
    let Solution {
        theta,
        multipliers,
        active,
        gap,
        iterations,
    } = minimise(&objective, frame, set)?;
    let optimum = objective.optimum(&theta, beta)?;
    let visits = visitation(mdp, &optimum.policy)?;
    let gradient = match baseline {
        Baseline::None => visits.features(features)?,
        Baseline::Reference => visits.features(&feature_advantages(mdp, reference, features)?)?,
    };
    let shift: f64 = nu.iter().zip(&theta).map(|(n, t)| n * t).sum();
    Ok(MaxMin {
        scale: objective.size(&DVector::from_column_slice(&theta))?,
        value: optimum.mean_value(mdp) - shift,
        theta,
        nu,
        optimum,
        gradient,
        baseline,
        ellipsoid_active: active.0,
        ball_active: active.1,
        multipliers,
        duality_gap: gap,
        iterations,
    })
}

/// The right side of Theorem B.1, 2ϱ‖E_{d*}\[φ\] − ν‖_{M⁻¹}.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundB1 {
    /// ‖E_{d*}\[φ\] − ν‖_{M⁻¹}.
    pub norm_of_expectation: f64,
    /// 2ϱ‖E_{d*}\[φ\] − ν‖_{M⁻¹}.
    pub bound: f64,
    /// How far rounding may have moved `bound`: the difference may be rounding alone, and ϱ large.
    pub rounding: f64,
    /// The premise θ* ∈ Θ. Where it fails the bound proves nothing. None where the truth has no θ*.
    pub premise: Option<bool>,
}

/// The right side of Theorem B.1 for a solution of (B.1).
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn bound_b1<R>(
    truth: &Truth<'_, R>,
    features: &impl FeatureMap,
    set: &ConfidenceSet<'_>,
    solution: &MaxMin,
) -> Result<BoundB1> {
    let expectation = match solution.baseline {
        Baseline::None => truth.expectation(features)?,
        Baseline::Reference => truth.expectation_over_reference(features)?,
    };
    let norm_of_expectation = set.metric.inverse_norm(&expectation.value);
    let off = set
        .metric
        .inverse_norm_rounding(&expectation.value, &expectation.rounding);
    Ok(BoundB1 {
        norm_of_expectation,
        bound: 2.0 * set.radius * norm_of_expectation,
        rounding: 2.0 * set.radius * off,
        premise: truth.theta.as_ref().map(|theta| set.contains(theta)),
    })
}

/// Both sides of Theorem B.1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TheoremB1 {
    /// SubOpt(π̂).
    pub suboptimality: f64,
    /// [`BoundB1::norm_of_expectation`].
    pub norm_of_expectation: f64,
    /// [`BoundB1::bound`].
    pub bound: f64,
    /// Whether [`BoundB1::premise`] is known to hold.
    pub premise: bool,
    /// V^π̂_β(ρ) − V^{π_ref}_β(ρ) under the truth: ≥ 0 for the baselined form when the premise holds.
    pub gain_over_reference: f64,
}

/// Theorem B.1 for a solution of (B.1), given the truth: SubOpt(π̂) ≤ 2ϱ‖E_{d*}\[φ\] − ν‖_{M⁻¹} when θ* ∈ Θ.
///
/// # Errors
/// As [`bound_b1`] and [`evaluate`](crate::plan::evaluate).
pub fn theorem_b1<R: RewardFunction>(
    truth: &Truth<'_, R>,
    features: &impl FeatureMap,
    set: &ConfidenceSet<'_>,
    solution: &MaxMin,
) -> Result<TheoremB1> {
    let Problem { mdp, reference, .. } = truth.problem;
    let value = |policy| -> Result<f64> { Ok(mean_value(mdp, &truth.values(policy)?)) };
    let hat = value(&solution.optimum.policy)?;
    let right = bound_b1(truth, features, set, solution)?;
    Ok(TheoremB1 {
        suboptimality: truth.star.mean_value(mdp) - hat,
        norm_of_expectation: right.norm_of_expectation,
        bound: right.bound,
        premise: right.premise == Some(true),
        gain_over_reference: hat - value(reference)?,
    })
}
