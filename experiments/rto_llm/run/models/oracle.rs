//! What a response is worth when policies are compared: the world's own reward, or a reward model that trained none of them.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use rto::seq::{Episode, Finish};
use rto::token_reward::SentenceReward;
use rto_bridge::checkpoint::hub;
use rto_bridge::learner::NeuralScorer;
use rto_bridge::tokenizer::Tokenizer;

use super::networks::Models;
use crate::run::data::Codec;
use crate::run::stage::Stage;

/// What scores responses.
pub enum Oracle<'a> {
    /// The reward of the world, which is known.
    World(&'a rto_bridge::world::World),
    /// Trained on pairs that nothing else of the run has seen.
    Trained(Box<NeuralScorer>),
    /// The user's, which reads text in tokens of its own.
    Given {
        scorer: Box<NeuralScorer>,
        tokenizer: Box<Tokenizer>,
        codec: &'a Codec,
    },
}

impl Oracle<'_> {
    /// One number per response.
    pub fn rewards(&self, batch: &[Episode]) -> Result<Vec<f64>> {
        Ok(match self {
            Self::World(world) => {
                let rewards = batch.iter().map(|e| world.reward(e));
                rewards.collect::<rto::Result<_>>()?
            }
            Self::Trained(scorer) => last(scorer, batch)?,
            Self::Given {
                scorer,
                tokenizer,
                codec,
            } => {
                let read = batch.iter().map(|e| translate(e, scorer, tokenizer, codec));
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

fn last(scorer: &NeuralScorer, batch: &[Episode]) -> Result<Vec<f64>> {
    use rto::seq::TokenReward;
    Ok(SentenceReward::new(scorer).rewards(batch)?.row_sums())
}

/// The same dialogue in the tokens of another model; too long a prompt loses its start.
fn translate(
    episode: &Episode,
    scorer: &NeuralScorer,
    tokenizer: &Tokenizer,
    codec: &Codec,
) -> Result<Episode> {
    let (prompt, reply) = (&episode.prompt, &episode.response);
    let texts = (codec.text(prompt)?, codec.reply(prompt, reply)?);
    let (mut prompt, mut response) = tokenizer.pair(&texts.0, &texts.1, false)?;
    if let (Finish::Eos, Some(eos)) = (episode.finish, scorer.config().eos_token()) {
        response.push(eos);
    }
    let positions = scorer.config().max_positions();
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

/// Refuses an oracle that cannot score, before anything is written.
pub fn check(name: &str) -> Result<()> {
    load(name, DType::F32, &Device::Cpu).map(drop)
}

fn load(name: &str, dtype: DType, device: &Device) -> Result<(NeuralScorer, Tokenizer)> {
    let folder = hub::resolve(name, &mut |text| eprintln!("{text}"))
        .with_context(|| format!("--oracle {name}"))?;
    let scorer = NeuralScorer::load_as(&folder, false, Some(dtype), device)?;
    use rto::seq::{Channel, TokenScorer};
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
            return Ok(Oracle::Given {
                scorer: Box::new(
                    scorer
                        .with_ranks(self.ranks.clone())
                        .with_micro_batch(self.config.micro_batch)?,
                ),
                tokenizer: Box::new(tokenizer),
                codec: &self.data.codec,
            });
        }
        let scorer = self.load(&self.saved(Stage::Oracle), false)?;
        let scorer = scorer.with_ranks(self.ranks.clone());
        let scorer = scorer.with_micro_batch(self.config.micro_batch)?;
        Ok(Oracle::Trained(Box::new(scorer)))
    }
}
