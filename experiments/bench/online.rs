//! (b) Exact regret of online learners against rounds: the exponential trap, and five responses.

use anyhow::Result;
use rand::Rng;
use rand_distr::{Distribution, Exp1};
use rto::mdp::Beta;
use rto::preference::{Learner, Responses, Sampler, Trap, online_regret};
use rto_harness::stats::{Sample, Support};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};
use std::collections::BTreeMap;

use crate::Study;

const COLUMNS: &[&str] = &[
    "instance", "beta", "learner", "sampler", "run", "round", "regret",
];

/// |R − mean| (greedy) or |R_i − R_j| (optimistic) of five responses, |R₁ − R₀| of the trap.
const FIVE_BOUND: f64 = 1.0;
const TRAP_BOUND: f64 = 2.0;

/// The ridge of the two-stage explorer's matrix.
const EXPLORER_RIDGE: f64 = 1.0;

/// What the sampler of a two-stage learner is called, before its ρ.
pub const EXPLORER: &str = "policy, explorer";

type Setting = (String, Learner, String, Sampler);

/// The learners, each with a name, and where their pairs come from.
fn learners(study: &Study, instance: &str) -> Vec<Setting> {
    let trap = instance != "five";
    // Half of the width of the interval on each side of the mean.
    let bound = if trap { TRAP_BOUND / 2.0 } else { FIVE_BOUND };
    let greedy = Learner::Greedy { bound, ridge: 1e-2 };
    let with_reference = ("policy, reference", Sampler::PolicyReference);
    let mut all: Vec<Setting> = Vec::new();
    let mut push = |name: String, learner, (from, sampler): (&str, Sampler)| {
        all.push((name, learner, from.to_string(), sampler));
    };
    if !trap {
        push(
            "greedy".into(),
            greedy,
            ("policy, policy", Sampler::PolicyPolicy),
        );
    }
    push("greedy".into(), greedy, with_reference);
    for &rho in &study.config.explorer_rhos {
        let lambda = EXPLORER_RIDGE;
        let explorer = Sampler::PolicyExplorer { rho, lambda };
        let from = format!("{EXPLORER} {rho}");
        push("greedy".into(), greedy, (&from, explorer));
    }
    let bound = if trap { TRAP_BOUND } else { FIVE_BOUND };
    for &alpha in &study.config.xpo_alphas {
        let xpo = Learner::Xpo { alpha, bound };
        push(format!("xpo {alpha}"), xpo, with_reference);
    }
    for &alpha in &study.config.xpo_alphas {
        let selm = Learner::Selm { alpha, bound };
        push(format!("selm {alpha}"), selm, with_reference);
    }
    all
}

/// Rounds that are kept: powers of two and the last.
fn kept(rounds: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..)
        .map(|k| 1usize << k)
        .take_while(|t| *t < rounds)
        .collect();
    all.push(rounds);
    all
}

/// A cell for each setting and run.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    let instances = [
        ("rare good", &study.config.trap_betas),
        ("rare bad", &study.config.trap_betas),
        ("five", &study.config.five_betas),
    ];
    for (instance, betas) in instances {
        for &beta in betas {
            for (name, learner, from, sampler) in learners(study, instance) {
                for run in 0..study.config.online_seeds {
                    let id = format!("bench/b/{}", tasks.len());
                    let (name, from) = (name.clone(), from.clone());
                    tasks.push(Task::new(id, COLUMNS, move || {
                        let curve = curve(study, instance, beta, learner, sampler, run)?;
                        let row = |t: usize| -> Vec<Cell> {
                            vec![
                                instance.into(),
                                beta.into(),
                                name.as_str().into(),
                                from.as_str().into(),
                                run.into(),
                                t.into(),
                                curve[t - 1].into(),
                            ]
                        };
                        Ok(kept(study.config.rounds).into_iter().map(row).collect())
                    }));
                }
            }
        }
    }
    tasks
}

