//! Algorithm 2 and its baselines on a token tree, where every policy can be measured exactly: what `algorithm2`, `study` and the Python package share.

pub mod setup;
pub mod untrained;

use std::sync::Arc;

use anyhow::Result;
use ndarray::Array2;
use rto::algorithm2::{
    Advantage, CriticSlot, DpoConfig, Fit, FitConfig, Iteration, OnStep, Pair, PpoConfig, PpoRun,
    PpoState,
};
use rto::mdp::{
    ActionIx, PreferencePair, StateIx, TabularMdp, TabularPolicy, Trajectory, for_each_trajectory,
};
use rto::objective::{PairLoss, Readout};
use rto::policy::{OptimizerConfig, Regressor, StateMap, Table, TabularLearner, TabularSoftmax};
use rto::reward::{RewardFunction, TabularReward};
use rto::seed::SeedTree;
use rto::seq::{Channel, Episode, PolicyLearner, TokenReward};
use rto::token_reward::KlEstimator;

/// A response to prompt number p.
///
/// # Panics
/// If the response has no token.
pub fn episode(map: &StateMap, p: usize, steps: &[(StateIx, ActionIx)]) -> Episode {
    let response: Vec<u32> = steps.iter().map(|(_, a)| a.0).collect();
    Episode {
        finish: map.finish(*response.last().expect("a response has a token")),
        prompt: StateMap::prompt(p),
        response,
    }
}

/// Pairs of trajectories as pairs of responses.
///
/// # Panics
/// If a trajectory does not start at a prompt.
pub fn read_pairs(map: &StateMap, pairs: &[PreferencePair]) -> Vec<Pair> {
    let roots: Vec<StateIx> = map.mdp().roots().map(|(s, _)| s).collect();
    let read = |t: &Trajectory| {
        let p = roots.iter().position(|s| *s == t.start());
        episode(map, p.expect("a response starts at a prompt"), t.steps())
    };
    let pair = |pair: &PreferencePair| Pair {
        winner: read(pair.winner()),
        loser: read(pair.loser()),
    };
    pairs.iter().map(pair).collect()
}

/// π_dpo of line 2 of Algorithm 2: a softmax table that starts at π_ref and follows a loss of pairs with Adam.
///
/// # Errors
/// Those of [`Fit::pairs`], its steps and `on_step`.
pub fn fit_dpo(
    start: &TabularSoftmax,
    pairs: &[Pair],
    (loss, config): (&dyn PairLoss, &DpoConfig),
    seeds: &SeedTree,
    on_step: OnStep<'_>,
) -> Result<TabularSoftmax> {
    let mut learner = dpo_learner(start, loss, config)?;
    let how = (loss, config.beta);
    let mut fit = Fit::pairs(start, pairs, how, &config.fit.check()?, seeds)?;
    while let Some(step) = fit.next(&mut learner)? {
        on_step(&step).map_err(rto::Error::stopped)?;
    }
    Ok(learner.snapshot()?)
}

/// The learner of [`fit_dpo`], for those who take its steps one by one.
///
/// # Errors
/// A learning rate out of range.
pub fn dpo_learner(
    start: &TabularSoftmax,
    loss: &dyn PairLoss,
    config: &DpoConfig,
) -> Result<TabularLearner> {
    let mut policy = start.clone();
    if loss.channels().contains(&Channel::KlFromReference) {
        policy = policy.with_reference(start.table()?.into())?;
    }
    let optimizer = OptimizerConfig::adam(config.fit.learning_rate);
    Ok(TabularLearner::try_new(policy, optimizer)?)
}

/// r_φ of (2.2): a table that starts at 0. Its rate is β times that of the logits, so that one Adam step moves the rewards of both alike.
///
/// # Errors
/// Those of [`Fit::reward`], its steps and `on_step`.
pub fn fit_reward_model(
    map: &Arc<StateMap>,
    pairs: &[Pair],
    config: &DpoConfig,
    seeds: &SeedTree,
    on_step: OnStep<'_>,
) -> Result<Regressor<Table>> {
    let zero = vec![0.0; map.mdp().n_states() * map.mdp().n_actions()];
    let rate = config.beta * config.fit.learning_rate;
    let mut model = Regressor::reward(map.clone(), &zero, OptimizerConfig::adam(rate))?;
    let settings = FitConfig {
        learning_rate: rate,
        ..config.fit
    }
    .check()?;
    let mut fit = Fit::reward(pairs, Readout::Sum, &settings, seeds)?;
    while let Some(step) = fit.next(&mut model)? {
        on_step(&step).map_err(rto::Error::stopped)?;
    }
    Ok(model)
}

/// A reward as a table: on a tree, (s, a) determines the prefix, so that even a reward paid at the end is one.
///
/// # Errors
/// Those of the reward; a reward that depends on what is written later (credit given in hindsight) and so is no r(s, a).
pub fn tabulate(map: &StateMap, reward: &dyn TokenReward) -> Result<TabularReward> {
    let mdp = map.mdp();
    let shape = (mdp.n_states(), mdp.n_actions());
    let (mut table, mut known) = (Array2::zeros(shape), Array2::from_elem(shape, false));
    let mut largest = 0.0f64;
    for p in 0..map.n_prompts() {
        let prompt = StateMap::prompt(p);
        let (mut episodes, mut steps_of) = (Vec::new(), Vec::new());
        for_each_trajectory(mdp, map.root(&prompt)?, |steps| {
            episodes.push(episode(map, p, steps));
            steps_of.push(steps.to_vec());
        })?;
        let rewards = reward.rewards(&episodes)?;
        rewards.check_fits("reward", &episodes)?;
        for (steps, row) in steps_of.iter().zip(rewards.rows()) {
            largest = row.iter().fold(largest, |m, r| m.max(r.abs()));
            for ((s, a), r) in steps.iter().zip(row) {
                let at = [s.ix(), a.ix()];
                let before = std::mem::replace(&mut table[at], *r);
                // What a token earns may round differently in another response, and no more than that.
                if std::mem::replace(&mut known[at], true) && (before - r).abs() > 1e-9 * largest {
                    let must = "a function of prompt, tokens so far and token: credit that depends on later tokens has no exact optimum here";
                    let found = format!("{before} and {r} for one token after one prefix");
                    return Err(rto::Error::config("token reward", found, must).into());
                }
            }
        }
    }
    Ok(TabularReward::try_new(table)?)
}

