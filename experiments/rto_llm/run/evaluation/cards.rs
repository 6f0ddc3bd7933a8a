//! Model cards, one in every policy's folder.

use std::path::Path;

use anyhow::Result;
use rto_bridge::model_card::{Metric, ModelCard};
use rto_bridge::win_rate::{Estimate, WinRates};
use rto_harness::methods::Model;
use rto_harness::run_dir::Versions;

use crate::report::finding::too_small;
use crate::run::args::NAME;
use crate::run::models::Models;
use crate::run::stage::Stage;

/// Settings of every card; those of the method go after them.
const SHARED: [&str; 7] = [
    "temperature",
    "max_new_tokens",
    "adam_beta1",
    "adam_beta2",
    "weight_decay",
    "max_grad_norm",
    "eval_top_p",
];

/// Writes `README.md` in the folder of each policy that was evaluated.
pub fn write(models: &Models<'_>, policies: &[Stage], rates: &WinRates) -> Result<()> {
    let (config, held_out) = (models.config, models.data.held_out.len());
    let settings = toml::Table::try_from(config)?;
    // The iterations of the methods after DPO, where there are any.
    let iterations = (!config.methods.is_empty()).then_some(config.ppo.iterations);
    let few = too_small(iterations, held_out);
    let caution = few.as_ref().map(|few| {
        format!("Too small to say anything about a method ({few}): this shows that every part runs, and its numbers are noise.")
    });
    let reward_name = match models.data.world {
        Some(_) => "true reward",
        None => "reward by the oracle",
    };
    for (i, (stage, summary)) in policies.iter().zip(&rates.methods).enumerate() {
        let mut metrics = vec![
            metric(reward_name, summary.score),
            metric("length (tokens)", summary.length),
        ];
        metrics.extend(
            summary
                .kl
                .map(|kl| metric("KL to the SFT policy (nats)", kl)),
        );
        // An order of methods after a few iterations is noise, and a hub would list it as a result.
        if few.is_none() {
            metrics.extend(against(rates, i));
        }
        let card = ModelCard {
            name: format!("{}-{}-seed{}", summary.name, config.preset, config.seed),
            method: summary.name.clone(),
            family: models.data.network.model_type().into(),
            preset: config.preset.clone(),
            seed: config.seed,
            base_model: (!config.model.is_empty()).then(|| base_name(&config.model)),
            datasets: config.data.iter().map(|d| file_name(d)).collect(),
            evaluated_on: format!("{held_out} held-out prompts"),
            caution: caution.clone(),
            metrics,
            settings: relevant(&settings, *stage),
            made_by: Versions::new(NAME, Default::default()).describe(),
        };
        card.save(&models.saved(*stage))?;
    }
    Ok(())
}

/// A method against every other, and the same at equal length.
fn against(rates: &WinRates, method: usize) -> Vec<Metric> {
    let compared = (0..rates.methods.len()).filter_map(|j| Some((j, rates.get(method, j)?)));
    compared
        .flat_map(|(j, c)| {
            let name = &rates.methods[j].name;
            let equal = c
                .length_controlled
                .map(|e| metric(&format!("win rate at equal length against {name}"), e));
            std::iter::once(metric(&format!("win rate against {name}"), c.rate)).chain(equal)
        })
        .collect()
}

fn metric(name: &str, estimate: Estimate) -> Metric {
    Metric {
        name: name.into(),
        value: estimate.value,
        interval: Some((estimate.low, estimate.high)),
    }
}

/// A name on the hub as it is; of a folder here its last part.
fn base_name(model: &str) -> String {
    match Path::new(model).exists() {
        true => file_name(model),
        false => model.into(),
    }
}

/// The name of a file without its folder, which is nobody else's business.
fn file_name(path: &str) -> String {
    let name = Path::new(path).file_name();
    name.map_or_else(|| path.into(), |n| n.to_string_lossy().into_owned())
}

/// The settings that made this policy: what every stage shares, its own table, and those of its method.
fn relevant(settings: &toml::Table, stage: Stage) -> Vec<(String, String)> {
    let mut kept = Vec::new();
    let mut keep = |key: &str| {
        let found = key
            .split('.')
            .try_fold(None, |at: Option<&toml::Value>, name| {
                let table = at.map_or(Some(settings), toml::Value::as_table)?;
                Some(Some(table.get(name)?))
            });
        if let Some(value) = found.flatten() {
            leaves(key, value, &mut kept);
        }
    };
    SHARED.iter().for_each(|key| keep(key));
    match stage {
        Stage::Rl(method) => {
            let reads = |model| method.training().reads.contains(&model);
            if reads(Model::Dpo) {
                keep("dpo");
            }
            if reads(Model::Dpo) && !method.training().one_beta {
                keep("beta1");
            }
            // A reward of every token is fitted by the settings of the reward model.
            if reads(Model::RewardModel) || reads(Model::TokenRewardModel) {
                keep("reward");
            }
            for key in ["critic", "missing_eos_penalty", "ppo"] {
                keep(key);
            }
            keep(&format!("method.{}", method.name));
        }
        stage => {
            if stage == Stage::Sft {
                keep("pretrain");
            }
            keep(stage.name());
        }
    }
    kept
}

/// The numbers and words of a table, with dotted keys.
fn leaves(key: &str, value: &toml::Value, kept: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                leaves(&format!("{key}.{name}"), value, kept);
            }
        }
        value => kept.push((key.into(), value.to_string())),
    }
}
