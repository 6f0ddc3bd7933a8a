//! What a run would do.

use anyhow::Result;
use rto::algorithm2::fit_steps;
use rto_harness::cli::Reporter;
use rto_harness::say;
use serde_json::json;

use super::estimate;
use super::memory::Memory;
use crate::run::config::Config;
use crate::run::data::Data;

/// Prints settings, memory plan and work.
pub fn print(config: &Config, data: &Data, jobs: usize, reporter: &Reporter) -> Result<()> {
    let Memory {
        policy,
        frozen,
        peak,
    } = Memory::new(config, data, jobs);
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
