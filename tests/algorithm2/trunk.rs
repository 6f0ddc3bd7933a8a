//! One trunk for actor and critic.

use crate::{draw, furthest, map, ppo, random, softmax, train};
use ndarray::Array2;
use rand::Rng;
use rto::algorithm2::{CriticSlot, PpoConfig};
use rto::features::DenseFeatures;
use rto::policy::{
    LogLinearSoftmax, Logits, OptimizerConfig, Regressor, RowGradient, SoftmaxPolicy,
    TabularActorCritic, TabularActorCriticLearner, TabularLearner,
};
use rto::seed::SeedTree;
use rto::seq::PolicyLearner;
use rto::seq::TokenScorer;
use rto::seq::{Channel, Episode, Finish};
use rto::token_reward::DpoReward;
use std::sync::Arc;

fn flat(table: Array2<f64>) -> Vec<f64> {
    table.into_iter().collect()
}

fn cut(batch: Vec<Episode>) -> Vec<Episode> {
    let one = |e: Episode| match e.len() > 2 {
        true => Episode::try_new(e.prompt, e.response[..2].to_vec(), Finish::Length).unwrap(),
        false => e,
    };
    batch.into_iter().map(one).collect()
}

/// The parameters of actor and critic are apart in a table, so their losses decouple: one learner on one trunk takes the steps of a
/// policy and a separate critic, final values of cut responses included, under gradient descent and under Adam.
#[test]
fn a_trunk_of_tables_is_a_policy_and_a_separate_critic() {
    let map = map(2, 4);
    let (reference, values) = (softmax(&map, "reference"), flat(random(&map, "values", 1)));
    let reward = DpoReward::try_new(softmax(&map, "dpo"), reference.clone(), 0.5).unwrap();
    for optimizer in [OptimizerConfig::sgd(1.0), OptimizerConfig::adam(1.0)] {
        for bootstrap_truncated in [false, true] {
            let config = PpoConfig {
                bootstrap_truncated,
                learning_rate: 0.05,
                critic_learning_rate: 0.05,
                ..ppo()
            };
            let mut policy = TabularLearner::try_new(reference.clone(), optimizer).unwrap();
            let mut critic = Regressor::critic(map.clone(), &values, optimizer).unwrap();
            let apart = train(
                (&mut policy, &mut CriticSlot::Separate(&mut critic)),
                (&reference, &reward),
                config,
                (2, cut),
            );
            let logits = random(&map, "reference", 3);
            let trunk = TabularActorCritic::try_new(map.clone(), &logits, &values).unwrap();
            let mut trunk = TabularActorCriticLearner::try_new(trunk, optimizer).unwrap();
            let one = train(
                (&mut trunk, &mut CriticSlot::SharedTrunk),
                (&reference, &reward),
                config,
                (2, cut),
            );
            assert!(furthest(&apart, &one) < 1e-12);
            let (mut z, mut v) = (Vec::new(), Vec::new());
            for row in trunk.policy().params().chunks_exact(4) {
                z.extend_from_slice(&row[..3]);
                v.push(row[3]);
            }
            assert!(furthest(&z, policy.policy().params()) < 1e-12);
            assert!(furthest(&v, critic.params()) < 1e-12);
            assert!(furthest(&v, &values) > 0.05, "the critic learnt nothing");
            assert!(furthest(&z, reference.params()) > 0.05);
        }
    }
}

/// Whether final values are read decides what is learnt from cut responses.
#[test]
fn a_cut_response_is_bootstrapped_from_the_trunk() {
    let map = map(2, 4);
    let (reference, values) = (softmax(&map, "reference"), flat(random(&map, "values", 1)));
    let reward = DpoReward::try_new(softmax(&map, "dpo"), reference.clone(), 0.5).unwrap();
    let ends = |bootstrap_truncated, change| {
        let config = PpoConfig {
            bootstrap_truncated,
            ..ppo()
        };
        let logits = random(&map, "reference", 3);
        let trunk = TabularActorCritic::try_new(map.clone(), &logits, &values).unwrap();
        let sgd = OptimizerConfig::sgd(1.0);
        let mut trunk = TabularActorCriticLearner::try_new(trunk, sgd).unwrap();
        train(
            (&mut trunk, &mut CriticSlot::SharedTrunk),
            (&reference, &reward),
            config,
            (2, change),
        );
        trunk.policy().params().to_vec()
    };
    assert!(furthest(&ends(false, cut), &ends(true, cut)) > 1e-2);
    let whole = |batch| batch;
    assert_eq!(
        furthest(&ends(false, whole), &ends(true, whole)),
        0.0,
        "where the table ends there is nothing to bootstrap"
    );
}

