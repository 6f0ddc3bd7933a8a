//! What a run would do.

use anyhow::Result;
use rto::algorithm2::fit_steps;
use rto_bridge::config::Head;
use rto_bridge::memory_plan::{MemoryPlan, Workload};
use rto_harness::cli::Reporter;
use rto_harness::say;
use serde_json::json;

use super::estimate;
use crate::run::choices::CriticKind;
use crate::run::config::Config;
use crate::run::data::Data;

/// Prints settings, memory plan and work.
pub fn print(config: &Config, data: &Data, jobs: usize, reporter: &Reporter) -> Result<()> {
    let network = &data.network;
    let lora = config.lora(network);
    let with = |head, training, lora| {
        let work = Workload {
            batch: config.micro_batch,
            sequence: data.longest_prompt() + config.max_new_tokens,
            training,
            moments: config.moments.of(),
            checkpointing: config.checkpoint_activations,
            lora,
            ..Workload::default()
        };
        MemoryPlan::new(network, head, &work)
    };
    let policy = with(Head::CausalLm, true, lora.as_ref());
    let frozen = with(Head::CausalLm, false, None);
    let (n, reward) = (data.pairs.len(), config.reward()?);
    let mut fit = vec![
        ("sft", fit_steps(data.demonstrations.len(), &*config.sft()?)),
        ("reward", fit_steps(n, &reward)),
        ("dpo", fit_steps(n, &config.dpo()?.fit)),
    ];
    if config.pretrains() {
        fit.insert(
            0,
            (
                "pretrain",
                fit_steps(data.dialogues.len(), &*config.pretrain()?),
            ),
        );
    }
    if !data.oracle_pairs.is_empty() {
        fit.push(("oracle", fit_steps(data.oracle_pairs.len(), &reward)));
    }
    say!(reporter, "{}", toml::to_string(config)?)?;
    if !data.said.is_empty() {
        say!(reporter, "{}", data.said)?;
    }
    say!(reporter, "# memory of a network in training\n{policy}")?;
    say!(reporter, "# memory of a frozen network\n{frozen}")?;
    let critics = u64::from(config.critic == CriticKind::Separate);
    // The largest stage: policy and critic in training; reference, DPO policy, reward model and oracle frozen.
    let oracle = u64::from(data.world.is_none());
    let mut peak = (1 + critics) * policy.total() + (3 + oracle) * frozen.total();
    // Policy, critic, reference, DPO policy and reward model are one base with adapters of their own; merging one for writing
    // makes a copy that is dropped again.
    if lora.is_some() {
        peak -= (critics + 3) * frozen.weights;
        peak += frozen.weights;
    }
    // Text is written from weights in another layout.
    peak += frozen.weights;
    // Methods at once share nothing.
    peak *= jobs.clamp(1, config.methods.len().max(1)) as u64;
    if lora.is_some() && data.base.is_none() {
        // From scratch SFT trains every weight.
        peak = peak.max(with(Head::CausalLm, true, None).total());
    }
    say!(
        reporter,
        "# at most about {} MB at once",
        peak.div_ceil(1_000_000)
    )?;
    let per_token = estimate::seconds_per_token(config, data)?;
    let mut minutes = 0.0;
    let mut stages = Vec::new();
    for (stage, tokens) in estimate::work(config, data)? {
        let name = stage.name();
        let time = tokens * per_token / 60.0;
        minutes += time;
        stages.push(json!({ "stage": name, "minutes": time }));
        say!(reporter, "# {name}: about {}", shown(time))?;
    }
    say!(
        reporter,
        "# about {} in all on this machine, from a step that was timed just now",
        shown(minutes)
    )?;
    for (name, steps) in fit {
        say!(reporter, "# {name}: {steps} steps")?;
    }
    for method in &config.methods {
        let ppo = config.ppo(method)?;
        let responses = ppo.iterations as usize * ppo.responses();
        say!(
            reporter,
            "# {}: {} iterations, {responses} responses",
            method.name,
            ppo.iterations
        )?;
    }
    reporter.json(&json!({ "config": config, "parameters": policy.parameters, "bytes": peak, "minutes": minutes, "stages": stages }))
}

/// Minutes as people say them; an estimate has two figures at most.
fn shown(minutes: f64) -> String {
    match minutes {
        m if m < 1.0 => format!("{:.0} s", (60.0 * m).max(1.0)),
        m if m < 120.0 => format!("{m:.0} min"),
        m => format!("{:.0} h", m / 60.0),
    }
}
