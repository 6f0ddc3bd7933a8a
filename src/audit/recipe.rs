//! A training recipe as a value, in the terms that training knows.

use crate::advantage::{Spread, WhitenStd};
use crate::algorithm2::KlPlacement;
use crate::check;
use crate::objective::{Aggregation, Ratio, Surrogate};
use crate::token_reward::KlEstimator;
use crate::{Error, Result};

/// What a token is paid, before the KL term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Reward {
    /// The sum of r over the response, at its last token: (2.3).
    #[default]
    Sentence,
    /// r(s, a) at every token.
    Token,
    /// β₁ log(π_dpo/π_ref) at every token: RTO, (4.5).
    Dpo,
    /// Its sum at the last token: the paper's DPPO, (5.1).
    DpoAtEnd,
    /// β₁ log(π_dpo/π_ref) cut to ±c at every token, and the sentence's reward cut to ±10 at the last.
    Released,
    /// Nothing: the KL term alone.
    Zero,
}

/// V of GAE.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Critic {
    /// 0.
    #[default]
    Zero,
    /// V^π of the rewards paid, the KL term included.
    Exact,
    /// V^π plus a constant on unfinished states.
    Offset(f64),
    /// The best constant per depth under the visitation: a fitted critic that sees the position alone.
    Depth,
    /// A table, `[S]`.
    Given(Vec<f64>),
}

/// How advantages are made.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
pub enum Estimator {
    /// [`reward_to_go`](crate::advantage::reward_to_go): REINFORCE, and REINFORCE++ with whitening.
    #[default]
    RewardToGo,
    /// [`gae`](crate::advantage::gae) with a critic that does not move.
    Gae {
        /// γ.
        gamma: f64,
        /// λ.
        lambda: f64,
        /// V.
        critic: Critic,
    },
    /// [`leave_one_out`](crate::advantage::leave_one_out) of the return, the KL term of the reward included (RLOO of TRL).
    LeaveOneOut,
    /// [`leave_one_out_of_score`](crate::advantage::leave_one_out_of_score) (RLOO of OpenRLHF).
    LeaveOneOutOfScore,
    /// [`group_relative_by`](crate::advantage::group_relative_by): GRPO, and Dr. GRPO with [`Spread::One`].
    Group {
        /// What the distance from the mean is divided by.
        spread: Spread,
    },
    /// [`remax`](crate::advantage::remax).
    Greedy,
}

/// Where a KL term acts and how it is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Kl {
    /// In the reward, in the loss, or in both.
    pub placement: KlPlacement,
    /// The estimate.
    pub estimator: KlEstimator,
}

/// A recipe: everything that decides the expected gradient at given logits.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Recipe {
    /// What a token is paid.
    pub reward: Reward,
    /// The KL term, if any.
    pub kl: Option<Kl>,
    /// Its weight β ≥ 0.
    pub beta: f64,
    /// β of the objective that is meant; by default `beta`. 0 for recipes without a KL term.
    pub meant_beta: Option<f64>,
    /// Advantages.
    pub advantage: Estimator,
    /// Whitening of advantages over the tokens of a unit, the mean removed.
    pub whitening: Option<WhitenStd>,
    /// Ratio, clip, dual clip.
    pub surrogate: Surrogate,
    /// How token losses become one.
    pub aggregation: Aggregation,
    /// B ≥ 1, prompts of a unit, each drawn independently.
    pub prompts: usize,
    /// G ≥ 1, responses to each. Only B = 1 or G = 1 can be enumerated.
    pub responses: usize,
    /// Groups of equal scores are dropped and drawn again (dynamic sampling of DAPO).
    pub drop_equal_groups: bool,
}

impl Default for Recipe {
    /// REINFORCE of one response at a time with PPO's loss: sentence reward, no KL term, sequence sum.
    fn default() -> Self {
        Self {
            reward: Reward::Sentence,
            kl: None,
            beta: 0.0,
            meant_beta: None,
            advantage: Estimator::RewardToGo,
            whitening: None,
            surrogate: Surrogate::default(),
            aggregation: Aggregation::SequenceSum,
            prompts: 1,
            responses: 1,
            drop_equal_groups: false,
        }
    }
}

