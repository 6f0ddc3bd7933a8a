//! K4 and K5: what online learners pay, exactly in every round.

use anyhow::Result;
use rand::Rng;
use rto::mdp::Beta;
use rto::preference::{Learner, Responses, Sampler, Trap, online_regret};

use super::instances::dirichlet;
use super::{Budget, Row, row};

/// K4: two responses, the rare one (π_ref mass e^{−½/β}) good or bad, T = 400, pairs (π_t, π_ref): online DPO without a bonus,
/// and XPO with bonus α√t on the summed loss, |d| ≤ 2.
pub fn rare_response(budget: &Budget) -> Result<Vec<Row>> {
    const ROUNDS: usize = 400;
    let mut rows = Vec::new();
    for b in [0.25, 0.125, 0.1, 0.0625] {
        let beta = Beta::try_new(b)?;
        let trap = Trap::try_new(beta, 0.5)?;
        for (kind, reward) in [("good", 1.0), ("bad", -1.0)] {
            let setting = format!("rare response {kind}, beta = {b}");
            let bandit = Responses::bandit(&[1.0 - trap.mass, trap.mass], &[0.0, reward])?;
            let xpo = |alpha| Learner::Xpo { alpha, bound: 2.0 };
            let learners = [
                (
                    "regret, online DPO",
                    Learner::Greedy {
                        bound: 1.0,
                        ridge: 1e-6,
                    },
                ),
                ("regret, XPO(0.01)", xpo(0.01)),
                ("regret, XPO(0.1)", xpo(0.1)),
            ];
            for run in budget.runs(250) {
                for (name, learner) in learners {
                    // The learners share their uniforms.
                    let mut rng = budget.rng(&setting, run);
                    let sampler = Sampler::PolicyReference;
                    let curve = online_regret(&bandit, beta, learner, sampler, ROUNDS, &mut rng)?;
                    rows.push(row(&*setting, name, run, curve[ROUNDS - 1]));
                }
            }
            if kind == "good" {
                let bound = trap.passive_regret(ROUNDS as f64);
                rows.push(row(&*setting, "lower bound of passive learners", 0, bound));
            }
        }
    }
    Ok(rows)
}

/// K5: five responses, greedy learner, pairs (π_t, π_t) or (π_t, π_ref), T = 2048. The ratio of the last two doublings of the
/// mean regret is 1 for log T, 1.41 for √T, 2 for T; its runs are jackknife pseudo-values.
pub fn greedy(budget: &Budget) -> Result<Vec<Row>> {
    const ROUNDS: usize = 2048;
    let mut rows = Vec::new();
    for b in [1.0, 0.5, 0.25] {
        for (pair, sampler) in [
            ("(policy, policy)", Sampler::PolicyPolicy),
            ("(policy, reference)", Sampler::PolicyReference),
        ] {
            let setting = format!("pairs {pair}, beta = {b}");
            let mut steps = Vec::new();
            for run in budget.runs(40) {
                let mut rng = budget.rng("five", run);
                let reference: Vec<f64> = dirichlet(5, &mut rng)
                    .iter()
                    .map(|p| (p + 0.02) / 1.1)
                    .collect();
                let rewards: Vec<f64> = (0..5).map(|_| rng.random()).collect();
                let bandit = Responses::bandit(&reference, &rewards)?;
                let learner = Learner::Greedy {
                    bound: 1.0,
                    ridge: 1e-2,
                };
                let beta = Beta::try_new(b)?;
                let curve = online_regret(&bandit, beta, learner, sampler, ROUNDS, &mut rng)?;
                let at = |t: usize| curve[t - 1];
                rows.push(row(&*setting, "regret", run, at(ROUNDS)));
                steps.push([at(ROUNDS / 2) - at(ROUNDS / 4), at(ROUNDS) - at(ROUNDS / 2)]);
            }
            let n = steps.len() as f64;
            let total = |k: usize| steps.iter().map(|s| s[k]).sum::<f64>();
            let (first, last) = (total(0), total(1));
            for (run, [a, b]) in steps.iter().enumerate() {
                let without = (last - b) / (first - a);
                let pseudo = n * last / first - (n - 1.0) * without;
                rows.push(row(&*setting, "doubling ratio", run as u64, pseudo));
            }
        }
    }
    Ok(rows)
}
