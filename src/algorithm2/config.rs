//! Every choice of Algorithm 2, named.
//!
//! The paper states part of them (Tables 2–5); the rest are marked "not stated" below with the default taken.

use super::fit_config::{Checked, DpoConfig, Schedule};
use crate::advantage::Spread;
use crate::check;
use crate::objective::{Aggregation, Ratio, Surrogate};
use crate::seq::Decoder;
use crate::token_reward::{AdaptiveKl, KlEstimator};
use crate::{Error, Result};

/// Line 7 of Algorithm 2, "PPO-Update", leaves it open: How advantages are estimated from token rewards.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
pub enum Advantage {
    /// Generalised advantage estimation with a critic.
    #[default]
    Gae,
    /// Σ_{k≥h} γ^{k−h} r_k without a critic: REINFORCE, and REINFORCE++ with whitening over the rollout.
    RewardToGo,
    /// The response's return minus the mean of the other responses to its prompt (RLOO).
    LeaveOneOut,
    /// The response's return minus the mean of its prompt's responses, over their standard deviation if asked for (GRPO; Dr. GRPO without).
    Group {
        /// Whether to divide.
        divide_by_std: bool,
    },
    /// As [`Advantage::Group`], over the standard deviation of another framework.
    GroupBy {
        /// What the distance from the mean is divided by.
        spread: Spread,
    },
    /// RLOO as OpenRLHF has it: leave-one-out of the score alone, then the KL term of the reward as a reward to go.
    LeaveOneOutOfScore,
    /// ReMax (Li et al., 2024): Σ_{k≥h} r_k minus the score, without a KL term, of the policy's greedy response to the same prompt. Summed
    /// over tokens it is unbiased (`paper-notes/estimators.md`, claim 13).
    Greedy,
}

/// Line 7 of Algorithm 2: The loss of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum PolicyLoss {
    /// PPO's clipped surrogate.
    #[default]
    Clipped,
    /// −Â log π: REINFORCE and RLOO. On-policy only at the first step of an iteration, so it asks for one epoch of one minibatch.
    PolicyGradient,
}

/// Line 6 of Algorithm 2, or GRPO: Where the KL term acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum KlPlacement {
    /// −β₂·kl in the reward of every token, as in (2.3), (4.6) and (5.1).
    #[default]
    Reward,
    /// +β₂·kl in the loss (GRPO).
    ///
    /// Its expected gradient is that of the KL at each visited state, with the visitation held fixed: the KL of later states is
    /// missing when H > 1, so that it is the gradient of KL(π ‖ π_ref) over responses only at H = 1
    /// (`paper-notes/estimators.md`, claims 03b to 03h, 18a).
    Loss,
    /// In both: for `exact` and k3 the two halves add up to the gradient of KL(π ‖ π_ref) over responses (claims 05d, 26).
    Both,
}

/// Not stated in the paper: Masked whitening of advantages or rewards over the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Whitening {
    /// Left as they are.
    #[default]
    Off,
    /// Divided by their standard deviation; the mean is divided too, not removed.
    Scale,
    /// Mean removed, then divided by their standard deviation.
    ShiftAndScale,
    /// As [`Whitening::ShiftAndScale`] with Bessel's correction (verl).
    ShiftAndScaleUnbiased,
    /// As [`Whitening::ShiftAndScale`] with the variance held above 1e-8 instead of 1e-8 added (OpenRLHF).
    ShiftAndScaleClamped,
}

