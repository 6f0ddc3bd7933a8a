//! Algorithm 2, line by line.

use std::sync::Arc;

use super::fit::{dpo, fit_steps, interleave};
use super::{Checked, CriticSlot, IterationReport, Pair, PpoRun, PpoState, RtoConfig};
use crate::objective::ppo_diagnostics;
use crate::seed::SeedTree;
use crate::seq::{PolicyLearner, StepReport, TokenReward, TokenScorer};
use crate::token_reward::{Both, DpoReward, SentenceReward, log_probs};
use crate::{Error, Result, Token};

/// Line 1: what goes into Algorithm 2, apart from the learners.
#[derive(Clone, Copy)]
pub struct RtoInput<'a> {
    /// 𝒟.
    pub pairs: &'a [Pair],
    /// β₁, β₂ and every choice of DPO and PPO-Update.
    pub config: &'a Checked<RtoConfig>,
    /// The streams of the run.
    pub seeds: &'a SeedTree,
    /// r_φ of (2.2), given if and only if `config.reward_model` asks for it.
    pub reward_model: Option<&'a dyn TokenScorer>,
}

/// What Algorithm 2 leaves besides π_T, which is the learner.
pub struct RtoOutput<P> {
    /// π_ref.
    pub reference: P,
    /// π_dpo of line 2.
    pub dpo: P,
    /// The state after the last iteration.
    pub state: PpoState,
}

/// Told of each DPO step and each iteration.
pub trait Observer<L> {
    /// After a step of line 2.
    ///
    /// # Errors
    /// Ends the run.
    fn on_dpo_step(&mut self, _step: u64, _report: &StepReport) -> Result<()> {
        Ok(())
    }

    /// After line 7, with π_t.
    ///
    /// # Errors
    /// Ends the run.
    fn on_iteration(&mut self, _learner: &L, _report: &IterationReport) -> Result<()> {
        Ok(())
    }
}

/// Observes nothing.
impl<L> Observer<L> for () {}

/// Algorithm 2. `dpo_learner` and `learner` both start from π_ref; they end as π_dpo and π_T.
///
/// For runs that are interrupted, or share one π_dpo, call [`dpo`] and [`PpoRun::iterate`]: this is no more than the two.
///
/// # Errors
/// No pairs; learners that start from different policies; a reward model that is missing or not asked for; those of both stages and of the observer.
pub fn rto<L: PolicyLearner>(
    dpo_learner: &mut L,
    learner: &mut L,
    critic: &mut CriticSlot<'_>,
    input: RtoInput<'_>,
    observer: &mut dyn Observer<L>,
) -> Result<RtoOutput<L::Policy>> {
    let RtoInput {
        pairs,
        config,
        seeds,
        reward_model,
    } = input;
    if config.reward_model != reward_model.is_some() {
        let found = match reward_model {
            Some(_) => "given",
            None => "missing",
        };
        let must = format!(
            "given if and only if reward_model = true (it is {})",
            config.reward_model
        );
        return Err(Error::config("reward model", found, must));
    }
    let reference = learner.snapshot()?;
    check_same_start(dpo_learner.policy(), &reference, pairs, config)?;

    // Line 2.
    let (checked, node) = (config.dpo(), seeds.child("dpo"));
    let steps = 0..fit_steps(pairs.len(), &config.dpo.fit);
    dpo(
        dpo_learner,
        &reference,
        pairs,
        &checked,
        &node,
        steps,
        &mut |step, report| observer.on_dpo_step(step, report),
    )?;
    let dpo = dpo_learner.snapshot()?;

    // Line 6 without its KL term, and line 4: only the prompts of 𝒟.
    let mut token = DpoReward::try_new(&dpo, &reference, config.beta1)?;
    if let Some(c) = config.dpo_reward_clip {
        token = token.clipped(c)?;
    }
    let reward: Box<dyn TokenReward + '_> = match reward_model {
        Some(model) => Box::new(Both(token, SentenceReward::new(model).clipped(10.0)?)),
        None => Box::new(token),
    };
    let prompts: Vec<Arc<[Token]>> = pairs.iter().map(|p| p.winner.prompt.clone()).collect();
    let ppo = config.ppo();
    let run = PpoRun {
        reference: &reference,
        reward: &*reward,
        prompts: &prompts,
        config: &ppo,
        seeds: &seeds.child("ppo"),
    };

    // Lines 3–8.
    let mut state = PpoState::new(&ppo);
    while state.iteration < ppo.iterations {
        let report = run.iterate(learner, critic, &mut state)?;
        observer.on_iteration(learner, &report)?;
    }
    drop(reward);
    Ok(RtoOutput {
        reference,
        dpo,
        state,
    })
}

fn check_same_start<P: crate::seq::Policy>(
    dpo: &P,
    reference: &P,
    pairs: &[Pair],
    config: &RtoConfig,
) -> Result<()> {
    let first: Vec<_> = (0..pairs.len().min(8)).collect();
    let batch = interleave(pairs, &first);
    let (p, q) = (log_probs(dpo, &batch)?, log_probs(reference, &batch)?);
    let off = ppo_diagnostics(&q, &p, config.ppo.clip)?.ratio_deviation;
    if off <= config.ppo.ratio_tolerance {
        return Ok(());
    }
    let found = format!("a policy whose ratio to the other's is 1 ± {off:e}");
    Err(Error::config(
        "start of the DPO learner",
        found,
        "π_ref, from which the policy starts too",
    ))
}
