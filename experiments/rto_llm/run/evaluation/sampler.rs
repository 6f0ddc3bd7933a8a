//! What it cost that responses were not drawn from what was scored.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rto_harness::methods::Method;
use rto_harness::table::Table;
use serde_json::Value;

use crate::run::training::{SAMPLER_CLIPPED, SAMPLER_KL};

/// A row for each method whose metrics have it: means over its iterations, and the largest. No table where none has.
pub fn table(root: &Path, methods: &[&Method]) -> Result<Option<Table>> {
    let columns = [
        "method",
        "iterations",
        "sampler_kl",
        "sampler_kl_most",
        "sampler_clipped",
        "sampler_clipped_most",
    ];
    let mut table = Table::new("sampler", &columns);
    for method in methods {
        let path = root.join("metrics").join(format!("{}.jsonl", method.name));
        let named = || path.display().to_string();
        let text = fs::read_to_string(&path).with_context(named)?;
        let (mut kl, mut clipped) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let step: Value = serde_json::from_str(line).with_context(named)?;
            kl.extend(step[SAMPLER_KL].as_f64());
            clipped.extend(step[SAMPLER_CLIPPED].as_f64());
        }
        if kl.is_empty() {
            continue;
        }
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
        let most = |all: &[f64]| all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        table.push([
            method.name.into(),
            (kl.len() as u64).into(),
            mean(&kl).into(),
            most(&kl).into(),
            mean(&clipped).into(),
            most(&clipped).into(),
        ]);
    }
    Ok((!table.is_empty()).then_some(table))
}