/// The PPO trainer of Algorithm 2.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct PpoConfig {
    /// T of line 3, ≥ 1.
    pub iterations: u64,
    /// |𝒟_t|, prompts per iteration, ≥ 1. Tables 4 and 5: 256.
    pub prompts_per_iteration: usize,
    /// Responses drawn per prompt, ≥ 1; the group of the group estimators. Line 5: one.
    pub responses_per_prompt: usize,
    /// β₂ ≥ 0, the weight of KL(π ‖ π_ref); the first value if `adaptive_kl` moves it. Table 5: 0.03 (RTO), 0.05 (DPPO, PPO).
    pub beta2: f64,
    /// Line 6 is k1.
    pub kl_estimator: KlEstimator,
    /// Line 6 puts the term into the reward.
    pub kl_placement: KlPlacement,
    /// "Init KL coefficient" of Tables 4 and 5 hints at one; not stated; none.
    #[cfg_attr(feature = "serde", serde(with = "super::off"))]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// Not stated; GAE.
    pub advantage: Advantage,
    /// γ ∈ [0, 1]. Not stated; 1. Below 1 the telescoping of (4.3) is lost.
    pub gamma: f64,
    /// λ ∈ [0, 1] of GAE. Not stated; 0.95.
    pub lambda: f64,
    /// Whether the value of the final state of a response cut at its longest length is added to its return. Not stated; no.
    pub bootstrap_truncated: bool,
    /// Not stated; off (the authors' later code has none).
    pub reward_whitening: Whitening,
    /// Not stated; shift and scale. Returns are taken before it.
    pub advantage_whitening: Whitening,
    /// Not stated; the clipped surrogate ("PPO").
    pub policy_loss: PolicyLoss,
    /// ε > 0: ratios beyond [1 − ε, 1 + ε] gain nothing. Not stated; 0.2.
    pub clip: f64,
    /// Another upper end 1 + ε_high > 1 of the clip (clip-higher of DAPO). Not stated; `clip`.
    #[cfg_attr(feature = "serde", serde(with = "super::off"))]
    pub clip_high: Option<f64>,
    /// Which ratio the clipped loss is taken in. Not stated; each token's.
    pub ratio: Ratio,
    /// Largest loss of a token with Â < 0 as a multiple of |Â|, > 1 (dual clip). Not stated; none.
    #[cfg_attr(feature = "serde", serde(with = "super::off"))]
    pub dual_clip: Option<f64>,
    /// Weight > 0 of ½(V − R)². Not stated; 0.1. Only its product with the critic's learning rate counts for a separate critic under SGD.
    pub value_coef: f64,
    /// V may move by this much from its rollout value before its loss stops falling, > 0. Not stated; 0.2.
    #[cfg_attr(feature = "serde", serde(with = "super::off"))]
    pub value_clip: Option<f64>,
    /// Weight ≥ 0 of the entropy of π(·|s_h), which asks the policy for that channel. Not stated; 0.
    pub entropy_bonus: f64,
    /// Not stated; token mean.
    pub aggregation: Aggregation,
    /// Passes over the rollout per iteration, ≥ 1. Tables 4 and 5: 2.
    pub epochs: usize,
    /// Responses per optimiser step, ≥ 1; the rollout size if larger. Tables 4 and 5: 16.
    pub minibatch_size: usize,
    /// Base learning rate of the policy, > 0. Tables 4 and 5: 5e-6.
    pub learning_rate: f64,
    /// Base learning rate of a separate critic, > 0. Not stated; the policy's.
    pub critic_learning_rate: f64,
    /// By iteration. Not stated; constant.
    pub schedule: Schedule,
    /// Must be the policy itself: kept in the configuration so that a truncating decoder is refused rather than ignored.
    pub rollout: Decoder,
    /// |π/π_{t−1} − 1| allowed at the first minibatch, where nothing has been stepped, > 0. 1e-5 suits f32 and f64.
    pub ratio_tolerance: f64,
}

impl Default for PpoConfig {
    /// [`PpoConfig::paper`].
    fn default() -> Self {
        Self::paper()
    }
}

impl PpoConfig {
    /// Table 5, the RTO column. 160 iterations of 256 prompts are one epoch of the helpful subset of HH-RLHF.
    pub fn paper() -> Self {
        Self {
            iterations: 160,
            prompts_per_iteration: 256,
            responses_per_prompt: 1,
            beta2: 0.03,
            kl_estimator: KlEstimator::K1,
            kl_placement: KlPlacement::Reward,
            adaptive_kl: None,
            advantage: Advantage::Gae,
            gamma: 1.0,
            lambda: 0.95,
            bootstrap_truncated: false,
            reward_whitening: Whitening::Off,
            advantage_whitening: Whitening::ShiftAndScale,
            policy_loss: PolicyLoss::Clipped,
            clip: 0.2,
            clip_high: None,
            ratio: Ratio::Token,
            dual_clip: None,
            value_coef: 0.1,
            value_clip: Some(0.2),
            entropy_bonus: 0.0,
            aggregation: Aggregation::TokenMean,
            epochs: 2,
            minibatch_size: 16,
            learning_rate: 5e-6,
            critic_learning_rate: 5e-6,
            schedule: Schedule::Constant,
            rollout: Decoder::default(),
            ratio_tolerance: 1e-5,
        }
    }

    /// The DPPO column of Table 5, and Table 4 (PPO): as [`PpoConfig::paper`] but β₂ = 0.05. Another β₂ is another optimum,
    /// so a comparison of rewards should not use it beside `paper`.
    pub fn paper_sentence_level() -> Self {
        Self {
            beta2: 0.05,
            ..Self::paper()
        }
    }

    /// The script the authors released with a later version, for an 8B model.
    pub fn released() -> Self {
        Self {
            prompts_per_iteration: 1024,
            beta2: 0.01,
            value_coef: 1.0,
            aggregation: Aggregation::SequenceMean,
            epochs: 1,
            minibatch_size: 128,
            learning_rate: 5e-7,
            critic_learning_rate: 9e-6,
            schedule: Schedule::Cosine {
                warmup: 0.03,
                floor: 0.1,
            },
            ..Self::paper()
        }
    }

