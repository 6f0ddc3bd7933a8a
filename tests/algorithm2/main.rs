//! Algorithm 2 on tables: one trunk for actor and critic, reward fits against the maximum-likelihood estimate, the scores of
//! the reference, forced tokens, and what is refused at the seam.

mod fits;
mod forced;
mod refused;
mod trunk;

use ndarray::Array2;
use rand::Rng;
use rto::Token;
use rto::algorithm2::{CriticSlot, Pair, PpoConfig, PpoRun, PpoState};
use rto::mdp::{ActionIx, TokenTree};
use rto::policy::{StateMap, TabularSoftmax};
use rto::seed::SeedTree;
use rto::seq::{Episode, Policy, PolicyLearner, StreamKey, TokenReward, TokenScorer};
use std::sync::Arc;

const EOS: Token = 2;

/// Three actions of which the last ends the response, at most `horizon` tokens.
fn map(prompts: usize, horizon: usize) -> Arc<StateMap> {
    let tree = TokenTree::try_new(prompts, 3, horizon, Some(ActionIx(EOS))).unwrap();
    StateMap::tree(&tree, &vec![1.0 / prompts as f64; prompts]).unwrap()
}

/// A function of label, row and column: shorter tables are the beginning of longer ones.
fn random(map: &StateMap, label: &str, columns: usize) -> Array2<f64> {
    let mut rng = SeedTree::new(5).child(label).rng();
    Array2::from_shape_fn((map.mdp().n_states(), columns), |_| {
        2.0 * rng.random::<f64>() - 1.0
    })
}

fn softmax(map: &Arc<StateMap>, label: &str) -> TabularSoftmax {
    TabularSoftmax::try_new(map.clone(), &random(map, label, 3)).unwrap()
}

fn draw(policy: &impl Policy, n: usize, label: &str) -> Vec<Episode> {
    let prompts: Vec<_> = (0..n).map(|i| StateMap::prompt(i / 2 % 2)).collect();
    let keys = StreamKey::batch(&SeedTree::new(2).child(label), n);
    policy.sample(&prompts, &keys).unwrap()
}

/// Two responses to a prompt, the first one preferred.
fn pairs(policy: &impl Policy, n: usize) -> Vec<Pair> {
    let rows = draw(policy, 2 * n, "pairs");
    let pair = |r: &[Episode]| Pair {
        winner: r[0].clone(),
        loser: r[1].clone(),
    };
    rows.chunks_exact(2).map(pair).collect()
}

fn ppo() -> PpoConfig {
    PpoConfig {
        iterations: 8,
        prompts_per_iteration: 24,
        minibatch_size: 8,
        beta2: 0.3,
        learning_rate: 0.3,
        critic_learning_rate: 0.3,
        ..PpoConfig::paper()
    }
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f64::max)
}

/// What becomes of a rollout.
type Change = fn(Vec<Episode>) -> Vec<Episode>;

/// All iterations of a configuration, each rollout passed through `change`.
fn train<L: PolicyLearner>(
    (learner, critic): (&mut L, &mut CriticSlot<'_>),
    (reference, reward): (&dyn TokenScorer, &dyn TokenReward),
    config: PpoConfig,
    (prompts, change): (usize, Change),
) -> Vec<f64> {
    let prompts: Vec<_> = (0..prompts).map(StateMap::prompt).collect();
    let (checked, seeds) = (config.check().unwrap(), SeedTree::new(3));
    let run = PpoRun {
        reference,
        reward,
        prompts: &prompts,
        config: &checked,
        seeds: &seeds,
    };
    let (mut state, mut seen) = (PpoState::new(&config), Vec::new());
    while state.iteration < config.iterations {
        let batch = change(run.rollout(learner.policy(), &state).unwrap());
        let report = run.update(learner, critic, &mut state, batch).unwrap();
        seen.extend([report.objective, report.kl, report.approx_kl]);
        seen.push(report.explained_variance.unwrap_or_default());
    }
    seen
}
