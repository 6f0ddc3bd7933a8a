//! The loss of a unit as the objects that train have it, and all units with their probabilities: what an audit is checked against.

use std::ops::Range;

use rto::advantage::{
    broadcast, gae, group_relative_by, leave_one_out, leave_one_out_of_score, remax, reward_to_go,
    whiten_by,
};
use rto::algorithm2::KlPlacement;
use rto::audit::{Critic, Estimator, Problem, Recipe, ResponseTree};
use rto::objective::{Nll, PpoClip, Ratio};
use rto::seq::{Episode, Finish, Ragged, TokenObjective};
use rto::token_reward::KlEstimator;

/// log π, row by row.
pub fn log_softmax(logits: &[f64], a: usize) -> Vec<f64> {
    let row = |r: &[f64]| -> Vec<f64> {
        let z = r.iter().map(|v| v.exp()).sum::<f64>().ln();
        r.iter().map(|v| v - z).collect()
    };
    logits.chunks(a).flat_map(row).collect()
}

/// Σ_a π(a|s) (log π − log π_ref), of every state.
pub fn kl_of_states(lp: &[f64], reference: &[f64], a: usize) -> Vec<f64> {
    let both = lp.chunks(a).zip(reference.chunks(a));
    both.map(|(p, q)| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum())
        .collect()
}

/// A recipe on a tree, at logits and behaviour.
pub struct World<'a> {
    /// The tree with its rewards.
    pub problem: &'a Problem,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Logits of the policy.
    pub theta: Vec<f64>,
    /// Logits of the behaviour.
    pub old: Vec<f64>,
}

impl World<'_> {
    /// The tree.
    pub fn tree(&self) -> &ResponseTree {
        self.problem.tree()
    }

    /// A table at the tokens of some responses.
    pub fn rows(&self, unit: &[usize], table: &[f64]) -> Ragged {
        let row = |y: &usize| -> Vec<f64> {
            let pairs = self.tree().response(*y).iter();
            pairs.map(|p| table[*p as usize]).collect()
        };
        Ragged::from_rows(unit.iter().map(row))
    }

    /// Numbers of states, likewise.
    pub fn state_rows(&self, unit: &[usize], values: &[f64]) -> Ragged {
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
    pub fn objective(&self, unit: &[usize], lo: &[f64]) -> (Vec<Episode>, Box<dyn TokenObjective>) {
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
    pub fn tuples(&self, lo: &[f64]) -> Vec<(Vec<usize>, f64)> {
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
}
