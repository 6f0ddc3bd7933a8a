//! The two instances of the audit whose every quantity is pinned to 16 digits.

use ndarray::{Array2, arr2};

use super::Instance;
use crate::features::{DenseFeatures, FeatureMap, OneHot};
use crate::mdp::{ActionIx, Beta, PreferencePair, StateIx, TabularPolicy, TokenTree};
use crate::numerics::sigmoid;
use crate::{Result, Token};

/// G0: P = 1, A = 2, H = 2, β = 0.5, one-hot features.
///
/// # Errors
/// Never: the instance is fixed.
pub fn g0() -> Result<(TokenTree, Instance)> {
    let tree = TokenTree::try_new(1, 2, 2, None)?;
    let instance = Instance {
        mdp: tree.compile(&[1.0])?,
        reference: TabularPolicy::from_probs(&arr2(&[[0.6, 0.4], [0.5, 0.5], [0.25, 0.75]]))?,
        beta: Beta::try_new(0.5)?,
        features: DenseFeatures::tabulate(&OneHot {
            n_states: 3,
            n_actions: 2,
        }),
        theta_star: vec![0.2, -0.1, 0.5, -0.3, 1.0, 0.1],
    };
    Ok((tree, instance))
}

/// G1: P = 2, A = 3, H = 3, d = 4, β = 0.5, ρ = (0.6, 0.4), trigonometric features and logits.
///
/// # Errors
/// Never: the instance is fixed.
pub fn g1() -> Result<(TokenTree, Instance)> {
    let tree = TokenTree::try_new(2, 3, 3, None)?;
    let (n_states, n_actions) = (tree.n_states(), 3);
    let phi = |s: usize, a: usize, k: usize| {
        let (i, k) = ((s * n_actions + a) as f64, k as f64);
        (1.0 + 0.7 * k + 1.3 * i + 0.37 * i * k).sin() / 2.0
    };
    let logit = |(s, a): (usize, usize)| 0.8 * (1.1 * (s * n_actions + a) as f64 + 0.3).cos();
    let instance = Instance {
        mdp: tree.compile(&[0.6, 0.4])?,
        reference: TabularPolicy::from_logits(Array2::from_shape_fn((n_states, n_actions), logit))?,
        beta: Beta::try_new(0.5)?,
        features: DenseFeatures::from_fn(n_states, n_actions, 4, phi)?,
        theta_star: vec![0.9, -0.6, 0.4, 0.7],
    };
    Ok((tree, instance))
}

/// The second policy of G1, called q there: logits 0.5 sin(2.1 i + 0.7).
///
/// # Errors
/// Never: the policy is fixed.
pub fn g1_other_policy() -> Result<TabularPolicy> {
    let logit = |(s, a): (usize, usize)| 0.5 * (2.1 * (s * 3 + a) as f64 + 0.7).sin();
    TabularPolicy::from_logits(Array2::from_shape_fn((26, 3), logit))
}

/// The 200 preference pairs of G1, deterministic in place of labels drawn from (3.1).
///
/// # Errors
/// Never: the pairs are fixed.
pub fn g1_preferences() -> Result<Vec<PreferencePair>> {
    let (tree, instance) = g1()?;
    let response = |leaf: usize| -> Vec<Token> {
        vec![
            (leaf / 9) as Token,
            (leaf / 3 % 3) as Token,
            (leaf % 3) as Token,
        ]
    };
    let theta = &instance.theta_star;
    let reward = |s: StateIx, a: ActionIx| instance.features.dot(s, a, theta);
    (0..200)
        .map(|j: usize| {
            let prompt = j % 2;
            let (first, mut second) = ((7 * j + 3) % 27, (11 * j + 5) % 27);
            if first == second {
                second = (second + 1) % 27;
            }
            let a = tree.trajectory(prompt, &response(first))?;
            let b = tree.trajectory(prompt, &response(second))?;
            let margin = a.sum(reward) - b.sum(reward);
            let u = ((j + 1) as f64 * 0.618_033_988_749_894_9).fract();
            if u < sigmoid(margin) {
                PreferencePair::try_new(a, b)
            } else {
                PreferencePair::try_new(b, a)
            }
        })
        .collect()
}
