//! K1, K1b, K6 to K10: what offline methods converge to, and what covers what.

use anyhow::{Context, Result};
use rand::Rng;
use rto::mdp::Beta;
use rto::preference::{
    Method, MinimiserSet, Outcome, PairRow, PairTable, Penalty, PreferenceProblem, Prompt,
    PromptOutcome, PromptSet, Responses, SupervisedBase, bradley_terry_scores, chi_plan, evaluate,
    penalised_fit, soft_optimum, tilt,
};

use super::instances::{binary, dot, draw_pairs, law, mixed, normal, population, scaled, slope};
use super::{Budget, Row, row};

/// K1: π_ref = (½, ½ − 1/n, 1/n), gap of order 1/log n between the first two, the rare response bad and unseen, and scored as
/// high as |t − t′| ≤ 1 allows. Plain regret of DPO and χPO at the best β of a grid: one prompt, and eight prompts whose gaps
/// differ under one β.
pub fn worst_tie(budget: &Budget) -> Result<Vec<Row>> {
    let grid: Vec<f64> = (0..200)
        .map(|k| (3e-3f64.ln() + (30f64 / 3e-3).ln() * k as f64 / 199.0).exp())
        .collect();
    let regret = |n: f64, gap: f64, b: f64, chi: bool| -> Result<f64> {
        let bandit = Responses::bandit(&[0.5, 0.5 - 1.0 / n, 1.0 / n], &[gap, 0.0, gap - 1.0])?;
        let scores = [gap, 0.0, 1.0];
        let u = if chi {
            chi_plan(&bandit, &scores, Beta::try_new(b)?)?.0
        } else {
            tilt(&bandit, &scaled(&scores, 1.0 / b))?
        };
        Ok(u[1].exp() * gap + u[2].exp())
    };
    let sizes: Vec<f64> = (0..25).map(|k| 10f64.powf(2.0 + k as f64 / 6.0)).collect();
    let mut rows = Vec::new();
    // Run 0 of "one prompt" has the gap 1/log n; the others have eight prompts each.
    for (setting, prompts, runs) in [
        ("one prompt", 1, 0..1),
        ("eight prompts", 8, budget.runs(20)),
    ] {
        for run in runs {
            let mut rng = budget.rng(setting, run);
            let shares: Vec<f64> = (0..prompts)
                .map(|_| {
                    if prompts == 1 {
                        1.0
                    } else {
                        rng.random_range(0.5..2.0)
                    }
                })
                .collect();
            let mut logs = [Vec::new(), Vec::new()];
            for &n in &sizes {
                for (k, chi) in [false, true].into_iter().enumerate() {
                    let mut best = f64::INFINITY;
                    for &b in &grid {
                        let mut mean = 0.0;
                        for share in &shares {
                            mean += regret(n, share / n.ln(), b, chi)? / prompts as f64;
                        }
                        best = best.min(mean);
                    }
                    logs[k].push(best.ln());
                    let decade = n.log10();
                    if (decade - decade.round()).abs() < 1e-9 {
                        let name = ["regret, DPO", "regret, chi-PO"][k];
                        rows.push(row(
                            format!("{setting}, n = 1e{decade:.0}"),
                            name,
                            run,
                            best,
                        ));
                    }
                }
            }
            let x: Vec<f64> = sizes.iter().map(|n| n.ln()).collect();
            for (name, y) in ["slope, DPO", "slope, chi-PO"].into_iter().zip(&logs) {
                rows.push(row(setting, name, run, slope(&x, y)));
            }
        }
    }
    Ok(rows)
}

const BETAS: [f64; 6] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

