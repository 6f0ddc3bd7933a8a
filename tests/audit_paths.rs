//! A second path to E[g] that shares no summation with the first: ordered tuples of responses, the loss of the objects that train, and a
//! numerical derivative in the logits.

use std::ops::Range;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rto::advantage::{
    Spread, WhitenStd, broadcast, gae, group_relative_by, leave_one_out, leave_one_out_of_score,
    remax, reward_to_go, whiten_by,
};
use rto::algorithm2::KlPlacement;
use rto::audit::{Critic, Estimator, Kl, Problem, Recipe, ResponseTree, Reward, expected_gradient};
use rto::objective::{Aggregation, Nll, PpoClip, Ratio, Surrogate};
use rto::seed::SeedTree;
use rto::seq::{Channel, Episode, Finish, PerToken, Ragged, TokenObjective, loss_and_score_grad};
use rto::token_reward::KlEstimator;

/// Step of the fourth-order central difference.
const STEP: f64 = 5e-5;

/// log π, row by row.
fn log_softmax(logits: &[f64], a: usize) -> Vec<f64> {
    let row = |r: &[f64]| -> Vec<f64> {
        let z = r.iter().map(|v| v.exp()).sum::<f64>().ln();
        r.iter().map(|v| v - z).collect()
    };
    logits.chunks(a).flat_map(row).collect()
}

/// Σ_a π(a|s) (log π − log π_ref), of every state.
fn kl_of_states(lp: &[f64], reference: &[f64], a: usize) -> Vec<f64> {
    let both = lp.chunks(a).zip(reference.chunks(a));
    both.map(|(p, q)| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum())
        .collect()
}

struct World<'a> {
    problem: &'a Problem,
    recipe: &'a Recipe,
    theta: Vec<f64>,
    old: Vec<f64>,
}

