//! Claims of the theory of RLHF since 2023, beyond those of the bench's own document.

use anyhow::Result;
use nalgebra::{DMatrix, SymmetricEigen};
use rand::Rng;
use rand_distr::{Binomial, Distribution};
use rto::mdp::Beta;
use rto::numerics::{log_sum_exp, sigmoid};
use rto::preference::{
    Child, Method, Outcome, PairRow, PairTable, Penalty, PreferenceGame, PreferenceProblem,
    Responses, bounded_scores, evaluate, ipo_scores, kl, normalise, penalised_fit, ridge_scores,
    soft_optimum, tilt,
};

use super::instances::{
    binary, dirichlet, dot, draw_pairs, law, mixed, normal, pick, population, scaled,
};
use super::{Budget, Row, row};
use crate::offline::{Family, random_tree};

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, f64::max)
}

fn gap(a: &[f64], b: &[f64]) -> f64 {
    largest(a.iter().zip(b).map(|(a, b)| a.exp() - b.exp()))
}

fn solved(problem: &PreferenceProblem<'_>, method: Method) -> Result<rto::preference::Solved> {
    match problem.solve(&method)? {
        Outcome::Solved(solved) => Ok(*solved),
        Outcome::NoMinimiser(why) => anyhow::bail!("{method:?}: {why}"),
    }
}

/// The policy that DPO's loss has in log-ratios, against the policy planned from the reward of maximum likelihood: one estimator
/// on tables, so nothing can generalise better. Population and 400 pairs.
pub fn implicit_reward(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(500) {
        let mut rng = budget.rng("tree", run);
        let tree = mixed(&mut rng)?;
        let n = tree.len();
        let beta = Beta::try_new(10f64.powf(rng.random_range(-1.0..0.3)))?;
        let pairs = if run % 2 == 0 {
            population(&tree, true)?
        } else {
            draw_pairs(&tree, &vec![1.0 / n as f64; n], 400, &mut rng)?
        };
        if !(pairs.connected() && pairs.has_maximum()) {
            continue;
        }
        let problem = PreferenceProblem::try_new(&tree, &pairs, beta)?;
        let fit = problem.fit().map_err(|why| anyhow::anyhow!("{why}"))?;
        let planned = tilt(&tree, &scaled(&fit.scores, 1.0 / beta.get()))?;
        let none = Penalty::ReverseKl { lambda: 0.0 };
        let own = penalised_fit(&tree, &pairs, beta, &none, &vec![0.0; n])?;
        rows.push(row(
            "all policies",
            "largest difference of policies",
            run,
            gap(&own.log_policy, &planned),
        ));
    }
    Ok(rows)
}

/// V*(s) = β log E_ref[exp(R/β) | s] of every prefix, by the backward recursion.
fn soft_values(tree: &Responses, beta: f64) -> Vec<f64> {
    let a = tree.n_actions();
    let states = tree.prefixes().len();
    let mut value = vec![0.0; states];
    for s in (0..states).rev() {
        let weights: Vec<f64> = (0..a)
            .map(|k| tree.reference_rows()[s * a + k] + next(tree, &value, s, k) / beta)
            .collect();
        value[s] = beta * log_sum_exp(&weights);
    }
    value
}

fn next(tree: &Responses, value: &[f64], s: usize, a: usize) -> f64 {
    match tree.child(s, a) {
        Child::Prefix(next) => value[next],
        Child::Response(y) => tree.rewards()[y],
    }
}

/// β log π*(a|s)/π_ref(a|s) = Q*(s, a) − V*(s) at every token, π* from the responses and Q*, V* by recursion.
pub fn token_advantage(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(200) {
        let mut rng = budget.rng("tree", run);
        let (tree, b) = (mixed(&mut rng)?, rng.random_range(0.1..1.0));
        let star = tree.token_rows(&soft_optimum(&tree, Beta::try_new(b)?).0);
        let value = soft_values(&tree, b);
        let a = tree.n_actions();
        let errors = (0..star.len()).map(|k| {
            let implicit = b * (star[k] - tree.reference_rows()[k]);
            implicit - (next(&tree, &value, k / a, k % a) - value[k / a])
        });
        rows.push(row(
            "random trees",
            "largest error of the identity",
            run,
            largest(errors),
        ));
    }
    Ok(rows)
}

