//! How noisy and how biased the estimate of a method's gradient is along its reported runs, exactly, by the auditor.

use anyhow::{Context, Result, bail};
use rto::advantage::{Spread, WhitenStd};
use rto::algorithm2::{Advantage, PpoConfig, Whitening};
use rto::audit::{
    Critic, Draws, Estimator, Kl, Problem, Recipe, ResponseTree, Reward, Sampled, Summary,
};
use rto::mdp::TabularPolicy;
use rto::reward::TabularReward;
use rto_harness::comparison::gradients::{NOT_WHITENED, SFT, WHITENED};
use rto_harness::comparison::{EXACT_CRITIC, LAMBDA_ONE, REPORT};
use rto_harness::config::{increasing, within};
use rto_harness::methods::Method;
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::untrained::rounded;
use rto_harness::table::Cell;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::train::{self, Run};
use crate::{Instance, Study};

/// Settings of the table `[gradients]`. Every key is documented in `experiments/configs/study.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gradients {
    pub iterations: Vec<u64>,
    pub batches: usize,
    pub groups: usize,
}

impl Gradients {
    /// Refuses what no run can use.
    pub fn check(&self, config: &Config) -> Result<()> {
        within("gradients.batches", self.batches as f64, 3.0, 1e5)?;
        within("gradients.groups", self.groups as f64, 1.0, 1e6)?;
        // Without an iteration the part is switched off.
        if self.iterations.is_empty() {
            return Ok(());
        }
        let times: Vec<f64> = self.iterations.iter().map(|n| *n as f64).collect();
        let last = config.ppo.iterations as f64;
        increasing("gradients.iterations", &times, 0.0, last)?;
        let tree = ResponseTree::try_new(2, 2, None, &[1.0])?;
        let problem = Problem::try_new(tree, &[0.0; 6], &[0.0; 6])?;
        let off = "gradients (`gradients.iterations = []` switches them off)";
        for method in &config.methods {
            let ppo = method.ppo(config.base(Instance::Long), &method.keys(&config.method)?);
            for (key, unlike) in [
                (
                    "ppo.reward_whitening",
                    ppo.reward_whitening != Whitening::Off,
                ),
                ("ppo.entropy_bonus", ppo.entropy_bonus != 0.0),
                ("ppo.bootstrap_truncated", ppo.bootstrap_truncated),
            ] {
                if unlike {
                    bail!("{key}: found it on, expected it off with {off}");
                }
            }
            // A tree of four replies says whether the recipe has a closed form.
            let recipe = recipe(&ppo, ppo.lambda, Critic::Zero);
            let fits = match is_drawn(&recipe) {
                true => recipe.check(),
                false => Summary::in_a_large_batch(&problem, &recipe, &[0.0; 6]).map(drop),
            };
            fits.with_context(|| format!("{} with {off}", method.name))?;
        }
        Ok(())
    }
}

/// The columns of `gradient_runs.csv`, after the cell's id. `noise` is the trace of the covariance of one reply over the squared mean, `trace` over
/// `square`; `bias2` is to the method's own objective, `cosine` and `cosine_true` are of the mean with the gradients of that and of the true one.
pub const COLUMNS: &[&str] = &[
    "instance",
    "method",
    "stage",
    "lambda",
    "whitening",
    "seed",
    "iteration",
    "drawn",
    "noise",
    "bias2",
    "cosine",
    "cosine_true",
    "trace",
    "square",
];

