//! Low-rank adapters (LoRA, Hu et al. 2022): a frozen base and, per adapted layer, `y = x Wᵀ + b + s (x Aᵀ) Bᵀ` with `A [r, in]` and
//! `B [out, r]` trained, `s = α/r` or, rank-stabilised (Kalajdzievski 2023), `α/√r`.
//!
//! Policies with adapters of their own share one base in memory; each costs `r (in + out)` numbers per adapted layer:
//!
//! ```
//! use candle_core::Device;
//! use rto::seed::SeedTree;
//! use rto_bridge::family::GptNeoXConfig;
//! use rto_bridge::lora::LoraConfig;
//! use rto_bridge::model::{Heads, Model};
//! use rto_bridge::params::Init;
//!
//! let config = GptNeoXConfig::tiny(11, 0); // eleven tokens, of which 0 ends a response
//! let heads = Heads { language_model: true, ..Heads::default() };
//! let base = Model::random(&config, heads, Init::Small, &SeedTree::new(1), &Device::Cpu)?;
//! let lora = LoraConfig { rank: 2, alpha: 4.0, target_modules: vec!["query_key_value".into()], use_rslora: false };
//! let policy = base.with_adapter(lora, &SeedTree::new(2))?;
//! assert_eq!(policy.params().trained_count(), 2 * (8 + 24)); // A [2, 8] and B [24, 2]
//! let reference = policy.without_adapter()?; // the same weights in the same memory
//! assert_eq!(reference.params().trained_count(), 0);
//! # Ok::<(), rto_bridge::Error>(())
//! ```

mod peft;

use crate::family::ModelConfig;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rto::seed::SeedTree;
use std::collections::BTreeMap;

pub use peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
pub(crate) use peft::{load, save};

/// What follows a layer's name in that of its `A`.
pub(crate) const A_SUFFIX: &str = ".lora_A.weight";
/// What follows a layer's name in that of its `B`.
pub(crate) const B_SUFFIX: &str = ".lora_B.weight";
/// Larger ranks are refused, so that a product of two sizes never overflows.
const MAX_RANK: usize = 1 << 20;

/// Which layers are adapted, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// r, the inner width; at least 1.
    pub rank: usize,
    /// α, above 0.
    pub alpha: f64,
    /// Ends of the names of linear layers in the blocks, whole words between dots as in PEFT: `query_key_value`, `mlp.dense_4h_to_h`.
    pub target_modules: Vec<String>,
    /// Whether s is α/√r instead of α/r.
    pub use_rslora: bool,
}

impl LoraConfig {
    /// An adapter on every linear layer of the blocks, with s = α/r.
    pub fn every_layer(network: &ModelConfig, rank: usize, alpha: f64) -> Self {
        let targets = network.description().lora_targets;
        Self {
            rank,
            alpha,
            target_modules: targets.iter().map(ToString::to_string).collect(),
            use_rslora: false,
        }
    }

    /// s, the factor on `(x Aᵀ) Bᵀ`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// # Errors
    /// [`Error::Setting`] for a rank or α out of range, or no target.
    fn check(&self) -> Result<()> {
        let refuse = |field, found: String, expected: &str| {
            Err(Error::Setting {
                field,
                found,
                expected: expected.into(),
            })
        };
        if self.rank == 0 || self.rank > MAX_RANK {
            return refuse(
                "lora rank",
                self.rank.to_string(),
                "a number from 1 to 1048576",
            );
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return refuse(
                "lora alpha",
                self.alpha.to_string(),
                "a finite number above 0",
            );
        }
        if self.target_modules.is_empty() {
            return refuse(
                "lora target_modules",
                "none".into(),
                "at least one linear layer",
            );
        }
        Ok(())
    }

    fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|t| ends_with(module, t))
    }

    /// Names and shapes of the adapter's weights for a network of the given weights.
    ///
    /// # Errors
    /// [`Error::Setting`] for a rank or α out of range, and for a target that is no linear layer of a block.
    pub fn shapes(
        &self,
        network: &BTreeMap<String, Vec<usize>>,
    ) -> Result<BTreeMap<String, Vec<usize>>> {
        self.check()?;
        for target in &self.target_modules {
            if !layers(network).any(|(module, _)| ends_with(module, target)) {
                let mut known: Vec<&str> = layers(network)
                    .filter_map(|(module, _)| module.rsplit('.').next())
                    .collect();
                known.sort_unstable();
                known.dedup();
                return Err(Error::Setting {
                    field: "lora target_modules",
                    found: target.clone(),
                    expected: format!(
                        "the end of the name of a linear layer in the blocks: {}",
                        known.join(", ")
                    ),
                });
            }
        }
        let adapted = layers(network).filter(|(module, _)| self.targets(module));
        let factors = adapted.flat_map(|(module, shape)| {
            [
                (format!("{module}{A_SUFFIX}"), vec![self.rank, shape[1]]),
                (format!("{module}{B_SUFFIX}"), vec![shape[0], self.rank]),
            ]
        });
        Ok(factors.collect())
    }

    /// Fresh weights: `A` uniform on `±1/√in` (Kaiming with a = √5, as PEFT draws it), `B` zero, so that the network is its base.
    /// Each `A` has its own stream of `seeds`.
    pub(crate) fn draw(
        shapes: &BTreeMap<String, Vec<usize>>,
        seeds: &SeedTree,
        dtype: DType,
        device: &Device,
    ) -> Result<BTreeMap<String, Tensor>> {
        let draw = |(name, shape): (&String, &Vec<usize>)| {
            let count = shape.iter().product();
            let mut values = vec![0.0f32; count];
            if name.ends_with(A_SUFFIX) {
                let bound = 1.0 / (shape[1] as f64).sqrt();
                let mut rng = seeds.child(name).rng();
                values.fill_with(|| rng.random_range(-bound..bound) as f32);
            }
            let tensor = Tensor::from_vec(values, shape.as_slice(), device)?.to_dtype(dtype)?;
            Ok((name.clone(), tensor))
        };
        shapes.iter().map(draw).collect()
    }
}

/// Linear layers of the blocks, the head and the embedding not among them, with `[out, in]`.
fn layers(network: &BTreeMap<String, Vec<usize>>) -> impl Iterator<Item = (&str, &[usize])> {
    network
        .iter()
        .filter(|(name, shape)| shape.len() == 2 && of_a_block(name))
        .filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?, shape.as_slice())))
        .filter(|(module, _)| !module.ends_with(".lora_A") && !module.ends_with(".lora_B"))
}

/// Whether a tensor stands in a block: its name has the block's number.
fn of_a_block(name: &str) -> bool {
    name.split('.').any(|part| part.parse::<usize>().is_ok())
}

/// Whether `module` is `target` or ends with it after a dot.
fn ends_with(module: &str, target: &str) -> bool {
    module
        .strip_suffix(target)
        .is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// Whether a weight is one of an adapter's.
pub(crate) fn is_factor(name: &str) -> bool {
    name.ends_with(A_SUFFIX) || name.ends_with(B_SUFFIX)
}
