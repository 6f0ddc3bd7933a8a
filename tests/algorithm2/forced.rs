//! Tokens that the policy had no choice in.

use crate::{EOS, furthest, map, ppo, softmax, train};
use rto::algorithm2::{CriticSlot, KlPlacement, NoCritic, PpoConfig};
use rto::policy::{OptimizerConfig, TabularLearner, TabularSoftmax};
use rto::seq::{
    Channel, Episode, Finish, PerToken, Policy, PolicyLearner, Ragged, StepReport, StreamKey,
    TokenObjective, TokenReward, TokenScorer, Trainable,
};
use rto::token_reward::KlEstimator;
use rto::{Result, Token};
use std::sync::Arc;

/// A policy on four tokens whose fourth is the end-of-sentence token, whatever it would have drawn. The scores of that token are
/// left as they are, so that only the mask can keep them out.
#[derive(Clone)]
struct Forced {
    inner: TabularSoftmax,
    masked: bool,
}

impl TokenScorer for Forced {
    fn channels(&self) -> &[Channel] {
        self.inner.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.inner.scores(batch)
    }
}

impl Policy for Forced {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        let force = |mut e: Episode| {
            if e.len() == 4 {
                e.response[3] = EOS;
                e.finish = Finish::Eos;
            }
            e
        };
        let drawn = self.inner.sample(prompts, keys)?;
        Ok(drawn.into_iter().map(force).collect())
    }

    fn chosen(&self, batch: &[Episode]) -> Result<Option<Ragged>> {
        let row = |e: &Episode| (0..e.len()).map(|h| f64::from(h < 3)).collect::<Vec<_>>();
        let mask = Ragged::from_rows(batch.iter().map(row));
        Ok(self.masked.then_some(mask))
    }
}

struct ForcedLearner(TabularLearner, Forced);

impl Trainable for ForcedLearner {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let report = self.0.step(batch, objective)?;
        self.1.inner = self.0.snapshot()?;
        Ok(report)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.0.set_learning_rate(learning_rate);
    }
}

impl PolicyLearner for ForcedLearner {
    type Policy = Forced;

    fn policy(&self) -> &Forced {
        &self.1
    }

    fn snapshot(&self) -> Result<Forced> {
        Ok(self.1.clone())
    }
}

/// A sentence reward of the first three tokens, paid at the last one.
struct OfThree;

impl TokenReward for OfThree {
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        let mut out = Ragged::zeros(batch);
        for (i, e) in batch.iter().enumerate() {
            let of = |(h, t): (usize, &Token)| f64::from(7 * t + h as u32).sin();
            let sum = e.response.iter().take(3).enumerate().map(of).sum::<f64>();
            *out.row_mut(i).last_mut().unwrap() = sum;
        }
        Ok(out)
    }
}

/// Three chosen tokens and a forced one are the token MDP of three tokens: advantages, their whitening, the KL term and the
/// normaliser of the loss see the chosen tokens only, and the reward on the forced one reaches them.
#[test]
fn forced_tokens_are_no_part_of_the_loss() {
    let (long, short) = (map(1, 4), map(1, 3));
    let n = 3 * short.mdp().n_states();
    let sgd = OptimizerConfig::sgd(1.0);
    let forced = |masked: bool, config: PpoConfig| {
        let inner = softmax(&long, "policy");
        let learner = TabularLearner::try_new(inner.clone(), sgd).unwrap();
        let mut learner = ForcedLearner(learner, Forced { inner, masked });
        let reference = softmax(&long, "reference");
        train(
            (&mut learner, &mut CriticSlot::Separate(&mut NoCritic)),
            (&reference, &OfThree),
            config,
            (1, |batch| batch),
        );
        learner.1.inner.params().to_vec()
    };
    let loss = PpoConfig {
        kl_placement: KlPlacement::Loss,
        kl_estimator: KlEstimator::K3,
        ..ppo()
    };
    for config in [
        PpoConfig {
            lambda: 1.0,
            ..ppo()
        },
        PpoConfig {
            lambda: 1.0,
            ..loss
        },
    ] {
        let start = softmax(&short, "policy");
        let mut learner = TabularLearner::try_new(start.clone(), sgd).unwrap();
        train(
            (&mut learner, &mut CriticSlot::Separate(&mut NoCritic)),
            (&softmax(&short, "reference"), &OfThree),
            config,
            (1, |batch| batch),
        );
        let want = learner.policy().params();
        assert!(furthest(want, start.params()) > 0.05);
        let masked = forced(true, config);
        assert!(furthest(&masked[..n], want) < 1e-12);
        let untouched = softmax(&long, "policy");
        assert_eq!(masked[n..], untouched.params()[n..]);
        let all = forced(false, config);
        assert!(furthest(&all[..n], want) > 1e-3, "the mask is needed");
        assert!(furthest(&all[n..], &untouched.params()[n..]) > 1e-3);
    }
}