impl World<'_> {
    fn tree(&self) -> &ResponseTree {
        self.problem.tree()
    }

    /// A table at the tokens of some responses.
    fn rows(&self, unit: &[usize], table: &[f64]) -> Ragged {
        let row = |y: &usize| -> Vec<f64> {
            let pairs = self.tree().response(*y).iter();
            pairs.map(|p| table[*p as usize]).collect()
        };
        Ragged::from_rows(unit.iter().map(row))
    }

    fn state_rows(&self, unit: &[usize], values: &[f64]) -> Ragged {
        let a = self.tree().n_actions();
        let spread: Vec<f64> = (0..self.tree().n_pairs()).map(|k| values[k / a]).collect();
        self.rows(unit, &spread)
    }

    /// V^π of token rewards by its definition: an average over responses through each state.
    fn values(&self, reward: &[f64], lo: &[f64]) -> Vec<f64> {
        let (tree, a) = (self.tree(), self.tree().n_actions());
        let mut sums = vec![[0.0; 2]; tree.n_states()];
        for y in 0..tree.n_responses() {
            let pairs = tree.response(y);
            let prob: f64 = pairs.iter().map(|p| lo[*p as usize]).sum::<f64>().exp();
            for h in 0..pairs.len() {
                let to_go: f64 = pairs[h..].iter().map(|p| reward[*p as usize]).sum();
                let [weighted, mass] = &mut sums[pairs[h] as usize / a];
                *weighted += prob * to_go;
                *mass += prob;
            }
        }
        sums.iter().map(|[v, m]| v / m).collect()
    }

    fn critic(&self, critic: &Critic, reward: &[f64], lo: &[f64]) -> Vec<f64> {
        let tree = self.tree();
        match critic {
            Critic::Zero => vec![0.0; tree.n_states()],
            Critic::Given(v) => v.clone(),
            Critic::Exact => self.values(reward, lo),
            Critic::Offset(c) => self.values(reward, lo).iter().map(|v| v + c).collect(),
            Critic::Depth => {
                // The mean return to go of the tokens at a depth.
                let mut sums = vec![[0.0; 2]; tree.horizon()];
                for y in 0..tree.n_responses() {
                    let pairs = tree.response(y);
                    let log: f64 = pairs.iter().map(|p| lo[*p as usize]).sum();
                    let prob = log.exp() * tree.prompt_weights()[tree.prompt_of(y)];
                    for h in 0..pairs.len() {
                        let to_go: f64 = pairs[h..].iter().map(|p| reward[*p as usize]).sum();
                        sums[h][0] += prob * to_go;
                        sums[h][1] += prob;
                    }
                }
                let at = |s: usize| sums[tree.depth(s)][0] / sums[tree.depth(s)][1];
                (0..tree.n_states()).map(at).collect()
            }
        }
    }

    /// The reward table with its KL term.
    fn reward(&self, lo: &[f64]) -> Vec<f64> {
        let reference = self.problem.reference();
        let a = self.tree().n_actions();
        let exact = kl_of_states(lo, reference, a);
        let mut r = self.problem.paid(self.recipe.reward).unwrap();
        if let Some(kl) = self.recipe.kl.filter(|k| k.placement != KlPlacement::Loss) {
            for (k, r) in r.iter_mut().enumerate() {
                let d = lo[k] - reference[k];
                *r -= self.recipe.beta
                    * match kl.estimator {
                        KlEstimator::K1 => d,
                        KlEstimator::K2 => d * d / 2.0,
                        KlEstimator::Exact => exact[k / a],
                        _ => (-d).exp() - 1.0 + d,
                    };
            }
        }
        r
    }

    fn greedy(&self, lo: &[f64], scores: &[f64]) -> Vec<f64> {
        let tree = self.tree();
        let a = tree.n_actions();
        let of = |p: usize| {
            let follows = |y: &usize| {
                tree.response(*y).iter().all(|k| {
                    let s = *k as usize / a;
                    (s * a..(s + 1) * a).all(|j| lo[j] <= lo[*k as usize])
                })
            };
            scores[tree.responses_of(p).find(follows).unwrap()]
        };
        (0..tree.prompt_weights().len()).map(of).collect()
    }

    fn advantages(&self, unit: &[usize], lo: &[f64]) -> Ragged {
        let recipe = self.recipe;
        let reward = self.reward(lo);
        let rewards = self.rows(unit, &reward);
        let paid = self.problem.paid(recipe.reward).unwrap();
        let scores = self.rows(unit, &paid).row_sums();
        let one = |n: usize| -> Vec<Range<usize>> { std::iter::once(0..n).collect() };
        let group = one(unit.len());
        let raw = match &recipe.advantage {
            Estimator::RewardToGo => reward_to_go(&rewards, 1.0).unwrap(),
            Estimator::Gae {
                gamma,
                lambda,
                critic,
            } => {
                let v = self.state_rows(unit, &self.critic(critic, &reward, lo));
                let last = vec![0.0; unit.len()];
                gae(&rewards, &v, &last, *gamma, *lambda)
                    .unwrap()
                    .advantages
            }
            Estimator::LeaveOneOut => {
                let a = leave_one_out(&rewards.row_sums(), &group).unwrap();
                broadcast(&a, &rewards).unwrap()
            }
            Estimator::LeaveOneOutOfScore => {
                leave_one_out_of_score(&rewards, &scores, &group, None).unwrap()
            }
            Estimator::Group { spread } => {
                let a = group_relative_by(&rewards.row_sums(), &group, *spread).unwrap();
                broadcast(&a, &rewards).unwrap()
            }
            Estimator::Greedy => {
                let all: Vec<usize> = (0..self.tree().n_responses()).collect();
                let best = self.greedy(lo, &self.rows(&all, &paid).row_sums());
                let of: Vec<f64> = unit
                    .iter()
                    .map(|y| best[self.tree().prompt_of(*y)])
                    .collect();
                remax(&rewards, &of, None).unwrap()
            }
        };
        match recipe.whitening {
            Some(std) => whiten_by(&raw, None, true, std).unwrap(),
            None => raw,
        }
    }

    /// The loss of a unit, as the objects that train have it.
    fn objective(&self, unit: &[usize], lo: &[f64]) -> (Vec<Episode>, Box<dyn TokenObjective>) {
        let recipe = self.recipe;
        let batch: Vec<Episode> = unit
            .iter()
            .map(|y| {
                let response = self.tree().text_of(*y).iter().map(|t| *t as u32).collect();
                Episode::try_new([0].into(), response, Finish::Length).unwrap()
            })
            .collect();
        let mut advantages = self.advantages(unit, lo);
        let old = self.rows(unit, lo);
        let how = recipe.aggregation;
        let s = recipe.surrogate;
        let ratio = match s.ratio {
            // The weight of a capped ratio is detached: it enters the advantages.
            Ratio::Capped { low, high } => {
                let now = self.rows(unit, &log_softmax(&self.theta, self.tree().n_actions()));
                let weight = now
                    .zip("", &old, |p, q| (p - q).exp().clamp(low, high))
                    .unwrap();
                advantages = advantages.zip("", &weight, |a, w| a * w).unwrap();
                Ratio::LogProb
            }
            other => other,
        };
        if ratio == Ratio::LogProb && recipe.kl.is_none_or(|k| k.placement == KlPlacement::Reward) {
            let loss = Nll::policy_gradient(&batch, &advantages, how, None).unwrap();
            return (batch, Box::new(loss));
        }
        let mut loss = PpoClip::new(&batch, old, advantages, s.clip_low, how, None)
            .unwrap()
            .with_clip_high(s.clip_high)
            .unwrap()
            .with_ratio(ratio)
            .unwrap();
        if let Some(c) = s.dual_clip {
            loss = loss.with_dual_clip(c).unwrap();
        }
        if let Some(kl) = recipe.kl.filter(|k| k.placement != KlPlacement::Reward) {
            loss = match kl.estimator.sampled() {
                None => loss.with_exact_kl(recipe.beta).unwrap(),
                Some(kind) => {
                    let reference = self.rows(unit, self.problem.reference());
                    loss.with_sampled_kl(kind, recipe.beta, reference).unwrap()
                }
            };
        }
        (batch, Box::new(loss))
    }

    /// All ordered tuples with their probabilities.
    fn tuples(&self, lo: &[f64]) -> Vec<(Vec<usize>, f64)> {
        let (tree, recipe) = (self.tree(), self.recipe);
        let n = recipe.prompts * recipe.responses;
        let prob = |y: usize| -> f64 {
            let log: f64 = tree.response(y).iter().map(|p| lo[*p as usize]).sum();
            log.exp()
        };
        let mut all = vec![(Vec::new(), 1.0)];
        for _ in 0..n {
            let mut next = Vec::new();
            for (unit, p) in &all {
                for y in 0..tree.n_responses() {
                    let prompt = tree.prompt_of(y);
                    let first = unit.first().map(|y| tree.prompt_of(*y));
                    let fresh = recipe.responses == 1 || first.is_none();
                    if !fresh && first != Some(prompt) {
                        continue;
                    }
                    let w = if fresh {
                        tree.prompt_weights()[prompt]
                    } else {
                        1.0
                    };
                    let mut longer: Vec<usize> = unit.clone();
                    longer.push(y);
                    next.push((longer, p * w * prob(y)));
                }
            }
            all = next;
        }
        if recipe.drop_equal_groups {
            let paid = self.problem.paid(recipe.reward).unwrap();
            let differ = |unit: &[usize]| {
                let s = self.rows(unit, &paid).row_sums();
                s.iter().any(|x| *x != s[0])
            };
            all.retain(|(unit, _)| differ(unit));
            let mass: f64 = all.iter().map(|(_, p)| p).sum();
            all.iter_mut().for_each(|(_, p)| *p /= mass);
        }
        all
    }

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
