//! A policy on a few words of its vocabulary.

use std::sync::Arc;

use candle_core::DType;
use ndarray::Array2;
use rto::mdp::{StateIx, TabularPolicy, TokenTree};

use rto::numerics::log_sum_exp;
use rto::seq::{Channel, Episode, PerToken, Policy, Ragged, StreamKey, TokenScorer, inverse_cdf};
use rto::{Error, Result, Token};

use super::channels::pack;
use super::{NeuralScorer, backend};

/// π(a|s) / Σ_{b ∈ A'} π(b|s) over a set A' of tokens, spoken in the numbers of an enumerable tree: prompt p is `[p]` and
/// action a the a-th token, as in [`rto::policy::StateMap`].
///
/// It is what [`rto::policy::tabulate`] needs to evaluate a language model exactly on a sub-world.
#[derive(Debug, Clone, Copy)]
pub struct Restricted<'a> {
    /// The network.
    pub scorer: &'a NeuralScorer,
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
        self.prompt(&episode.prompt)?;
        let (prompt, response) = self.text(episode.prompt[0] as usize, &episode.response)?;
        Episode::try_new(prompt, response, episode.finish)
    }

    /// π(a|s) at every state of a tree with this horizon, `[n_states, A]`; uniform behind the end-of-sentence action.
    ///
    /// As [`rto::policy::tabulate`], from one row per longest prefix instead of one per response.
    ///
    /// # Errors
    /// A tree with other prompts or actions; those of scoring.
    pub fn tabulate(&self, tree: &TokenTree) -> Result<TabularPolicy> {
        let (n, na) = (tree.n_states(), self.tokens.len());
        let goes_on = |codes: &[Token]| !codes.iter().any(|a| Some(*a) == self.eos);
        let longest: Vec<(usize, Vec<Token>)> = (0..tree.n_prompts())
            .flat_map(|p| tree.level(p, tree.horizon() - 1))
            .map(|s| tree.prefix(StateIx(s as u32)))
            .filter(|(_, codes)| goes_on(codes))
            .collect();
        let mut table = Array2::from_elem((n, na), -(na as f64).ln());
        for part in longest.chunks(self.scorer.micro_batch) {
            let texts: Vec<_> = part
                .iter()
                .map(|(x, codes)| self.text(*x, codes))
                .collect::<Result<_>>()?;
            let texts: Vec<(&[Token], &[Token])> =
                texts.iter().map(|(x, y)| (&**x, &y[..])).collect();
            let packed = crate::batch::Batch::new(&texts).map_err(backend)?;
            let all = self.read(&packed).map_err(backend)?;
            for ((x, codes), row) in part.iter().zip(&all) {
                for (h, conditional) in row.iter().enumerate() {
                    let s = tree.state(*x, &codes[..h])?.ix();
                    for (a, l) in conditional.iter().enumerate() {
                        table[[s, a]] = *l;
                    }
                }
            }
        }
        TabularPolicy::from_log_probs(table)
    }

    fn text(&self, prompt: usize, codes: &[Token]) -> Result<(Arc<[Token]>, Vec<Token>)> {
        let prompt = self.prompt(&[prompt as Token])?.clone();
        let word = |&a: &Token| {
            let must = format!("below {}", self.tokens.len());
            let word = self.tokens.get(a as usize).copied();
            word.ok_or_else(|| Error::config("action", a, must))
        };
        Ok((prompt, codes.iter().map(word).collect::<Result<_>>()?))
    }

    /// log π(·|s) over the actions at every response token of every row, and at one more after the last.
    fn conditionals(&self, batch: &[Episode]) -> crate::Result<Vec<Vec<Vec<f64>>>> {
        self.read(&pack(batch)?)
    }

    fn read(&self, packed: &crate::batch::Batch) -> crate::Result<Vec<Vec<Vec<f64>>>> {
        let logits = self.scorer.model.logits(packed)?.to_dtype(DType::F64)?;
        let logits: Vec<Vec<f64>> = logits.to_vec2()?;
        let temperature = self.scorer.model.temperature();
        let at = |state: usize| {
            let row = |&t: &Token| logits[state][t as usize] / temperature;
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
