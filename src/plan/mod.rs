//! Section 3.2, Appendix A: exact planning in KL-regularised token MDPs.
//!
//! | paper | function |
//! |---|---|
//! | V*_β, Q*_β, π*_β of (3.2)–(3.4) | [`soft_value_iteration`] |
//! | V^π_β, Q^π_β of (3.2), (3.3) | [`evaluate`] |
//! | d^π of (A.1), E_{d^π}\[φ\], E_{d^π}\[KL\] | [`visitation`], [`Visitation`] |
//! | SubOpt of (3.5), Lemma A.2, (A.3) | [`suboptimality`], [`performance_difference`], [`decompose`] |
//! | E_{d*}\[φ\], E_{d*}\[φ\] − E_{d^{π_ref}}\[φ\], and what rounding leaves of them | [`Truth::expectation`], [`Truth::expectation_over_reference`] |
//! | how far rounding moves an optimal policy | [`Rounding`] |
//! | ∇²V*_β in θ, variance of the return | [`action_covariance`], [`advantage_variance`] |
//! | max d^{π*}/d^μ, behaviour policies with a chosen one | [`concentrability`], [`covering_behaviour`] |
//! | coverage of π* by data: C_sa, C_τ, χ², C_lin, and what attains each | [`pair_coverage`], [`trajectory_coverage`], [`chi_square_coverage`], [`LinearCoverage`] |
//! | Remark A.3 | [`natural_policy_gradient`] |
//! | the exact optimum of the RTO objective, Section 4.2 | [`rto_optimum`] |
//! | the minimiser of (4.4) on a stochastic table | [`population_dpo`] |
//! | Proposition C.2 | [`best_predetermined`] |
//!
//! β log π_ref is part of Q, as in (3.3). An action with π_ref(a|s) = 0 has Q = −∞ and π(a|s) = 0 at
//! every β, 0 included (0·log 0 = 0).
//!
//! The soft-optimal policy (3.4) of a one-step table is the Gibbs distribution of Lemma C.1:
//!
//! ```
//! use ndarray::array;
//! use rto::mdp::{ActionIx, Beta, Problem, StateIx, TabularPolicy, TokenTree};
//! use rto::plan::{soft_value_iteration, suboptimality};
//! use rto::reward::TabularReward;
//!
//! let mdp = TokenTree::try_new(1, 2, 1, None)?.compile(&[1.0])?;
//! let reward = TabularReward::try_new(array![[1.0, 0.0]])?;
//! let (reference, beta) = (TabularPolicy::uniform(1, 2), Beta::try_new(0.5)?);
//! let best = soft_value_iteration(Problem::new(&mdp, &reference, beta), &reward)?;
//! let gibbs = 1.0 / (1.0 + (-1.0f64 / 0.5).exp());
//! assert!((best.policy.prob(StateIx(0), ActionIx(0)) - gibbs).abs() < 1e-15);
//! assert_eq!(suboptimality(Problem::new(&mdp, &reference, beta), &reward, &best.policy)?, 0.0); // (3.5)
//! assert!(suboptimality(Problem::new(&mdp, &reference, beta), &reward, &reference)? > 0.2);
//! # Ok::<(), rto::Error>(())
//! ```

mod coverage;
mod curvature;
mod data_law;
mod evaluate;
mod expectation;
mod linear_coverage;
mod natural_gradient;
mod predetermined;
mod preference_optimum;
mod rounding;
mod soft_value_iteration;
mod suboptimality;
mod tilted;
pub mod tree_kernel;
mod truth;
mod visitation;

pub use coverage::{concentrability, covering_behaviour, mix_occupancies};
pub(crate) use curvature::for_each_feature_advantage;
pub use curvature::{action_covariance, advantage_variance, feature_advantages};
pub use data_law::{Attained, DataLaw, chi_square_coverage, pair_coverage, trajectory_coverage};
pub use evaluate::{PolicyValue, evaluate};
pub use expectation::Expectation;
pub use linear_coverage::{LinearCoverage, Root, response_covariance};
pub use natural_gradient::{NpgBound, NpgRun, natural_policy_gradient, npg_bound, npg_step};
pub use predetermined::{PREDETERMINED_LIMIT, Predetermined, best_predetermined};
pub use preference_optimum::{PairLaw, PreferenceOptimum, population_dpo};
pub use rounding::Rounding;
pub(crate) use soft_value_iteration::solve_state;
pub use soft_value_iteration::{SoftOptimum, soft_value_iteration};
pub use suboptimality::{Decomposition, decompose, performance_difference, suboptimality};
pub use tilted::rto_optimum;
pub use truth::Truth;
pub use visitation::{Visitation, visitation};

use crate::mdp::{Reachable, TabularMdp, TabularPolicy};
use crate::{Error, Result};

/// (3.2): V(ρ) = E_{s∼ρ}\[V(s)\] for values `[n_states]`.
pub fn mean_value(mdp: &TabularMdp, v: &[f64]) -> f64 {
    mdp.roots().map(|(s, p)| p * v[s.ix()]).sum()
}

/// Refuses values in which rewards added up beyond floating point, from states that an episode can meet. What
/// the values of other states are is nobody's concern.
pub(crate) fn check_values(mdp: &TabularMdp, reference: &TabularPolicy, v: &[f64]) -> Result<()> {
    if v.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let met = Reachable::new(mdp, reference)?;
    match met.states().find(|s| !v[s.ix()].is_finite()) {
        None => Ok(()),
        Some(s) => Err(Error::NonFinite {
            what: format!("the sum of rewards from state {}", s.0),
            value: v[s.ix()],
        }),
    }
}

pub(crate) fn check_policy(mdp: &TabularMdp, what: &str, policy: &TabularPolicy) -> Result<()> {
    policy.check_shape(what, mdp.n_states(), mdp.n_actions())
}
