//! Responses to held-out prompts, judged.

use anyhow::Result;
use rto::seq::{Channel, Episode, Finish, TokenScorer};
use rto_bridge::win_rate::{Answer, Contestant};
use rto_harness::stats::Sample;
use rto_harness::table::Table;

use crate::run::models::Oracle;

/// The responses of a policy, with what they are worth.
pub struct Judged {
    pub episodes: Vec<Episode>,
    pub rewards: Vec<f64>,
    pub kls: Vec<f64>,
}

impl Judged {
    /// Rewards by the oracle, and Σ_h KL(π(·|s_h) ‖ π_ref(·|s_h)) along each response: the expectation over the next token is exact,
    /// the states are those of the response.
    pub fn by(
        oracle: &Oracle<'_, impl TokenScorer>,
        policy: &impl TokenScorer,
        episodes: Vec<Episode>,
    ) -> Result<Self> {
        let scores = policy.scores(&episodes)?;
        Ok(Self {
            rewards: oracle.rewards(&episodes)?,
            kls: scores.get(Channel::KlToReference)?.row_sums(),
            episodes,
        })
    }

    /// One answer per prompt.
    pub fn answers(&self, name: &str) -> Contestant {
        let answer = |i: usize| Answer {
            score: self.rewards[i],
            length: self.episodes[i].len() as f64,
            kl: Some(self.kls[i]),
        };
        Contestant {
            name: name.into(),
            prompts: (0..self.episodes.len()).map(|i| vec![answer(i)]).collect(),
        }
    }

    /// A row per response.
    pub fn push(&self, table: &mut Table, name: &str) {
        for (i, e) in self.episodes.iter().enumerate() {
            table.push([
                name.into(),
                i.into(),
                self.rewards[i].into(),
                self.kls[i].into(),
                e.len().into(),
                u64::from(e.finish == Finish::Eos).into(),
            ]);
        }
    }

    /// The means of sampled responses, and of the greedy ones beside them.
    pub fn summarise(&self, table: &mut Table, name: &str, greedy: &Self) {
        let reward = Sample(self.rewards.clone());
        let mean = |x: Vec<f64>| Sample(x).mean();
        let lengths = self.episodes.iter().map(|e| e.len() as f64).collect();
        let ends = |e: &Episode| f64::from(u8::from(e.finish == Finish::Eos));
        table.push([
            name.into(),
            reward.mean().into(),
            reward.error().into(),
            mean(greedy.rewards.clone()).into(),
            mean(self.kls.clone()).into(),
            mean(lengths).into(),
            mean(self.episodes.iter().map(ends).collect()).into(),
        ]);
    }
}
