//! What a run would do.

use anyhow::Result;
use rto::algorithm2::fit_steps;
use rto_harness::cli::Reporter;
use rto_harness::say;
use serde::Serialize;
use serde_json::json;

use super::estimate;
use super::memory::{Memory, others_part};
use crate::run::config::Config;
use crate::run::data::Data;

/// Prints settings, memory plan and work; `sharded` says whether ranks share AdamW's moments out.
pub fn print(
    config: &Config,
    data: &Data,
    (jobs, sharded): (usize, bool),
    reporter: &Reporter,
) -> Result<()> {
    let memory = Memory::new(config, data, jobs);
    let (policy, frozen, peak) = (&memory.policy, &memory.frozen, memory.of_rank(1, sharded));
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
    let paid = data.token_rewards.train.len();
    if paid > 0 {
        fit.push(("token_reward", fit_steps(paid, &reward)));
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
    let ranks = on_ranks(config.gradient_groups, &memory, sharded, minutes);
    for rank in &ranks {
        say!(
            reporter,
            "# on {} rank{}: about {} MB each, {} of computing, {:.1} MB sent by each in a step",
            rank.ranks,
            if rank.ranks == 1 { "" } else { "s" },
            rank.bytes.div_ceil(1_000_000),
            shown(rank.minutes),
            rank.sent as f64 / 1e6
        )?;
    }
    reporter.json(&json!({ "ranks": ranks, "config": config, "parameters": policy.parameters, "bytes": peak, "minutes": minutes, "stages": stages }))
}

/// What each of several ranks has to do.
#[derive(Serialize)]
struct OnRanks {
    ranks: usize,
    bytes: u64,
    minutes: f64,
    /// Bytes of gradients in a step, an all-to-all and an all-gather in f32; with sharded moments, of weights, another all-gather.
    sent: u64,
}

/// The numbers of ranks that share `groups` groups, if there are several.
fn on_ranks(groups: usize, memory: &Memory, sharded: bool, minutes: f64) -> Vec<OnRanks> {
    let halves = std::iter::successors(Some(groups), |n| (*n > 1).then_some(n / 2));
    let sizes: Vec<usize> = halves.filter(|_| groups > 1).collect();
    let each = if sharded { 12 } else { 8 };
    let of = |&ranks: &usize| OnRanks {
        ranks,
        bytes: memory.of_rank(ranks, sharded),
        minutes: minutes / ranks as f64,
        sent: others_part(each * memory.policy.trained, ranks),
    };
    sizes.iter().rev().map(of).collect()
}

/// Minutes as people say them; an estimate has two figures at most.
fn shown(minutes: f64) -> String {
    match minutes {
        m if m < 1.0 => format!("{:.0} s", (60.0 * m).max(1.0)),
        m if m < 120.0 => format!("{m:.0} min"),
        m => format!("{:.0} h", m / 60.0),
    }
}
