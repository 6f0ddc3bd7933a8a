//! Demonstrations, pairs and prompts of the world.

use std::sync::Arc;

use anyhow::{Result, bail};
use rto::Token;
use rto::algorithm2::Pair;
use rto::seed::SeedTree;
use rto::seq::{Episode, StreamKey};
use rto_bridge::world::World;

use super::config::Config;

/// What a run learns from and is tested on. A function of the seed and the configuration.
pub struct Data {
    pub world: World,
    pub demonstrations: Vec<Episode>,
    pub pairs: Vec<Pair>,
    /// 𝒟 of the RL stages: training prompts.
    pub prompts: Vec<Arc<[Token]>>,
    /// Prompts no stage has seen.
    pub held_out: Vec<Arc<[Token]>>,
}

impl Data {
    pub fn new(config: &Config, seeds: &SeedTree) -> Result<Self> {
        let world = World::try_new(config.reward_scale)?;
        let (prompts, held_out) = world.split(&seeds.child("split"));
        if held_out.len() < config.eval_prompts {
            bail!(
                "eval_prompts: found {}, expected at most {}, the held-out prompts of the world",
                config.eval_prompts,
                held_out.len()
            );
        }
        let longest = prompts.iter().chain(&held_out).map(|p| p.len()).max();
        let needed = longest.unwrap_or(0) + config.max_new_tokens;
        if config.max_positions < needed {
            bail!(
                "max_positions: found {}, expected at least {needed}: the longest prompt and max_new_tokens",
                config.max_positions
            );
        }
        // Spread over the held-out prompts, which stand in the order of the grammar.
        let n = held_out.len();
        let spread = |i: usize| held_out[i * n / config.eval_prompts].clone();
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
        Ok(Self {
            demonstrations,
            pairs: pairs.into_iter().map(pair).collect(),
            held_out: (0..config.eval_prompts).map(spread).collect(),
            prompts,
            world,
        })
    }

    /// Mean true reward of responses.
    pub fn mean_reward(&self, batch: &[Episode]) -> Result<f64> {
        let rewards = batch.iter().map(|e| self.world.reward(e));
        let sum: f64 = rewards.sum::<rto::Result<f64>>()?;
        Ok(sum / batch.len().max(1) as f64)
    }
}