    /// Responses per iteration.
    pub fn responses(&self) -> usize {
        self.prompts_per_iteration * self.responses_per_prompt
    }

    /// The clipped loss.
    pub fn surrogate(&self) -> Surrogate {
        Surrogate {
            ratio: self.ratio,
            clip_low: self.clip,
            clip_high: self.clip_high.unwrap_or(self.clip),
            dual_clip: self.dual_clip,
        }
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field: a number out of its range, or two choices that contradict each other.
    pub fn check(self) -> Result<Checked<Self>> {
        self.check_numbers()?;
        self.check_choices()?;
        self.rollout.check_on_policy()?;
        Ok(Checked(self))
    }

    fn check_numbers(&self) -> Result<()> {
        check::at_least_one("iterations", self.iterations as usize)?;
        check::at_least_one("prompts_per_iteration", self.prompts_per_iteration)?;
        check::at_least_one("responses_per_prompt", self.responses_per_prompt)?;
        check::at_least_one("epochs", self.epochs)?;
        check::at_least_one("minibatch_size", self.minibatch_size)?;
        check::not_negative("beta2", self.beta2)?;
        check::not_negative("entropy_bonus", self.entropy_bonus)?;
        check::within(
            "gamma",
            self.gamma,
            (0.0..=1.0).contains(&self.gamma),
            "in [0, 1]",
        )?;
        check::within(
            "lambda",
            self.lambda,
            (0.0..=1.0).contains(&self.lambda),
            "in [0, 1]",
        )?;
        check::positive("clip", self.clip)?;
        check::positive("value_coef", self.value_coef)?;
        check::positive("learning_rate", self.learning_rate)?;
        check::positive("critic_learning_rate", self.critic_learning_rate)?;
        check::positive("ratio_tolerance", self.ratio_tolerance)?;
        if let Some(c) = self.value_clip {
            check::positive("value_clip", c)?;
        }
        if let Some(c) = self.dual_clip {
            check::within("dual_clip", c, c.is_finite() && c > 1.0, "finite and > 1")?;
        }
        if let Some(c) = self.clip_high {
            check::positive("clip_high", c)?;
        }
        if let Advantage::GroupBy { spread } = self.advantage {
            spread.check()?;
        }
        self.aggregation.check()?;
        self.surrogate().check()?;
        if let Some(adaptive) = self.adaptive_kl {
            adaptive.check()?;
        }
        self.schedule.check("schedule")
    }

    fn check_choices(&self) -> Result<()> {
        let grouped = matches!(
            self.advantage,
            Advantage::LeaveOneOut
                | Advantage::LeaveOneOutOfScore
                | Advantage::Group { .. }
                | Advantage::GroupBy { .. }
        );
        if grouped && self.responses_per_prompt < 2 {
            let must = "at least 2 for an advantage that compares the responses to a prompt";
            return Err(Error::config(
                "responses_per_prompt",
                self.responses_per_prompt,
                must,
            ));
        }
        if self.bootstrap_truncated && self.advantage != Advantage::Gae {
            let must = "false without a critic (advantage = gae)";
            return Err(Error::config("bootstrap_truncated", true, must));
        }
        let discounts = matches!(self.advantage, Advantage::Gae | Advantage::RewardToGo);
        if self.gamma != 1.0 && !discounts {
            let must = "1 with an advantage that does not discount (gae and reward_to_go do)";
            return Err(Error::config("gamma", self.gamma, must));
        }
        self.check_kl()?;
        self.check_ratio_choice()?;
        let pure = self.entropy_bonus == 0.0 && self.kl_placement == KlPlacement::Reward;
        if self.policy_loss == PolicyLoss::PolicyGradient && !pure {
            let must = "clipped with an entropy bonus or a KL term in the loss";
            return Err(Error::config("policy_loss", "policy_gradient", must));
        }
        let steps = self.epochs * self.responses().div_ceil(self.minibatch_size);
        if self.policy_loss == PolicyLoss::PolicyGradient && steps > 1 {
            let must =
                "1 with policy_loss = policy_gradient: later steps are off-policy and uncorrected";
            return Err(Error::config("optimiser steps per iteration", steps, must));
        }
        Ok(())
    }

    /// Refuses KL terms without an effect of their own.
    fn check_kl(&self) -> Result<()> {
        let (place, kind) = (self.kl_placement, self.kl_estimator);
        if place != KlPlacement::Reward && kind == KlEstimator::K1 {
            let must = "k2, k3 or exact in the loss: the gradient of k1 has mean 0 on samples of the policy (claim 03a)";
            return Err(Error::config("kl_estimator", "k1", must));
        }
        if place != KlPlacement::Loss
            && let KlEstimator::K3Plus | KlEstimator::K3Corrected = kind
        {
            let must =
                "loss with k3_plus or k3_corrected, which differ from k3 in their gradient only";
            let found = match place {
                KlPlacement::Both => "both",
                _ => "reward",
            };
            return Err(Error::config("kl_placement", found, must));
        }
        Ok(())
    }

    /// Refuses ratios and clips that the loss does not read.
    fn check_ratio_choice(&self) -> Result<()> {
        if self.ratio == Ratio::LogProb {
            let must = "another ratio: the loss without one is policy_loss = policy_gradient";
            return Err(Error::config("ratio", "log_prob", must));
        }
        if self.policy_loss == PolicyLoss::PolicyGradient {
            if self.ratio != Ratio::Token {
                let must =
                    "token, the default, with policy_loss = policy_gradient, which has no ratio";
                return Err(Error::config("ratio", format!("{:?}", self.ratio), must));
            }
            if let Some(c) = self.clip_high {
                let must = "left out with policy_loss = policy_gradient, which has no clip";
                return Err(Error::config("clip_high", c, must));
            }
            if let Some(c) = self.dual_clip {
                let must = "left out with policy_loss = policy_gradient, which has no clip";
                return Err(Error::config("dual_clip", c, must));
            }
        }
        let per_row = matches!(self.ratio, Ratio::Sequence | Ratio::GeometricMean);
        let one = matches!(
            self.advantage,
            Advantage::LeaveOneOut | Advantage::Group { .. } | Advantage::GroupBy { .. }
        );
        if per_row && !(one && self.advantage_whitening == Whitening::Off) {
            let must = "token or capped where the tokens of a response have advantages of their own (leave_one_out or group without whitening have one)";
            return Err(Error::config("ratio", format!("{:?}", self.ratio), must));
        }
        match (self.ratio, self.clip_high, self.dual_clip) {
            (Ratio::Capped { .. }, Some(c), _) => {
                let must = "left out with a capped ratio, whose bounds are its own";
                Err(Error::config("clip_high", c, must))
            }
            (Ratio::Capped { .. }, _, Some(c)) => {
                let must = "left out with a capped ratio, whose bounds are its own";
                Err(Error::config("dual_clip", c, must))
            }
            _ => Ok(()),
        }
    }
}

/// Algorithm 2.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct RtoConfig {
    /// β₁ > 0 of (4.5). Table 5: 0.1.
    pub beta1: f64,
    /// Each token's reward β₁ log(π_dpo/π_ref) is cut to ±this, > 0, in units of reward: after the multiplication by β₁. None in the
    /// paper: it breaks the telescoping of (4.3).
    #[cfg_attr(feature = "serde", serde(with = "super::off"))]
    pub dpo_reward_clip: Option<f64>,
    /// Whether the score of a reward model is paid at the last token too, cut to ±10. The paper: no. [`RtoInput`](super::RtoInput) has
    /// the model.
    pub reward_model: bool,
    /// Line 2.
    pub dpo: DpoConfig,
    /// Lines 3–8.
    pub ppo: PpoConfig,
}

