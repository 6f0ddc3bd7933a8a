mod config;
mod rto;
mod stages;
mod table;

use std::sync::Arc;

use table::{LENGTH, State, Table, responses, state};

use super::*;
use crate::Token;
use crate::seed::SeedTree;
use crate::seq::*;
use crate::token_reward::*;

fn prompts() -> Vec<Arc<[Token]>> {
    vec![[1].into(), [2].into()]
}

fn policy() -> Table {
    Table::new(&[Channel::LogProb, Channel::Entropy])
}

/// A π_dpo: some tilt of the uniform policy in every state.
fn tilted() -> Table {
    let mut p = policy();
    for e in prompts().iter().flat_map(responses) {
        for h in 0..e.len() {
            let s = state(&e, h);
            let x = (s.0[0] as usize + 2 * s.1.iter().sum::<Token>() as usize + 3 * h) as f64;
            p.logits
                .insert(s, [(x + 0.3).sin(), (1.7 * x).cos(), (2.3 * x).sin()]);
        }
    }
    p
}

fn ppo() -> PpoConfig {
    PpoConfig {
        iterations: 6,
        prompts_per_iteration: 16,
        minibatch_size: 8,
        beta2: 0.3,
        learning_rate: 1.0,
        critic_learning_rate: 2.0,
        ..PpoConfig::paper()
    }
}

struct Run<'a> {
    reward: &'a dyn TokenReward,
    config: PpoConfig,
}

impl Run<'_> {
    /// Iterations `state.iteration..until`.
    fn go(
        &self,
        learner: &mut Table,
        critic: &mut CriticSlot<'_>,
        state: &mut PpoState,
        until: u64,
    ) -> Vec<IterationReport> {
        let (reference, prompts, config, seeds) = (
            policy(),
            prompts(),
            self.config.check().unwrap(),
            SeedTree::new(11),
        );
        let run = PpoRun {
            reference: &reference,
            reward: self.reward,
            prompts: &prompts,
            config: &config,
            seeds: &seeds,
        };
        let mut reports = Vec::new();
        while state.iteration < until {
            reports.push(run.iterate(learner, critic, state).unwrap());
        }
        reports
    }
}

fn dpo_reward() -> DpoReward<Table, Table> {
    DpoReward::try_new(tilted(), policy(), 0.5).unwrap()
}

fn furthest(a: &Table, b: &Table) -> f64 {
    let all: Vec<_> = prompts().iter().flat_map(responses).collect();
    let (p, q) = (log_probs(a, &all).unwrap(), log_probs(b, &all).unwrap());
    let off = p.zip("other", &q, |x, y| (x - y).abs()).unwrap();
    off.values().iter().copied().fold(0.0, f64::max)
}

/// C(s): the DPO rewards on the prefix.
fn credit() -> Vec<(State, f64)> {
    let all: Vec<_> = prompts().iter().flat_map(responses).collect();
    let reward = dpo_reward().rewards(&all).unwrap();
    let each = |(i, e): (usize, &Episode)| -> Vec<_> {
        let sum = |h: usize| reward.row(i)[..h].iter().sum();
        (0..e.len()).map(|h| (state(e, h), sum(h))).collect()
    };
    all.iter().enumerate().flat_map(each).collect()
}

/// A reward less the score of the greedy response of a policy, at the last token: then the return from every token is less it too.
struct LessGreedy<'a>(&'a dyn TokenReward, Table);

impl TokenReward for LessGreedy<'_> {
    fn rewards(&self, batch: &[Episode]) -> crate::Result<Ragged> {
        let prompts: Vec<_> = batch.iter().map(|e| e.prompt.clone()).collect();
        let greedy = self.0.rewards(&self.1.greedy(&prompts)?)?.row_sums();
        let mut out = self.0.rewards(batch)?;
        for (i, g) in greedy.iter().enumerate() {
            *out.row_mut(i).last_mut().unwrap() -= g;
        }
        Ok(out)
    }

    fn components(&self, batch: &[Episode]) -> crate::Result<Vec<(&'static str, Ragged)>> {
        Ok(vec![("less_greedy", self.rewards(batch)?)])
    }
}

