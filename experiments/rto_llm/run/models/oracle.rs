//! What a response is worth when policies are compared: the world's own reward, or a reward model that trained none of them.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use std::sync::Arc;

use rto::seq::{Channel, Episode, Finish, TokenReward, TokenScorer};
use rto::token_reward::SentenceReward;
use rto_bridge::checkpoint::{self, hub};
use rto_bridge::family::{Head, ModelConfig};
use rto_bridge::learner::NeuralScorer;
use rto_bridge::tokenizer::Tokenizer;

use super::networks::Models;
use crate::run::config::Config;
use crate::run::data::{Codec, Data};
use crate::run::stage::Stage;

/// What scores responses, its network where it was taken.
pub enum Oracle<'a, S = Arc<NeuralScorer>> {
    /// The reward of the world, which is known.
    World(&'a rto_bridge::world::World),
    /// Trained on pairs that nothing else of the run has seen.
    Trained(S),
    /// The user's, which reads text in tokens of its own.
    Given { scorer: S, reads: Box<Reads<'a>> },
}

/// What an oracle of the user's reads a dialogue with.
pub struct Reads<'a> {
    shape: ModelConfig,
    tokenizer: Tokenizer,
    codec: &'a Codec,
}

impl<'a, S> Oracle<'a, S> {
    /// The same oracle, its network taken elsewhere.
    pub fn map<T>(
        self,
        take: impl FnOnce(S) -> rto_bridge::Result<T>,
    ) -> rto_bridge::Result<Oracle<'a, T>> {
        Ok(match self {
            Self::World(world) => Oracle::World(world),
            Self::Trained(scorer) => Oracle::Trained(take(scorer)?),
            Self::Given { scorer, reads } => Oracle::Given {
                scorer: take(scorer)?,
                reads,
            },
        })
    }
}

impl<S: TokenScorer> Oracle<'_, S> {
    /// One number per response.
    pub fn rewards(&self, batch: &[Episode]) -> Result<Vec<f64>> {
        Ok(match self {
            Self::World(world) => {
                let rewards = batch.iter().map(|e| world.reward(e));
                rewards.collect::<rto::Result<_>>()?
            }
            Self::Trained(scorer) => last(scorer, batch)?,
            Self::Given { scorer, reads } => {
                let read = batch.iter().map(|e| reads.translate(e));
                last(scorer, &read.collect::<Result<Vec<_>>>()?)?
            }
        })
    }

    /// The mean over a batch.
    pub fn mean(&self, batch: &[Episode]) -> Result<f64> {
        let sum: f64 = self.rewards(batch)?.iter().sum();
        Ok(sum / batch.len().max(1) as f64)
    }

    /// Its mean over a batch, under the name it is logged by.
    pub fn truth(&self, batch: &[Episode]) -> Result<(&'static str, f64)> {
        Ok((self.metric(), self.mean(batch)?))
    }

    fn metric(&self) -> &'static str {
        match self {
            Self::World(_) => "objective/true_reward",
            _ => "objective/oracle_reward",
        }
    }
}

fn last(scorer: &impl TokenScorer, batch: &[Episode]) -> Result<Vec<f64>> {
    Ok(SentenceReward::new(scorer).rewards(batch)?.row_sums())
}

impl Reads<'_> {
    /// The same dialogue in the tokens of the oracle; too long a prompt loses its start.
    fn translate(&self, episode: &Episode) -> Result<Episode> {
        let (prompt, reply) = (&episode.prompt, &episode.response);
        let texts = (self.codec.text(prompt)?, self.codec.reply(prompt, reply)?);
        let (mut prompt, mut response) = self.tokenizer.pair(&texts.0, &texts.1, false)?;
        if let (Finish::Eos, Some(eos)) = (episode.finish, self.shape.eos_token()) {
            response.push(eos);
        }
        let positions = self.shape.max_positions();
        response.truncate(positions - 1);
        if response.is_empty() {
            // A response without words that did not end: its prompt's last token is read.
            response.extend(prompt.pop());
        }
        let start = (prompt.len() + response.len()).saturating_sub(positions);
        Ok(Episode::try_new(
            prompt[start..].into(),
            response,
            episode.finish,
        )?)
    }
}

/// Refuses an oracle that cannot score, before anything is written.
pub fn check(name: &str) -> Result<()> {
    load(name, DType::F32, &Device::Cpu).map(drop)
}

/// How many weights the network has that judges in this run; 0 where the world does.
///
/// # Errors
/// A folder whose shape cannot be read.
pub fn weights(config: &Config, data: &Data) -> Result<usize> {
    let shapes = match (&data.world, &config.oracle) {
        (Some(_), _) => return Ok(0),
        (None, own) if own.is_empty() => data.network.tensors(Head::CausalLm),
        (None, name) => {
            let folder = hub::resolve(name, &mut |text| eprintln!("{text}"))
                .with_context(|| format!("--oracle {name}"))?;
            let (shape, head) = checkpoint::read_config(&folder)?;
            shape.tensors(head)
        }
    };
    Ok(shapes.values().map(|s| s.iter().product::<usize>()).sum())
}

fn load(name: &str, dtype: DType, device: &Device) -> Result<(NeuralScorer, Tokenizer)> {
    let folder = hub::resolve(name, &mut |text| eprintln!("{text}"))
        .with_context(|| format!("--oracle {name}"))?;
    let scorer = NeuralScorer::load_as(&folder, false, Some(dtype), device)?;
    if !scorer.channels().contains(&Channel::Reward) {
        bail!(
            "--oracle {name}: writes text, expected a sequence-classification model with one label"
        );
    }
    let tokenizer = Tokenizer::load(&folder, scorer.config())?;
    Ok((scorer, tokenizer))
}

impl Models<'_> {
    /// What judges in this run.
    ///
    /// # Errors
    /// A network that cannot be loaded.
    pub fn oracle(&self) -> Result<Oracle<'_>> {
        if let Some(world) = &self.data.world {
            return Ok(Oracle::World(world));
        }
        if !self.config.oracle.is_empty() {
            let (scorer, tokenizer) =
                load(&self.config.oracle, self.config.host_dtype(), &self.device)?;
            let reads = Reads {
                shape: scorer.config().clone(),
                tokenizer,
                codec: &self.data.codec,
            };
            return Ok(Oracle::Given {
                scorer: self.judge(scorer)?,
                reads: Box::new(reads),
            });
        }
        let scorer = self.load(&self.saved(Stage::Oracle), false)?;
        Ok(Oracle::Trained(self.judge(scorer)?))
    }

    fn judge(&self, scorer: NeuralScorer) -> Result<Arc<NeuralScorer>> {
        let scorer = scorer.with_ranks(self.ranks.clone());
        Ok(Arc::new(scorer.with_micro_batch(self.config.micro_batch)?))
    }
}