/// Q♯: V*(s) = β log E_ref[e^{Z/β} | s] by a sum over all completions, Z the reward to go under π_ref, against the recursion.
pub fn soft_value(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(200) {
        let mut rng = budget.rng("tree", run);
        let (tree, b) = (mixed(&mut rng)?, rng.random_range(0.1..1.0));
        let value = soft_values(&tree, b);
        let direct = |s: usize| -> f64 {
            let prefix = &tree.prefixes()[s];
            let terms: Vec<f64> = (0..tree.len())
                .filter(|&y| tree.responses()[y].starts_with(prefix))
                .map(|y| {
                    let path = &tree.path(y)[prefix.len()..];
                    let u: f64 = path
                        .iter()
                        .map(|&(s, a)| tree.reference_rows()[s * tree.n_actions() + a])
                        .sum();
                    u + tree.rewards()[y] / b
                })
                .collect();
            b * log_sum_exp(&terms)
        };
        let errors = (0..value.len()).map(|s| value[s] - direct(s));
        rows.push(row(
            "random trees",
            "largest error of the identity",
            run,
            largest(errors),
        ));
    }
    Ok(rows)
}

/// M rollouts of π_ref: Q♯ sees their rewards, RTO compares them in pairs. SubOpt of both exact policies, β = 0.2.
pub fn equal_rollouts(budget: &Budget) -> Result<Vec<Row>> {
    let beta = Beta::try_new(0.2)?;
    let mut rows = Vec::new();
    for m in [64usize, 256, 1024, 4096] {
        for run in budget.runs(200) {
            let mut rng = budget.rng("tree", run);
            let tree = binary(3, &mut rng)?;
            let mu = law(tree.log_reference());
            let drawn: Vec<usize> = (0..m).map(|_| pick(&mu, &mut rng)).collect();
            // Ê[e^{R/β} | s, a] from the rollouts below (s, a); where there is none, that of the state.
            let mut count = vec![0.0; tree.len()];
            drawn.iter().for_each(|&y| count[y] += 1.0);
            let weight: Vec<f64> = (0..tree.len())
                .map(|y| count[y] * (tree.rewards()[y] / beta.get()).exp())
                .collect();
            let (visits, sums) = (tree.below(&count), tree.below(&weight));
            let a = tree.n_actions();
            let mut cells = Vec::with_capacity(visits.len());
            for s in 0..tree.prefixes().len() {
                let at = s * a..(s + 1) * a;
                let mean = sums[at.clone()].iter().sum::<f64>()
                    / visits[at.clone()].iter().sum::<f64>().max(1.0);
                let logs: Vec<f64> = at
                    .map(|k| {
                        let q = if visits[k] > 0.0 {
                            sums[k] / visits[k]
                        } else {
                            mean
                        };
                        tree.reference_rows()[k] + q.max(f64::MIN_POSITIVE).ln()
                    })
                    .collect();
                cells.extend(normalise(logs));
            }
            let q_sharp = tree.response_log_probs(&cells);
            let r = tree.rewards();
            let mut pairs = Vec::new();
            for pair in drawn.chunks_exact(2) {
                if pair[0] != pair[1] {
                    let first = rng.random::<f64>() < sigmoid(r[pair[0]] - r[pair[1]]);
                    pairs.push(if first {
                        (pair[0], pair[1])
                    } else {
                        (pair[1], pair[0])
                    });
                }
            }
            let scores = ridge_scores(&PairTable::from_counts(tree.len(), &pairs)?, 0.0, 1e-4)?;
            let rto = tilt(&tree, &scaled(&scores.scores, 1.0 / beta.get()))?;
            let (q, p) = (
                evaluate(&tree, beta, &q_sharp)?.subopt,
                evaluate(&tree, beta, &rto)?.subopt,
            );
            let setting = format!("{m} rollouts");
            rows.push(row(&*setting, "SubOpt, Q-sharp", run, q));
            rows.push(row(&*setting, "SubOpt, RTO", run, p));
            rows.push(row(
                &*setting,
                "Q-sharp better",
                run,
                f64::from(u8::from(q < p)),
            ));
        }
    }
    Ok(rows)
}

