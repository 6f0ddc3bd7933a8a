//! Constructed instances: Proposition C.2, the telescoping instance on which Algorithm 1 is
//! inconsistent, an arm that is never compared, and bandits on which pessimism wins, does not matter, or hurts.

use ndarray::Array2;

use super::Instance;
use crate::Result;
use crate::features::{DenseFeatures, FeatureMap, OneHot};
use crate::mdp::{
    ActionIx, Beta, GeneralMdp, PreferencePair, SparseRows, StateIx, TabularPolicy, TokenTree,
    Trajectory, Transition,
};
use crate::reward::TabularReward;

/// Proposition C.2 (A = 2, H = 2) and its generalisation: s₀ first, then at every later step a state
/// uniform on {s₁, …, s_A}, whatever the action; r(s_i, a_j) = 1{i = j}.
///
/// The best Markov policy is worth H − 1, the best predetermined one (H − 1)/A. The reward is a table
/// over the A + 1 original states.
///
/// # Errors
/// [`crate::Error::Config`] when A or H is 0.
pub fn predetermined_gap(n_actions: usize, horizon: usize) -> Result<(GeneralMdp, TabularReward)> {
    let n_states = n_actions + 1;
    let uniform: Vec<(StateIx, f64)> = (1..n_states)
        .map(|i| (StateIx(i as u32), 1.0 / n_actions as f64))
        .collect();
    let rows = SparseRows::try_new(n_actions, &vec![uniform; n_states * n_actions])?;
    let mut initial = vec![0.0; n_states];
    initial[0] = 1.0;
    let mdp = GeneralMdp::try_new(
        n_actions,
        horizon,
        initial,
        Transition::Stochastic(rows),
        &[],
    )?;
    let hit = |(s, a): (usize, usize)| f64::from(u8::from(s == a + 1));
    let reward = TabularReward::try_new(Array2::from_shape_fn((n_states, n_actions), hit))?;
    Ok((mdp, reward))
}

/// A = 2, H = 2 with a feature coordinate whose trajectory sums telescope, so that no preference data
/// can see it: φ(root, 0) = (1, 1)/√2, φ(after 0, ·) = (0, −1)/√2, zero elsewhere; uniform π_ref,
/// θ* = (1, 0), β = 0.1. Algorithm 1 with λ = B = 1 is inconsistent here, (B.1) is not.
///
/// # Errors
/// Never: the instance is fixed.
pub fn telescoping() -> Result<(TokenTree, Instance)> {
    let tree = TokenTree::try_new(1, 2, 2, None)?;
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let phi = |s: usize, a: usize, k: usize| match (s, a, k) {
        (0, 0, _) => half,
        (1, _, 1) => -half,
        _ => 0.0,
    };
    let instance = Instance {
        mdp: tree.compile(&[1.0])?,
        reference: TabularPolicy::uniform(3, 2),
        beta: Beta::try_new(0.1)?,
        features: DenseFeatures::from_fn(3, 2, 2, phi)?,
        theta_star: vec![1.0, 0.0],
    };
    Ok((tree, instance))
}

/// Three arms, rewards 0.1, −0.1 and −0.9, β = 0.1, uniform π_ref, of which only the first two are compared: the
/// bonus projected on the row space of X is 0 on the third, and Algorithm 1 takes it for worth 0.
///
/// # Errors
/// Never: the instance is fixed.
pub fn uncompared_arm() -> Result<Instance> {
    bandit(&[0.1, -0.1, -0.9], 0.1)
}

/// A design: `count` comparisons of two arms of a bandit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// One arm.
    pub first: u32,
    /// The other arm.
    pub second: u32,
    /// How often they are compared.
    pub count: usize,
}

impl Comparison {
    /// The pair of trajectories with the given winner first.
    ///
    /// # Errors
    /// Never: arms share the one state.
    pub fn pair(&self, first_wins: bool) -> Result<PreferencePair> {
        let arm = |a: u32| Trajectory::trusted(vec![(StateIx(0), ActionIx(a))]);
        let (winner, loser) = if first_wins {
            (self.first, self.second)
        } else {
            (self.second, self.first)
        };
        PreferencePair::try_new(arm(winner), arm(loser))
    }
}