impl Recipe {
    /// Responses of a unit, n = B·G.
    pub fn unit(&self) -> usize {
        self.prompts * self.responses
    }

    /// β of the objective that is meant.
    pub fn judged_beta(&self) -> f64 {
        self.meant_beta.unwrap_or(self.beta)
    }

    /// A KL term in the reward.
    pub fn kl_in_reward(&self) -> Option<KlEstimator> {
        let kl = self.kl.filter(|k| k.placement != KlPlacement::Loss)?;
        Some(kl.estimator)
    }

    /// A KL term in the loss.
    pub fn kl_in_loss(&self) -> Option<KlEstimator> {
        let kl = self.kl.filter(|k| k.placement != KlPlacement::Reward)?;
        Some(kl.estimator)
    }

    /// Whether all tokens of a response have one advantage.
    pub(super) fn one_advantage_per_row(&self) -> bool {
        let grouped = matches!(
            self.advantage,
            Estimator::LeaveOneOut | Estimator::Group { .. }
        );
        grouped && self.whitening.is_none()
    }

    /// The recipe, checked.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn check(&self) -> Result<()> {
        for (field, value) in [
            ("beta", self.beta),
            ("meant_beta", self.meant_beta.unwrap_or(0.0)),
        ] {
            check::not_negative(field, value)?;
        }
        for (field, value) in [("prompts", self.prompts), ("responses", self.responses)] {
            if value == 0 {
                return Err(Error::config(field, 0, "at least 1"));
            }
        }
        if self.prompts > 1 && self.responses > 1 {
            let must = "1 where responses > 1: a unit is one group, or independent responses";
            return Err(Error::config("prompts", self.prompts, must));
        }
        self.surrogate.check()?;
        self.aggregation.check()?;
        self.check_kl()?;
        self.check_advantage()
    }

    fn check_kl(&self) -> Result<()> {
        let Some(kl) = self.kl else {
            return match self.beta > 0.0 && self.meant_beta.is_none() {
                true => Err(Error::config(
                    "beta",
                    self.beta,
                    "0 without kl: it has no effect (meant_beta is that of the objective)",
                )),
                false => Ok(()),
            };
        };
        let loss_only = matches!(kl.estimator, KlEstimator::K3Plus | KlEstimator::K3Corrected);
        if loss_only && kl.placement != KlPlacement::Loss {
            let must =
                "loss with k3_plus or k3_corrected, which differ from k3 in their gradient only";
            let found = format!("{:?}", kl.placement).to_lowercase();
            return Err(Error::config("kl.placement", found, must));
        }
        Ok(())
    }

    fn check_advantage(&self) -> Result<()> {
        let grouped = match &self.advantage {
            Estimator::Group { spread } => {
                spread.check()?;
                true
            }
            Estimator::LeaveOneOut | Estimator::LeaveOneOutOfScore => true,
            Estimator::Gae { gamma, lambda, .. } => {
                for (field, v) in [("gamma", gamma), ("lambda", lambda)] {
                    if !(0.0..=1.0).contains(v) {
                        return Err(Error::config(
                            format!("advantage.gae.{field}"),
                            v,
                            "in [0, 1]",
                        ));
                    }
                }
                false
            }
            _ => false,
        };
        if (grouped || self.drop_equal_groups) && self.responses < 2 {
            let must = "at least 2 for groups";
            return Err(Error::config("responses", self.responses, must));
        }
        let row = self.surrogate.ratio.of_a_row();
        if row && !self.one_advantage_per_row() {
            let must = "token, capped or log_prob where the tokens of a response have advantages of their own";
            let found = match self.surrogate.ratio {
                Ratio::Sequence => "sequence",
                _ => "geometric_mean",
            };
            return Err(Error::config("surrogate.ratio", found, must));
        }
        Ok(())
    }
}
