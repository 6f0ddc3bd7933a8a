//! The table of methods: one row each for every figure, page, command line and run.
//!
//! Names are those of folders and CSV columns; labels are what people read. A variant of a method has the outline of its
//! marker, so that families stay together in print too. What a method maximises is in its row: a token reward of one's own is a type
//! that implements [`TokenReward`], in a file of its own below `methods/`, and its `mod` line and row here; `algorithm2` and `rto_llm`
//! then know it. Rewards of the paper, and those that the library should offer to everybody, are in [`rto::token_reward`].

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use rto::algorithm2::{Advantage, KlPlacement, PpoConfig};
use rto::objective::Aggregation;
use rto::seq::{TokenReward, TokenScorer};
use rto::token_reward::{DenseReward, DpoReward, KlEstimator, PaidAtEnd, SentenceReward, released};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::plot::{Kind, Marker, SeriesStyle};

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The name in folders, columns and flags.
    pub name: &'static str,
    /// The name for people.
    pub label: &'static str,
    /// What it is, in a few words; equations are those of the paper.
    pub what: &'static str,
    /// Index into the palette.
    pub color: usize,
    /// The marker of its points.
    pub marker: Marker,
    /// The line of a curve with too many points for markers.
    pub line: Kind,
    /// How it learns; none where it is no method after DPO.
    pub training: Option<Training>,
}

/// What tells the methods of Algorithm 2 and its baselines apart.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// The reward without its KL term.
    pub reward: Reward,
    /// The models that this reward reads. Each costs a forward pass over every response.
    pub reads: &'static [Model],
    /// The method's own settings, beside [`SHARED_KEYS`] (but `beta1` with `one_beta`).
    pub keys: &'static [Key],
    /// What it changes of the `[ppo]` table.
    pub ppo: fn(PpoConfig, &Keys) -> PpoConfig,
    /// Whether its β₁ is β₂, so that it has none of its own.
    pub one_beta: bool,
    /// Whether the critic starts at the DPO rewards of the prefix, which takes a state space that can be enumerated.
    pub critic_from_prefix: bool,
}

/// The reward of a method, from the models of a run.
pub type Reward = for<'a> fn(&Parts<'a>) -> rto::Result<Box<dyn TokenReward + 'a>>;

/// A model that a reward may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// π_dpo.
    Dpo,
    /// π_ref.
    Reference,
    /// r_φ of (2.2).
    RewardModel,
    /// A reward model that pays every token.
    TokenRewardModel,
}

/// What a reward is made of.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// π_dpo of line 2 of Algorithm 2, with log-probabilities.
    pub dpo: &'a dyn TokenScorer,
    /// π_ref, with log-probabilities.
    pub reference: &'a dyn TokenScorer,
    /// r_φ of (2.2), or the model that pays every token where the method reads that, with rewards.
    pub reward_model: &'a dyn TokenScorer,
    /// What is subtracted from the reward of a response; 0 leaves it as it is.
    pub reward_mean: f64,
    /// β₁ of (4.5).
    pub beta1: f64,
    /// β₂ of this method.
    pub beta2: f64,
    /// The method's own settings.
    pub keys: &'a Keys,
}

impl<'a> Parts<'a> {
    /// The token reward (4.5).
    ///
    /// # Errors
    /// β₁ ≤ 0.
    pub fn dpo_reward(&self) -> rto::Result<DpoReward<&'a dyn TokenScorer, &'a dyn TokenScorer>> {
        let beta1 = self.keys.get("beta1").unwrap_or(self.beta1);
        DpoReward::try_new(self.dpo, self.reference, beta1)
    }

    /// (4.5) at β₁ = β₂, for which the optimum of (4.6) is π_dpo itself, whatever β₂ is.
    ///
    /// # Errors
    /// β₂ ≤ 0.
    pub fn distilled(&self) -> rto::Result<DpoReward<&'a dyn TokenScorer, &'a dyn TokenScorer>> {
        DpoReward::try_new(self.dpo, self.reference, self.beta2)
    }

