//! How much memory a run takes, from the shape of the network, before anything is allocated.
//!
//! ```
//! use rto_bridge::family::{GptNeoXConfig, Head};
//! use rto_bridge::memory_plan::{MemoryPlan, Workload};
//!
//! let config = GptNeoXConfig::tiny(11, 0); // eleven tokens, of which 0 ends a response
//! let plan = |training| MemoryPlan::new(&config, Head::CausalLm, &Workload { training, ..Workload::default() });
//! // f32 weights, gradients and two moments: 16 bytes a weight before any activation.
//! assert!(plan(true).total() > 16 * plan(true).parameters);
//! assert!(plan(false).total() < plan(true).total());
//! println!("{}", plan(true));
//! ```

mod card;
mod on_device;

pub use card::{CARDS, Card};
pub use on_device::{DeviceRun, DeviceStage, device_plan};

use crate::family::REWARD_WEIGHT;
use crate::family::{Head, ModelConfig};
use crate::lora::LoraConfig;
use crate::optimizer::Moments;
use crate::{Error, Result};
use candle_core::{DType, Device};
use std::fmt;

/// What the memory is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload<'a> {
    /// Type of weights, gradients, activations and cache.
    pub dtype: DType,
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of a sequence, prompt and response.
    pub sequence: usize,
    /// Whether a training step is made; otherwise the network is run forward only.
    pub training: bool,
    /// Whether each block's activations are recomputed in the backward pass.
    pub checkpointing: bool,
    /// Largest head tile, `[rows, vocabulary]`, computed at once.
    pub head_tile: (usize, usize),
    /// How AdamW holds its moments.
    pub moments: Moments,
    /// The adapter that is trained instead of all weights; targets that match nothing count nothing.
    pub lora: Option<&'a LoraConfig>,
}

impl Default for Workload<'_> {
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            batch: 16,
            sequence: 512,
            training: false,
            checkpointing: true,
            head_tile: (256, 1024),
            moments: Moments::F32,
            lora: None,
        }
    }
}

/// Bytes by purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Number of weights, an adapter's among them.
    pub parameters: u64,
    /// Number of weights that a step changes: all, or adapter and reward head.
    pub trained: u64,
    /// Weights as the network multiplies them.
    pub weights: u64,
    /// f32 master copy of trained weights of a shorter type; adapters are f32 themselves.
    pub master: u64,
    /// One gradient per trained weight, f32 where weights are shorter.
    pub gradients: u64,
    /// Two moments of AdamW per trained weight, with the scales of those in 8 bits.
    pub moments: u64,
    /// What the backward pass needs of the forward pass, or one block's working set.
    pub activations: u64,
    /// Keys and values of every position (generation).
    pub cache: u64,
    /// One tile of the output head, in f32.
    pub head_tile: u64,
}