/// Three responses, R = (½, 0, −1); n − 1 comparisons of the first two, one of the last two. Plain regret of the policy that
/// picks the largest score of maximum likelihood in |t − t′| ≤ 2, and of one that picks the largest lower bound.
pub fn greedy_against_pessimistic(budget: &Budget) -> Result<Vec<Row>> {
    let reward = [0.5, 0.0, -1.0];
    let mut rows = Vec::new();
    for n in [100u64, 1000, 10_000, 100_000] {
        for run in budget.runs(2000) {
            let mut rng = budget.rng("labels", run);
            let wins = Binomial::new(n - 1, sigmoid(0.5))?.sample(&mut rng) as f64;
            let upset = rng.random::<f64>() < sigmoid(reward[2] - reward[1]);
            // With the score of the second response 0 the likelihood separates.
            let frequency = wins / (n - 1) as f64;
            let first = (frequency.ln() - (1.0 - frequency).ln()).clamp(-2.0, 2.0);
            // One comparison: the bounded class puts the third at its end.
            let third = if upset {
                2.0f64.min(2.0 + first.min(0.0))
            } else {
                (-2.0f64).max(first - 2.0)
            };
            let scores = [first, 0.0, third];
            // ‖e_y − e_1‖ in the inverse of the counts, times √log n.
            let width = (n as f64).ln().sqrt();
            let lower = [first - width / ((n - 1) as f64).sqrt(), 0.0, third - width];
            let best = |s: &[f64; 3]| (0..3).max_by(|&a, &b| s[a].total_cmp(&s[b])).unwrap_or(0);
            let setting = format!("n = {n}");
            rows.push(row(
                &*setting,
                "regret, greedy",
                run,
                reward[0] - reward[best(&scores)],
            ));
            rows.push(row(
                &*setting,
                "regret, pessimistic",
                run,
                reward[0] - reward[best(&lower)],
            ));
        }
    }
    Ok(rows)
}

/// DPO from n uniform pairs on bandits of six responses, β = 0.5: n·SubOpt against its limit tr(Cov_{π*} I⁻¹)/(2β), and the
/// slope of log mean SubOpt in log n.
pub fn fast_rate(budget: &Budget) -> Result<Vec<Row>> {
    const N: usize = 6;
    let beta = Beta::try_new(0.5)?;
    let sizes: Vec<usize> = (0..6).map(|k| 512 << (2 * k)).collect();
    let mut rows = Vec::new();
    let mut curves: Vec<Vec<f64>> = Vec::new();
    for run in budget.runs(200) {
        let mut rng = budget.rng("bandit", run);
        let reference: Vec<f64> = dirichlet(N, &mut rng)
            .iter()
            .map(|p| (p + 0.02) / (1.0 + 0.02 * N as f64))
            .collect();
        let rewards: Vec<f64> = (0..N).map(|_| rng.random()).collect();
        let bandit = Responses::bandit(&reference, &rewards)?;
        let star = law(&soft_optimum(&bandit, beta).0);
        let mut information = DMatrix::<f64>::zeros(N, N);
        let share = 2.0 / (N * (N - 1)) as f64;
        for i in 0..N {
            for j in i + 1..N {
                let p = sigmoid(rewards[i] - rewards[j]);
                let bend = share * p * (1.0 - p);
                information[(i, i)] += bend;
                information[(j, j)] += bend;
                information[(i, j)] -= bend;
                information[(j, i)] -= bend;
            }
        }
        let eigen = SymmetricEigen::new(information);
        let top = eigen.eigenvalues.max();
        let mut limit = 0.0;
        for (value, v) in eigen
            .eigenvalues
            .iter()
            .zip(eigen.eigenvectors.column_iter())
        {
            if *value > 1e-10 * top {
                let mean: f64 = star.iter().zip(v.iter()).map(|(p, v)| p * v).sum();
                let second: f64 = star.iter().zip(v.iter()).map(|(p, v)| p * v * v).sum();
                limit += (second - mean * mean) / value;
            }
        }
        limit /= 2.0 * beta.get();
        let mut curve = Vec::new();
        for &n in &sizes {
            // Multinomial counts: pairs uniform over the unordered ones, then their labels.
            let (mut left, mut mass) = (n as u64, 1.0);
            let mut list = Vec::new();
            for i in 0..N {
                for j in i + 1..N {
                    let c = Binomial::new(left, (share / mass).min(1.0))?.sample(&mut rng);
                    (left, mass) = (left - c, mass - share);
                    if c > 0 {
                        let w =
                            Binomial::new(c, sigmoid(rewards[i] - rewards[j]))?.sample(&mut rng);
                        list.push(PairRow {
                            first: i,
                            second: j,
                            weight: c as f64 / n as f64,
                            preference: w as f64 / c as f64,
                        });
                    }
                }
            }
            let pairs = PairTable::try_new(N, list)?;
            let problem = PreferenceProblem::try_new(&bandit, &pairs, beta)?;
            let subopt = solved(&problem, Method::Dpo)?.evaluation.subopt;
            rows.push(row(
                format!("n = {n}"),
                "n SubOpt over its limit",
                run,
                n as f64 * subopt / limit,
            ));
            curve.push(subopt);
        }
        curves.push(curve);
    }
    // The slope of the mean, with jackknife pseudo-values.
    let x: Vec<f64> = sizes.iter().map(|n| (*n as f64).ln()).collect();
    let at = |skip: Option<usize>| {
        let mean = |k: usize| {
            let kept = curves.iter().enumerate().filter(|(i, _)| Some(*i) != skip);
            kept.map(|(_, c)| c[k]).sum::<f64>().ln()
        };
        super::instances::slope(&x, &(0..x.len()).map(mean).collect::<Vec<_>>())
    };
    let (all, n) = (at(None), curves.len() as f64);
    for i in 0..curves.len() {
        let pseudo = n * all - (n - 1.0) * at(Some(i));
        rows.push(row(
            "n = 512 to 524288",
            "slope of log mean SubOpt",
            i as u64,
            pseudo,
        ));
    }
    Ok(rows)
}