    /// (2.3): r_φ(x, y) less its mean.
    ///
    /// # Errors
    /// A mean that is not finite.
    pub fn sentence(&self) -> rto::Result<SentenceReward<&'a dyn TokenScorer>> {
        SentenceReward::new(self.reward_model).normalised(self.reward_mean, 1.0)
    }
}

/// A setting of a method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// The key in `[method.NAME]` of a config.
    pub name: &'static str,
    /// The value where nothing is said; none where the run's own is taken.
    pub default: Option<f64>,
    /// What it is, with its unit.
    pub what: &'static str,
}

/// The settings that every method has.
pub const SHARED_KEYS: [Key; 2] = [
    Key {
        name: "beta1",
        default: None,
        what: "beta1 of (4.5), for this method alone",
    },
    Key {
        name: "beta2",
        default: None,
        what: "beta2, for this method alone",
    },
];

/// `[method.NAME]` tables of a config: what is said of each method.
pub type Given = BTreeMap<String, BTreeMap<String, f64>>;

/// The settings of one method: its own, and [`SHARED_KEYS`] where they are given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keys(BTreeMap<&'static str, f64>);

impl Keys {
    /// A setting, if it is given or has a default.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// A setting of the method's own row.
    ///
    /// # Panics
    /// If the row has no such key with a default.
    pub fn own(&self, name: &str) -> f64 {
        self.get(name)
            .unwrap_or_else(|| panic!("{name}: no key with a default in the row of the method"))
    }
}

const fn row(
    name: &'static str,
    label: &'static str,
    (color, marker, line): (usize, Marker, Kind),
    what: &'static str,
    training: Option<Training>,
) -> Method {
    Method {
        name,
        label,
        what,
        color,
        marker,
        line,
        training,
    }
}

/// RTO, as `[ppo]` says, with a critic that starts where it is put.
const PLAIN: Training = Training {
    reward: |parts| Ok(Box::new(parts.dpo_reward()?)),
    reads: &[Model::Dpo, Model::Reference],
    keys: &[],
    ppo: |config, _| config,
    one_beta: false,
    critic_from_prefix: false,
};

/// DPPO, by the reward (5.1).
const AT_END: Training = Training {
    reward: |parts| Ok(Box::new(PaidAtEnd(parts.dpo_reward()?))),
    ..PLAIN
};

/// Responses to one prompt that are compared with each other.
const GROUP: Key = Key {
    name: "group",
    default: Some(4.0),
    what: "responses to one prompt that are compared, at least 2; prompts are fewer by as much",
};

/// As many responses, in groups.
fn grouped(config: PpoConfig, keys: &Keys) -> PpoConfig {
    let group = keys.own(GROUP.name) as usize;
    PpoConfig {
        prompts_per_iteration: config.responses() / group.max(1),
        responses_per_prompt: group,
        ..config
    }
}

