//! The corner of the world that can be enumerated.

use std::sync::Arc;

use anyhow::Result;
use rto::Token;
use rto::mdp::{Beta, TabularPolicy};
use rto::policy::{ExactEvaluator, StateMap};
use rto::reward::TabularReward;
use rto_bridge::learner::Restricted;
use rto_bridge::world::{EOS, SmallWorld, World};
use rto_harness::table::Table;

use crate::run::models::Models;
use crate::run::stage::Stage;

/// (3.5) with the true reward on the corner of the world that can be enumerated, every policy restricted to its words; and
/// what the best policies there get at each KL to SFT.
pub fn exact(models: &Models<'_>, world: &World, policies: &[Stage]) -> Result<(Table, Table)> {
    let small = SmallWorld::try_new(world)?;
    let uniform = vec![1.0 / small.prompts.len() as f64; small.prompts.len()];
    let map = StateMap::tree(&small.tree, &uniform)?;
    let table = |stage: Stage| -> Result<_> {
        let scorer = models.frozen(stage)?;
        let restricted = Restricted {
            scorer: &scorer,
            tokens: &small.tokens,
            prompts: &small.prompts,
            eos: Some(small.tokens.iter().position(|t| *t == EOS).unwrap_or(0) as Token),
            horizon: small.tree.horizon(),
        };
        Ok(restricted.tabulate(&small.tree)?)
    };
    let beta = Beta::try_new(models.config.exact_beta)?;
    let sft = table(Stage::Sft)?;
    let frontier = frontier(&map, &small.reward, &sft)?;
    let exact = ExactEvaluator::try_new(map, &small.reward, sft, beta)?;
    let columns = ["method", "subopt", "value", "kl", "reward", "length"];
    let mut out = Table::new("exact", &columns);
    let optimal = exact.report(exact.optimal())?;
    let mut push = |name: &str, r: rto::policy::ExactReport| {
        out.push([
            name.into(),
            r.suboptimality.into(),
            r.value.into(),
            r.kl.into(),
            r.reward.into(),
            r.length.into(),
        ]);
    };
    for stage in policies {
        push(stage.name(), exact.report(&table(*stage)?)?);
    }
    push("optimum", optimal);
    Ok((out, frontier))
}

/// The optimum of (3.2) at β from 20 down to 0.02: nothing has a larger reward at its KL to the reference.
fn frontier(
    map: &Arc<StateMap>,
    reward: &TabularReward,
    reference: &TabularPolicy,
) -> Result<Table> {
    const POINTS: u32 = 48;
    let mut out = Table::new("exact_frontier", &["beta", "kl", "reward"]);
    for i in 0..=POINTS {
        let beta = 20.0 * 0.001f64.powf(f64::from(i) / f64::from(POINTS));
        let evaluator =
            ExactEvaluator::try_new(map.clone(), reward, reference.clone(), Beta::try_new(beta)?)?;
        let best = evaluator.report(evaluator.optimal())?;
        out.push([beta.into(), best.kl.into(), best.reward.into()]);
    }
    Ok(out)
}
