//! A second path to E[g] that shares no summation with the first: ordered tuples of responses, the loss of the objects that train, and a
//! numerical derivative in the logits.

#[path = "support/audit_units.rs"]
mod audit_units;

use audit_units::{World, kl_of_states, log_softmax};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rto::advantage::{Spread, WhitenStd};
use rto::algorithm2::KlPlacement;
use rto::audit::{Critic, Estimator, Kl, Problem, Recipe, ResponseTree, Reward, expected_gradient};
use rto::objective::{Aggregation, Ratio, Surrogate};
use rto::seed::SeedTree;
use rto::seq::{Channel, PerToken, loss_and_score_grad};
use rto::token_reward::KlEstimator;

/// Step of the fourth-order central difference.
const STEP: f64 = 5e-5;

/// What numerical derivatives need.
trait Differences {
    fn field(&self) -> Vec<f64>;
    fn is_smooth(&self) -> bool;
}

impl Differences for World<'_> {
    /// −∂/∂θ of the expected loss, behaviour and advantages held fixed.
    fn field(&self) -> Vec<f64> {
        let a = self.tree().n_actions();
        let lo = log_softmax(&self.old, a);
        let units: Vec<_> = self
            .tuples(&lo)
            .into_iter()
            .map(|(unit, p)| {
                let (batch, loss) = self.objective(&unit, &lo);
                (unit, p, batch, loss)
            })
            .collect();
        let expected = |theta: &[f64]| -> f64 {
            let lp = log_softmax(theta, a);
            let kl = kl_of_states(&lp, self.problem.reference(), a);
            units
                .iter()
                .map(|(unit, p, batch, loss)| {
                    let scores = PerToken::new(batch)
                        .with(Channel::LogProb, self.rows(unit, &lp))
                        .unwrap()
                        .with(Channel::KlToReference, self.state_rows(unit, &kl))
                        .unwrap();
                    p * loss_and_score_grad(&**loss, &scores).unwrap().0
                })
                .sum()
        };
        let at = |k: usize, step: f64| {
            let mut theta = self.theta.clone();
            theta[k] += step;
            expected(&theta)
        };
        (0..self.theta.len())
            .map(|k| {
                let near = at(k, STEP) - at(k, -STEP);
                let far = at(k, 2.0 * STEP) - at(k, -2.0 * STEP);
                -(8.0 * near - far) / (12.0 * STEP)
            })
            .collect()
    }

    /// Whether no ratio stands so near a corner of the loss that a difference would straddle it.
    fn is_smooth(&self) -> bool {
        let (tree, s) = (self.tree(), self.recipe.surrogate);
        let a = tree.n_actions();
        let (lp, lo) = (log_softmax(&self.theta, a), log_softmax(&self.old, a));
        let corners = [
            1.0 - s.clip_low,
            1.0 + s.clip_high,
            s.dual_clip.unwrap_or(0.0),
        ];
        let clear = |ratio: f64| corners.iter().all(|c| (ratio - c).abs() > 5.0 * STEP);
        (0..tree.n_responses()).all(|y| {
            let d: Vec<f64> = tree
                .response(y)
                .iter()
                .map(|p| lp[*p as usize] - lo[*p as usize])
                .collect();
            let sum: f64 = d.iter().sum();
            match s.ratio {
                Ratio::Token => d.iter().all(|d| clear(d.exp())),
                Ratio::Sequence => clear(sum.exp()),
                Ratio::GeometricMean => clear((sum / d.len() as f64).exp()),
                _ => true,
            }
        })
    }
}