/// Every method of every binary.
pub const METHODS: &[Method] = &[
    row(
        "sft",
        "SFT",
        (7, Marker::Plus, Kind::Dotted),
        "supervised fine-tuning: the reference policy π_ref",
        None,
    ),
    row(
        "dpo",
        "DPO",
        (5, Marker::Triangle, Kind::DashDot),
        "direct preference optimisation, π_dpo",
        None,
    ),
    row(
        "ppo",
        "PPO",
        (0, Marker::Diamond, Kind::DashDot),
        "PPO (2.3): the score of a reward model (2.2), paid at the last token",
        Some(Training {
            reward: |parts| Ok(Box::new(parts.sentence()?)),
            reads: &[Model::RewardModel],
            ..PLAIN
        }),
    ),
    row(
        "ppo_dense",
        "PPO, token reward",
        (4, Marker::OpenDiamond, Kind::Line),
        "PPO on a reward model that pays every token",
        Some(Training {
            reward: |parts| Ok(Box::new(DenseReward(parts.reward_model))),
            reads: &[Model::TokenRewardModel],
            ..PLAIN
        }),
    ),
    row(
        "dppo",
        "DPPO",
        (3, Marker::Square, Kind::Dashed),
        "the DPO reward of the whole response, paid at its last token (5.1); not the later divergence PPO",
        Some(AT_END),
    ),
    row(
        "dppo_offset",
        "DPPO, critic from C(s)",
        (9, Marker::OpenSquare, Kind::Dashed),
        "DPPO with a critic that starts at the DPO rewards of the prefix, C(s)",
        Some(Training {
            critic_from_prefix: true,
            ..AT_END
        }),
    ),
    row(
        "rto",
        "RTO",
        (2, Marker::Circle, Kind::Line),
        "the DPO reward of every token (4.6)",
        Some(PLAIN),
    ),
    row(
        "rto_printed",
        "RTO, printed β₂",
        (8, Marker::OpenCircle, Kind::Dashed),
        "RTO at the smaller β₂ that the paper's Figure 3 gives it and not its rival",
        Some(PLAIN),
    ),
    row(
        "rto_released",
        "RTO as released",
        (6, Marker::Cross, Kind::DashDot),
        "the authors' later code: the token reward clipped, and a reward model at the last token",
        Some(Training {
            reward: |parts| {
                let (token, clip) = (parts.dpo_reward()?, parts.keys.own("clip"));
                Ok(Box::new(released(token, clip, parts.sentence()?)?))
            },
            reads: &[Model::Dpo, Model::Reference, Model::RewardModel],
            keys: &[Key {
                name: "clip",
                default: Some(0.05),
                what: "the DPO reward of a token is cut to ± this, in units of reward (after beta1)",
            }],
            ..PLAIN
        }),
    ),
    row(
        "rloo",
        "RLOO",
        (1, Marker::OpenTriangle, Kind::Dotted),
        "REINFORCE with a leave-one-out baseline on the reward of (5.1), no critic",
        Some(Training {
            keys: &[GROUP],
            ppo: |config, keys| PpoConfig {
                advantage: Advantage::LeaveOneOut,
                ..grouped(config, keys)
            },
            ..AT_END
        }),
    ),
    row(
        "grpo",
        "GRPO",
        (1, Marker::Triangle, Kind::Dashed),
        "GRPO as commonly run on the reward of (5.1): a group's rewards over their spread, k3 in the loss, every response weighs the same",
        Some(Training {
            keys: &[GROUP],
            ppo: |config, keys| PpoConfig {
                advantage: Advantage::Group {
                    divide_by_std: true,
                },
                kl_placement: KlPlacement::Loss,
                kl_estimator: KlEstimator::K3,
                aggregation: Aggregation::SequenceMean,
                ..grouped(config, keys)
            },
            ..AT_END
        }),
    ),
    row(
        "distill",
        "RTO, β₁ = β₂",
        (4, Marker::OpenCircle, Kind::Dotted),
        "RTO at β₁ = β₂, whose optimum is π_dpo: distillation of DPO",
        Some(Training {
            reward: |parts| Ok(Box::new(parts.distilled()?)),
            one_beta: true,
            ..PLAIN
        }),
    ),
];

/// What is no method of the table gets one of these, in turn.
const OTHERS: [(usize, Marker, Kind); 4] = [
    (4, Marker::OpenDiamond, Kind::Line),
    (1, Marker::OpenTriangle, Kind::Dashed),
    (9, Marker::OpenSquare, Kind::DashDot),
    (0, Marker::Diamond, Kind::Dotted),
];

/// The row of a name; `-` and `_` are the same.
pub fn find(name: &str) -> Option<&'static Method> {
    let name = name.replace('-', "_");
    METHODS.iter().find(|m| m.name == name)
}

/// The label of a name; a name that is no method's is its own label.
pub fn label(name: &str) -> &str {
    find(name).map_or(name, |m| m.label)
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Method {}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Method {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let known = || trained().map(|m| m.name).collect::<Vec<_>>().join(", ");
        let found = find(&name).filter(|m| m.training.is_some());
        found.ok_or_else(|| {
            serde::de::Error::custom(format!("found {name:?}, expected one of {}", known()))
        })
    }
}

