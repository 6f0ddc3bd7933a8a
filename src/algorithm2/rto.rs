//! Algorithm 2, line by line, from any step to the next.

use std::sync::Arc;

use super::fit::interleave;
use super::{
    Checked, CriticSlot, Fit, Iteration, Pair, PpoConfig, PpoRun, PpoState, RtoConfig, Step,
};
use crate::objective::ppo_diagnostics;
use crate::seed::SeedTree;
use crate::seq::{Policy, PolicyLearner, TokenReward, TokenScorer};
use crate::token_reward::{Both, DpoReward, SentenceReward, log_probs};
use crate::{BoxError, Error, Result, Token};

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

/// How far a run of Algorithm 2 is: with both learners and the critic, all that a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct RtoState {
    /// Steps of line 2 taken.
    pub dpo_steps: u64,
    /// Lines 3–8.
    pub ppo: PpoState,
}

impl RtoState {
    /// Before the first step.
    pub fn new(config: &RtoConfig) -> Self {
        Self {
            dpo_steps: 0,
            ppo: PpoState::new(&config.ppo),
        }
    }
}

/// What a call of [`Rto::next`] did.
#[derive(Debug, Clone)]
pub enum RtoStep {
    /// A step of line 2.
    Dpo(Step),
    /// Lines 4–7 once.
    Ppo(Iteration),
}

/// Algorithm 2 as a run that can stop after any step and go on in another process.
///
/// Nothing but [`RtoState`], the learners and the critic changes, and every random stream is keyed by the step it is for, so a
/// caller that saves them between two calls of [`Rto::next`] and later calls [`Rto::resume`] gets the same bits. It is no more than
/// [`Fit::dpo`] and then [`PpoRun::next`]. A program that trains several policies against one π_dpo drives these two itself,
/// as `algorithm2` and `rto_llm` do: what runs is the same.
pub struct Rto<'a, P> {
    input: RtoInput<'a>,
    reference: &'a P,
    line_2: Fit<'a>,
    /// π_dpo, once line 2 is done.
    dpo: Option<P>,
    prompts: Vec<Arc<[Token]>>,
    ppo: Checked<PpoConfig>,
    ppo_seeds: SeedTree,
    state: RtoState,
}

impl<'a, P: Policy> Rto<'a, P> {
    /// Line 1, for learners that both start from `reference` = π_ref.
    ///
    /// # Errors
    /// No pairs; a reward model that is missing or not asked for.
    pub fn new(reference: &'a P, input: RtoInput<'a>) -> Result<Self> {
        Self::resume(reference, input, RtoState::new(input.config))
    }

    /// The run as it was when `state` was saved, for the learners that were saved with it.
    ///
    /// # Errors
    /// No pairs; a reward model that is missing or not asked for.
    pub fn resume(reference: &'a P, input: RtoInput<'a>, state: RtoState) -> Result<Self> {
        let (asked, given) = (input.config.reward_model, input.reward_model.is_some());
        if asked != given {
            let found = if given { "given" } else { "missing" };
            let must = format!("given if and only if reward_model = true (it is {asked})");
            return Err(Error::config("reward model", found, must));
        }
        let prompts = input.pairs.iter().map(|p| p.winner.prompt.clone());
        let (dpo, node) = (input.config.dpo(), input.seeds.child("dpo"));
        Ok(Self {
            line_2: Fit::dpo(reference, input.pairs, &dpo, &node)?.from(state.dpo_steps),
            dpo: None,
            // Line 4: only the prompts of 𝒟.
            prompts: prompts.collect(),
            ppo: input.config.ppo(),
            ppo_seeds: input.seeds.child("ppo"),
            reference,
            input,
            state,
        })
    }

    /// How far the run is.
    pub fn state(&self) -> RtoState {
        self.state
    }

    /// The next step of line 2, or after its last the next iteration of lines 3–8, or nothing after the last of them.
    ///
    /// # Errors
    /// Those of [`Fit::next`] and [`PpoRun::next`]. After one the learners may have been stepped: go on from what was saved.
    pub fn next<L: PolicyLearner<Policy = P>>(
        &mut self,
        dpo_learner: &mut L,
        learner: &mut L,
        critic: &mut CriticSlot<'_>,
    ) -> Result<Option<RtoStep>> {
        // Line 2.
        if let Some(step) = self.line_2.next(dpo_learner)? {
            self.state.dpo_steps = self.line_2.done();
            return Ok(Some(RtoStep::Dpo(step)));
        }
        let config = self.input.config;
        let dpo = match self.dpo.take() {
            Some(dpo) => dpo,
            None => dpo_learner.snapshot()?,
        };
        let dpo = &*self.dpo.insert(dpo);
        // Line 6 without its KL term.
        let mut token = DpoReward::try_new(dpo, self.reference, config.beta1)?;
        if let Some(c) = config.dpo_reward_clip {
            token = token.clipped(c)?;
        }
        let reward: Box<dyn TokenReward + '_> = match self.input.reward_model {
            Some(model) => Box::new(Both(token, SentenceReward::new(model).clipped(10.0)?)),
            None => Box::new(token),
        };
        let run = PpoRun {
            reference: self.reference,
            reward: &*reward,
            prompts: &self.prompts,
            config: &self.ppo,
            seeds: &self.ppo_seeds,
        };
        // Lines 3–8.
        let iteration = run.next(learner, critic, &mut self.state.ppo)?;
        Ok(iteration.map(RtoStep::Ppo))
    }
}

/// What Algorithm 2 leaves besides π_T, which is the learner.
pub struct RtoOutput<P> {
    /// π_ref.
    pub reference: P,
    /// π_dpo of line 2.
    pub dpo: P,
    /// The state after the last iteration.
    pub state: RtoState,
}

/// Algorithm 2 from its first step to its last, told of each with π_t: [`Rto`] in one call. `dpo_learner` and `learner` both start
/// from π_ref; they end as π_dpo and π_T.
///
/// # Errors
/// Learners that start from different policies; those of [`Rto::new`], [`Rto::next`] and `on_step`, each of which ends the run.
pub fn rto<L: PolicyLearner>(
    dpo_learner: &mut L,
    learner: &mut L,
    critic: &mut CriticSlot<'_>,
    input: RtoInput<'_>,
    on_step: &mut dyn FnMut(&L, &RtoStep) -> std::result::Result<(), BoxError>,
) -> Result<RtoOutput<L::Policy>> {
    let reference = learner.snapshot()?;
    let mut run = Rto::new(&reference, input)?;
    check_same_start(dpo_learner.policy(), &reference, input.pairs, input.config)?;
    while let Some(step) = run.next(dpo_learner, learner, critic)? {
        on_step(learner, &step).map_err(Error::stopped)?;
    }
    let state = run.state();
    let dpo = match run.dpo.take() {
        Some(dpo) => dpo,
        None => dpo_learner.snapshot()?,
    };
    drop(run);
    Ok(RtoOutput {
        reference,
        dpo,
        state,
    })
}

fn check_same_start<P: Policy>(
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
