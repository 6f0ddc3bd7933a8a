//! Random token trees with every reward that Algorithm 2 and its baselines may learn from.

use anyhow::Result;
use ndarray::Array2;
use rand_distr::{Distribution, StandardNormal};
use rto::algorithm2::{Fit, FitConfig, Pair};
use rto::estimate::sample_preferences;
use rto::mdp::{Beta, StateIx, TabularPolicy, TokenTree, Trajectory, for_each_trajectory};
use rto::objective::Readout;
use rto::policy::{OptimizerConfig, Regressor, StateMap, Table, TabularLearner, TabularSoftmax};
use rto::reward::{RewardModel, TabularReward};
use rto::seed::SeedTree;
use rto::seq::{Channel, Episode, PolicyLearner, TokenReward};
use rto::token_reward::DpoReward;
use std::sync::Arc;

use crate::config::Config;

/// Sizes of an instance and of its data set.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub actions: usize,
    pub horizon: usize,
    pub pairs: usize,
}

/// An instance: the truth, π_ref, and what was learnt from preferences before PPO starts.
pub struct Problem {
    pub map: Arc<StateMap>,
    /// r, unknown to every method.
    pub reward: TabularReward,
    pub reference: TabularPolicy,
    /// π_ref as a member of the seam.
    pub start: TabularSoftmax,
    /// π_dpo of line 2 of Algorithm 2.
    pub dpo: TabularSoftmax,
    /// r_φ of (2.2), fitted to the same pairs.
    pub reward_model: Regressor<Table>,
    /// β of DPO, and β₁.
    pub beta1: Beta,
}

impl Problem {
    /// Draws r and π_ref, then the data set, then fits π_dpo and r_φ.
    ///
    /// r(s, a) is Gaussian, π_ref a softmax of Gaussian logits; both responses of a pair are drawn from π_ref.
    pub fn new(config: &Config, size: Size, seeds: &SeedTree) -> Result<Self> {
        let tree = TokenTree::try_new(config.prompts, size.actions, size.horizon, None)?;
        let initial = vec![1.0 / config.prompts as f64; config.prompts];
        let map = StateMap::tree(&tree, &initial)?;
        let shape = (map.mdp().n_states(), map.mdp().n_actions());
        let reward = normal(shape, config.reward_scale, &seeds.child("reward"));
        let logits = normal(shape, config.reference_scale, &seeds.child("reference"));
        let reference = TabularPolicy::from_logits(logits)?;
        let start = TabularSoftmax::from_policy(map.clone(), &reference)?;
        let reward = TabularReward::try_new(reward)?;
        let pairs = draw_pairs(&map, &reward, &reference, size.pairs, seeds)?;
        Ok(Self {
            dpo: fit_dpo(config, &start, &pairs, seeds)?,
            reward_model: fit_model(config, &map, &pairs, seeds)?,
            map,
            reward,
            reference,
            start,
            beta1: Beta::try_new(config.dpo.beta)?,
        })
    }

    /// (4.5).
    pub fn dpo_reward(&self) -> Result<DpoReward<&TabularSoftmax, &TabularSoftmax>> {
        Ok(DpoReward::try_new(
            &self.dpo,
            &self.start,
            self.beta1.get(),
        )?)
    }

    /// C(s) = Σ_k r(s_k, y_k) over the tokens written before s, `[n_states]`.
    pub fn prefix_sums(&self, reward: &impl RewardModel) -> Vec<f64> {
        let mdp = self.map.mdp();
        let mut sums = vec![0.0; mdp.n_states()];
        // Children come after their parents.
        for s in 0..mdp.n_states() {
            for a in 0..mdp.n_actions() {
                let (state, action) = (StateIx(s as u32), rto::mdp::ActionIx(a as u32));
                let next = self.map.next(state, action);
                if next != StateIx::END {
                    sums[next.ix()] = sums[s] + reward.reward(state, action);
                }
            }
        }
        sums
    }

