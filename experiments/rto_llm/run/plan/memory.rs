//! How much memory a run takes at most.

use anyhow::Result;
use candle_core::Device;
use rto_bridge::family::Head;
use rto_bridge::memory_plan::{MemoryPlan, Workload, check_fits};
use rto_harness::methods::Model;

use crate::run::choices::CriticKind;
use crate::run::config::Config;
use crate::run::data::Data;

/// Bytes of a run.
pub struct Memory {
    /// A network in training.
    pub policy: MemoryPlan,
    /// A network that is only read.
    pub frozen: MemoryPlan,
    /// Of everything at once, at most.
    pub peak: u64,
    /// Networks in training among it.
    trained: u64,
    /// K, into which batches are cut.
    groups: usize,
    /// Networks whose gradients of groups are held at once.
    adding: u64,
}

impl Memory {
    /// The plan of a run that trains so many methods at once.
    pub fn new(config: &Config, data: &Data, jobs: usize) -> Self {
        let network = &data.network;
        let lora = config.lora(network);
        let with = |training, lora| {
            let work = Workload {
                dtype: config.dtype.of(),
                batch: config.micro_batch,
                sequence: data.longest_prompt() + config.max_new_tokens,
                training,
                moments: config.moments.of(),
                checkpointing: config.checkpoint_activations,
                lora,
                ..Workload::default()
            };
            MemoryPlan::new(network, Head::CausalLm, &work)
        };
        let policy = with(true, lora.as_ref());
        let frozen = with(false, None);
        // The largest stage: policy and critic in training; the reference, what a reward reads beside it, and the oracle frozen. A critic
        // starts from the reward model.
        let critics = u64::from(config.critic == CriticKind::Separate);
        let read = |method: &&rto_harness::methods::Method| {
            let reads = method.training().reads;
            let reads = |model| u64::from(reads.contains(&model));
            let token = reads(Model::TokenRewardModel);
            reads(Model::Dpo) + token + reads(Model::RewardModel).max(critics)
        };
        let beside = config.methods.iter().map(read).max().unwrap_or(0);
        let oracle = u64::from(data.world.is_none());
        let mut peak = (1 + critics) * policy.total() + (1 + beside + oracle) * frozen.total();
        // Policy, critic, reference, DPO policy and reward model are one base with adapters of their own; merging one for writing
        // makes a copy that is dropped again.
        if lora.is_some() {
            peak -= (critics + 1 + beside) * frozen.weights;
            peak += frozen.weights;
        }
        // Text is written from weights in another layout.
        peak += frozen.weights;
        // Methods at once share nothing.
        let at_once = jobs.clamp(1, config.methods.len().max(1)) as u64;
        peak *= at_once;
        if lora.is_some() && data.base.is_none() {
            // From scratch SFT trains every weight.
            peak = peak.max(with(true, None).total());
        }
        Self {
            policy,
            frozen,
            peak,
            trained: (1 + critics) * at_once,
            groups: config.gradient_groups,
            // Memory of slices is kept for the next step, that of a device is given back.
            adding: match config.device.as_str() {
                "cpu" => (1 + critics) * at_once,
                _ => at_once,
            },
        }
    }

    /// Bytes that each of so many ranks takes at most; `sharded` says whether they share out AdamW's moments and masters.
    ///
    /// A rank adds its K/P groups in a binary tree, which holds a gradient more for each of its levels.
    pub fn of_rank(&self, ranks: usize, sharded: bool) -> u64 {
        let policy = &self.policy;
        let levels = (self.groups / ranks).max(1).ilog2();
        let shared = match sharded {
            true => others_part(self.trained * (policy.moments + policy.master), ranks),
            false => 0,
        };
        self.peak - shared + self.adding * policy.gradients * u64::from(levels)
    }

    /// Refuses a run that the GPU of one of so many ranks has no room for, before it begins.
    pub fn check(&self, device: &Device, ranks: usize, sharded: bool) -> Result<()> {
        Ok(check_fits(self.of_rank(ranks, sharded), device)?)
    }
}

/// What the other ranks have of something that is shared out.
pub fn others_part(bytes: u64, ranks: usize) -> u64 {
    bytes * (ranks as u64 - 1) / ranks as u64
}
