//! (e) What (4.5) pays each token, beside the true advantage and the true reward.

use anyhow::Result;
use rto::mdp::{ActionIx, Problem, StateIx};
use rto::plan::{mean_value, soft_value_iteration, visitation};
use rto::policy::StateMap;
use rto::reward::{LogRatioReward, RewardFunction};
use rto::seed::SeedTree;
use rto::seq::{Policy, StreamKey};
use rto_harness::on_tree::setup::Setup;
use rto_harness::stats::shown;
use rto_harness::table::{Cell, Table};

use crate::{Instance, Study};

/// Three numbers per (s, a): what (4.5) pays, r + V\*(s′) − V\*(s) at β, and r.
struct Credit<'a> {
    setup: &'a Setup,
    paid: LogRatioReward,
    values: Vec<f64>,
}

impl<'a> Credit<'a> {
    fn new(setup: &'a Setup) -> Result<Self> {
        let (mdp, reference) = (setup.map.mdp(), &setup.reference);
        let best = soft_value_iteration(Problem::new(mdp, reference, setup.beta1), &setup.reward)?;
        let dpo = setup.dpo.table()?;
        Ok(Self {
            setup,
            paid: LogRatioReward::try_new(&dpo, reference, setup.beta1.get())?,
            values: best.v,
        })
    }

    fn at(&self, s: StateIx, a: ActionIx) -> [f64; 3] {
        let reward = self.setup.reward.reward(s, a);
        let later = match self.setup.map.next(s, a) {
            StateIx::END => 0.0,
            next => self.values[next.ix()],
        };
        let advantage = reward + later - self.values[s.ix()];
        [self.paid.reward(s, a), advantage, reward]
    }

    /// Responses of π_ref as pairs of the table, best return first.
    fn responses(&self, n: usize, seeds: &SeedTree) -> Result<Vec<Vec<(StateIx, ActionIx)>>> {
        let prompts = vec![StateMap::prompt(0); n];
        let drawn = self
            .setup
            .start
            .sample(&prompts, &StreamKey::batch(seeds, n))?;
        let mut walks = Vec::new();
        for episode in &drawn {
            let mut steps = Vec::new();
            self.setup.map.walk(episode, &mut steps)?;
            let total: f64 = steps.iter().map(|&(s, a)| self.at(s, a)[2]).sum();
            walks.push((total, steps));
        }
        walks.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(walks.into_iter().map(|(_, steps)| steps).collect())
    }
}

/// Tables, and what they say.
pub struct Credits {
    pub credit: Table,
    text: String,
}

pub fn summarise(study: &Study) -> Result<Credits> {
    let setup = study.setup(Instance::Long);
    let credit = Credit::new(setup)?;
    let columns = ["response", "h", "token", "credit", "advantage", "reward"];
    let mut table = Table::new("credit", &columns);
    let seeds = study.seeds.child("credit");
    let responses = credit.responses(study.config.credit_responses, &seeds)?;
    for (i, steps) in responses.into_iter().enumerate() {
        for (h, (s, a)) in steps.into_iter().enumerate() {
            let mut row: Vec<Cell> = vec![(i + 1).into(), (h + 1).into(), a.0.into()];
            row.extend(credit.at(s, a).map(Cell::from));
            table.push(row);
        }
    }
    Ok(Credits {
        credit: table,
        text: text(study, &credit)?,
    })
}

fn text(study: &Study, credit: &Credit<'_>) -> Result<String> {
    let setup = credit.setup;
    let mdp = setup.map.mdp();
    let d = visitation(mdp, &setup.reference)?;
    let mut all = Vec::new();
    for ((s, a), weight) in d.pair.indexed_iter() {
        all.push((*weight, credit.at(StateIx(s as u32), ActionIx(a as u32))));
    }
    let (advantage, reward) = (correlation(&all, 0, 1), correlation(&all, 0, 2));
    Ok(format!(
        "(e) {}: over the tokens that pi_ref writes, the credit (4.5) of the fitted pi_dpo correlates {} with r + V*(s') - V*(s), and {} with r itself.\n\
         => {}; V* itself at the prompt, {}, is paid to nobody.\n",
        Instance::Long.title(&study.config),
        shown(advantage).text(),
        shown(reward).text(),
        verdict(advantage, reward),
        shown(mean_value(mdp, &credit.values)).text(),
    ))
}

/// What (4.5) of a fitted π_dpo goes with; of an exact one it is the advantage (errata, B2).
fn verdict(advantage: f64, reward: f64) -> &'static str {
    match advantage > reward {
        true => "(4.5) pays the advantage, not the reward",
        false => {
            "(4.5) of an exact pi_dpo pays the advantage; this one, fitted to these pairs, is too far from it to show that"
        }
    }
}

/// Weighted correlation of two of the three numbers.
fn correlation(all: &[(f64, [f64; 3])], i: usize, k: usize) -> f64 {
    let total: f64 = all.iter().map(|x| x.0).sum();
    let mean =
        |f: &dyn Fn(&[f64; 3]) -> f64| all.iter().map(|(w, x)| w * f(x)).sum::<f64>() / total;
    let (mi, mk) = (mean(&|x| x[i]), mean(&|x| x[k]));
    let cov = |a: usize, ma: f64, b: usize, mb: f64| mean(&|x| (x[a] - ma) * (x[b] - mb));
    cov(i, mi, k, mk) / (cov(i, mi, i, mi) * cov(k, mk, k, mk)).sqrt()
}

impl Credits {
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advantage_is_named_where_the_credit_goes_with_it() {
        assert!(verdict(0.9, 0.3).ends_with("not the reward"));
        for (advantage, reward) in [(0.3, 0.3), (0.2, 0.9), (f64::NAN, 0.1)] {
            assert!(verdict(advantage, reward).ends_with("to show that"));
        }
    }
}
