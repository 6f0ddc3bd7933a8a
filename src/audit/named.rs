//! The recipes that people run, as their frameworks have them.

use super::recipe::{Critic, Estimator, Kl, Recipe, Reward};
use crate::advantage::{Spread, WhitenStd};
use crate::algorithm2::KlPlacement::{self, Loss, Reward as InReward};
use crate::objective::{Aggregation, Ratio, Surrogate};
use crate::token_reward::KlEstimator::{self, Exact, K1, K2, K3, K3Corrected};

/// A recipe with its name and a short one for commands.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// As `paper-notes/estimators.md` writes it.
    pub name: &'static str,
    /// Without blanks: `trl.grpo`.
    pub id: &'static str,
    /// Which setting of which framework, in words.
    pub about: &'static str,
    /// The recipe.
    pub recipe: Recipe,
}

fn kl(placement: KlPlacement, estimator: KlEstimator) -> Option<Kl> {
    Some(Kl {
        placement,
        estimator,
    })
}

fn z_score(eps: f64) -> Estimator {
    Estimator::Group {
        spread: Spread::Group { eps },
    }
}

fn gae(lambda: f64, critic: Critic) -> Estimator {
    Estimator::Gae {
        gamma: 1.0,
        lambda,
        critic,
    }
}

fn ratio(ratio: Ratio) -> Surrogate {
    Surrogate {
        ratio,
        ..Surrogate::default()
    }
}