/// K1b: random trees, pairs from π_ref, a ridge of 1e-4 for ties; plain regret at the β that is best on the instances of the
/// other parity. One prompt, and four prompts that share the pairs and β.
pub fn random_trees(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (label, prompts) in [("one prompt", 1usize), ("four prompts", 4)] {
        for n in [20usize, 80, 320] {
            let setting = format!("{label}, {n} pairs");
            let runs = budget.runs(if prompts == 1 { 300 } else { 75 });
            // [method][run][β]
            let mut all = vec![Vec::new(); 3];
            for run in runs.clone() {
                let mut rng = budget.rng(&setting, run);
                let mut sums = [[0.0; BETAS.len()]; 3];
                for _ in 0..prompts {
                    let tree = binary(3, &mut rng)?;
                    let mu = law(tree.log_reference());
                    let pairs = draw_pairs(&tree, &mu, n.div_ceil(prompts), &mut rng)?;
                    let fitted =
                        PreferenceProblem::with_ridge(&tree, &pairs, Beta::try_new(0.2)?, 1e-4)?;
                    for (k, b) in BETAS.into_iter().enumerate() {
                        let problem = fitted.at(Beta::try_new(b)?)?;
                        let rpo = Method::Rpo {
                            eta: (n as f64).powf(-0.5),
                            base: SupervisedBase::Reference,
                        };
                        for (m, method) in [Method::Dpo, Method::ChiPo, rpo].iter().enumerate() {
                            let Outcome::Solved(solved) = problem.solve(method)? else {
                                anyhow::bail!("a ridge gives every method a minimiser");
                            };
                            sums[m][k] += solved.evaluation.plain_regret / prompts as f64;
                        }
                    }
                }
                for (all, sums) in all.iter_mut().zip(sums) {
                    all.push(sums);
                }
            }
            let at_best = |all: &[[f64; BETAS.len()]]| -> Vec<f64> {
                let best: Vec<usize> = [0, 1]
                    .map(|fold| {
                        let mean = |k: usize| -> f64 {
                            let other = all.iter().skip(1 - fold).step_by(2);
                            other.map(|run| run[k]).sum()
                        };
                        let least = (0..BETAS.len()).min_by(|&a, &b| mean(a).total_cmp(&mean(b)));
                        least.unwrap_or(0)
                    })
                    .into();
                all.iter()
                    .enumerate()
                    .map(|(i, run)| run[best[i % 2]])
                    .collect()
            };
            let regrets: Vec<Vec<f64>> = all.iter().map(|all| at_best(all)).collect();
            let names = ["regret, DPO", "regret, chi-PO", "regret, RPO"];
            for (i, run) in runs.enumerate() {
                for (name, values) in names.iter().zip(&regrets) {
                    rows.push(row(&*setting, name, run, values[i]));
                }
                let gap = regrets[0][i] - regrets[1][i];
                rows.push(row(&*setting, "DPO minus chi-PO", run, gap));
                let better = f64::from(u8::from(gap > 0.0));
                rows.push(row(&*setting, "chi-PO better", run, better));
            }
        }
    }
    Ok(rows)
}

/// K6: layered graphs of two states, random rows: what outcome labels cost against per-step labels.
pub fn additive(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for horizon in [1usize, 2, 4, 6, 8] {
        for run in budget.runs(200) {
            let mut rng = budget.rng("graph", run);
            let law = |rng: &mut rand_chacha::ChaCha8Rng| -> Vec<f64> {
                (0..2 * horizon).map(|_| rng.random()).collect()
            };
            let (mu, pi) = (law(&mut rng), law(&mut rng));
            let [sa, tau, add, _] = crate::coverage::coefficients(horizon, &mu, &pi)?;
            let setting = format!("H = {horizon}");
            rows.push(row(&*setting, "C_add / C_sa", run, add / sa));
            rows.push(row(&*setting, "C_tau / C_sa", run, tau / sa));
            let cube = (horizon as f64).powi(3);
            rows.push(row(&*setting, "C_add / (H^3 C_sa)", run, add / sa / cube));
        }
        let size = 2 * horizon;
        let [_, _, add, _] =
            crate::coverage::coefficients(horizon, &vec![0.25; size], &vec![1.0; size])?;
        if horizon >= 2 {
            let error = (add / (12.0 * horizon as f64 - 8.0) - 1.0).abs();
            rows.push(row(
                "deterministic target",
                "error of 12H - 8",
                horizon as u64,
                error,
            ));
        }
    }
    Ok(rows)
}

/// K7: SubOpt of the population optimum of TDPO-1 on random trees, as a share of π_ref's; one prompt, and four.
pub fn tdpo(budget: &Budget) -> Result<Vec<Row>> {
    let beta = Beta::try_new(0.2)?;
    let mut rows = Vec::new();
    for (label, prompts, full) in [("one prompt", 1, 300), ("four prompts", 4, 75)] {
        for horizon in 1..=6 {
            let setting = format!("{label}, H = {horizon}");
            for run in budget.runs(full) {
                let mut rng = budget.rng(&setting, run);
                let (mut own, mut reference) = (0.0, 0.0);
                for _ in 0..prompts {
                    let tree = binary(horizon, &mut rng)?;
                    let u = rto::preference::tdpo_plan(&tree, tree.rewards(), 1.0, beta)?;
                    own += evaluate(&tree, beta, &u)?.subopt / prompts as f64;
                    let at = evaluate(&tree, beta, tree.log_reference())?;
                    reference += at.subopt / prompts as f64;
                }
                rows.push(row(&*setting, "SubOpt, TDPO-1", run, own));
                rows.push(row(
                    &*setting,
                    "share of the reference's",
                    run,
                    own / reference,
                ));
            }
        }
    }
    Ok(rows)
}