impl MemoryPlan {
    /// The plan of one network.
    ///
    /// Activations of training count what the processor's kernels keep per block and token: its input (with a sequential residual
    /// also its middle), q, k, v, the attention's output, the MLP's inner width (gate and up in the Llama family), and a log-sum per head;
    /// and, once, what one block works on forward and backward (7 times the width and 3 or 4 times the inner one). Attention weights `[batch, heads, time, time]`
    /// are recomputed there, not kept; candle expressions on other devices hold one block's of them for a moment, in f32, some five
    /// times over. With checkpointing every block keeps its input and one block keeps the rest.
    pub fn new(config: impl Into<ModelConfig>, head: Head, work: &Workload<'_>) -> Self {
        let config = config.into();
        let shapes = config.tensors(head);
        let count = |s: &Vec<usize>| s.iter().map(|&n| n as u64).product::<u64>();
        let size = work.dtype.size_in_bytes() as u64;
        let base: u64 = shapes.values().map(count).sum();
        let factors = work
            .lora
            .map(|lora| lora.shapes(&shapes).unwrap_or_default());
        // Trained weights of the network itself, and an adapter's; those are at least f32.
        let (own, factors): (Vec<_>, Vec<_>) = match factors {
            None => (shapes.values().cloned().collect(), Vec::new()),
            Some(factors) => (
                shapes.get(REWARD_WEIGHT).cloned().into_iter().collect(),
                factors.into_values().collect(),
            ),
        };
        let [own_count, factor_count] = [&own, &factors].map(|s| s.iter().map(count).sum::<u64>());
        let factor_size = size.max(4);
        let [h, inner, layers, heads, queries, keys] = [
            config.hidden_size(),
            config.intermediate_size(),
            config.n_layers(),
            config.n_heads(),
            config.n_heads() * config.head_dim(),
            config.n_kv_heads() * config.head_dim(),
        ]
        .map(|n| n as u64);
        // Blocks in sequence keep their middle too, and a gated MLP two inner widths.
        let plan = config.plan();
        let (middle, inners) = (u64::from(!plan.parallel), 1 + u64::from(plan.gated));
        let tokens = work.batch as u64 * work.sequence as u64;
        let kept = tokens * ((1 + middle) * h + 2 * queries + 2 * keys + inners * inner) * size
            + tokens * heads * 4;
        let working = tokens * (4 * h + queries + 2 * keys + (2 + inners) * inner) * size;
        let stream = tokens * h * size;
        let training = u64::from(work.training);
        let tile = work.head_tile.0.min(tokens as usize) as u64
            * work.head_tile.1.min(config.vocab_size()) as u64;
        let head_tile = match head {
            // The processor's generation holds the logits of sixteen rows.
            Head::CausalLm if !work.training => 16 * config.vocab_size() as u64,
            Head::CausalLm => tile,
            Head::Classification { labels } => tokens.min(16) * labels as u64,
        };
        Self {
            parameters: base + factor_count,
            trained: own_count + factor_count,
            weights: base * size + factor_count * factor_size,
            master: if work.dtype == DType::F32 {
                0
            } else {
                training * own_count * 4
            },
            gradients: training * (own_count + factor_count) * factor_size,
            moments: match work.training {
                true => own
                    .iter()
                    .chain(&factors)
                    .map(|s| work.moments.bytes(s.iter().product()) as u64)
                    .sum(),
                false => 0,
            },
            activations: match (work.training, work.checkpointing) {
                (false, _) => {
                    tokens.min(256) * (4 * h + 3 * queries + 2 * keys + (1 + inners) * inner) * size
                }
                (true, true) => layers * stream + kept + working,
                (true, false) => layers * kept + working,
            },
            cache: (1 - training) * 2 * layers * tokens * keys * size,
            head_tile: head_tile * 4,
        }
    }

    /// Sum of all.
    pub fn total(&self) -> u64 {
        self.rows().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Refuses a plan that a GPU has no room for, before anything is allocated there. A processor's memory is not asked: the system
    /// may have pages that it gives back.
    ///
    /// # Errors
    /// [`Error::Device`] with both sizes.
    pub fn check_fits(&self, device: &Device) -> Result<()> {
        check_fits(self.total(), device)
    }

    fn moments_name(&self) -> &'static str {
        match self.moments < 8 * self.trained {
            true => "AdamW moments (8 bit)",
            false => "AdamW moments (f32)",
        }
    }

    fn rows(&self) -> [(&'static str, u64); 7] {
        [
            ("weights", self.weights),
            ("master weights (f32)", self.master),
            ("gradients", self.gradients),
            (self.moments_name(), self.moments),
            ("activations", self.activations),
            ("key-value cache", self.cache),
            ("output head tile (f32)", self.head_tile),
        ]
    }
}

/// [`MemoryPlan::check_fits`] of several networks together.
///
/// # Errors
/// As there.
pub fn check_fits(bytes: u64, device: &Device) -> Result<()> {
    match crate::device::free_memory(device)? {
        Some(free) => fits_in(bytes, free),
        None => Ok(()),
    }
}

/// [`check_fits`] where it is known what is free.
///
/// # Errors
/// As there.
pub fn fits_in(bytes: u64, free: u64) -> Result<()> {
    if bytes <= free {
        return Ok(());
    }
    Err(Error::Device {
        name: "memory".into(),
        why: format!(
            "the plan needs {}, {} are free; a smaller batch, shorter sequences or bf16 need less",
            human(bytes),
            human(free)
        ),
        source: None,
    })
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (name, bytes) in self.rows().into_iter().filter(|(_, bytes)| *bytes > 0) {
            writeln!(f, "  {name:<24}{:>12}", human(bytes))?;
        }
        write!(f, "  {:<24}{:>12}", "total", human(self.total()))
    }
}

/// Bytes with three significant figures.
fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests;
