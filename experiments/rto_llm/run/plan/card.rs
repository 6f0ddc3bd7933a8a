//! What a run would take on a card, from its settings and the shape of its network alone.

use anyhow::Result;
use rto_bridge::family::{Head, ModelConfig};
use rto_bridge::memory_plan::{CARDS, DeviceRun, DeviceStage, device_plan};
use rto_harness::cli::Reporter;
use rto_harness::methods::{Method, Model};
use rto_harness::say;
use serde_json::json;

use crate::run::choices::CriticKind;
use crate::run::config::Config;
use crate::run::data::Data;
use crate::run::models::weights_of_oracle;

/// Texts that are written side by side.
const SLOTS: usize = 64;

/// The run as far as its memory depends on it.
fn run(config: &Config, network: &ModelConfig) -> DeviceRun {
    let ppo = &config.ppo;
    DeviceRun {
        dtype: config.dtype.of(),
        lora: config.lora(network),
        moments: config.moments.of(),
        checkpointing: config.checkpoint_activations,
        separate_critic: config.critic == CriticKind::Separate,
        micro_batch: config.micro_batch,
        prompt: config.max_prompt_tokens,
        response: config.max_new_tokens,
        batches: [
            config.sft.batch_size,
            config.reward.batch_size,
            config.dpo.fit.batch_size,
        ],
        iteration: [ppo.responses(), ppo.minibatch_size],
        epochs: ppo.epochs,
        slots: SLOTS,
    }
}

/// The most bytes that a run takes of a device of the program of kernels: the plan's largest stage, the reward model beside the policy
/// where a method reads it and it is no adapter of π_ref, and the oracle, which judges what a policy in training has written.
pub fn peak(config: &Config, data: &Data) -> Result<u64> {
    let network = &data.network;
    let stages = device_plan(network, &run(config, network))?;
    let largest = stages.iter().map(|s| s.peak_device_bytes).max();
    let reads = |method: &&Method| method.training().reads.contains(&Model::RewardModel);
    let shapes = network.tensors(Head::CausalLm);
    let weights = shapes.values().map(|s| s.iter().product::<usize>());
    let reward = match config.lora(network).is_none() && config.methods.iter().any(reads) {
        true => weights.sum(),
        false => 0,
    };
    let beside = reward + weights_of_oracle(config, data)?;
    Ok(largest.unwrap_or(0) + (beside * config.dtype.of().size_in_bytes()) as u64)
}

/// Prints settings and, for every stage, memory and work on a card.
pub fn print(config: &Config, network: &ModelConfig, reporter: &Reporter) -> Result<()> {
    let run = run(config, network);
    let stages = device_plan(network, &run)?;
    let peak = stages.iter().map(|s| s.peak_device_bytes).max();
    let peak = peak.unwrap_or(0);
    say!(reporter, "{}", toml::to_string(config)?)?;
    say!(
        reporter,
        "# on a card, texts of {} and {} tokens; the reward model and the oracle are not there while a policy is trained",
        run.prompt,
        run.response
    )?;
    for stage in &stages {
        let once = match stage.stage {
            "rto" => "an iteration",
            _ => "a step",
        };
        say!(
            reporter,
            "# {}: {:.1} GB at most; {once} of {} tokens: {} launches, {:.3e} operations{}",
            stage.stage,
            stage.peak_device_bytes as f64 / 1e9,
            stage.tokens,
            stage.launches,
            stage.flops as f64,
            least(stage, &run)
        )?;
    }
    say!(
        reporter,
        "# in all {:.1} GB at most, without what driver and libraries take",
        peak as f64 / 1e9
    )?;
    reporter.json(&json!({ "config": config, "peak_device_bytes": peak, "stages": stages }))
}

/// How long a stage takes at least, by published rates.
fn least(stage: &DeviceStage, run: &DeviceRun) -> String {
    let of = |card: &rto_bridge::memory_plan::Card| {
        let seconds = card.least_seconds(stage, run.dtype);
        format!(
            ", at least {seconds:.2} s at the published rates of {}",
            card.name
        )
    };
    CARDS.iter().map(of).collect()
}