/// Every row of a method on an instance.
pub fn cell(study: &Study, instance: Instance, method: &'static Method) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let point = study.tuned(instance, method)?.at;
    let mut rows = Vec::new();
    for &seed in &c.report_seeds {
        let setup = study.world(instance, seed)?;
        let seeds = study.run_seeds(instance, seed);
        let run = Run {
            method,
            instance,
            point,
            beta2: c.ppo.beta2,
            critic: train::Critic::Learnt,
            setup: &setup,
            seeds: seeds.clone(),
            every: 1,
        };
        run.along(c, |trainer, ppo, table| {
            let iteration = trainer.state().iteration;
            if !c.gradients.iterations.contains(&iteration) {
                return Ok(());
            }
            let ppo = PpoConfig {
                beta2: trainer.state().beta2,
                ..*ppo
            };
            let at = At::new(&setup, table, &trainer.policy()?)?;
            let mut all = Vec::new();
            let learnt = trainer.values().map(<[f64]>::to_vec);
            match learnt {
                None => all.push((REPORT, recipe(&ppo, ppo.lambda, Critic::Zero))),
                Some(v) => {
                    let v = Critic::Given(v);
                    all.push((REPORT, recipe(&ppo, ppo.lambda, v.clone())));
                    all.push((LAMBDA_ONE, recipe(&ppo, 1.0, v)));
                    all.push((EXACT_CRITIC, recipe(&ppo, ppo.lambda, Critic::Exact)));
                    if iteration == 0 {
                        for &lambda in &c.lambdas {
                            let whitened = recipe(&ppo, lambda, Critic::Zero);
                            let plain = Recipe {
                                whitening: None,
                                ..whitened.clone()
                            };
                            all.push((SFT, whitened));
                            all.push((SFT, plain));
                        }
                    }
                }
            }
            for (stage, recipe) in all {
                let drawn = is_drawn(&recipe);
                let estimate = match drawn {
                    true => {
                        let draws = Draws {
                            batches: c.gradients.batches,
                            units: c.gradients.groups,
                        };
                        at.drawn(&recipe, draws, &seeds.child("gradients").index(iteration))?
                    }
                    false => at.exact(&recipe)?,
                };
                let lambda = match recipe.advantage {
                    Estimator::Gae { lambda, .. } => Cell::from(lambda),
                    _ => Cell::Empty,
                };
                let whitening = match recipe.whitening {
                    None => NOT_WHITENED,
                    Some(_) => WHITENED,
                };
                let mut row: Vec<Cell> = vec![
                    instance.name().into(),
                    method.name.into(),
                    stage.into(),
                    lambda,
                    whitening.into(),
                    seed.into(),
                    iteration.into(),
                    u64::from(drawn).into(),
                ];
                row.extend(estimate.map(|v| Cell::from(rounded(v))));
                rows.push(row);
            }
            Ok(())
        })?;
    }
    Ok(rows)
}

/// What a method's step estimates its gradient with: its reward is the table of the problem, ratios are 1 before the first pass.
fn recipe(ppo: &PpoConfig, lambda: f64, critic: Critic) -> Recipe {
    let advantage = match ppo.advantage {
        Advantage::Gae => Estimator::Gae {
            gamma: ppo.gamma,
            lambda,
            critic,
        },
        Advantage::RewardToGo => Estimator::RewardToGo,
        Advantage::LeaveOneOut => Estimator::LeaveOneOut,
        Advantage::LeaveOneOutOfScore => Estimator::LeaveOneOutOfScore,
        Advantage::Greedy => Estimator::Greedy,
        Advantage::Group { divide_by_std } => Estimator::Group {
            spread: match divide_by_std {
                true => Spread::Group { eps: 1e-4 },
                false => Spread::One,
            },
        },
        Advantage::GroupBy { spread } => Estimator::Group { spread },
    };
    let grouped = matches!(
        advantage,
        Estimator::LeaveOneOut | Estimator::LeaveOneOutOfScore | Estimator::Group { .. }
    );
    // Advantages of groups sum to 0 over replies of one length; a spread is one factor of the whole step.
    let shifts = match ppo.advantage_whitening {
        Whitening::Off | Whitening::Scale => false,
        Whitening::ShiftAndScale
        | Whitening::ShiftAndScaleUnbiased
        | Whitening::ShiftAndScaleClamped => !grouped,
    };
    Recipe {
        reward: Reward::Token,
        kl: Some(Kl {
            placement: ppo.kl_placement,
            estimator: ppo.kl_estimator,
        }),
        beta: ppo.beta2,
        advantage,
        whitening: shifts.then_some(WhitenStd::One),
        aggregation: ppo.aggregation,
        responses: if grouped { ppo.responses_per_prompt } else { 1 },
        ..Recipe::default()
    }
}

/// Whether moments of single replies do not give it.
fn is_drawn(recipe: &Recipe) -> bool {
    matches!(
        recipe.advantage,
        Estimator::LeaveOneOutOfScore | Estimator::Group { .. }
    ) || (recipe.responses > 1 && recipe.kl_in_loss().is_some())
}