fn curve(
    study: &Study,
    instance: &str,
    beta: f64,
    learner: Learner,
    sampler: Sampler,
    run: u64,
) -> Result<Vec<f64>> {
    // Methods share instance and uniforms, so that their difference is theirs.
    let mut rng = study.seeds.child("online").child(instance).index(run).rng();
    let responses = match instance {
        "five" => {
            let weights: Vec<f64> = (0..5).map(|_| Exp1.sample(&mut rng)).collect();
            let total: f64 = weights.iter().sum();
            let reference: Vec<f64> = weights
                .iter()
                .map(|w: &f64| (w / total + 0.02) / 1.1)
                .collect();
            let rewards: Vec<f64> = (0..5).map(|_| rng.random()).collect();
            Responses::bandit(&reference, &rewards)?
        }
        _ => {
            let rare = (-study.config.trap_depth / beta).exp();
            let reward = if instance == "rare good" { 1.0 } else { -1.0 };
            Responses::bandit(&[1.0 - rare, rare], &[0.0, reward])?
        }
    };
    Ok(online_regret(
        &responses,
        Beta::try_new(beta)?,
        learner,
        sampler,
        study.config.rounds,
        &mut rng,
    )?)
}

/// Mean regret with intervals, the lower bound of passive learners, and the ratio of the last two doublings: 1 for log T, 1.41
/// for √T, 2 for T.
pub fn summarise(study: &Study, runs: &Table) -> Result<(Table, Table)> {
    let text: Vec<Vec<String>> = ["instance", "learner", "sampler"]
        .iter()
        .map(|c| runs.texts(c))
        .collect::<Result<_>>()?;
    let (beta, round) = (runs.floats("beta")?, runs.floats("round")?);
    let regret = runs.floats("regret")?;
    let mut order: Vec<[String; 4]> = Vec::new();
    let mut samples: BTreeMap<([String; 4], u64), Sample> = BTreeMap::new();
    for i in 0..runs.len() {
        let key = [
            text[0][i].clone(),
            format!("{}", beta[i]),
            text[1][i].clone(),
            text[2][i].clone(),
        ];
        if !order.contains(&key) {
            order.push(key.clone());
        }
        samples
            .entry((key, round[i] as u64))
            .or_default()
            .0
            .push(regret[i]);
    }
    let columns = [
        "instance",
        "beta",
        "learner",
        "sampler",
        "round",
        "runs",
        "regret",
        "regret_low",
        "regret_high",
        "passive_bound",
    ];
    let mut table = Table::new("online", &columns);
    let mut doubling = Table::new(
        "online_doubling",
        &[
            "instance",
            "beta",
            "learner",
            "sampler",
            "regret",
            "doubling_ratio",
        ],
    );
    for key in &order {
        let [instance, beta_text, learner, sampler] = key;
        let b: f64 = beta_text.parse()?;
        let trap = Trap::try_new(Beta::try_new(b)?, study.config.trap_depth)?;
        for t in kept(study.config.rounds) {
            let sample = &samples[&(key.clone(), t as u64)];
            let (mean, low, high) = sample.interval(Support::NonNegative);
            let bound = (instance == "rare good").then(|| trap.passive_regret(t as f64));
            table.push([
                instance.as_str().into(),
                b.into(),
                learner.as_str().into(),
                sampler.as_str().into(),
                t.into(),
                sample.len().into(),
                mean.into(),
                low.into(),
                high.into(),
                bound.into(),
            ]);
        }
        let at = |t: usize| samples.get(&(key.clone(), t as u64)).map(Sample::mean);
        let last = study.config.rounds;
        // Rounds that are no power of two have no doublings to compare.
        let ratio = match (at(last), at(last / 2), at(last / 4)) {
            (Some(a), Some(b), Some(c)) if last.is_power_of_two() && b > c => {
                Some((a - b) / (b - c))
            }
            _ => None,
        };
        doubling.push([
            instance.as_str().into(),
            b.into(),
            learner.as_str().into(),
            sampler.as_str().into(),
            at(last).into(),
            ratio.into(),
        ]);
    }
    Ok((table, doubling))
}