/// Token by token ∝ π_ref (π_dpo/π_ref)^{β₁/β₂}, against the optimum of the same reward and KL over responses, β₁ = 0.25,
/// β₂ = 0.1, π_dpo the population's.
pub fn local_mix(budget: &Budget) -> Result<Vec<Row>> {
    let (b1, b2) = (0.25, 0.1);
    let mut rows = Vec::new();
    for horizon in 1..=5 {
        let setting = format!("H = {horizon}");
        for run in budget.runs(200) {
            let mut rng = budget.rng(&setting, run);
            let tree = binary(horizon, &mut rng)?;
            let dpo = soft_optimum(&tree, Beta::try_new(b1)?).0;
            let ratios: Vec<f64> = dpo
                .iter()
                .zip(tree.log_reference())
                .map(|(u, v)| u - v)
                .collect();
            let judged = tree.with_rewards(&scaled(&ratios, b1))?;
            let beta = Beta::try_new(b2)?;
            let rows_dpo = tree.token_rows(&dpo);
            let a = tree.n_actions();
            let mut cells = Vec::with_capacity(rows_dpo.len());
            for (own, reference) in rows_dpo.chunks(a).zip(tree.reference_rows().chunks(a)) {
                let mixed = own
                    .iter()
                    .zip(reference)
                    .map(|(d, r)| r + b1 / b2 * (d - r));
                cells.extend(normalise(mixed.collect()));
            }
            let local = evaluate(&judged, beta, &tree.response_log_probs(&cells))?.subopt;
            let reference = evaluate(&judged, beta, tree.log_reference())?.subopt;
            rows.push(row(&*setting, "SubOpt of the local mix", run, local));
            rows.push(row(
                &*setting,
                "share of the reference's",
                run,
                local / reference,
            ));
        }
    }
    Ok(rows)
}

/// Whether the chosen responses lose log-probability on average at the exact optimum: DPO, DPOP and IPO in population.
pub fn displacement(budget: &Budget) -> Result<Vec<Row>> {
    let beta = Beta::try_new(0.2)?;
    let mut rows = Vec::new();
    for run in budget.runs(300) {
        let mut rng = budget.rng("tree", run);
        let tree = mixed(&mut rng)?;
        for uniform in [false, true] {
            let pairs = population(&tree, uniform)?;
            let problem = PreferenceProblem::try_new(&tree, &pairs, beta)?;
            let chosen = pairs.chosen();
            let setting = if uniform {
                "uniform pairs"
            } else {
                "reference pairs"
            };
            for (change, falls, method) in [
                ("change of chosen, DPO", "chosen fall, DPO", Method::Dpo),
                (
                    "change of chosen, DPOP",
                    "chosen fall, DPOP",
                    Method::Dpop { lambda: 5.0 },
                ),
                ("change of chosen, IPO", "chosen fall, IPO", Method::Ipo),
            ] {
                let policy = solved(&problem, method)?.log_policy;
                let moved: Vec<f64> = policy
                    .iter()
                    .zip(tree.log_reference())
                    .map(|(u, v)| u - v)
                    .collect();
                let mean = dot(&chosen, &moved);
                rows.push(row(setting, change, run, mean));
                rows.push(row(setting, falls, run, f64::from(u8::from(mean < 0.0))));
            }
        }
    }
    Ok(rows)
}