/// K8: RPO's reward R = βf minimises V*(R) − E_base R on the ball L(R) ≤ L(RPO's). Judged without its own solver: no reward of
/// the ball that random directions reach is better, and the objective's gradient is a negative multiple of the likelihood's.
pub fn adversarial_sft(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(100) {
        let mut rng = budget.rng("data", run);
        let tree = mixed(&mut rng)?;
        let n = tree.len();
        let pairs = draw_pairs(&tree, &vec![1.0 / n as f64; n], 30, &mut rng)?;
        let beta = Beta::try_new(10f64.powf(rng.random_range(-1.0..0.3)))?;
        let base = law(tree.log_reference());
        let eta = 10f64.powf(rng.random_range(-1.5..0.0));
        let penalty = Penalty::Supervised {
            eta,
            base: base.clone(),
        };
        let found = penalised_fit(&tree, &pairs, beta, &penalty, &vec![0.0; n])?;
        let reward = scaled(&found.exponent, beta.get());
        let likelihood = |r: &[f64]| -> f64 {
            let term = |row: &PairRow| {
                let m = r[row.first] - r[row.second];
                let (p, q) = (row.preference, 1.0 - row.preference);
                -row.weight
                    * (p * rto::numerics::log_sigmoid(m) + q * rto::numerics::log_sigmoid(-m))
            };
            pairs.rows().iter().map(term).sum()
        };
        let value = |r: &[f64]| -> Result<f64> {
            let judged = tree.with_rewards(r)?;
            Ok(soft_optimum(&judged, beta).1 - dot(&base, r))
        };
        let (ball, least) = (likelihood(&reward), value(&reward)?);
        let mut gain = f64::NEG_INFINITY;
        for _ in 0..200 {
            let size = 10f64.powf(rng.random_range(-4.0..0.5));
            let direction: Vec<f64> = (0..n).map(|_| size * normal(&mut rng)).collect();
            // The furthest point along the direction that is still in the ball.
            let point = |s: f64| -> Vec<f64> {
                reward
                    .iter()
                    .zip(&direction)
                    .map(|(r, d)| r + s * d)
                    .collect()
            };
            let mut scale = 1.0;
            while likelihood(&point(scale)) > ball && scale > 1e-9 {
                scale *= 0.5;
            }
            if scale > 1e-9 {
                gain = gain.max(least - value(&point(scale))?);
            }
        }
        if gain.is_finite() {
            rows.push(row("30 pairs", "largest gain of another reward", run, gain));
        }
        // ∇(V* − E_base R) = π − base; ∇L by the margins; their sum at weight 1/η vanishes.
        let mut condition: Vec<f64> = found
            .log_policy
            .iter()
            .zip(&base)
            .map(|(u, b)| eta * (u.exp() - b))
            .collect();
        for pair in pairs.rows() {
            let m = reward[pair.first] - reward[pair.second];
            let slope = pair.weight * (rto::numerics::sigmoid(m) - pair.preference);
            condition[pair.first] += slope;
            condition[pair.second] -= slope;
        }
        let worst = condition.iter().fold(0.0f64, |m, c| m.max(c.abs()));
        rows.push(row("30 pairs", "multiplier condition", run, worst));
    }
    Ok(rows)
}