#[test]
fn remax_is_reinforce_on_the_reward_less_that_of_the_greedy_response() {
    let reward = PaidAtEnd(dpo_reward());
    let start = || {
        let mut p = tilted();
        p.logits.values_mut().for_each(|z| z.reverse());
        p
    };
    let less = LessGreedy(&reward, start());
    let end = |reward: &dyn TokenReward, advantage| {
        let config = PpoConfig {
            advantage,
            policy_loss: PolicyLoss::PolicyGradient,
            advantage_whitening: Whitening::Off,
            value_clip: None,
            epochs: 1,
            minibatch_size: 16,
            ..ppo()
        };
        let mut learner = start();
        let run = Run { reward, config };
        let mut state = PpoState::new(&config);
        run.go(&mut learner, &mut CriticSlot::Absent, &mut state, 1);
        learner
    };
    let remax = end(&reward, Advantage::Greedy);
    assert!(furthest(&remax, &end(&less, Advantage::RewardToGo)) < 1e-12);
    assert!(furthest(&remax, &end(&reward, Advantage::RewardToGo)) > 1e-3);
}

/// Audit F3 through the whole driver: six iterations of two epochs, critic training, clipping and whitening of advantages included.
#[test]
fn rto_is_dppo_with_another_initial_critic() {
    let (dense, sparse) = (dpo_reward(), PaidAtEnd(dpo_reward()));
    let ends = |reward: &dyn TokenReward, offset: bool, config: PpoConfig| {
        let (mut learner, mut critic) = (policy(), Table::new(&[Channel::Value]));
        if offset {
            critic.values.extend(credit());
        }
        let mut state = PpoState::new(&config);
        let run = Run { reward, config };
        run.go(
            &mut learner,
            &mut CriticSlot::Separate(&mut critic),
            &mut state,
            6,
        );
        learner
    };
    for lambda in [0.0, 0.5, 1.0] {
        let config = PpoConfig { lambda, ..ppo() };
        let rto = ends(&dense, false, config);
        assert!(furthest(&rto, &policy()) > 0.1, "nothing was learnt");
        assert!(furthest(&rto, &ends(&sparse, true, config)) < 1e-10);
        assert!(furthest(&rto, &ends(&sparse, false, config)) > 1e-3);
    }
    let config = PpoConfig {
        gamma: 0.9,
        ..ppo()
    };
    assert!(furthest(&ends(&dense, false, config), &ends(&sparse, true, config)) > 1e-3);
}

#[test]
fn a_run_resumes_from_its_plain_state() {
    let (reward, config) = (
        dpo_reward(),
        PpoConfig {
            prompts_per_iteration: 3,
            adaptive_kl: Some(AdaptiveKl {
                target: 0.1,
                horizon: 10.0,
            }),
            ..ppo()
        },
    );
    let run = Run {
        reward: &reward,
        config,
    };
    let (mut a, mut ca, mut sa) = (
        policy(),
        Table::new(&[Channel::Value]),
        PpoState::new(&config),
    );
    let whole = run.go(&mut a, &mut CriticSlot::Separate(&mut ca), &mut sa, 6);
    let (mut b, mut cb, mut sb) = (
        policy(),
        Table::new(&[Channel::Value]),
        PpoState::new(&config),
    );
    let mut parts = run.go(&mut b, &mut CriticSlot::Separate(&mut cb), &mut sb, 2);
    let (mut b, mut cb, mut sb) = (b.clone(), cb.clone(), sb);
    parts.extend(run.go(&mut b, &mut CriticSlot::Separate(&mut cb), &mut sb, 6));
    assert_eq!(whole, parts);
    assert_eq!(sa, sb);
    assert!(sa.beta2 != config.beta2 && sa.prompts_seen == 18);
    assert_eq!(furthest(&a, &b), 0.0);
}