/// A policy, with the method's own reward and the true one. States of the auditor's tree are those of the table: prompt, depth, prefix.
struct At {
    own: Problem,
    truth: Problem,
    theta: Vec<f64>,
}

impl At {
    fn new(setup: &Setup, table: &TabularReward, policy: &TabularPolicy) -> Result<Self> {
        let mdp = setup.map.mdp();
        let (actions, prompts) = (mdp.n_actions(), setup.map.n_prompts());
        let states = mdp.n_states() / prompts;
        let (mut horizon, mut width, mut above) = (0, 1, 0);
        while above < states {
            above += width;
            width *= actions;
            horizon += 1;
        }
        let weights = vec![1.0 / prompts as f64; prompts];
        let tree = ResponseTree::try_new(actions, horizon, None, &weights)?;
        let reference: Vec<f64> = setup.reference.log_probs().iter().copied().collect();
        let problem = |reward: &TabularReward| {
            let reward: Vec<f64> = reward.values().iter().copied().collect();
            Problem::try_new(tree.clone(), &reward, &reference)
        };
        Ok(Self {
            own: problem(table)?,
            truth: problem(&setup.reward)?,
            theta: policy.log_probs().iter().copied().collect(),
        })
    }

    /// `COLUMNS` from `noise` on.
    fn exact(&self, recipe: &Recipe) -> Result<[f64; 6]> {
        let summary = Summary::in_a_large_batch(&self.own, recipe, &self.theta)?;
        let scaled = summary.scaled();
        Ok([
            summary.noise(),
            // Below that it is rounding.
            scaled.n_star().map_or(0.0, |_| scaled.bias2),
            summary.cosine,
            self.with_truth(recipe, &summary.field)?,
            summary.trace_per_response,
            dot(&summary.field, &summary.field),
        ])
    }

    /// The same from groups that are drawn, |E g|² corrected for what drawing adds to it.
    fn drawn(
        &self,
        recipe: &Recipe,
        draws: Draws,
        seeds: &rto::seed::SeedTree,
    ) -> Result<[f64; 6]> {
        let found = Sampled::at(&self.own, recipe, &self.theta, None, draws, seeds)?;
        let field: Vec<f64> = found.field.iter().map(|e| e.value).collect();
        let square = found.norm_ratio.value.powi(2) * dot(&found.target, &found.target);
        let trace = found.trace_unit * recipe.unit() as f64;
        Ok([
            trace / square,
            found.bias2.value,
            found.cosine.value,
            self.with_truth(recipe, &field)?,
            trace,
            square,
        ])
    }

    /// cos(E g, ∇J) of the true reward.
    fn with_truth(&self, recipe: &Recipe, field: &[f64]) -> Result<f64> {
        let target = self.truth.target(recipe, &self.theta)?;
        Ok(dot(field, &target) / (dot(field, field) * dot(&target, &target)).sqrt())
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rto::algorithm2::KlPlacement;
    use rto::mdp::{StateIx, TokenTree};
    use rto::policy::StateMap;

    /// The auditor's states are those of the table, prompt by prompt.
    #[test]
    fn the_auditor_numbers_states_as_the_table_does() {
        let tree = TokenTree::try_new(2, 3, 3, None).unwrap();
        let map = StateMap::tree(&tree, &[0.5, 0.5]).unwrap();
        let audited = ResponseTree::try_new(3, 3, None, &[0.5, 0.5]).unwrap();
        assert_eq!(audited.n_states(), map.mdp().n_states());
        for s in 0..audited.n_states() {
            for a in 0..3 {
                let next = map
                    .mdp()
                    .next_state(StateIx(s as u32), rto::mdp::ActionIx(a));
                let next = next.filter(|n| *n != StateIx::END).map(StateIx::ix);
                assert_eq!(audited.next(3 * s + a as usize), next);
            }
        }
    }

    #[test]
    fn kl_in_the_loss_of_groups_is_drawn() {
        let grouped = Recipe {
            responses: 4,
            advantage: Estimator::LeaveOneOut,
            ..Recipe::default()
        };
        assert!(!is_drawn(&grouped));
        let kl = Some(Kl {
            placement: KlPlacement::Loss,
            estimator: rto::token_reward::KlEstimator::K3,
        });
        assert!(is_drawn(&Recipe { kl, ..grouped }));
    }
}