/// K9: pairs that leave two components, in population: the SubOpt that DPO's minimisers fill, and where HyPO ends.
pub fn components(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (setting, prompts, full) in [("one prompt", 1, 200), ("four prompts", 4, 50)] {
        for run in budget.runs(full) {
            let mut rng = budget.rng(setting, run);
            let mut sums = [0.0; 4];
            let mut distance = [0.0f64; 2];
            for _ in 0..prompts {
                let n = rng.random_range(4..9);
                let reference = super::instances::dirichlet(n, &mut rng);
                let reference =
                    rto::preference::normalise(reference.iter().map(|p| (p + 0.01).ln()).collect());
                let rewards: Vec<f64> = (0..n).map(|_| rng.random::<f64>()).collect();
                let bandit = Responses::bandit(&law(&reference), &rewards)?;
                let beta = Beta::try_new(rng.random_range(0.2..0.6))?;
                let cut = rng.random_range(2..n - 1);
                let mut list = Vec::new();
                for i in 0..n {
                    for j in i + 1..n {
                        if (i < cut) == (j < cut) {
                            list.push(PairRow {
                                first: i,
                                second: j,
                                weight: 1.0,
                                preference: rto::numerics::sigmoid(rewards[i] - rewards[j]),
                            });
                        }
                    }
                }
                let total = list.len() as f64;
                list.iter_mut().for_each(|r| r.weight /= total);
                let pairs = PairTable::try_new(n, list)?;
                let scores = bradley_terry_scores(&pairs, 0.0)?.scores;
                let set = MinimiserSet::new(&bandit, &pairs, &scores, beta)?;
                let minimal = set.policy(&set.log_kl_minimal)?;
                let share = 1.0 / f64::from(prompts);
                sums[0] += share * set.subopt.0;
                sums[1] += share * set.subopt.1;
                sums[2] += share * evaluate(&bandit, beta, &minimal)?.subopt;
                sums[3] += share * evaluate(&bandit, beta, bandit.log_reference())?.subopt;
                for (k, lambda) in [1e-3, 1e-4].into_iter().enumerate() {
                    let penalty = Penalty::ReverseKl { lambda };
                    let found = penalised_fit(&bandit, &pairs, beta, &penalty, &vec![0.0; n])?;
                    let gap = found
                        .log_policy
                        .iter()
                        .zip(&minimal)
                        .map(|(a, b)| (a.exp() - b.exp()).abs())
                        .fold(0.0, f64::max);
                    distance[k] = distance[k].max(gap);
                }
            }
            let names = [
                "least SubOpt of DPO's minimisers",
                "largest SubOpt of DPO's minimisers",
                "SubOpt, HyPO in the limit",
                "SubOpt, reference",
            ];
            for (name, value) in names.into_iter().zip(sums) {
                rows.push(row(setting, name, run, value));
            }
            rows.push(row(
                setting,
                "distance of HyPO(1e-4) from the limit",
                run,
                distance[1],
            ));
            rows.push(row(
                setting,
                "distance at 1e-3 over that at 1e-4",
                run,
                distance[0] / distance[1],
            ));
        }
    }
    Ok(rows)
}

/// K10: KTO in population: its support against the net winners, and its SubOpt against π_ref's; one prompt, and four with the
/// reference point that they share.
pub fn kto(budget: &Budget) -> Result<Vec<Row>> {
    let beta = Beta::try_new(0.3)?;
    let mut rows = Vec::new();
    for (label, prompts, full) in [("one prompt", 1usize, 300), ("four prompts", 4, 75)] {
        for uniform in [false, true] {
            let law = if uniform {
                "uniform pairs"
            } else {
                "reference pairs"
            };
            let setting = format!("{label}, {law}");
            for run in budget.runs(full) {
                let mut rng = budget.rng(&setting, run);
                let mut all = Vec::new();
                for _ in 0..prompts {
                    let responses = mixed(&mut rng)?;
                    all.push(Prompt {
                        weight: 1.0 / prompts as f64,
                        share: 1.0 / prompts as f64,
                        pairs: population(&responses, uniform)?,
                        responses,
                    });
                }
                let set = PromptSet::try_new(all)?;
                let problems = set.problems(beta)?;
                let PromptOutcome::Solved(average, solved) =
                    set.solve(&problems, &Method::Kto, beta)?
                else {
                    anyhow::bail!("KTO has a minimiser at beta <= 1");
                };
                let mut wrong = 0u32;
                let mut reference = 0.0;
                for (prompt, policy) in set.prompts().iter().zip(&solved) {
                    let net = prompt.pairs.net();
                    wrong += policy
                        .log_policy
                        .iter()
                        .zip(&net)
                        .map(|(u, c)| u32::from(u.is_finite() != (*c > 0.0)))
                        .sum::<u32>();
                    let at = evaluate(&prompt.responses, beta, prompt.responses.log_reference())?;
                    reference += prompt.weight * at.subopt;
                }
                let roots = solved.first().context("a prompt")?.certificates[1].1;
                rows.push(row(
                    &*setting,
                    "responses on the wrong side of the support",
                    run,
                    f64::from(wrong),
                ));
                rows.push(row(&*setting, "roots of the reference point", run, roots));
                rows.push(row(&*setting, "SubOpt, KTO", run, average.subopt));
                rows.push(row(&*setting, "SubOpt, reference", run, reference));
                let worse = f64::from(u8::from(average.subopt > reference));
                rows.push(row(&*setting, "worse than the reference", run, worse));
            }
        }
    }
    Ok(rows)
}