    /// A reward as a table: on a tree, (s, a) determines the prefix, so that even a reward paid at the end is one.
    pub fn tabulate(&self, reward: &dyn TokenReward) -> Result<TabularReward> {
        let mdp = self.map.mdp();
        let mut table = Array2::zeros((mdp.n_states(), mdp.n_actions()));
        for p in 0..self.map.n_prompts() {
            let prompt = StateMap::prompt(p);
            let (mut episodes, mut steps_of) = (Vec::new(), Vec::new());
            for_each_trajectory(mdp, self.map.root(&prompt)?, |steps| {
                episodes.push(episode(&self.map, p, steps));
                steps_of.push(steps.to_vec());
            })?;
            let rewards = reward.rewards(&episodes)?;
            for (steps, row) in steps_of.iter().zip(rewards.rows()) {
                for ((s, a), r) in steps.iter().zip(row) {
                    table[[s.ix(), a.ix()]] = *r;
                }
            }
        }
        Ok(TabularReward::try_new(table)?)
    }
}

fn normal(shape: (usize, usize), scale: f64, seeds: &SeedTree) -> Array2<f64> {
    let mut rng = seeds.rng();
    Array2::from_shape_fn(shape, |_| {
        let z: f64 = StandardNormal.sample(&mut rng);
        scale * z
    })
}

/// A response to prompt number p.
pub fn episode(map: &StateMap, p: usize, steps: &[(StateIx, rto::mdp::ActionIx)]) -> Episode {
    let response: Vec<u32> = steps.iter().map(|(_, a)| a.0).collect();
    Episode {
        finish: map.finish(*response.last().expect("a response has a token")),
        prompt: StateMap::prompt(p),
        response,
    }
}

fn draw_pairs(
    map: &Arc<StateMap>,
    reward: &TabularReward,
    reference: &TabularPolicy,
    n: usize,
    seeds: &SeedTree,
) -> Result<Vec<Pair>> {
    let behaviours = (reference, reference);
    let drawn = sample_preferences(map.mdp(), reward, behaviours, n, &seeds.child("pairs"))?;
    let roots: Vec<StateIx> = map.mdp().roots().map(|(s, _)| s).collect();
    let read = |t: &Trajectory| {
        let p = roots.iter().position(|s| *s == t.start());
        episode(map, p.expect("a response starts at a prompt"), t.steps())
    };
    Ok(drawn
        .iter()
        .map(|pair| Pair {
            winner: read(pair.winner()),
            loser: read(pair.loser()),
        })
        .collect())
}

fn fit_dpo(
    config: &Config,
    start: &TabularSoftmax,
    pairs: &[Pair],
    seeds: &SeedTree,
) -> Result<TabularSoftmax> {
    let settings = config.dpo.check()?;
    let optimizer = OptimizerConfig::adam(settings.fit.learning_rate);
    let mut policy = start.clone();
    if settings
        .loss
        .loss()
        .channels()
        .contains(&Channel::KlFromReference)
    {
        policy = policy.with_reference(start.table()?.into())?;
    }
    let mut learner = TabularLearner::try_new(policy, optimizer)?;
    let mut fit = Fit::dpo(start, pairs, &settings, &seeds.child("fit"))?;
    while fit.next(&mut learner)?.is_some() {}
    Ok(learner.snapshot()?)
}

fn fit_model(
    config: &Config,
    map: &Arc<StateMap>,
    pairs: &[Pair],
    seeds: &SeedTree,
) -> Result<Regressor<Table>> {
    let zero = vec![0.0; map.mdp().n_states() * map.mdp().n_actions()];
    // The rate of r_φ is β₁ times that of the logits, so that one Adam step moves both rewards alike.
    let rate = config.dpo.beta * config.dpo.fit.learning_rate;
    let mut model = Regressor::reward(map.clone(), &zero, OptimizerConfig::adam(rate))?;
    let settings = FitConfig {
        learning_rate: rate,
        ..config.dpo.fit
    }
    .check()?;
    let mut fit = Fit::reward(pairs, Readout::Sum, &settings, &seeds.child("fit"))?;
    while fit.next(&mut model)?.is_some() {}
    Ok(model)
}
