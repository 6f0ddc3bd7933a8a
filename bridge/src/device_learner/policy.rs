//! A policy on a device that samples from the distribution it scores.

use std::sync::Arc;

use rand::Rng;
use rto::seq::{Channel, Decoder, Episode, Finish, PerToken, Policy, StreamKey, TokenScorer};
use rto::{Error, Result, Token};
use rto_device::Draw;
use rto_device::network::Writing;

use super::scorer::DeviceScorer;
use crate::device::failed;
use crate::learner::backend;

/// π(·|s) = softmax(logits/T) of a network on a device, over responses that end with one of its end tokens or at a longest length.
///
/// Text is written in slots that are refilled as responses end; every token takes one number of its prompt's stream, so that a response does
/// not depend on the others.
pub struct DevicePolicy<'d> {
    scorer: DeviceScorer<'d>,
    max_new_tokens: usize,
    slots: usize,
    read_at_once: usize,
}

impl<'d> DevicePolicy<'d> {
    /// A policy whose responses have at most `max_new_tokens` tokens, the one that ends them included.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] without a language-model head or for `max_new_tokens` = 0.
    pub fn try_new(scorer: DeviceScorer<'d>, max_new_tokens: usize) -> crate::Result<Self> {
        let refused = |field, found: &str, expected: &str| crate::Error::Setting {
            field,
            found: found.into(),
            expected: expected.into(),
        };
        if !scorer.channels().contains(&Channel::LogProb) {
            return Err(refused("head", "none for text", "a language-model head"));
        }
        if max_new_tokens == 0 {
            return Err(refused("max_new_tokens", "0", "at least 1"));
        }
        Ok(Self {
            scorer,
            max_new_tokens,
            slots: 64,
            read_at_once: 8192,
        })
    }

    /// Writes in that many slots, and reads prompts of at most so many tokens, padding counted, in one pass. Neither changes a response by more
    /// than the rounding of products of another number of rows.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for no slot.
    pub fn with_writing(mut self, slots: usize, read_at_once: usize) -> crate::Result<Self> {
        if slots == 0 {
            return Err(crate::Error::Setting {
                field: "slots",
                found: "0".into(),
                expected: "at least 1".into(),
            });
        }
        (self.slots, self.read_at_once) = (slots, read_at_once);
        Ok(self)
    }

    /// The network.
    pub fn scorer(&self) -> &DeviceScorer<'d> {
        &self.scorer
    }

    /// The policy as it is now, frozen.
    ///
    /// # Errors
    /// As [`DeviceScorer::snapshot`].
    pub fn snapshot(&self) -> crate::Result<Self> {
        Ok(Self {
            scorer: self.scorer.snapshot()?,
            ..*self
        })
    }

    /// Responses for evaluation, through a decoder (on top of the policy's temperature). Never for training.
    ///
    /// # Errors
    /// As [`Policy::sample`]; those of [`Decoder::check`]; [`Error::Config`] for `min_new_tokens` above 0: no kernel forbids a token.
    pub fn decode(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
        decoder: Decoder,
    ) -> Result<Vec<Episode>> {
        StreamKey::check_one_per_prompt(prompts, keys)?;
        let decoder = decoder.check()?;
        if decoder.min_new_tokens > 0 {
            let must = "0: on a device a response may end at its first token";
            return Err(Error::config(
                "min_new_tokens",
                decoder.min_new_tokens,
                must,
            ));
        }
        self.write(prompts, Some(keys), decoder)
    }

    fn write(
        &self,
        prompts: &[Arc<[Token]>],
        keys: Option<&[StreamKey]>,
        decoder: Decoder,
    ) -> Result<Vec<Episode>> {
        let context = self.scorer.config().max_positions();
        // A text one past the context could be written, but not scored.
        let room = context.saturating_sub(self.max_new_tokens);
        if let Some(i) = prompts.iter().position(|p| p.len() > room) {
            let found = format!("{} tokens", prompts[i].len());
            let new = self.max_new_tokens;
            let must = format!("at most {room}: {new} more must fit into the context of {context}");
            return Err(Error::config(format!("prompt {i}"), found, must));
        }
        let writing = Writing {
            slots: self.slots,
            longest: self.max_new_tokens,
            ends: self.scorer.config().end_tokens().all().to_vec(),
            draw: keys.map(|_| Draw {
                temperature: self.scorer.temperature() * decoder.temperature,
                top_k: decoder.top_k,
                top_p: decoder.top_p,
            }),
            read_at_once: self.read_at_once,
        };
        let mut streams: Vec<_> = keys
            .unwrap_or_default()
            .iter()
            .map(StreamKey::rng)
            .collect();
        // A prompt's tokens are drawn in their order.
        let mut uniform = |prompt: usize, _: usize| streams[prompt].random();
        let texts: Vec<&[u32]> = prompts.iter().map(|p| &p[..]).collect();
        let program = self.scorer.program().map_err(backend)?;
        let written = program.write(&texts, &writing, &mut uniform);
        let written = written.map_err(|e| backend(failed(e)))?;
        let episodes = prompts.iter().zip(written).map(|(prompt, written)| {
            let finish = match written.ended {
                true => Finish::Eos,
                false => Finish::Length,
            };
            Episode::try_new(prompt.clone(), written.tokens, finish)
        });
        episodes.collect()
    }
}

impl TokenScorer for DevicePolicy<'_> {
    fn channels(&self) -> &[Channel] {
        self.scorer.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.scorer.scores(batch)
    }
}

impl Policy for DevicePolicy<'_> {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        StreamKey::check_one_per_prompt(prompts, keys)?;
        self.write(prompts, Some(keys), Decoder::default())
    }

    fn greedy(&self, prompts: &[Arc<[Token]>]) -> Result<Vec<Episode>> {
        self.write(prompts, None, Decoder::default())
    }
}