fn draw_recipe(rng: &mut ChaCha8Rng, n_states: usize) -> Recipe {
    let mut pick = |n: usize| rng.random_range(0..n);
    let reward = [
        Reward::Sentence,
        Reward::Token,
        Reward::Dpo,
        Reward::DpoAtEnd,
        Reward::Released,
        Reward::Zero,
    ][pick(6)];
    let estimator = [
        KlEstimator::K1,
        KlEstimator::K2,
        KlEstimator::K3,
        KlEstimator::Exact,
        KlEstimator::K3Corrected,
    ][pick(5)];
    let placement = [KlPlacement::Reward, KlPlacement::Loss, KlPlacement::Both][pick(3)];
    let kl = (pick(5) > 0).then_some(Kl {
        placement,
        estimator,
    });
    let spread = [
        Spread::One,
        Spread::Group { eps: 1e-4 },
        Spread::Batch { eps: 1e-6 },
    ][pick(3)];
    let table = (0..n_states).map(|s| (s as f64).sin()).collect();
    let critic = [
        Critic::Zero,
        Critic::Exact,
        Critic::Offset(0.5),
        Critic::Depth,
        Critic::Given(table),
    ][pick(5)]
    .clone();
    let advantage = match pick(7) {
        0 => Estimator::RewardToGo,
        1 | 2 => Estimator::Gae {
            gamma: 1.0,
            lambda: [0.0, 0.7, 0.95, 1.0][pick(4)],
            critic,
        },
        3 => Estimator::LeaveOneOut,
        4 => Estimator::LeaveOneOutOfScore,
        5 => Estimator::Group { spread },
        _ => Estimator::Greedy,
    };
    let ratio = match pick(6) {
        0 | 1 => Ratio::Token,
        2 => Ratio::Sequence,
        3 => Ratio::GeometricMean,
        4 => Ratio::Capped {
            low: [0.0, 0.8][pick(2)],
            high: [0.9, 1.28, 5.0][pick(3)],
        },
        _ => Ratio::LogProb,
    };
    let whitening = [
        None,
        None,
        Some(WhitenStd::Biased),
        Some(WhitenStd::Unbiased),
        Some(WhitenStd::BiasedClamped),
        Some(WhitenStd::One),
    ][pick(6)];
    let aggregation = [
        Aggregation::TokenMean,
        Aggregation::SequenceMean,
        Aggregation::SequenceSum,
        Aggregation::Constant { length: 3 },
        Aggregation::PerBatch { length: 2 },
    ][pick(5)];
    let n = [1, 2, 2, 3][pick(4)];
    let grouped = pick(2) == 0;
    Recipe {
        reward,
        kl,
        beta: if kl.is_some() { 0.3 } else { 0.0 },
        meant_beta: None,
        advantage,
        whitening,
        surrogate: Surrogate {
            ratio,
            clip_low: [0.2, 3e-4, 1.0][pick(3)],
            clip_high: [0.2, 0.28, 4e-4, 1e9][pick(4)],
            dual_clip: [None, Some(1.1), Some(3.0)][pick(3)],
        },
        aggregation,
        prompts: if grouped { 1 } else { n },
        responses: if grouped { n } else { 1 },
        // Without a reward no group differs.
        drop_equal_groups: pick(6) == 0 && reward != Reward::Zero,
    }
}

#[test]
fn ordered_tuples_and_a_numerical_derivative_agree_on_random_recipes() {
    let seeds = SeedTree::new(19).child("paths");
    let (mut done, mut worst, mut stale) = (0, 0.0f64, 0);
    for k in 0..4000 {
        if done == 520 {
            break;
        }
        let mut rng = seeds.index(k).rng();
        let shapes = [(2, 2, None), (3, 2, Some(2)), (2, 3, Some(1)), (2, 3, None)];
        let &(a, h, eos) = shapes.choose(&mut rng).unwrap();
        let weights: &[f64] = if rng.random() { &[1.0] } else { &[0.7, 0.3] };
        let tree = ResponseTree::try_new(a, h, eos, weights).unwrap();
        let recipe = draw_recipe(&mut rng, tree.n_states());
        let tuples = (tree.n_responses() as f64).powi(recipe.unit() as i32);
        if recipe.check().is_err() || tuples > 600.0 {
            continue;
        }
        let mut normals = |scale: f64| -> Vec<f64> {
            let draw = |_| {
                let z: f64 = StandardNormal.sample(&mut rng);
                scale * z
            };
            (0..tree.n_pairs()).map(draw).collect()
        };
        let (r, q, dpo, theta) = (normals(1.0), normals(0.5), normals(1.0), normals(1.0));
        let away = normals(if k % 3 == 0 { 0.0 } else { 0.3 });
        let old: Vec<f64> = theta.iter().zip(away).map(|(t, a)| t + a).collect();
        let problem = Problem::try_new(tree, &r, &q)
            .unwrap()
            .with_dpo(&dpo, 0.45, 0.15)
            .unwrap();
        let world = World {
            problem: &problem,
            recipe: &recipe,
            theta: theta.clone(),
            old: old.clone(),
        };
        if !world.is_smooth() {
            continue;
        }
        let got = expected_gradient(&problem, &recipe, &theta, Some(&old)).unwrap();
        let want = world.field();
        let scale = want.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
        for (g, w) in got.iter().zip(&want) {
            let gap = (g - w).abs() / scale;
            assert!(gap < 1e-8, "pair {k}: {g} and {w}, {recipe:?}");
            worst = worst.max(gap);
        }
        if k % 3 == 0 {
            // The same where the behaviour is the policy itself.
            let on = expected_gradient(&problem, &recipe, &theta, None).unwrap();
            assert!(on.iter().zip(&got).all(|(a, b)| (a - b).abs() < 1e-12));
        } else {
            stale += 1;
        }
        done += 1;
    }
    println!("{done} pairs, {stale} of them stale, largest gap {worst:e}");
    assert!(done >= 500 && stale >= 200, "{done} pairs, {stale} stale");
}
