//! The smallest models that satisfy the seam: logits and values in a map from (prompt, prefix).

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;

use crate::numerics::log_sum_exp;
use crate::seq::*;
use crate::{Result, Token};

pub const ACTIONS: usize = 3;
pub const LENGTH: usize = 3;
/// Ends a response.
pub const EOS: Token = 0;

pub type State = (Vec<Token>, Vec<Token>);

/// Softmax logits, and a value per state in channels that are declared.
#[derive(Clone)]
pub struct Table {
    pub logits: BTreeMap<State, [f64; ACTIONS]>,
    pub values: BTreeMap<State, f64>,
    pub rate: f64,
    pub channels: Vec<Channel>,
    /// Makes scores depend on the batch, which a policy must not.
    pub leak: f64,
}

impl Table {
    pub fn new(channels: &[Channel]) -> Self {
        Self {
            logits: BTreeMap::new(),
            values: BTreeMap::new(),
            rate: 0.0,
            channels: channels.to_vec(),
            leak: 0.0,
        }
    }

    pub fn log_probs(&self, s: &State) -> [f64; ACTIONS] {
        let z = self.logits.get(s).copied().unwrap_or_default();
        z.map(|v| v - log_sum_exp(&z))
    }
}

pub fn state(e: &Episode, h: usize) -> State {
    (e.prompt.to_vec(), e.response[..h].to_vec())
}

impl TokenScorer for Table {
    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        let leak = self.leak * batch.len() as f64;
        let score = |e: &Episode, h: usize, c: Channel| match c {
            Channel::LogProb => self.log_probs(&state(e, h))[e.response[h] as usize] - leak,
            Channel::Entropy => -self
                .log_probs(&state(e, h))
                .iter()
                .map(|l| l * l.exp())
                .sum::<f64>(),
            _ => self.values.get(&state(e, h)).copied().unwrap_or_default(),
        };
        self.channels
            .iter()
            .try_fold(PerToken::new(batch), |s, &c| {
                let row = |e: &Episode| (0..e.len()).map(|h| score(e, h, c)).collect::<Vec<_>>();
                s.with(c, Ragged::from_rows(batch.iter().map(row)))
            })
    }
}

impl Policy for Table {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        let one = |(x, key): (&Arc<[Token]>, &StreamKey)| {
            let (mut rng, mut y) = (key.rng(), Vec::new());
            while y.len() < LENGTH && y.last() != Some(&EOS) {
                let (mut u, mut a) = (rng.random::<f64>(), 0);
                let p = self.log_probs(&(x.to_vec(), y.clone())).map(f64::exp);
                while a + 1 < ACTIONS && u >= p[a] {
                    u -= p[a];
                    a += 1;
                }
                y.push(a as Token);
            }
            let finish = if y.last() == Some(&EOS) {
                Finish::Eos
            } else {
                Finish::Length
            };
            Episode::try_new(x.clone(), y, finish)
        };
        prompts.iter().zip(keys).map(one).collect()
    }

    fn greedy(&self, prompts: &[Arc<[Token]>]) -> Result<Vec<Episode>> {
        let follows = |e: &Episode| {
            (0..e.len()).all(|h| {
                let p = self.log_probs(&state(e, h));
                p.iter().all(|l| *l <= p[e.response[h] as usize])
            })
        };
        let one = |x: &Arc<[Token]>| responses(x).into_iter().find(&follows).unwrap();
        Ok(prompts.iter().map(one).collect())
    }
}

impl Trainable for Table {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let (loss, grad) = loss_and_score_grad(objective, &self.scores(batch)?)?;
        let before = self.clone();
        let mut norm = 0.0;
        for (i, e) in batch.iter().enumerate() {
            for h in 0..e.len() {
                let s = state(e, h);
                let g = |c| objective.channels().contains(&c).then(|| grad.row(c, i)[h]);
                if let Some(g) = g(Channel::LogProb) {
                    let p = before.log_probs(&s).map(f64::exp);
                    let z = self.logits.entry(s.clone()).or_default();
                    for a in 0..ACTIONS {
                        let own = f64::from(u8::from(a == e.response[h] as usize));
                        z[a] -= self.rate * g * (own - p[a]);
                    }
                    norm += g * g;
                }
                if let Some(g) = g(Channel::Value).or(g(Channel::Reward)) {
                    *self.values.entry(s).or_default() -= self.rate * g;
                }
            }
        }
        Ok(StepReport {
            loss,
            grad_norm: f64::sqrt(norm),
            learning_rate: self.rate,
        })
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.rate = learning_rate;
    }
}

impl PolicyLearner for Table {
    type Policy = Self;

    fn policy(&self) -> &Self {
        self
    }

    fn snapshot(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

/// Every response to a prompt.
pub fn responses(prompt: &Arc<[Token]>) -> Vec<Episode> {
    let (mut open, mut done) = (vec![Vec::new()], Vec::new());
    while let Some(y) = open.pop() {
        for a in 0..ACTIONS as Token {
            let mut y: Vec<Token> = y.clone();
            y.push(a);
            let finish = if a == EOS {
                Finish::Eos
            } else {
                Finish::Length
            };
            match a == EOS || y.len() == LENGTH {
                true => done.push(Episode::try_new(prompt.clone(), y, finish).unwrap()),
                false => open.push(y),
            }
        }
    }
    done
}
