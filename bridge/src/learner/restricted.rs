//! A policy on a few words of its vocabulary.

use std::sync::Arc;

use rto::numerics::log_sum_exp;
use rto::seq::{Channel, Episode, PerToken, Policy, Ragged, StreamKey, TokenScorer, inverse_cdf};
use rto::{Error, Result, Token};

use super::channels::pack;
use super::{NeoxScorer, backend};

/// π(a|s) / Σ_{b ∈ A'} π(b|s) over a set A' of tokens, spoken in the numbers of an enumerable tree: prompt p is `[p]` and
/// action a the a-th token, as in [`rto::policy::StateMap`].
///
/// It is what [`rto::policy::tabulate`] needs to evaluate a language model exactly on a sub-world.
#[derive(Debug, Clone, Copy)]
pub struct Restricted<'a> {
    /// The network.
    pub scorer: &'a NeoxScorer,
    /// Token of each action, `[A]`.
    pub tokens: &'a [Token],
    /// Prompts in the network's tokens, `[P]`.
    pub prompts: &'a [Arc<[Token]>],
    /// The action that ends a response.
    pub eos: Option<Token>,
    /// The longest response.
    pub horizon: usize,
}

impl Restricted<'_> {
    fn prompt(&self, prompt: &[Token]) -> Result<&Arc<[Token]>> {
        let found = match prompt {
            [p] => self.prompts.get(*p as usize),
            _ => None,
        };
        let must = format!(
            "one token below {}, the number of prompts",
            self.prompts.len()
        );
        found.ok_or_else(|| Error::config("prompt", format!("{prompt:?}"), must))
    }

    fn translate(&self, episode: &Episode) -> Result<Episode> {
        let word = |&a: &Token| {
            let must = format!("below {}", self.tokens.len());
            let word = self.tokens.get(a as usize).copied();
            word.ok_or_else(|| Error::config("token of a response", a, must))
        };
        let response = episode.response.iter().map(word).collect::<Result<_>>()?;
        let prompt = self.prompt(&episode.prompt)?.clone();
        Episode::try_new(prompt, response, episode.finish)
    }

    /// log π(·|s) over the actions at every response token of every row, and at one more after the last.
    fn conditionals(&self, batch: &[Episode]) -> crate::Result<Vec<Vec<Vec<f64>>>> {
        let packed = pack(batch)?;
        let logits: Vec<Vec<f32>> = self.scorer.model.logits(&packed)?.to_vec2()?;
        let temperature = self.scorer.model.temperature();
        let at = |state: usize| {
            let row = |&t: &Token| f64::from(logits[state][t as usize]) / temperature;
            let row: Vec<f64> = self.tokens.iter().map(row).collect();
            let norm = log_sum_exp(&row);
            row.into_iter().map(|l| l - norm).collect()
        };
        let rows = packed.rows().iter();
        Ok(rows
            .map(|r| (0..=r.response).map(|h| at(r.state(h))).collect())
            .collect())
    }
}

impl TokenScorer for Restricted<'_> {
    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        let mut rows = Vec::with_capacity(batch.len());
        for part in batch.chunks(self.scorer.micro_batch) {
            let words = part
                .iter()
                .map(|e| self.translate(e))
                .collect::<Result<Vec<_>>>()?;
            let all = self.conditionals(&words).map_err(backend)?;
            for (episode, row) in part.iter().zip(&all) {
                let pick = |(a, l): (&Token, &Vec<f64>)| l[*a as usize];
                rows.push(
                    episode
                        .response
                        .iter()
                        .zip(row)
                        .map(pick)
                        .collect::<Vec<_>>(),
                );
            }
        }
        PerToken::new(batch).with(Channel::LogProb, Ragged::from_rows(rows))
    }
}

impl Policy for Restricted<'_> {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        use rand::Rng;
        use rto::seq::Finish;
        let mut episodes = Vec::with_capacity(prompts.len());
        for (prompt, key) in prompts.iter().zip(keys) {
            let (mut rng, mut y) = (key.rng(), Vec::new());
            let mut text = self.prompt(prompt)?.to_vec();
            let mut finish = Finish::Length;
            while y.len() < self.horizon && finish == Finish::Length {
                // The conditional after the text so far: its last token read as a response of one.
                let (x, last) = text.split_at(text.len() - 1);
                let read = Episode::try_new(x.into(), last.to_vec(), Finish::Length)?;
                let all = self.conditionals(&[read]).map_err(backend)?;
                let a = inverse_cdf(&all[0][1], rng.random()) as Token;
                y.push(a);
                text.push(self.tokens[a as usize]);
                if Some(a) == self.eos {
                    finish = Finish::Eos;
                }
            }
            episodes.push(Episode::try_new(prompt.clone(), y, finish)?);
        }
        Ok(episodes)
    }
}