/// ⟨w, scores⟩ against its pull-back, central differences with h = 1e-5.
fn check_gradient<L: Logits>(policy: &SoftmaxPolicy<L>, batch: &[Episode]) {
    let walk = policy.map().walk_all(batch).unwrap();
    let mut rng = SeedTree::new(8).rng();
    let mut w = policy.scores(batch).unwrap().zeros_like();
    for &c in policy.channels() {
        for i in 0..batch.len() {
            let row = w.row_mut(c, i);
            row.iter_mut().for_each(|w| *w = rng.random::<f64>() - 0.5);
        }
    }
    let loss = |params: &[f64]| {
        let moved = policy.clone().with_params(params).unwrap();
        let scores = moved.scores(batch).unwrap();
        let one = |&c: &Channel| {
            let (w, s) = (w.get(c).unwrap().values(), scores.get(c).unwrap().values());
            w.iter().zip(s).map(|(w, s)| w * s).sum::<f64>()
        };
        policy.channels().iter().map(one).sum::<f64>()
    };
    let theta = policy.params().to_vec();
    let width = if theta.len() > 10 { 4 } else { theta.len() };
    let mut grad = RowGradient::zeros(theta.len(), width);
    policy.pull_back(batch, &w, &mut grad).unwrap();
    for k in 0..theta.len() {
        let at = |h: f64| {
            let mut theta = theta.clone();
            theta[k] += h;
            loss(&theta)
        };
        let want = (at(1e-5) - at(-1e-5)) / 2e-5;
        let got = grad.values()[k];
        assert!(
            (got - want).abs() < 1e-6 * want.abs().max(0.1),
            "{k}: {got} {want}"
        );
    }
    // Every parameter that some response touches has a gradient.
    let touched = |row: usize| match theta.len() > 10 {
        true => walk.steps.iter().any(|(s, _)| s.ix() == row),
        false => true,
    };
    for (row, g) in grad.values().chunks_exact(width).enumerate() {
        assert!(
            g.iter().all(|g| (*g != 0.0) == touched(row)),
            "{row}: {g:?}"
        );
    }
}

#[test]
fn trunks_pull_back_policy_and_value_channels() {
    let map = map(2, 3);
    let mut batch = draw(&softmax(&map, "reference"), 60, "batch");
    batch.extend(cut(batch.clone()));
    let values = flat(random(&map, "values", 1));
    let table = TabularActorCritic::try_new(map.clone(), &random(&map, "policy", 3), &values);
    let reference = Arc::new(softmax(&map, "reference").table().unwrap());
    let table = table.and_then(|p| p.with_temperature(0.7)).unwrap();
    let table = table.with_entropy().with_reference(reference).unwrap();
    check_gradient(&table, &batch);

    let features = |label: &str, columns: usize| {
        let all = random(&map, label, 4 * columns);
        let n = map.mdp().n_states();
        let phi = |s: usize, a: usize, k: usize| all[[s, 4 * a + k]];
        Arc::new(DenseFeatures::from_fn(n, columns, 4, phi).unwrap())
    };
    let base = Arc::new(softmax(&map, "reference").table().unwrap());
    let theta = [0.3, -0.8, 0.5, 1.1];
    let linear = LogLinearSoftmax::try_new(map.clone(), features("phi", 3), base, &theta);
    let linear = linear
        .and_then(|p| p.with_values(features("psi", 1)))
        .unwrap();
    check_gradient(&linear, &batch);
    assert!(linear.with_values(features("psi", 3)).is_err());
}