impl Default for RtoConfig {
    /// [`RtoConfig::paper`].
    fn default() -> Self {
        Self::paper()
    }
}

impl RtoConfig {
    /// Tables 3 and 5.
    pub fn paper() -> Self {
        Self {
            beta1: 0.1,
            dpo_reward_clip: None,
            reward_model: false,
            dpo: DpoConfig::default(),
            ppo: PpoConfig::paper(),
        }
    }

    /// The authors' later script, whose reward adds a reward model, see [`released`](crate::token_reward::released).
    /// It starts from a published DPO checkpoint, so `dpo` is Table 3's.
    pub fn released() -> Self {
        Self {
            beta1: 0.05,
            dpo_reward_clip: Some(0.05),
            reward_model: true,
            dpo: DpoConfig::default(),
            ppo: PpoConfig::released(),
        }
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn check(self) -> Result<Checked<Self>> {
        check::positive("beta1", self.beta1)?;
        if let Some(c) = self.dpo_reward_clip {
            check::positive("dpo_reward_clip", c)?;
        }
        self.dpo.check()?;
        self.ppo.check()?;
        Ok(Checked(self))
    }
}

impl Checked<RtoConfig> {
    /// Line 2, checked with the whole.
    pub fn dpo(&self) -> Checked<DpoConfig> {
        Checked(self.0.dpo)
    }

    /// Lines 3–8, checked with the whole.
    pub fn ppo(&self) -> Checked<PpoConfig> {
        Checked(self.0.ppo)
    }
}
