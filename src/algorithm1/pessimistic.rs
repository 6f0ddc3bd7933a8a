//! Algorithm 1 and both sides of Theorem 4.2.

use ndarray::Array2;
use rayon::prelude::*;

use super::ConfidenceSet;
use super::projection::holds_differences;
use crate::estimate::RowSpace;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, Problem, StateIx, TabularMdp};
use crate::plan::{Rounding, SoftOptimum, Truth, soft_value_iteration};
use crate::reward::{LinearReward, RewardFunction};
use crate::{Error, Result};

/// r̂(s, a) = φ(s, a)ᵀθ_MLE − ϱ‖φ(s, a)‖_{M⁻¹} of (4.2), with M = Σ_𝒟 in the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct PessimisticReward {
    values: Array2<f64>,
    norms: Array2<f64>,
}

impl PessimisticReward {
    /// (4.2) on every pair. With a `projection`, the bonus measures only the part of φ in that space. Theorem 4.2
    /// then holds if what is left out adds the same to the value of every policy
    /// ([`super::policy_differences`]). The row space of X leaves out more than that when the pairs do not span
    /// all differences of responses: no bonus then keeps the planner from what was never compared.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn try_new(
        features: &impl FeatureMap,
        set: &ConfidenceSet<'_>,
        projection: Option<&RowSpace>,
    ) -> Result<Self> {
        let shape = features.shape();
        let mean = LinearReward::try_new(features, set.center)?;
        if set.metric.dim() != features.dim() {
            return Err(Error::Shape {
                what: "metric (rows)".into(),
                expected: features.dim(),
                got: set.metric.dim(),
            });
        }
        let norm = |row: usize| -> f64 {
            let (s, a) = (
                StateIx((row / shape.1) as u32),
                ActionIx((row % shape.1) as u32),
            );
            let mut phi = vec![0.0; features.dim()];
            features.write(s, a, &mut phi);
            match projection {
                None => set.metric.inverse_norm(&phi),
                Some(space) => set.metric.inverse_norm(&space.project(&phi)),
            }
        };
        let flat: Vec<f64> = (0..shape.0 * shape.1).into_par_iter().map(norm).collect();
        let norms = Array2::from_shape_vec(shape, flat).expect("one norm for each pair");
        let values = Array2::from_shape_fn(shape, |(s, a)| {
            mean.reward(StateIx(s as u32), ActionIx(a as u32)) - set.radius * norms[[s, a]]
        });
        Ok(Self { values, norms })
    }

    /// A bound on the rounding of r̂(s, a): that of its two terms.
    pub fn rounding(
        &self,
        features: &impl FeatureMap,
        set: &ConfidenceSet<'_>,
        s: StateIx,
        a: ActionIx,
    ) -> f64 {
        let dim = features.dim();
        let mut phi = vec![0.0; dim];
        features.write(s, a, &mut phi);
        let terms = phi.iter().zip(set.center).map(|(x, t)| (x * t).abs());
        let size = terms.sum::<f64>() + set.radius * self.norms[[s.ix(), a.ix()]];
        let of_norm = set.metric.inverse_norm_rounding(&phi, &vec![0.0; dim]);
        Rounding::of_dot(dim, size) + set.radius * of_norm
    }

    /// ‖φ(s, a)‖_{M⁻¹}, `[n_states, n_actions]`.
    pub fn norms(&self) -> &Array2<f64> {
        &self.norms
    }
}

impl RewardFunction for PessimisticReward {
    fn shape(&self) -> (usize, usize) {
        self.values.dim()
    }

    #[inline]
    fn reward(&self, s: StateIx, a: ActionIx) -> f64 {
        self.values[[s.ix(), a.ix()]]
    }
}

/// What Algorithm 1 computes after its line 2.
#[derive(Debug, Clone, PartialEq)]
pub struct Algorithm1 {
    /// r̂ (line 3).
    pub reward: PessimisticReward,
    /// π̂ and its values under r̂ (line 4).
    pub optimum: SoftOptimum,
    /// Whether the bonus measures every direction that policies differ in, as it does without a projection.
    pub bonus_is_whole: bool,
}

impl Algorithm1 {
    /// How far rounding moves π̂: where ϱ‖φ‖ is so large that a rounding of it is no longer small beside β, actions with bonuses of
    /// nearly one size are told apart by rounding alone, and φᵀθ_MLE is lost.
    ///
    /// # Errors
    /// [`Error::Config`] at β = 0, where a tie is one in whatever precision.
    pub fn rounding(
        &self,
        problem: Problem<'_>,
        features: &impl FeatureMap,
        set: &ConfidenceSet<'_>,
    ) -> Result<Rounding> {
        let of_reward = |s, a| self.reward.rounding(features, set, s, a);
        Rounding::of(problem, &self.optimum, of_reward)
    }