/// C(s) = Σ_k r(s_k, y_k) over the tokens written before s, `[n_states]`.
pub fn prefix_sums(mdp: &TabularMdp, reward: &impl RewardFunction) -> Vec<f64> {
    let mut sums = vec![0.0; mdp.n_states()];
    // Children come after their parents.
    for s in 0..mdp.n_states() {
        for a in 0..mdp.n_actions() {
            let (state, action) = (StateIx(s as u32), ActionIx(a as u32));
            match mdp.next_state(state, action) {
                None | Some(StateIx::END) => {}
                Some(next) => sums[next.ix()] = sums[s] + reward.reward(state, action),
            }
        }
    }
    sums
}

/// Lines 3 to 8 on a softmax table with a table for a critic, both by SGD.
pub struct Trainer {
    learner: TabularLearner,
    critic: Option<Regressor<Table>>,
    critic_learning_rate: f64,
    state: PpoState,
}

impl Trainer {
    /// The run before its first iteration: π = π_ref, and V = `values`, `[n_states]`, where the advantage asks for a critic.
    ///
    /// # Errors
    /// A learning rate out of range; a reference that does not fit.
    pub fn new(
        start: &TabularSoftmax,
        reference: &TabularPolicy,
        ppo: &PpoConfig,
        values: &[f64],
    ) -> Result<Self> {
        let mut policy = start.clone();
        if ppo.kl_estimator == KlEstimator::Exact {
            policy = policy.with_reference(reference.clone().into())?;
        }
        if ppo.entropy_bonus > 0.0 {
            policy = policy.with_entropy();
        }
        let map = start.map().clone();
        let sgd = OptimizerConfig::sgd;
        let critic = match ppo.advantage {
            Advantage::Gae => Some(Regressor::critic(
                map,
                values,
                sgd(ppo.critic_learning_rate),
            )?),
            _ => None,
        };
        Ok(Self {
            learner: TabularLearner::try_new(policy, sgd(ppo.learning_rate))?,
            critic,
            critic_learning_rate: ppo.critic_learning_rate,
            state: PpoState::new(ppo),
        })
    }

    /// The next iteration, or nothing after the last.
    ///
    /// # Errors
    /// Those of [`PpoRun::next`].
    pub fn next(&mut self, run: &PpoRun<'_>) -> Result<Option<Iteration>> {
        let mut slot = match &mut self.critic {
            Some(critic) => CriticSlot::Separate(critic),
            None => CriticSlot::Absent,
        };
        Ok(run.next(&mut self.learner, &mut slot, &mut self.state)?)
    }

    /// How far the run is.
    pub fn state(&self) -> &PpoState {
        &self.state
    }

    /// π as it is.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn policy(&self) -> Result<TabularPolicy> {
        Ok(self.learner.policy().table()?)
    }

    /// Puts V = `values`, `[n_states]`, in place of what the critic has learnt; a run without a critic stays without.
    ///
    /// # Errors
    /// A wrong length; a value that is not finite.
    pub fn set_values(&mut self, values: &[f64]) -> Result<()> {
        if self.critic.is_some() {
            let map = self.learner.policy().map().clone();
            let sgd = OptimizerConfig::sgd(self.critic_learning_rate);
            self.critic = Some(Regressor::critic(map, values, sgd)?);
        }
        Ok(())
    }

    /// V as it is, `[n_states]`, where there is a critic.
    pub fn values(&self) -> Option<&[f64]> {
        self.critic.as_ref().map(Regressor::params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rto::mdp::TokenTree;
    use rto::seq::Ragged;

    /// What is paid at the end is r(s, a) on a tree; what is spread over the tokens before is not.
    #[test]
    fn a_reward_that_reads_later_tokens_is_no_table() {
        struct Paid(bool);
        impl TokenReward for Paid {
            fn rewards(&self, batch: &[Episode]) -> rto::Result<Ragged> {
                let row = |e: &Episode| {
                    let sum: f64 = e.response.iter().map(|y| f64::from(*y)).sum();
                    let last = e.len() - 1;
                    let at = |h: usize| match self.0 {
                        true => sum / e.len() as f64,
                        false => sum * f64::from(u8::from(h == last)),
                    };
                    (0..e.len()).map(at).collect::<Vec<_>>()
                };
                Ok(Ragged::from_rows(batch.iter().map(row)))
            }
        }
        let map = StateMap::tree(&TokenTree::try_new(1, 2, 2, None).unwrap(), &[1.0]).unwrap();
        let table = tabulate(&map, &Paid(false)).unwrap();
        assert_eq!(table.values().sum(), 1.0 + 1.0 + 2.0);
        let said = tabulate(&map, &Paid(true)).unwrap_err().to_string();
        assert!(said.starts_with("token reward: found 0 and 0.5"), "{said}");
    }
}