/// Parameters of policy and value are apart in a table, so one step on the sum is the two steps.
#[test]
fn a_shared_trunk_is_the_sum_of_both_losses() {
    let config = PpoConfig {
        critic_learning_rate: 1.0,
        ..ppo()
    };
    let reward = dpo_reward();
    let run = Run {
        reward: &reward,
        config,
    };
    let (mut a, mut critic) = (policy(), Table::new(&[Channel::Value]));
    run.go(
        &mut a,
        &mut CriticSlot::Separate(&mut critic),
        &mut PpoState::new(&config),
        4,
    );
    let mut b = Table::new(&[Channel::LogProb, Channel::Value]);
    run.go(
        &mut b,
        &mut CriticSlot::SharedTrunk,
        &mut PpoState::new(&config),
        4,
    );
    assert!(furthest(&a, &b) < 1e-13 && furthest(&a, &policy()) > 0.1);
    assert!(
        b.values
            .iter()
            .all(|(s, v)| (critic.values[s] - v).abs() < 1e-13)
    );
}

/// Mean of β₁ log(π_dpo/π_ref) − β₂ log(π/π_ref) over all responses, exactly.
fn objective(p: &Table, beta1: f64, beta2: f64, dpo: &Table) -> f64 {
    let all: Vec<_> = prompts().iter().flat_map(responses).collect();
    let sums = |t: &Table| log_probs(t, &all).unwrap().row_sums();
    let (p, d, r) = (sums(p), sums(dpo), sums(&policy()));
    (0..all.len())
        .map(|i| p[i].exp() / 2.0 * (beta1 * (d[i] - r[i]) - beta2 * (p[i] - r[i])))
        .sum()
}

/// β₂ log Σ_y π_ref (π_dpo/π_ref)^{β₁/β₂}: the largest value the objective can take.
fn optimum(beta1: f64, beta2: f64, dpo: &Table) -> f64 {
    let one = |x: &Arc<[Token]>| {
        let all = responses(x);
        let sums = |t: &Table| log_probs(t, &all).unwrap().row_sums();
        let (d, r) = (sums(dpo), sums(&policy()));
        let z: Vec<_> = (0..all.len())
            .map(|i| r[i] + beta1 / beta2 * (d[i] - r[i]))
            .collect();
        beta2 * crate::numerics::log_sum_exp(&z) / 2.0
    };
    prompts().iter().map(one).sum()
}

#[test]
fn every_estimator_climbs_to_the_closed_form() {
    let (reward, dpo) = (dpo_reward(), tilted());
    let best = optimum(0.5, 0.3, &dpo);
    let start = objective(&policy(), 0.5, 0.3, &dpo);
    let base = PpoConfig {
        iterations: 150,
        prompts_per_iteration: 32,
        minibatch_size: 64,
        learning_rate: 2.0,
        schedule: Schedule::Linear { warmup: 0.0 },
        ..ppo()
    };
    let group = PpoConfig {
        responses_per_prompt: 4,
        prompts_per_iteration: 8,
        ..base
    };
    let free = PpoConfig {
        advantage_whitening: Whitening::Off,
        ..group
    };
    let cases = [
        ("gae", base),
        (
            "reinforce++",
            PpoConfig {
                advantage: Advantage::RewardToGo,
                ..base
            },
        ),
        (
            "rloo",
            PpoConfig {
                advantage: Advantage::LeaveOneOut,
                policy_loss: PolicyLoss::PolicyGradient,
                aggregation: crate::objective::Aggregation::SequenceSum,
                epochs: 1,
                ..free
            },
        ),
        (
            "grpo",
            PpoConfig {
                advantage: Advantage::Group {
                    divide_by_std: false,
                },
                kl_estimator: KlEstimator::K2,
                kl_placement: KlPlacement::Loss,
                ..free
            },
        ),
    ];
    for (name, config) in cases {
        let (mut learner, mut critic) = (policy(), Table::new(&[Channel::Value]));
        let mut slot = match config.advantage {
            Advantage::Gae => CriticSlot::Separate(&mut critic),
            _ => CriticSlot::Absent,
        };
        let run = Run {
            reward: &reward,
            config,
        };
        let reports = run.go(&mut learner, &mut slot, &mut PpoState::new(&config), 150);
        let got = objective(&learner, 0.5, 0.3, &dpo);
        let left = (best - got) / (best - start);
        assert!(
            (0.0..0.1).contains(&left),
            "{name}: {left} of the gap from {start} to {best} is left"
        );
        let last = reports.last().unwrap();
        assert!(last.response_length <= LENGTH as f64 && last.entropy.is_some());
        assert_eq!(last.rewards.len(), 1);
    }
}
