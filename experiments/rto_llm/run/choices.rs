//! Settings that are one of a few words.

use clap::ValueEnum;
use rto::algorithm2::{Schedule, Whitening};
use rto_bridge::optimizer::Moments;
use serde::{Deserialize, Serialize};

/// A method after DPO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Method {
    /// PPO with a reward model at the last token (2.3)
    Ppo,
    /// The sentence-level DPO reward (5.1), not the later divergence PPO
    Dppo,
    /// The token-level DPO reward (4.6)
    Rto,
    /// The token-level DPO reward at the smaller beta2 that the paper's Figure 3 gives it, and not to DPPO
    RtoPrinted,
    /// The authors' later code: clipped token reward and a reward model
    RtoReleased,
}

impl Method {
    /// Of stages, folders and columns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ppo => "ppo",
            Self::Dppo => "dppo",
            Self::Rto => "rto",
            Self::RtoPrinted => "rto_printed",
            Self::RtoReleased => "rto_released",
        }
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($variant:ident),* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[allow(missing_docs)]
        pub enum $name { $($variant),* }
    };
}

choice!(/// How a learning rate moves.
    Shape { Constant, Linear, Cosine });
choice!(/// Where V comes from.
    CriticKind { Separate, Shared });
choice!(/// Of the divergence from the reference.
    Estimator { K1, K2, K3, Exact });
choice!(/// Of advantages or rewards.
    WhiteningKind { Off, Scale, ShiftAndScale });
choice!(/// Of token losses.
    AggregationKind { TokenMean, SequenceMean });

/// How AdamW holds its moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentsKind {
    /// 8 bytes a weight
    #[serde(rename = "f32")]
    F32,
    /// 2 bytes a weight and 8 a block
    #[serde(rename = "8bit")]
    EightBit,
}

impl MomentsKind {
    /// Of the bridge.
    pub fn of(self) -> Moments {
        match self {
            Self::F32 => Moments::F32,
            Self::EightBit => Moments::EightBit,
        }
    }
}

impl Shape {
    /// With the floor of the cosine that the authors' later code has.
    pub fn schedule(self, warmup: f64) -> Schedule {
        match self {
            Self::Constant => Schedule::Constant,
            Self::Linear => Schedule::Linear { warmup },
            Self::Cosine => Schedule::Cosine { warmup, floor: 0.1 },
        }
    }
}

impl WhiteningKind {
    /// As the driver knows it.
    pub fn of(self) -> Whitening {
        match self {
            Self::Off => Whitening::Off,
            Self::Scale => Whitening::Scale,
            Self::ShiftAndScale => Whitening::ShiftAndScale,
        }
    }
}
