//! What policies are worth by their replies to prompts that no stage trains on, judged by what knows the reward: the world, or the oracle.

use std::sync::Arc;

use anyhow::Result;
use rto::seq::{Channel, Decoder, Policy, StreamKey, TokenReward, TokenScorer};
use rto::token_reward::{Both, DpoReward, SentenceReward};
use rto_bridge::learner::{NeuralPolicy, NeuralScorer};
use rto_harness::on_tree::untrained::Measured;

use super::base::Base;
use super::plan::Plan;
use crate::run::evaluation::Judged;
use crate::run::models::{Models, Oracle};
use crate::run::place::Writer;
use crate::run::stage::Stage;
use crate::run::training::MissingEos;

/// The prompts of a base with their judge.
pub struct Replies<'r> {
    base: &'r Base,
    models: &'r Models<'r>,
    oracle: Oracle<'r>,
    sft: Arc<NeuralScorer>,
}

impl<'r> Replies<'r> {
    /// Of the networks of a base.
    ///
    /// # Errors
    /// A network that cannot be read.
    pub fn new(base: &'r Base, models: &'r Models<'r>) -> Result<Self> {
        Ok(Self {
            base,
            models,
            oracle: models.oracle()?,
            sft: Arc::new(models.frozen(Stage::Sft)?),
        })
    }

    /// π_ref.
    pub fn sft(&self) -> &Arc<NeuralScorer> {
        &self.sft
    }

    /// A reply to every prompt at temperature 1, from the same streams for every policy, so that differences between policies are paired.
    pub fn drawn(&self, scorer: NeuralScorer) -> Result<Judged> {
        let policy = self.policy(scorer)?;
        let keys = self.keys(0);
        let drawn = Writer::decode(&policy, self.held_out(), &keys, Decoder::default())?;
        Judged::by(&self.oracle, &policy, drawn)
    }

    /// The greedy reply to every prompt.
    pub fn greedy(&self, scorer: NeuralScorer) -> Result<Judged> {
        let policy = self.policy(scorer)?;
        let greedy = Policy::greedy(&policy, self.held_out())?;
        Judged::by(&self.oracle, &policy, greedy)
    }

    /// Mean reward and KL of a policy in training.
    pub fn measure(&self, scorer: &NeuralScorer) -> Result<Measured> {
        Ok(means(&self.drawn(scorer.snapshot()?)?))
    }

    /// What needs no training of PPO: SFT sampled, sharpened and greedy, DPO, and the best of n replies of SFT by either learnt reward. KL is
    /// the mean along the replies; of a greedy reply it is −log π_ref; of best-of-n log n − (n − 1)/n, which it does not exceed.
    ///
    /// # Errors
    /// A network that cannot be read.
    pub fn untrained(&self, plan: &Plan) -> Result<Vec<(&'static str, f64, Measured)>> {
        let dpo = self.models.on_base(&self.sft, Stage::Dpo)?;
        let mut found = vec![
            ("sft", 1.0, means(&self.drawn(self.sft.snapshot()?)?)),
            ("greedy", 0.0, self.greedily(&self.sft)?),
            ("dpo", 1.0, means(&self.drawn(dpo.snapshot()?)?)),
            ("dpo_greedy", 0.0, self.greedily(&dpo)?),
        ];
        let policy = self.policy(self.sft.snapshot()?)?;
        for &temperature in &plan.temperatures {
            let decoder = Decoder {
                temperature,
                ..Decoder::default()
            };
            let drawn = Writer::decode(&policy, self.held_out(), &self.keys(0), decoder)?;
            let sharp = self.sft.snapshot()?;
            let sharp = sharp.with_temperature(self.models.config.temperature * temperature)?;
            let sharp = sharp.with_reference(self.sft.clone());
            let judged = Judged::by(&self.oracle, &sharp, drawn)?;
            found.push(("sharpened", temperature, means(&judged)));
        }
        found.extend(self.best_of(&policy, &dpo, &plan.best_of)?);
        Ok(found)
    }

    /// Of as many replies of SFT to every prompt, the one that a learnt reward likes best, the penalty for a reply that does not end included,
    /// as methods are paid.
    fn best_of(
        &self,
        policy: &NeuralPolicy,
        dpo: &NeuralScorer,
        best_of: &[u32],
    ) -> Result<Vec<(&'static str, f64, Measured)>> {
        let config = self.models.config;
        let reward = self.models.on_base(&self.sft, Stage::Reward)?;
        let penalty = MissingEos(config.missing_eos_penalty);
        let by_model = Both(SentenceReward::new(&reward), penalty);
        let by_dpo = Both(DpoReward::try_new(dpo, &*self.sft, config.beta1)?, penalty);
        let learnt: [(&'static str, &dyn TokenReward); 2] = [
            ("best_of_reward_model", &by_model),
            ("best_of_dpo", &by_dpo),
        ];
        // [draw][prompt]
        let (mut truth, mut scores) = (Vec::new(), [Vec::new(), Vec::new()]);
        for draw in 0..best_of.iter().copied().max().unwrap_or(0) {
            let keys = self.keys(u64::from(draw));
            let episodes = Writer::decode(policy, self.held_out(), &keys, Decoder::default())?;
            truth.push(self.oracle.rewards(&episodes)?);
            for ((_, reward), scores) in learnt.iter().zip(&mut scores) {
                scores.push(reward.rewards(&episodes)?.row_sums());
            }
        }
        let mut found = Vec::new();
        for ((name, _), scores) in learnt.iter().zip(&scores) {
            for &n in best_of {
                let best = |prompt: usize| {
                    let better = |a: usize, b: usize| match scores[b][prompt] > scores[a][prompt] {
                        true => b,
                        false => a,
                    };
                    let best = (0..n as usize).reduce(better).unwrap_or(0);
                    truth[best][prompt]
                };
                let all = (0..self.held_out().len()).map(best);
                let n = f64::from(n);
                let measured = Measured {
                    reward: all.sum::<f64>() / self.held_out().len() as f64,
                    kl: n.ln() - (n - 1.0) / n,
                };
                found.push((*name, n, measured));
            }
        }
        Ok(found)
    }

    fn greedily(&self, scorer: &NeuralScorer) -> Result<Measured> {
        let judged = self.greedy(scorer.snapshot()?)?;
        let reference = self.sft.scores(&judged.episodes)?;
        let surprise = reference.get(Channel::LogProb)?.row_sums();
        Ok(Measured {
            reward: mean(&judged.rewards),
            kl: -mean(&surprise),
        })
    }

    fn policy(&self, scorer: NeuralScorer) -> Result<NeuralPolicy> {
        let scorer = match scorer.channels().contains(&Channel::KlToReference) {
            true => scorer,
            false => scorer.with_reference(self.sft.clone()),
        };
        self.models.policy(scorer)
    }

    fn held_out(&self) -> &[Arc<[rto::Token]>] {
        &self.base.data.held_out
    }

    /// The streams of a reply to every prompt; of best-of-n the first is that of every policy.
    fn keys(&self, draw: u64) -> Vec<StreamKey> {
        let seeds = self.base.seeds.child("evaluation");
        let seeds = match draw {
            0 => seeds,
            _ => seeds.child("again").index(draw),
        };
        StreamKey::batch(&seeds, self.held_out().len())
    }
}

fn means(judged: &Judged) -> Measured {
    Measured {
        reward: mean(&judged.rewards),
        kl: mean(&judged.kls),
    }
}

/// The mean of what is not empty.
pub fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}
