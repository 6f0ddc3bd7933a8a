//! What a run learns from and is tested on, wherever it comes from: `on_world` and `files` make it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use rto::Token;
use rto::algorithm2::Pair;
use rto::seq::Episode;
use rto_bridge::config::ModelConfig;
use rto_bridge::world::World;
use serde_json::Value;

use super::codec::{Codec, TokenizerFiles};

/// A prompt in tokens.
pub type Prompt = Arc<[Token]>;

/// Everything that is fixed before training. A function of the seed, the configuration and the files.
pub struct Data {
    /// The synthetic world, where that is what is learned.
    pub world: Option<World>,
    pub codec: Codec,
    pub tokenizer: TokenizerFiles,
    /// Shape of the policies.
    pub network: ModelConfig,
    /// The folder of `model`.
    pub base: Option<PathBuf>,
    /// Whole dialogues, for a network from scratch.
    pub dialogues: Vec<Episode>,
    pub demonstrations: Vec<Episode>,
    pub pairs: Vec<Pair>,
    /// 𝒟 of the RL stages: training prompts.
    pub prompts: Vec<Prompt>,
    /// Prompts no stage has seen.
    pub held_out: Vec<Prompt>,
    /// Labels of people on held-out prompts.
    pub held_out_pairs: Vec<Pair>,
    /// What the oracle alone is trained on; empty where the reward is known or given.
    pub oracle_dialogues: Vec<Episode>,
    pub oracle_pairs: Vec<Pair>,
    /// What was read, for programs: said once, and kept beside the results.
    pub account: Value,
    /// What was read, for people.
    pub said: String,
}

impl Data {
    /// Tokens of the longest prompt.
    pub fn longest_prompt(&self) -> usize {
        let all = self.prompts.iter().chain(&self.held_out);
        all.map(|p| p.len()).max().unwrap_or(0)
    }
}

/// `wanted` of the held-out prompts, spread over all of them: neighbours are alike.
pub fn spread(held_out: Vec<Prompt>, wanted: usize, whose: &str) -> Result<Vec<Prompt>> {
    let n = held_out.len();
    if n < wanted {
        bail!("eval_prompts: found {wanted}, expected at most {n}, the held-out prompts {whose}");
    }
    Ok((0..wanted)
        .map(|i| held_out[i * n / wanted].clone())
        .collect())
}

/// Each prompt once, in the order of its first appearance.
pub fn distinct(prompts: impl Iterator<Item = Prompt>) -> Vec<Prompt> {
    let mut seen = HashSet::new();
    prompts.filter(|p| seen.insert(p.clone())).collect()
}