/// All pairs of a random ranking, labels without noise: DPO has no minimiser, and in classes |t − t′| ≤ B its KL grows to that
/// of one response at every β; IPO keeps a KL that falls with β.
pub fn deterministic_preferences(budget: &Budget) -> Result<Vec<Row>> {
    const N: usize = 6;
    let mut rows = Vec::new();
    for run in budget.runs(100) {
        let mut rng = budget.rng("ranking", run);
        let reference: Vec<f64> = dirichlet(N, &mut rng)
            .iter()
            .map(|p| (p + 0.01) / (1.0 + 0.01 * N as f64))
            .collect();
        let rewards: Vec<f64> = (0..N).map(|_| normal(&mut rng)).collect();
        let bandit = Responses::bandit(&reference, &rewards)?;
        let mut list = Vec::new();
        for i in 0..N {
            for j in i + 1..N {
                list.push(if rewards[i] > rewards[j] {
                    (i, j)
                } else {
                    (j, i)
                });
            }
        }
        let pairs = PairTable::from_counts(N, &list)?;
        let best = (0..N)
            .max_by(|&a, &b| rewards[a].total_cmp(&rewards[b]))
            .unwrap_or(0);
        let collapsed = -reference[best].ln();
        for b in [0.1, 1.0] {
            let beta = Beta::try_new(b)?;
            let problem = PreferenceProblem::try_new(&bandit, &pairs, beta)?;
            let none = matches!(problem.solve(&Method::Dpo)?, Outcome::NoMinimiser(_));
            let setting = format!("beta = {b}");
            rows.push(row(
                &*setting,
                "DPO without a minimiser",
                run,
                f64::from(u8::from(none)),
            ));
            let wide = bounded_scores(&pairs, 40.0)?;
            let dpo = tilt(&bandit, &scaled(&wide.scores, 1.0 / b))?;
            rows.push(row(
                &*setting,
                "KL over that of one response, DPO with B = 40",
                run,
                kl(&dpo, bandit.log_reference()) / collapsed,
            ));
            let ipo = tilt(&bandit, &ipo_scores(&pairs, beta)?)?;
            rows.push(row(
                &*setting,
                "KL over that of one response, IPO",
                run,
                kl(&ipo, bandit.log_reference()) / collapsed,
            ));
        }
    }
    Ok(rows)
}

/// Random preferences without a reward behind them: exploitability of the Nash policy and of the optimum for the best
/// Bradley–Terry reward.
pub fn cyclic_preferences(budget: &Budget) -> Result<Vec<Row>> {
    const N: usize = 5;
    let beta = Beta::try_new(0.2)?;
    let mut rows = Vec::new();
    for run in budget.runs(200) {
        let mut rng = budget.rng("matrix", run);
        let reference: Vec<f64> = dirichlet(N, &mut rng)
            .iter()
            .map(|p| (p + 0.02) / (1.0 + 0.02 * N as f64))
            .collect();
        let mut preference = vec![0.5; N * N];
        let mut list = Vec::new();
        for i in 0..N {
            for j in i + 1..N {
                let p = sigmoid(2.0 * normal(&mut rng));
                preference[i * N + j] = p;
                preference[j * N + i] = 1.0 - p;
                list.push(PairRow {
                    first: i,
                    second: j,
                    weight: 0.1,
                    preference: p,
                });
            }
        }
        let game = PreferenceGame::try_new(&preference, &reference, beta)?;
        let bandit = Responses::bandit(&reference, &[0.0; N])?;
        let pairs = PairTable::try_new(N, list)?;
        let scores = rto::preference::bradley_terry_scores(&pairs, 0.0)?.scores;
        let nash = game.exploitability(&game.nash()?)?;
        let model = game.exploitability(&tilt(&bandit, &scaled(&scores, 1.0 / beta.get()))?)?;
        rows.push(row("random matrices", "exploitability, Nash", run, nash));
        rows.push(row(
            "random matrices",
            "exploitability, reward model",
            run,
            model,
        ));
    }
    Ok(rows)
}