/// The 22 recipes of `paper-notes/estimators.md` at a weight β of the KL term, with groups of `group` and batches of `batch` responses, on
/// trees of longest length H. RLOO of TRL has its default of two responses.
pub fn named(beta: f64, group: usize, batch: usize, horizon: usize) -> Vec<Named> {
    let base = |b: f64| Recipe {
        beta: b,
        ..Recipe::default()
    };
    let grouped = |advantage: Estimator| Recipe {
        advantage,
        responses: group,
        ..base(beta)
    };
    let batched = |advantage: Estimator, whitening: Option<WhitenStd>| Recipe {
        advantage,
        whitening,
        kl: kl(InReward, K1),
        aggregation: Aggregation::TokenMean,
        prompts: batch,
        ..base(beta)
    };
    let centred = || Estimator::Group {
        spread: Spread::One,
    };
    let reinforce = |estimator| Recipe {
        kl: kl(InReward, estimator),
        surrogate: ratio(Ratio::LogProb),
        ..base(beta)
    };
    let grpo = |eps: f64, estimator, aggregation| Recipe {
        kl: kl(Loss, estimator),
        aggregation,
        ..grouped(z_score(eps))
    };
    let without_kl = |eps: f64, aggregation, surrogate| Recipe {
        beta: 0.0,
        meant_beta: Some(0.0),
        aggregation,
        surrogate,
        ..grouped(z_score(eps))
    };
    use Aggregation::{Constant, SequenceMean, TokenMean};
    let dual = |clip_high| Surrogate {
        clip_high,
        dual_clip: Some(3.0),
        ..Surrogate::default()
    };
    let gspo = Surrogate {
        ratio: Ratio::GeometricMean,
        clip_low: 3e-4,
        clip_high: 4e-4,
        dual_clip: None,
    };
    let capped = ratio(Ratio::Capped {
        low: 0.0,
        high: 5.0,
    });
    let rto = |reward, whitening| Recipe {
        reward,
        ..batched(gae(0.95, Critic::Zero), Some(whitening))
    };
    let all = [
        (
            "reference: REINFORCE, k1 in reward",
            "reinforce.k1",
            "-A log pi with the KL term k1 in the reward: unbiased",
            reinforce(K1),
        ),
        (
            "TRL RLOO",
            "trl.rloo",
            "two responses, leave-one-out of the return with k1, one clipped ratio per response",
            Recipe {
                advantage: Estimator::LeaveOneOut,
                responses: 2,
                kl: kl(InReward, K1),
                surrogate: ratio(Ratio::Sequence),
                ..base(beta)
            },
        ),
        (
            "OpenRLHF RLOO",
            "openrlhf.rloo",
            "leave-one-out of the score, k1 as a reward to go, token mean",
            Recipe {
                kl: kl(InReward, K1),
                aggregation: TokenMean,
                ..grouped(Estimator::LeaveOneOutOfScore)
            },
        ),
        (
            "TRL GRPO",
            "trl.grpo",
            "loss_type=dapo (the default): z-score, token mean, k3 in the loss",
            grpo(1e-4, K3, TokenMean),
        ),
        (
            "TRL GRPO, bias-corrected k3",
            "trl.grpo.corrected",
            "use_bias_correction_kl: ratio times k3 in the loss",
            grpo(1e-4, K3Corrected, TokenMean),
        ),
        (
            "GRPO (paper), TRL loss_type=grpo",
            "grpo",
            "z-score, sequence mean, k3 in the loss",
            grpo(1e-4, K3, SequenceMean),
        ),
        (
            "verl GRPO",
            "verl.grpo",
            "use_kl_loss with low_var_kl, dual clip 3",
            Recipe {
                surrogate: dual(0.2),
                ..grpo(1e-6, K3, TokenMean)
            },
        ),
        (
            "Dr. GRPO, k3 loss",
            "dr_grpo",
            "group mean without division, constant length, k3 in the loss",
            Recipe {
                kl: kl(Loss, K3),
                aggregation: Constant { length: horizon },
                ..grouped(centred())
            },
        ),
        (
            "DAPO",
            "dapo",
            "no KL, clip .2/.28, groups of equal scores drawn again",
            Recipe {
                drop_equal_groups: true,
                ..without_kl(1e-6, TokenMean, dual(0.28))
            },
        ),
        (
            "GSPO",
            "gspo",
            "no KL, geometric mean of the ratios, clip 3e-4/4e-4, sequence mean",
            without_kl(1e-4, SequenceMean, gspo),
        ),
        (
            "CISPO (cap 5)",
            "cispo",
            "no KL, capped weights, token mean",
            without_kl(1e-4, TokenMean, capped),
        ),
        (
            "OpenRLHF PPO",
            "openrlhf.ppo",
            "k1 in the reward, GAE at lambda 1 with a critic per depth, whitened, token mean",
            batched(gae(1.0, Critic::Depth), Some(WhitenStd::BiasedClamped)),
        ),
        (
            "OpenRLHF REINFORCE++",
            "openrlhf.reinforce++",
            "k1 in the reward, returns to go, whitened, token mean",
            batched(Estimator::RewardToGo, Some(WhitenStd::BiasedClamped)),
        ),
        (
            "ReMax (verl)",
            "verl.remax",
            "k1 in the reward, minus the greedy response's score, token mean",
            batched(Estimator::Greedy, None),
        ),
        (
            "RTO (paper)",
            "rto",
            "dense DPO reward, k1 in the reward, GAE .95 from a zero critic, whitened, token mean",
            rto(Reward::Dpo, WhitenStd::Biased),
        ),
        (
            "DPPO of the paper",
            "dppo",
            "as RTO with the sum at the last token",
            rto(Reward::DpoAtEnd, WhitenStd::Biased),
        ),
        (
            "RTO as released",
            "rto.released",
            "clipped token reward and the sentence's, whitened, sequence mean",
            Recipe {
                aggregation: SequenceMean,
                ..rto(Reward::Released, WhitenStd::BiasedClamped)
            },
        ),
        (
            "mean-centred, exact KL in loss",
            "centred.exact",
            "group mean, sequence sum, exact KL per state in the loss",
            Recipe {
                kl: kl(Loss, Exact),
                ..grouped(centred())
            },
        ),
        (
            "mean-centred, k2 in loss",
            "centred.k2",
            "group mean, sequence sum, k2 in the loss",
            Recipe {
                kl: kl(Loss, K2),
                ..grouped(centred())
            },
        ),
        (
            "REINFORCE, exact KL in reward",
            "reinforce.exact",
            "the exact KL per state in the reward",
            reinforce(Exact),
        ),
        (
            "REINFORCE, k3 in reward",
            "reinforce.k3",
            "k3 in the reward",
            reinforce(K3),
        ),
        (
            "REINFORCE, k2 in reward",
            "reinforce.k2",
            "k2 in the reward",
            reinforce(K2),
        ),
    ];
    let of = |(name, id, about, recipe)| Named {
        name,
        id,
        about,
        recipe,
    };
    all.map(of).into()
}
