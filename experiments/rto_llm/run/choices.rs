//! Settings that are one of a few words.

use candle_core::DType;
use rto_bridge::generate::Stored;
use rto_bridge::model::Products;
use rto_bridge::optimizer::Moments;
use serde::{Deserialize, Serialize};

/// What processes that train together speak through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CollectiveKind {
    /// MPI, between processors (feature mpi)
    Mpi,
    /// NCCL, between GPUs (feature nccl); processes meet through MPI, or a file
    Nccl,
}

/// Where V comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticKind {
    /// A network of its own, started from the reward model.
    Separate,
    /// A value head on the policy's trunk.
    Shared,
}

/// Float type of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Float {
    /// 4 bytes a weight
    F32,
    /// 2 bytes a weight, and 4 more of every weight that is trained
    Bf16,
}

impl Float {
    /// What tensors call it.
    pub fn of(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

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
    /// What the optimiser calls it.
    pub fn of(self) -> Moments {
        match self {
            Self::F32 => Moments::F32,
            Self::EightBit => Moments::EightBit,
        }
    }
}

/// What the factors of products with weights are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProductsKind {
    /// Nothing.
    F32,
    /// bf16, where the processor has such products
    Bf16,
}

impl ProductsKind {
    /// What models call it.
    pub fn of(self) -> Products {
        match self {
            Self::F32 => Products::F32,
            Self::Bf16 => Products::Bf16,
        }
    }
}

/// In what numbers the weights of products are read while responses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SamplingWeights {
    /// As they are
    F32,
    /// Two bytes a weight
    Bf16,
    /// One byte a weight, and a scale for every 64 of them
    Int8,
}

impl SamplingWeights {
    /// What engines call it.
    pub fn of(self) -> Stored {
        match self {
            Self::F32 => Stored::F32,
            Self::Bf16 => Stored::Bf16,
            Self::Int8 => Stored::Int8,
        }
    }

    /// The word that names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}