    /// V^π̂_β(ρ; r̂), the pessimistic value.
    pub fn pessimistic_value(&self, mdp: &TabularMdp) -> f64 {
        self.optimum.mean_value(mdp)
    }
}

/// Algorithm 1, lines 3–5: the pessimistic reward (4.2) around `set.center` = θ_MLE (line 2,
/// [`crate::estimate::fit_bradley_terry`]) and the policy π̂ that is optimal for it.
///
/// # Errors
/// [`Error::Shape`].
pub fn algorithm1(
    problem: Problem<'_>,
    features: &impl FeatureMap,
    set: &ConfidenceSet<'_>,
    projection: Option<&RowSpace>,
) -> Result<Algorithm1> {
    let (mdp, reference) = (problem.mdp, problem.reference);
    // Line 3: r̂ = φᵀθ_MLE − ϱ‖φ‖.
    let reward = PessimisticReward::try_new(features, set, projection)?;
    // Line 4: π̂ = argmax V^π_β(·; r̂).
    let optimum = soft_value_iteration(problem, &reward)?;
    let bonus_is_whole = match projection {
        None => true,
        Some(space) => holds_differences(mdp, features, reference, space)?,
    };
    // Line 5: output.
    Ok(Algorithm1 {
        reward,
        optimum,
        bonus_is_whole,
    })
}

/// The right side of Theorem 4.2, 2ϱ E_{d*}\[‖φ‖_{M⁻¹}\] − β E_{d*}\[KL(π*_β ‖ π̂)\].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound42 {
    /// E_{(s,a)∼d*}\[‖φ(s, a)‖_{M⁻¹}\].
    pub expected_bonus_norm: f64,
    /// E_{s∼d*}\[KL(π*_β(·|s) ‖ π̂(·|s))\].
    pub kl: f64,
    /// 2ϱ E‖φ‖ − β E KL.
    pub bound: f64,
    /// The premise: ‖θ_MLE − θ*‖_M ≤ ϱ, and a bonus that measures every direction that policies differ in
    /// ([`Algorithm1::bonus_is_whole`]). Where it fails the bound proves nothing. None where the truth has no θ*.
    pub premise: Option<bool>,
}

/// The right side of Theorem 4.2 for the output of Algorithm 1. With a projected bonus, P φ stands for φ, and (I − P)φ must add
/// the same to the value of every policy.
///
/// # Errors
/// [`Error::Shape`].
pub fn bound_4_2<R: RewardFunction>(
    truth: &Truth<'_, R>,
    set: &ConfidenceSet<'_>,
    output: &Algorithm1,
) -> Result<Bound42> {
    let Problem { mdp, beta, .. } = truth.problem;
    let norms = output.reward.norms();
    let expected_bonus_norm = truth.visits.expect(|s, a| norms[[s.ix(), a.ix()]]);
    let star = &truth.star.policy;
    let kl = truth.visits.kl(mdp, star, &output.optimum.policy)?;
    // At β = 0 the KL of two greedy policies may be infinite, and counts for nothing.
    let discount = if beta.get() > 0.0 {
        beta.get() * kl
    } else {
        0.0
    };
    let inside = |theta: &Vec<f64>| set.distance(theta) <= set.radius && output.bonus_is_whole;
    Ok(Bound42 {
        expected_bonus_norm,
        kl,
        bound: 2.0 * set.radius * expected_bonus_norm - discount,
        premise: truth.theta.as_ref().map(inside),
    })
}

/// Both sides of Theorem 4.2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Theorem42 {
    /// SubOpt(π̂).
    pub suboptimality: f64,
    /// [`Bound42::expected_bonus_norm`].
    pub expected_bonus_norm: f64,
    /// [`Bound42::kl`].
    pub kl: f64,
    /// [`Bound42::bound`].
    pub bound: f64,
    /// Whether [`Bound42::premise`] is known to hold.
    pub premise: bool,
}

/// Theorem 4.2 for the output of Algorithm 1, given the truth:
/// SubOpt(π̂) ≤ 2ϱ E_{d*}\[‖φ‖_{M⁻¹}\] − β E_{d*}\[KL(π*_β ‖ π̂)\] whenever ‖θ_MLE − θ*‖_M ≤ ϱ. [`bound_4_2`] says what the bound
/// is made of, and [`decompose`](crate::plan::decompose) gives the terms of its proof.
///
/// # Errors
/// As [`bound_4_2`] and [`evaluate`](crate::plan::evaluate).
pub fn theorem_4_2<R: RewardFunction>(
    truth: &Truth<'_, R>,
    set: &ConfidenceSet<'_>,
    output: &Algorithm1,
) -> Result<Theorem42> {
    let right = bound_4_2(truth, set, output)?;
    Ok(Theorem42 {
        suboptimality: truth.suboptimality(&output.optimum.policy)?,
        expected_bonus_norm: right.expected_bonus_norm,
        kl: right.kl,
        bound: right.bound,
        premise: right.premise == Some(true),
    })
}
