//! (e) What (4.5) pays each token, beside the true advantage and the true reward.

use anyhow::Result;
use rto::mdp::{ActionIx, StateIx};
use rto::plan::{soft_value_iteration, visitation};
use rto::policy::StateMap;
use rto::reward::{LogRatioReward, RewardModel};
use rto::seq::{Policy, StreamKey};
use rto_harness::stats::shown;
use rto_harness::table::{Cell, Table};

use crate::{Instance, Study};

/// Three numbers per (s, a): what (4.5) pays, r + V\*(s′) − V\*(s) at β, and r.
struct Credit {
    paid: LogRatioReward,
    values: Vec<f64>,
}

/// Tables, and what they say.
pub struct Credits {
    pub credit: Table,
    text: String,
}

pub fn summarise(study: &Study) -> Result<Credits> {
    let problem = study.problem(Instance::Long);
    let (mdp, map) = (problem.map.mdp(), &problem.map);
    let best = soft_value_iteration(mdp, &problem.reward, &problem.reference, problem.beta1)?;
    let dpo = problem.dpo.table()?;
    let credit = Credit {
        paid: LogRatioReward::try_new(&dpo, &problem.reference, problem.beta1.get())?,
        values: best.v,
    };
    let at = |s: StateIx, a: ActionIx| -> [f64; 3] {
        let reward = problem.reward.reward(s, a);
        let later = match map.next(s, a) {
            StateIx::END => 0.0,
            next => credit.values[next.ix()],
        };
        let advantage = reward + later - credit.values[s.ix()];
        [credit.paid.reward(s, a), advantage, reward]
    };

    let n = study.config.credit_responses;
    let prompts = vec![StateMap::prompt(0); n];
    let keys = StreamKey::batch(&study.seeds.child("credit"), n);
    let mut responses = problem.start.sample(&prompts, &keys)?;
    let walk = |e: &rto::seq::Episode| -> Result<Vec<(StateIx, ActionIx)>> {
        let mut steps = Vec::new();
        map.walk(e, &mut steps)?;
        Ok(steps)
    };
    let mut returns = Vec::new();
    for e in &responses {
        let total: f64 = walk(e)?.iter().map(|&(s, a)| at(s, a)[2]).sum();
        returns.push((total, e.response.clone()));
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, k| returns[*k].0.total_cmp(&returns[*i].0));
    responses = order.iter().map(|i| responses[*i].clone()).collect();

    let columns = ["response", "h", "token", "credit", "advantage", "reward"];
    let mut table = Table::new("credit", &columns);
    for (i, e) in responses.iter().enumerate() {
        for (h, (s, a)) in walk(e)?.into_iter().enumerate() {
            let [paid, advantage, reward] = at(s, a);
            let row: [Cell; 6] = [
                (i + 1).into(),
                (h + 1).into(),
                a.0.into(),
                paid.into(),
                advantage.into(),
                reward.into(),
            ];
            table.push(row);
        }
    }

    let d = visitation(mdp, &problem.reference)?;
    let mut all = Vec::new();
    for ((s, a), weight) in d.pair.indexed_iter() {
        all.push((*weight, at(StateIx(s as u32), ActionIx(a as u32))));
    }
    let with = |k: usize| shown(correlation(&all, 0, k)).text();
    let text = format!(
        "(e) {}: over the tokens that pi_ref writes, the credit (4.5) of the fitted pi_dpo correlates {} with r + V*(s') - V*(s), and {} with r itself.\n\
         => (4.5) pays the advantage, not the reward; V* itself at the prompt, {}, is paid to nobody.\n",
        Instance::Long.title(&study.config),
        with(1),
        with(2),
        shown(mdp.roots().map(|(s, p)| p * credit.values[s.ix()]).sum()).text(),
    );
    Ok(Credits {
        credit: table,
        text,
    })
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