/// The methods after DPO, in the order of the table.
pub fn trained() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().filter(|m| m.training.is_some())
}

/// Reads the name of a method after DPO on the command line.
pub fn value_parser() -> impl TypedValueParser<Value = &'static Method> {
    let values = trained().map(|m| PossibleValue::new(m.name).help(m.what));
    PossibleValuesParser::new(values).map(|name| method(&name))
}

/// Refuses settings of methods that do not exist, and settings that a method does not have.
///
/// # Errors
/// One line that names the key, what was found and what was expected.
pub fn check(given: &Given) -> Result<()> {
    for (name, settings) in given {
        let found = trained().find(|m| m.name == name);
        let known = || trained().map(|m| m.name).collect::<Vec<_>>().join(", ");
        found
            .with_context(|| format!("method.{name}: no such method, expected one of {}", known()))?
            .keys(given)
            .map(drop)?;
        if let Some((key, value)) = settings.iter().find(|(_, value)| !value.is_finite()) {
            bail!("method.{name}.{key}: found {value}, expected a finite number");
        }
    }
    Ok(())
}

impl Method {
    /// How it learns.
    ///
    /// # Panics
    /// If it is no method after DPO.
    pub fn training(&self) -> &Training {
        let training = self.training.as_ref();
        training.unwrap_or_else(|| panic!("{}: no method after DPO", self.name))
    }

    /// Its own settings with their defaults, and what is given of them.
    ///
    /// # Errors
    /// A key that is not in the row.
    pub fn keys(&self, given: &Given) -> Result<Keys> {
        let training = self.training();
        let shared = || {
            let all = SHARED_KEYS.iter();
            all.filter(|key| !training.one_beta || key.name != "beta1")
        };
        let known = || training.keys.iter().chain(shared());
        let default = |key: &Key| Some((key.name, key.default?));
        let mut keys: BTreeMap<&'static str, f64> = known().filter_map(default).collect();
        for (key, value) in given.get(self.name).into_iter().flatten() {
            let row = known().find(|row| row.name == key);
            let row = row.with_context(|| {
                let names: Vec<&str> = known().map(|row| row.name).collect();
                format!(
                    "method.{}.{key}: no such setting, expected one of {}",
                    self.name,
                    names.join(", ")
                )
            })?;
            keys.insert(row.name, *value);
        }
        Ok(Keys(keys))
    }

    /// The PPO of this method: `[ppo]`, with β₂ and what else its row changes.
    pub fn ppo(&self, base: PpoConfig, keys: &Keys) -> PpoConfig {
        let beta2 = keys.get("beta2").unwrap_or(base.beta2);
        (self.training().ppo)(PpoConfig { beta2, ..base }, keys)
    }

    /// The look of a curve with markers, or of markers alone.
    pub fn style(&self, kind: Kind) -> SeriesStyle {
        SeriesStyle::new(kind, self.color, self.marker)
    }

    /// The look of a curve with too many points for markers.
    pub fn curve(&self) -> SeriesStyle {
        self.style(self.line)
    }
}

/// The row of a name that must be there.
///
/// # Panics
/// If the table has no such method.
pub fn method(name: &str) -> &'static Method {
    find(name).unwrap_or_else(|| panic!("{name}: no row in the table of methods"))
}

/// Looks of all the names that one page shows: those of the table, and for others (stages that are no method, runs that a
/// user named) what is left, in order. The line's kind is that of a curve.
pub fn curves<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<(&'a str, SeriesStyle)> {
    let mut looks: Vec<(&str, SeriesStyle)> = Vec::new();
    let mut others = 0;
    for name in names {
        if looks.iter().any(|(n, _)| *n == name) {
            continue;
        }
        let look = match find(name) {
            Some(method) => method.curve(),
            None => {
                let (color, marker, kind) = OTHERS[others % OTHERS.len()];
                others += 1;
                SeriesStyle::new(kind, color, marker)
            }
        };
        looks.push((name, look));
    }
    looks
}