fn bandit(rewards: &[f64], beta: f64) -> Result<Instance> {
    let n_actions = rewards.len();
    let map = OneHot {
        n_states: 1,
        n_actions,
    };
    debug_assert_eq!(map.dim(), n_actions);
    Ok(Instance {
        mdp: TokenTree::try_new(1, n_actions, 1, None)?.compile(&[1.0])?,
        reference: TabularPolicy::uniform(1, n_actions),
        beta: Beta::try_new(beta)?,
        features: DenseFeatures::tabulate(&map),
        theta_star: rewards.to_vec(),
    })
}

/// Twelve arms, β = 0.1: arms 0 (reward 1) and 1 (0) are compared n times, every other (bad, −1) arm
/// once with arm 0. The greedy planner trusts a lucky bad arm; the pessimist does not.
///
/// # Errors
/// Never: the instance is fixed.
pub fn pessimism_wins(n: usize) -> Result<(Instance, Vec<Comparison>)> {
    let rewards: Vec<f64> = (0..12)
        .map(|a| [1.0, 0.0].get(a).copied().unwrap_or(-1.0))
        .collect();
    let mut design = vec![Comparison {
        first: 0,
        second: 1,
        count: n,
    }];
    design.extend((2..12).map(|a| Comparison {
        first: 0,
        second: a,
        count: 1,
    }));
    Ok((bandit(&rewards, 0.1)?, design))
}

/// The same arms with every pair compared equally often: pessimism changes little.
///
/// # Errors
/// Never: the instance is fixed.
pub fn pessimism_is_neutral(n: usize) -> Result<(Instance, Vec<Comparison>)> {
    let (instance, _) = pessimism_wins(n)?;
    let pairs = (0..12u32).flat_map(|i| (i + 1..12).map(move |j| (i, j)));
    let count = n.div_ceil(66);
    let design = pairs
        .map(|(first, second)| Comparison {
            first,
            second,
            count,
        })
        .collect();
    Ok((instance, design))
}

/// The best arm (reward 2) is compared three times, the others often: the pessimist avoids it.
///
/// # Errors
/// Never: the instance is fixed.
pub fn pessimism_hurts(n: usize) -> Result<(Instance, Vec<Comparison>)> {
    let rewards: Vec<f64> = (0..12)
        .map(|a| {
            if a == 0 {
                2.0
            } else {
                0.5 - 0.1 * f64::from(a)
            }
        })
        .collect();
    let mut design = vec![Comparison {
        first: 0,
        second: 1,
        count: 3,
    }];
    let rest = (1..12u32).flat_map(|i| (i + 1..12).map(move |j| (i, j)));
    design.extend(rest.map(|(first, second)| Comparison {
        first,
        second,
        count: n.div_ceil(55),
    }));
    Ok((bandit(&rewards, 0.1)?, design))
}

/// A needle chain of A actions and H steps: reward `gap` for each step along action 0 from the root,
/// 0 elsewhere, one-hot features, uniform π_ref.
///
/// # Errors
/// [`crate::Error::Config`] when a size is 0 or the tree too large.
pub fn token_chain(
    n_actions: usize,
    horizon: usize,
    gap: f64,
    beta: f64,
) -> Result<(TokenTree, Instance)> {
    let tree = TokenTree::try_new(1, n_actions, horizon, None)?;
    let map = OneHot {
        n_states: tree.n_states(),
        n_actions,
    };
    let mut theta_star = vec![0.0; map.dim()];
    for depth in 0..horizon {
        theta_star[tree.level(0, depth).start * n_actions] = gap;
    }
    let instance = Instance {
        mdp: tree.compile(&[1.0])?,
        reference: TabularPolicy::uniform(tree.n_states(), n_actions),
        beta: Beta::try_new(beta)?,
        features: DenseFeatures::tabulate(&map),
        theta_star,
    };
    Ok((tree, instance))
}
