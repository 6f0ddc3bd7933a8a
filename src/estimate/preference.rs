//! Preferences drawn from (3.1).

use rand::Rng;
use rayon::prelude::*;

use crate::Result;
use crate::mdp::{
    PreferencePair, StateIx, TabularMdp, TabularPolicy, Trajectory, sample_trajectory,
};
use crate::numerics::sigmoid;
use crate::reward::{RewardFunction, check_reward};
use crate::seed::SeedTree;

/// P(τ¹ ≻ τ²) = σ(Σ_h r(s¹_h, a¹_h) − Σ_h r(s²_h, a²_h)) of (3.1).
pub fn preference_probability(
    reward: &impl RewardFunction,
    first: &Trajectory,
    second: &Trajectory,
) -> f64 {
    let total = |t: &Trajectory| t.sum(|s, a| reward.reward(s, a));
    sigmoid(total(first) - total(second))
}

/// Draws `n` pairs: a prompt from ρ, τ¹ and τ² from the two behaviour policies, and the winner from
/// (3.1). Pair i has its own random stream, so neither n nor the number of threads changes it.
///
/// # Errors
/// [`crate::Error::Shape`] when reward or policies do not fit the table.
pub fn sample_preferences(
    mdp: &TabularMdp,
    reward: &impl RewardFunction,
    behaviours: (&TabularPolicy, &TabularPolicy),
    n: usize,
    seeds: &SeedTree,
) -> Result<Vec<PreferencePair>> {
    check_reward(mdp, reward)?;
    for policy in [behaviours.0, behaviours.1] {
        policy.check_shape("behaviour policy", mdp.n_states(), mdp.n_actions())?;
    }
    let roots: Vec<(StateIx, f64)> = mdp.roots().collect();
    let draw = |i: usize| -> Result<PreferencePair> {
        let mut rng = seeds.index(i as u64).rng();
        let root = roots[crate::mdp::pick(roots.iter().map(|r| r.1), &mut rng)].0;
        let first = sample_trajectory(mdp, behaviours.0, root, &mut rng);
        let second = sample_trajectory(mdp, behaviours.1, root, &mut rng);
        if rng.random::<f64>() < preference_probability(reward, &first, &second) {
            PreferencePair::try_new(first, second)
        } else {
            PreferencePair::try_new(second, first)
        }
    };
    (0..n).into_par_iter().map(draw).collect()
}