/// SimPO with γ = 0 where rewards know nothing of length: independent of it, on trees with an end of sentence. Expected length
/// against π*'s, SimPO's β the mean length times β.
pub fn length_bias(budget: &Budget) -> Result<Vec<Row>> {
    let beta = Beta::try_new(0.2)?;
    let family = Family {
        name: "eos",
        actions: 3,
        horizon: 3,
        eos: Some(0),
    };
    let mut rows = Vec::new();
    for run in budget.runs(300) {
        let mut rng = budget.rng("tree", run);
        let tree = random_tree(&family, &mut rng)?;
        let rewards: Vec<f64> = (0..tree.len()).map(|_| 0.5 * normal(&mut rng)).collect();
        let tree = tree.with_rewards(&rewards)?;
        let pairs = population(&tree, true)?;
        let problem = PreferenceProblem::try_new(&tree, &pairs, beta)?;
        let mean_length = |u: &[f64]| dot(&law(u), tree.lengths());
        let star = soft_optimum(&tree, beta).0;
        let own = beta.get() * mean_length(tree.log_reference());
        let simpo = solved(
            &problem,
            Method::SimPo {
                beta: own,
                gamma: 0.0,
            },
        )?;
        let mean = solved(&problem, Method::IpoMean)?;
        rows.push(row(
            "rewards without length",
            "E length, SimPO minus optimum",
            run,
            mean_length(&simpo.log_policy) - mean_length(&star),
        ));
        rows.push(row(
            "rewards without length",
            "E length, IPO (mean) minus IPO (sum)",
            run,
            mean_length(&mean.log_policy) - mean_length(&solved(&problem, Method::Ipo)?.log_policy),
        ));
        rows.push(row(
            "rewards without length",
            "SubOpt, SimPO",
            run,
            simpo.evaluation.subopt,
        ));
    }
    Ok(rows)
}

/// R-DPO against DPO for the reward R − α|y|, from data of R; and its SubOpt for R as α falls.
pub fn length_penalty(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(100) {
        let mut rng = budget.rng("tree", run);
        let family = Family {
            name: "eos",
            actions: 3,
            horizon: 3,
            eos: Some(0),
        };
        let tree = random_tree(&family, &mut rng)?;
        let beta = Beta::try_new(rng.random_range(0.1..1.0))?;
        let pairs = population(&tree, true)?;
        let problem = PreferenceProblem::try_new(&tree, &pairs, beta)?;
        let mut subopt = Vec::new();
        for alpha in [0.02, 0.01] {
            let own = solved(&problem, Method::RDpo { alpha })?;
            let shifted: Vec<f64> = tree
                .rewards()
                .iter()
                .zip(tree.lengths())
                .map(|(r, l)| r - alpha * l)
                .collect();
            let other = tree.with_rewards(&shifted)?;
            let error = gap(&own.log_policy, &soft_optimum(&other, beta).0);
            rows.push(row(
                "population",
                "largest difference from DPO for R - alpha |y|",
                run,
                error,
            ));
            subopt.push(own.evaluation.subopt);
        }
        rows.push(row(
            "population",
            "SubOpt at alpha over SubOpt at alpha / 2",
            run,
            subopt[0] / subopt[1],
        ));
    }
    Ok(rows)
}

/// VPO offline, min L(R) + α (V*(R) − E_cal R): its gradient in R, written out, at RPO's minimiser with η = α and base = cal.
pub fn value_incentive(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(200) {
        let mut rng = budget.rng("tree", run);
        let tree = mixed(&mut rng)?;
        let n = tree.len();
        let pairs = draw_pairs(&tree, &vec![1.0 / n as f64; n], 60, &mut rng)?;
        let beta = Beta::try_new(rng.random_range(0.1..1.0))?;
        let alpha = rng.random_range(0.01..0.5);
        let cal: Vec<f64> = dirichlet(n, &mut rng)
            .iter()
            .map(|p| (p + 0.01) / (1.0 + 0.01 * n as f64))
            .collect();
        let penalty = Penalty::Supervised {
            eta: alpha,
            base: cal.clone(),
        };
        let found = penalised_fit(&tree, &pairs, beta, &penalty, &vec![0.0; n])?;
        let reward = scaled(&found.exponent, beta.get());
        // ∂V*/∂R is the policy that R plans.
        let planned = soft_optimum(&tree.with_rewards(&reward)?, beta).0;
        let mut gradient: Vec<f64> = planned
            .iter()
            .zip(&cal)
            .map(|(u, c)| alpha * (u.exp() - c))
            .collect();
        for pair in pairs.rows() {
            let slope =
                pair.weight * (sigmoid(reward[pair.first] - reward[pair.second]) - pair.preference);
            gradient[pair.first] += slope;
            gradient[pair.second] -= slope;
        }
        rows.push(row(
            "60 pairs",
            "gradient of VPO at RPO's minimiser",
            run,
            largest(gradient.into_iter()),
        ));
        let policy = gap(&planned, &found.log_policy);
        rows.push(row(
            "60 pairs",
            "largest difference of policies",
            run,
            policy,
        ));
    }
    Ok(rows)
}
