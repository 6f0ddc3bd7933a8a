//! The stages of a run.

use clap::ValueEnum;
use clap::builder::PossibleValue;
use rto_harness::methods::{METHODS, Method};

/// A stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Language modelling on whole dialogues, for a network from scratch.
    Pretrain,
    /// Supervised fine-tuning: π_ref.
    Sft,
    /// The reward model (2.2).
    Reward,
    /// A reward of every token, fitted to those of a file.
    TokenReward,
    /// DPO: π_dpo.
    Dpo,
    /// Language modelling for an oracle from scratch.
    OraclePretrain,
    /// The reward model that judges, where no reward is known or given.
    Oracle,
    /// A method of Algorithm 2.
    Rl(&'static Method),
    /// Held-out prompts, exact values, samples.
    Evaluate,
}

impl Stage {
    /// The name of its folders, files and streams.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Reward => "reward",
            Self::TokenReward => "token_reward",
            Self::Dpo => "dpo",
            Self::OraclePretrain => "oracle_pretrain",
            Self::Oracle => "oracle",
            Self::Rl(method) => method.name,
            Self::Evaluate => "evaluate",
        }
    }

    /// Whether a run that stops after `last` has this stage.
    pub fn is_within(self, last: Self) -> bool {
        self.phase() <= last.phase()
    }

    /// What `--stage` names: learning to write goes with what it is for, and the methods go together.
    fn phase(self) -> u8 {
        match self {
            Self::Pretrain | Self::Sft => 0,
            Self::Reward | Self::TokenReward => 1,
            Self::Dpo => 2,
            Self::OraclePretrain | Self::Oracle => 3,
            Self::Rl(_) => 4,
            Self::Evaluate => 5,
        }
    }
}

/// The values of `--stage`, one for each phase.
impl ValueEnum for Stage {
    fn value_variants<'a>() -> &'a [Self] {
        const ANY_METHOD: Stage = Stage::Rl(&METHODS[METHODS.len() - 1]);
        &[
            Self::Sft,
            Self::Reward,
            Self::Dpo,
            Self::Oracle,
            ANY_METHOD,
            Self::Evaluate,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Rl(_) => ("rl", "The methods of Algorithm 2"),
            Self::Sft => (self.name(), "Supervised fine-tuning"),
            Self::Reward => (self.name(), "The reward model"),
            Self::Dpo => (self.name(), "DPO"),
            Self::Oracle => (
                self.name(),
                "The reward model that judges, where no reward is known or given",
            ),
            Self::Evaluate => (self.name(), "Held-out prompts, exact values, samples"),
            Self::Pretrain | Self::TokenReward | Self::OraclePretrain => return None,
        };
        Some(PossibleValue::new(name).help(help))
    }
}
