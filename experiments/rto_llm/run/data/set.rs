//! What a run learns from and is tested on, wherever it comes from: `on_world` and `files` make it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use rto::Token;
use rto::algorithm2::{Labelled, Pair};
use rto::seq::Episode;
use rto_bridge::family::ModelConfig;
use rto_bridge::world::World;
use serde_json::Value;

use super::codec::{Codec, TokenizerFiles};
use super::token_rewards::TokenRewards;

/// A prompt in tokens.
pub type Prompt = Arc<[Token]>;

/// Who decides which prompts are for training and which are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The seed of the run.
    BySeed,
    /// The text of the prompt alone, whatever the seed; of those that are held out one part is for seeds that are tuned on, the other for
    /// those that are reported.
    ByText { tuned: bool },
}

/// What people said of replies, in tokens.
#[derive(Clone)]
pub enum Feedback {
    /// Which of two is better.
    Pairs(Vec<Pair>),
    /// Whether one is wanted.
    Labels(Vec<Labelled>),
}

impl Feedback {
    /// Pairs, or labelled replies.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(all) => all.len(),
            Self::Labels(all) => all.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What [`Feedback::len`] counts.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Pairs(_) => "pairs",
            Self::Labels(_) => "labelled replies",
        }
    }

    /// Winner, loser, winner, loser, …, or the replies with a label.
    pub fn episodes(&self) -> Vec<Episode> {
        match self {
            Self::Pairs(all) => {
                let both = |p: &Pair| [p.winner.clone(), p.loser.clone()];
                all.iter().flat_map(both).collect()
            }
            Self::Labels(all) => all.iter().map(|l| l.episode.clone()).collect(),
        }
    }

    /// What is imitated: winners, or wanted replies.
    pub fn liked(&self) -> impl Iterator<Item = &Episode> {
        let (pairs, labels) = self.parts();
        let wanted = labels.iter().filter(|l| l.desirable).map(|l| &l.episode);
        pairs.iter().map(|p| &p.winner).chain(wanted)
    }

    /// A better and a worse reply each: the two of a pair, or the i-th wanted reply and the i-th unwanted one, which answer prompts of
    /// their own. No reply is in two of them, so that they are independent.
    pub fn contests(&self) -> Vec<[Episode; 2]> {
        let (pairs, labels) = self.parts();
        let of_pairs = pairs.iter().map(|p| [p.winner.clone(), p.loser.clone()]);
        let of = |desirable| {
            let some = labels.iter().filter(move |l| l.desirable == desirable);
            some.map(|l| l.episode.clone())
        };
        let of_labels = of(true).zip(of(false)).map(|(a, b)| [a, b]);
        of_pairs.chain(of_labels).collect()
    }

    /// The prompt of each.
    pub fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        let (pairs, labels) = self.parts();
        let of_pairs = pairs.iter().map(|p| &p.winner.prompt);
        of_pairs.chain(labels.iter().map(|l| &l.episode.prompt))
    }

    /// Labelled replies with their labels; a reply may have both.
    pub fn wanted(&self) -> HashSet<(&Episode, bool)> {
        let (_, labels) = self.parts();
        labels.iter().map(|l| (&l.episode, l.desirable)).collect()
    }

    /// Episodes of each: two of a pair.
    pub fn rows_each(&self) -> usize {
        match self {
            Self::Pairs(_) => 2,
            Self::Labels(_) => 1,
        }
    }

    fn parts(&self) -> (&[Pair], &[Labelled]) {
        match self {
            Self::Pairs(all) => (all, &[]),
            Self::Labels(all) => (&[], all),
        }
    }
}

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
    pub pairs: Feedback,
    /// Replies with a reward of every token, where a file of them is given.
    pub token_rewards: TokenRewards,
    /// 𝒟 of the RL stages: training prompts.
    pub prompts: Vec<Prompt>,
    /// Prompts no stage has seen.
    pub held_out: Vec<Prompt>,
    /// Labels of people on held-out prompts.
    pub held_out_pairs: Feedback,
    /// What the oracle alone is trained on; empty where the reward is known or given.
    pub oracle_dialogues: Vec<Episode>,
    pub oracle_pairs: Feedback,
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
