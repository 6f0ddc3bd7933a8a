//! The synthetic world as episodes: demonstrations, labelled pairs and prompts.

use anyhow::{Result, bail};
use rto::seed::SeedTree;
use rto::seq::StreamKey;
use rto_bridge::world::{EOS, PAD, WORDS, World, WorldConfig};
use serde_json::json;

use super::base::{Base, base, fingerprint};
use super::codec::{Codec, TokenizerFiles};
use super::set::{Cut, Data, Feedback, spread};
use crate::run::config::{Config, Vocabulary};

/// The world that the settings make.
///
/// # Errors
/// A setting out of range.
pub fn world(config: &Config) -> Result<World> {
    Ok(World::try_new(WorldConfig {
        scale: config.reward_scale,
        disagreement: config.disagreement,
        density: config.density,
        horizon: config.max_new_tokens,
    })?)
}

/// The data of the world.
pub fn read(config: &Config, seeds: &SeedTree, cut: Cut) -> Result<Data> {
    let world = world(config)?;
    let (prompts, held_out) = match cut {
        Cut::BySeed => world.split(&seeds.child("split")),
        Cut::ByText { tuned } => {
            let [train, tune, report] = world.split_for_tuning();
            (train, if tuned { tune } else { report })
        }
    };
    let held_out = spread(held_out, config.eval_prompts, "of the world")?;
    let (base, network) = match config.model.as_str() {
        "" => (None, config.network(words())),
        name => {
            let Base {
                folder, network, ..
            } = base(name)?;
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
    let account = json!({"data": "the synthetic dialogue world", "prompts": prompts.len(), "model": fingerprint(base.as_deref())?});
    Ok(Data {
        codec: Codec::Words,
        tokenizer: TokenizerFiles::of_world(),
        network,
        base,
        dialogues: Vec::new(),
        demonstrations,
        token_rewards: Default::default(),
        pairs: Feedback::Pairs(pairs),
        held_out,
        held_out_pairs: Feedback::Pairs(Vec::new()),
        oracle_dialogues: Vec::new(),
        oracle_pairs: Feedback::Pairs(Vec::new()),
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
