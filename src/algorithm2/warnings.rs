//! Settings that are allowed although their expected gradient is not that of the objective.

use super::{Advantage, KlPlacement, PpoConfig};
use crate::advantage::Spread;
use crate::objective::{Aggregation, Ratio};
use crate::token_reward::KlEstimator;

/// A setting that the audit proves biased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Biased {
    /// The field of [`PpoConfig`], with its value.
    pub setting: String,
    /// What it does instead, in one sentence.
    pub effect: &'static str,
    /// The claims of `paper-notes/estimators.md` that say so.
    pub claims: &'static str,
}

impl std::fmt::Display for Biased {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            setting,
            effect,
            claims,
        } = self;
        write!(
            f,
            "{setting}: {effect} (paper-notes/estimators.md, {claims})"
        )
    }
}

impl PpoConfig {
    /// The settings whose expected gradient is not ∇J, each once, in a fixed order. They are choices, not errors: a driver says them once
    /// before it trains.
    ///
    /// What is common to most trainers is left out: λ < 1 with an unfinished critic, several steps on one rollout, a token mean, whitening over
    /// the batch.
    pub fn biased(&self) -> Vec<Biased> {
        let mut out = Vec::new();
        let mut say = |setting: &str, effect, claims| {
            out.push(Biased {
                setting: setting.into(),
                effect,
                claims,
            });
        };
        if self.beta2 > 0.0 || self.adaptive_kl.is_some() {
            kl(self, &mut say);
        }
        match self.advantage {
            Advantage::Group {
                divide_by_std: true,
            } => say(
                "advantage = group, divide_by_std = true",
                Z_SCORE.0,
                Z_SCORE.1,
            ),
            Advantage::GroupBy {
                spread: Spread::Group { .. } | Spread::Batch { .. },
            } => say("advantage = group_by with a spread", Z_SCORE.0, Z_SCORE.1),
            _ => {}
        }
        if self.aggregation == Aggregation::SequenceMean {
            let effect = "tokens of short responses weigh more, and no baseline is free";
            say("aggregation = sequence_mean", effect, "claims 09a, 09b");
        }
        if self.ratio == Ratio::GeometricMean {
            let effect = "the geometric mean of token ratios is no likelihood ratio: unbiased only before the first step";
            say("ratio = geometric_mean", effect, "claims 12a, 12b");
        }
        if let Ratio::Capped { high, .. } = self.ratio
            && high < 1.0
        {
            let effect =
                "every weight is capped below 1: a smaller learning rate under another name";
            say(&format!("ratio.capped.high = {high}"), effect, "claim 12c");
        }
        out
    }
}

const Z_SCORE: (&str, &str) = (
    "each prompt is scaled by its own spread: on rewards that are not binary the expected gradient is that of no function, and beta2 has no fixed meaning",
    "claims 08a to 08c, 27",
);

fn kl(config: &PpoConfig, say: &mut impl FnMut(&str, &'static str, &'static str)) {
    use KlEstimator::{Exact, K1, K2, K3, K3Corrected, K3Plus};
    match (config.kl_placement, config.kl_estimator) {
        (KlPlacement::Reward, Exact) => say(
            "kl_estimator = exact with kl_placement = reward",
            "a state's KL is a baseline for its own token: the last decision is not regularised; kl_placement = both adds what is missing",
            "claims 05a, 05d",
        ),
        (KlPlacement::Reward, K3) => say(
            "kl_estimator = k3 with kl_placement = reward",
            "the gradient of KL(pi_ref || pi) at each state is missing; kl_placement = both adds it",
            "claim 05b",
        ),
        (KlPlacement::Reward, K2) => say(
            "kl_estimator = k2 with kl_placement = reward",
            "neither the value nor the gradient is that of the KL",
            "claim 05c",
        ),
        (KlPlacement::Loss, K3) => say(
            "kl_estimator = k3 with kl_placement = loss",
            "the expected gradient is that of KL(pi_ref || pi) at each visited state, and the KL of later states is missing",
            "claims 03d, 03f, 17",
        ),
        (KlPlacement::Loss, K2 | Exact | K3Plus | K3Corrected) => say(
            "kl_placement = loss",
            "the expected gradient is that of KL(pi || pi_ref) at each visited state: the KL of later states is missing",
            "claims 03b, 03c, 03e, 03g, 18a",
        ),
        (KlPlacement::Both, K2) => say(
            "kl_estimator = k2 with kl_placement = both",
            "the gradient is that of E[sum k2], which is not the KL",
            "claim 05c",
        ),
        (KlPlacement::Reward | KlPlacement::Loss, K1)
        | (KlPlacement::Reward, K3Plus | K3Corrected)
        | (KlPlacement::Both, _) => {}
    }
    let includes_self = matches!(
        config.advantage,
        Advantage::Group { .. } | Advantage::GroupBy { .. }
    );
    if includes_self && config.kl_placement != KlPlacement::Reward {
        say(
            "advantage = group with a KL term in the loss",
            "the mean includes the response itself, which shrinks the reward's part by (G-1)/G and not the KL term's: beta2 acts as beta2 G/(G-1)",
            "claims 07b, 17b",
        );
    }
}
