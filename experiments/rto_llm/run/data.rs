//! What a run learns from and is tested on: the synthetic world, or preference files.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use rto::Token;
use rto::algorithm2::Pair;
use rto::seed::SeedTree;
use rto::seq::{Episode, StreamKey};
use rto_bridge::config::ModelConfig;
use rto_bridge::world::{EOS, PAD, WORDS, World};
use serde_json::{Value, json};

use super::codec::{Codec, TokenizerFiles, Vocabulary};
use super::config::Config;
use super::files;

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
    /// Said once, and kept beside the results.
    pub account: Value,
    /// The same for people.
    pub said: String,
}

impl Data {
    pub fn new(config: &Config, seeds: &SeedTree) -> Result<Self> {
        match config.on_world() {
            true => of_world(config, seeds),
            false => files::read(config, seeds),
        }
    }

    /// Tokens of the longest prompt.
    pub fn longest_prompt(&self) -> usize {
        let all = self.prompts.iter().chain(&self.held_out);
        all.map(|p| p.len()).max().unwrap_or(0)
    }
}

fn of_world(config: &Config, seeds: &SeedTree) -> Result<Data> {
    let world = World::try_new(config.reward_scale)?;
    let (prompts, held_out) = world.split(&seeds.child("split"));
    let held_out = spread(held_out, config.eval_prompts, "of the world")?;
    let (base, network) = match config.model.as_str() {
        "" => (None, config.network(words())),
        name => {
            let files::Base {
                folder, network, ..
            } = files::base(name)?;
            if network.vocab_size() != WORDS.len() {
                bail!(
                    "--model {name}: has {} tokens, expected the {} words of the world",
                    network.vocab_size(),
                    WORDS.len()
                );
            }
            if network.eos_token() != Some(EOS) {
                bail!(
                    "--model {name}: ends texts with token {:?}, expected {EOS}, as the world does",
                    network.eos_token()
                );
            }
            (Some(folder), network)
        }
    };
    let longest = prompts.iter().chain(&held_out).map(|p| p.len()).max();
    let needed = longest.unwrap_or(0) + config.max_new_tokens;
    if network.max_positions() < needed {
        bail!(
            "max_positions: found {}, expected at least {needed}: the longest prompt and max_new_tokens",
            network.max_positions()
        );
    }
    let node = seeds.child("demonstrations");
    let demonstrate = |i: usize| {
        let key = StreamKey::new(node.index(i as u64));
        world.demonstrate(&prompts[i % prompts.len()], &key)
    };
    let demonstrations = (0..config.demonstrations)
        .map(demonstrate)
        .collect::<rto::Result<_>>()?;
    let pairs = world.pairs(&prompts, config.pairs, seeds)?;
    let pair = |p: rto_bridge::world::WorldPair| Pair {
        winner: p.winner,
        loser: p.loser,
    };
    let account = json!({"data": "the synthetic dialogue world", "prompts": prompts.len(), "model": files::fingerprint(base.as_deref())?});
    Ok(Data {
        codec: Codec::Words,
        tokenizer: TokenizerFiles::of_world(),
        network,
        base,
        dialogues: Vec::new(),
        demonstrations,
        pairs: pairs.into_iter().map(pair).collect(),
        held_out,
        held_out_pairs: Vec::new(),
        oracle_dialogues: Vec::new(),
        oracle_pairs: Vec::new(),
        account,
        said: String::new(),
        prompts,
        world: Some(world),
    })
}

fn words() -> Vocabulary {
    Vocabulary {
        size: WORDS.len(),
        eos: EOS,
        pad: PAD,
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
