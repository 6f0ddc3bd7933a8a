//! The corner of the world that can be enumerated.

use std::sync::Arc;

use anyhow::Result;
use ndarray::Array2;
use rto::Token;
use rto::mdp::{Beta, TabularPolicy, for_each_trajectory};
use rto::policy::{ExactEvaluator, StateMap};
use rto::reward::TabularReward;
use rto::seq::{Episode, Finish};
use rto_bridge::learner::{NeuralScorer, Restricted};
use rto_bridge::world::{EOS, SmallWorld, World};
use rto_harness::table::Table;

use super::untrained::Baselines;
use crate::run::models::Models;
use crate::run::stage::Stage;

/// The corner of a world, where every policy is restricted to a few words and then known exactly.
pub struct Corner {
    small: SmallWorld,
    map: Arc<StateMap>,
}

impl Corner {
    /// The corner, its prompts all alike in probability.
    pub fn new(world: &World) -> Result<Self> {
        let small = SmallWorld::try_new(world)?;
        let uniform = vec![1.0 / small.prompts.len() as f64; small.prompts.len()];
        let map = StateMap::tree(&small.tree, &uniform)?;
        Ok(Self { small, map })
    }

    pub fn map(&self) -> &Arc<StateMap> {
        &self.map
    }

    /// The true reward, `[n_states, A]`.
    pub fn reward(&self) -> &TabularReward {
        &self.small.reward
    }

    /// A network restricted to the words of the corner.
    pub fn table(&self, scorer: &NeuralScorer) -> Result<TabularPolicy> {
        let small = &self.small;
        let restricted = Restricted {
            scorer,
            tokens: &small.tokens,
            prompts: &small.prompts,
            eos: Some(small.tokens.iter().position(|t| *t == EOS).unwrap_or(0) as Token),
            horizon: small.tree.horizon(),
        };
        Ok(restricted.tabulate(&small.tree)?)
    }

    /// What `score` says of each response, paid with its last token.
    pub fn scores(&self, score: impl Fn(&[Episode]) -> Result<Vec<f64>>) -> Result<TabularReward> {
        let (mut ends, mut texts) = (Vec::new(), Vec::new());
        let small = &self.small;
        for (prompt, (root, _)) in self.map.mdp().roots().enumerate() {
            for_each_trajectory(self.map.mdp(), root, |steps| {
                let words = steps.iter().map(|(_, a)| small.tokens[a.ix()]);
                let words: Vec<Token> = words.collect();
                let finish = match words.last() {
                    Some(&EOS) => Finish::Eos,
                    _ => Finish::Length,
                };
                ends.extend(steps.last().copied());
                texts.push(Episode::try_new(
                    small.prompts[prompt].clone(),
                    words,
                    finish,
                ));
            })?;
        }
        let texts = texts.into_iter().collect::<rto::Result<Vec<_>>>()?;
        let mdp = self.map.mdp();
        let mut table = Array2::zeros((mdp.n_states(), mdp.n_actions()));
        for ((s, a), value) in ends.iter().zip(score(&texts)?) {
            table[[s.ix(), a.ix()]] = value;
        }
        Ok(TabularReward::try_new(table)?)
    }
}

/// (3.5) with the true reward on the corner of the world that can be enumerated, every policy restricted to its words; and
/// what the best policies there get at each KL to SFT.
pub fn exact(models: &Models<'_>, corner: &Corner, policies: &[Stage]) -> Result<(Table, Table)> {
    let table = |stage: Stage| corner.table(&models.frozen(stage)?);
    let beta = Beta::try_new(models.config.exact_beta)?;
    let sft = table(Stage::Sft)?;
    let frontier = frontier(corner, &sft)?;
    let exact = ExactEvaluator::try_new(corner.map.clone(), corner.reward(), sft, beta)?;
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
fn frontier(corner: &Corner, reference: &TabularPolicy) -> Result<Table> {
    const POINTS: u32 = 48;
    let mut out = Table::new("exact_frontier", &["beta", "kl", "reward"]);
    for i in 0..=POINTS {
        let beta = 20.0 * 0.001f64.powf(f64::from(i) / f64::from(POINTS));
        let evaluator = ExactEvaluator::try_new(
            corner.map.clone(),
            corner.reward(),
            reference.clone(),
            Beta::try_new(beta)?,
        )?;
        let best = evaluator.report(evaluator.optimal())?;
        out.push([beta.into(), best.kl.into(), best.reward.into()]);
    }
    Ok(out)
}

/// Temperatures of SFT's sharpening curve.
const TEMPERATURES: [f64; 4] = [0.8, 0.6, 0.4, 0.2];
/// n of best-of-n.
const BEST_OF: [u32; 4] = [2, 4, 8, 16];

/// What needs no training of PPO on the corner: SFT, sampled, sharpened and greedy, and best-of-n by either learnt reward.
pub fn baselines(models: &Models<'_>, corner: &Corner) -> Result<Table> {
    let beta = models.config.exact_beta;
    let asked = Baselines {
        temperatures: &TEMPERATURES,
        best_of: &BEST_OF,
        beta,
    };
    let columns = ["policy", "parameter", "value", "kl", "reward"];
    let mut out = Table::new("exact_baselines", &columns);
    for (policy, parameter, m) in asked.on(corner, models)? {
        // Those are in the tables of `exact`.
        if !["dpo", "dpo_greedy", "optimum", "frontier"].contains(&policy) {
            out.push([
                policy.into(),
                parameter.into(),
                (m.reward - beta * m.kl).into(),
                m.kl.into(),
                m.reward.into(),
            ]);
        }
    }
    Ok(out)
}
