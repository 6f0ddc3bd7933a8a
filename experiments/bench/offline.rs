//! (a) Regret and SubOpt of every offline method against the number of pairs.

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};
use rto::mdp::Beta;
use rto::numerics::sigmoid;
use rto::preference::{
    Method, MinimiserSet, Outcome, PairTable, PreferenceProblem, Responses, SupervisedBase,
    bounded_scores, chi_plan, evaluate, soft_optimum, tilt,
};
use rto_harness::stats::{Sample, Support};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;

const COLUMNS: &[&str] = &[
    "family",
    "tree",
    "pairs",
    "method",
    "beta",
    "subopt",
    "plain_regret",
    "kl",
    "identified",
    "coverage",
];

/// A family of random trees.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    pub actions: usize,
    pub horizon: usize,
    pub eos: Option<u32>,
}

pub const FAMILIES: [Family; 3] = [
    Family {
        name: "A2H3",
        actions: 2,
        horizon: 3,
        eos: None,
    },
    Family {
        name: "A4H2",
        actions: 4,
        horizon: 2,
        eos: None,
    },
    Family {
        name: "A2H4eos",
        actions: 2,
        horizon: 4,
        eos: Some(0),
    },
];

/// The methods, with constants that do not depend on β; RPO's weight falls like n^(-1/2).
fn methods(pairs: usize) -> [(&'static str, Method); 12] {
    let eta = (pairs as f64).powf(-0.5);
    [
        ("dpo", Method::Dpo),
        ("rdpo", Method::RDpo { alpha: 0.05 }),
        ("ipo", Method::Ipo),
        ("ipo_mean", Method::IpoMean),
        (
            "simpo",
            Method::SimPo {
                beta: 2.0,
                gamma: 0.0,
            },
        ),
        (
            "simpo_gamma",
            Method::SimPo {
                beta: 2.0,
                gamma: 0.5,
            },
        ),
        ("chipo", Method::ChiPo),
        ("tdpo1", Method::Tdpo { alpha: 1.0 }),
        (
            "rpo",
            Method::Rpo {
                eta,
                base: SupervisedBase::Reference,
            },
        ),
        ("hypo", Method::HyPo { lambda: eta * 0.1 }),
        ("kto", Method::Kto),
        ("caldpo", Method::CalDpo),
    ]
}

/// |t − t′| ≤ V of the class in which scores are fitted under the tie rules.
const BAND: f64 = 4.0;

/// Scores that the pairs leave open, tied by a rule instead of the ridge: components of the comparison graph with mean 0 each, with
/// the masses of least KL, or moved within |t − t′| ≤ V to where the regret is largest.
pub const TIED: [&str; 5] = [
    "dpo, zero mean",
    "dpo, least KL",
    "dpo, worst in the band",
    "chipo, zero mean",
    "chipo, worst in the band",
];

pub fn names() -> Vec<&'static str> {
    let own = methods(1).map(|(name, _)| name);
    own.into_iter().chain(TIED).collect()
}

/// The policies of [`TIED`], from a fit in the bounded class, which exists on every table.
fn tied(
    responses: &Responses,
    pairs: &PairTable,
    scores: &[f64],
    beta: Beta,
) -> Result<Vec<Vec<f64>>> {
    let dpo = |t: &[f64]| -> Result<Vec<f64>> {
        let exponent: Vec<f64> = t.iter().map(|t| t / beta.get()).collect();
        Ok(tilt(responses, &exponent)?)
    };
    let chi = |t: &[f64]| -> Result<Vec<f64>> { Ok(chi_plan(responses, t, beta)?.0) };
    let set = MinimiserSet::new(responses, pairs, scores, beta)?;
    let mut zero_mean = scores.to_vec();
    for members in &set.components {
        let mean = members.iter().map(|&y| scores[y]).sum::<f64>() / members.len() as f64;
        members.iter().for_each(|&y| zero_mean[y] -= mean);
    }
    Ok(vec![
        dpo(&zero_mean)?,
        set.policy(&set.log_kl_minimal)?,
        worst_tie(responses, scores, &set.components, &dpo)?,
        chi(&zero_mean)?,
        worst_tie(responses, scores, &set.components, &chi)?,
    ])
}

/// How many components are all moved up or down in all combinations; of more, one at a time.
const COMBINED: usize = 6;

/// The policy of largest regret over the ends of the band: E R is monotone in the offset of one component with DPO, as only the
/// mass of that component moves, so that no point inside the band is worse.
fn worst_tie(
    responses: &Responses,
    scores: &[f64],
    components: &[Vec<usize>],
    plan: &dyn Fn(&[f64]) -> Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let k = components.len();
    let choices: Vec<Vec<bool>> = match k <= COMBINED {
        true => (0..1usize << k)
            .map(|up| (0..k).map(|c| up >> c & 1 == 1).collect())
            .collect(),
        false => (0..k)
            .flat_map(|one| [true, false].map(|up| (0..k).map(|c| (c == one) == up).collect()))
            .collect(),
    };
    let mut worst: Option<(f64, Vec<f64>)> = None;
    for ups in choices {
        let mut moved = scores.to_vec();
        for (members, up) in components.iter().zip(ups) {
            let own = || members.iter().map(|&y| scores[y]);
            let shift = match up {
                true => BAND - own().fold(f64::MIN, f64::max),
                false => -own().fold(f64::MAX, f64::min),
            };
            members.iter().for_each(|&y| moved[y] += shift);
        }
        let policy = plan(&moved)?;
        let reward: f64 = (policy.iter().zip(responses.rewards()))
            .map(|(u, r)| u.exp() * r)
            .sum();
        if worst.as_ref().is_none_or(|(least, _)| reward < *least) {
            worst = Some((reward, policy));
        }
    }
    Ok(worst.expect("there is a component").1)
}

/// Gaussian token rewards over √H and Dirichlet(1) rows of π_ref, kept off 0 by 0.001.
pub fn random_tree(family: &Family, rng: &mut ChaCha8Rng) -> Result<Responses> {
    let (a, eos) = (family.actions, family.eos);
    let branch = a - usize::from(eos.is_some());
    let states: usize = (0..family.horizon as u32).map(|h| branch.pow(h)).sum();
    let mut reference = Vec::with_capacity(states * a);
    for _ in 0..states {
        let weights: Vec<f64> = (0..a).map(|_| Exp1.sample(rng)).collect();
        let total: f64 = weights.iter().sum();
        reference.extend(
            weights
                .iter()
                .map(|w| (w / total + 1e-3) / (1.0 + a as f64 * 1e-3)),
        );
    }
    let scale = 1.0 / (family.horizon as f64).sqrt();
    let rewards: Vec<f64> = (0..states * a)
        .map(|_| scale * Distribution::<f64>::sample(&StandardNormal, rng))
        .collect();
    Ok(Responses::try_new(
        a,
        family.horizon,
        eos,
        &reference,
        &rewards,
    )?)
}

/// Pairs of different responses, both from π_ref, labelled by (2.1).
fn draw_pairs(responses: &Responses, n: usize, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
    let cumulative: Vec<f64> = responses
        .log_reference()
        .iter()
        .scan(0.0, |sum, u| {
            *sum += u.exp();
            Some(*sum)
        })
        .collect();
    let pick = |u: f64| {
        cumulative
            .partition_point(|c| *c <= u)
            .min(cumulative.len() - 1)
    };
    let r = responses.rewards();
    let mut pairs = Vec::with_capacity(n);
    while pairs.len() < n {
        let (y, z) = (pick(rng.random()), pick(rng.random()));
        if y != z {
            let first = rng.random::<f64>() < sigmoid(r[y] - r[z]);
            pairs.push(if first { (y, z) } else { (z, y) });
        }
    }
    pairs
}

/// A cell for each family and tree.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for family in &FAMILIES {
        for tree in 0..study.config.offline_seeds {
            let id = format!("bench/a/{}", tasks.len());
            tasks.push(Task::new(id, COLUMNS, move || rows(study, family, tree)));
        }
    }
    tasks
}

fn rows(study: &Study, family: &Family, tree: u64) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let mut rng = study
        .seeds
        .child("offline")
        .child(family.name)
        .index(tree)
        .rng();
    let responses = random_tree(family, &mut rng)?;
    let most = c.pairs.last().copied().unwrap_or(0);
    let drawn = draw_pairs(&responses, most, &mut rng);
    let judged = Beta::try_new(c.beta)?;
    // E_{π*}[π*/μ] of pairs from μ = π_ref: single-policy coverage.
    let (star, _) = soft_optimum(&responses, judged);
    let coverage = 1.0 + evaluate(&responses, judged, &star)?.chi2;
    let mut rows = Vec::new();
    for &n in &c.pairs {
        let pairs = PairTable::from_counts(responses.len(), &drawn[..n])?;
        let identified = u64::from(pairs.connected() && pairs.has_maximum());
        let fitted = PreferenceProblem::with_ridge(&responses, &pairs, judged, c.ridge)?;
        let banded = bounded_scores(&pairs, BAND)?.scores;
        let mut push = |name: &'static str, b: f64, policy: &[f64]| -> Result<()> {
            let e = evaluate(&responses, judged, policy)?;
            rows.push(vec![
                family.name.into(),
                tree.into(),
                n.into(),
                name.into(),
                b.into(),
                e.subopt.into(),
                e.plain_regret.into(),
                e.kl.into(),
                identified.into(),
                coverage.into(),
            ]);
            Ok(())
        };
        for &b in &c.betas {
            let beta = Beta::try_new(b)?;
            let problem = fitted.at(beta)?;
            for (name, method) in methods(n) {
                // SimPO's own β that corresponds to b is H b: with it, equal lengths and a uniform π_ref it is DPO. KTO needs β ≤ 1.
                let method = match method {
                    Method::SimPo { gamma, .. } => Method::SimPo {
                        beta: family.horizon as f64 * b,
                        gamma,
                    },
                    Method::Kto if b > 1.0 => continue,
                    other => other,
                };
                if let Outcome::Solved(solved) = problem.solve(&method)? {
                    push(name, b, &solved.log_policy)?;
                }
            }
            for (name, policy) in TIED
                .into_iter()
                .zip(tied(&responses, &pairs, &banded, beta)?)
            {
                push(name, b, &policy)?;
            }
        }
    }
    Ok(rows)
}

/// The best β of one half of the trees, judged on the other, and the common β.
pub fn summarise(study: &Study, runs: &Table) -> Result<Table> {
    let mut table = Table::new(
        "offline",
        &[
            "family",
            "method",
            "pairs",
            "trees",
            "subopt",
            "subopt_low",
            "subopt_high",
            "best_beta",
            "regret",
            "regret_low",
            "regret_high",
            "against_dpo",
            "against_dpo_low",
            "against_dpo_high",
            "identified",
        ],
    );
    let (family, method) = (runs.texts("family")?, runs.texts("method")?);
    let (pairs, tree) = (runs.floats("pairs")?, runs.floats("tree")?);
    let (beta, subopt) = (runs.floats("beta")?, runs.floats("subopt")?);
    let (regret, identified) = (runs.floats("plain_regret")?, runs.floats("identified")?);
    let mut index: std::collections::BTreeMap<(&str, &str, u64), Vec<usize>> = Default::default();
    for i in 0..runs.len() {
        index
            .entry((&family[i], &method[i], pairs[i] as u64))
            .or_default()
            .push(i);
    }
    // Regret of each tree at the β that is best on the trees of the other parity.
    let held_out = |rows: &[usize]| -> (Vec<(u64, f64)>, Vec<f64>) {
        let mut out = Vec::new();
        let mut chosen = Vec::new();
        for fold in 0..2u64 {
            let mean = |b: f64| {
                let other = rows
                    .iter()
                    .filter(|&&i| beta[i] == b && tree[i] as u64 % 2 != fold);
                Sample(other.map(|&i| regret[i]).collect()).mean()
            };
            let candidates = study
                .config
                .betas
                .iter()
                .copied()
                .filter(|b| mean(*b).is_finite());
            let Some(best) = candidates.min_by(|a, b| mean(*a).total_cmp(&mean(*b))) else {
                continue;
            };
            chosen.push(best);
            let own = rows
                .iter()
                .filter(|&&i| beta[i] == best && tree[i] as u64 % 2 == fold);
            out.extend(own.map(|&i| (tree[i] as u64, regret[i])));
        }
        out.sort_by_key(|(t, _)| *t);
        (out, chosen)
    };
    for f in &FAMILIES {
        for name in names() {
            for &n in &study.config.pairs {
                let Some(rows) = index.get(&(f.name, name, n as u64)) else {
                    continue;
                };
                let common = rows.iter().filter(|&&i| beta[i] == study.config.beta);
                let sub = Sample(common.clone().map(|&i| subopt[i]).collect());
                let share = Sample(common.map(|&i| identified[i]).collect());
                let (own, chosen) = held_out(rows);
                let sample = Sample(own.iter().map(|(_, r)| *r).collect());
                let dpo = index
                    .get(&(f.name, "dpo", n as u64))
                    .map(|r| held_out(r).0)
                    .unwrap_or_default();
                let gap = own.iter().filter_map(|(t, r)| {
                    let base = dpo.iter().find(|(u, _)| u == t)?;
                    Some(r - base.1)
                });
                let gap = Sample(gap.collect());
                let (s, r) = (
                    sub.interval(Support::NonNegative),
                    sample.interval(Support::NonNegative),
                );
                let g = gap.interval(Support::Real);
                let low_high = |i: (f64, Option<f64>, Option<f64>)| {
                    [Some(i.0).filter(|x| x.is_finite()), i.1, i.2]
                        .map(|x| Cell::from(x.filter(|x| x.is_finite())))
                };
                let mut row: Vec<Cell> =
                    vec![f.name.into(), name.into(), n.into(), sample.len().into()];
                row.extend(low_high(s));
                row.push(Sample(chosen).mean().into());
                row.extend(low_high(r));
                row.extend(low_high(g));
                row.push(Some(share.mean()).filter(|x| x.is_finite()).into());
                table.push(row);
            }
        }
    }
    Ok(table)
}

/// SubOpt at the common β in the quarters of trees by coverage, from the best covered π* on.
pub fn by_coverage(study: &Study, runs: &Table) -> Result<Table> {
    let mut table = Table::new(
        "offline_coverage",
        &[
            "family",
            "method",
            "pairs",
            "quarter",
            "trees",
            "coverage",
            "subopt",
            "subopt_low",
            "subopt_high",
        ],
    );
    let (family, method) = (runs.texts("family")?, runs.texts("method")?);
    let (pairs, beta) = (runs.floats("pairs")?, runs.floats("beta")?);
    let (coverage, subopt) = (runs.floats("coverage")?, runs.floats("subopt")?);
    let mut index: std::collections::BTreeMap<(&str, &str, u64), Vec<usize>> = Default::default();
    for i in (0..runs.len()).filter(|&i| beta[i] == study.config.beta) {
        let key = (&*family[i], &*method[i], pairs[i] as u64);
        index.entry(key).or_default().push(i);
    }
    for f in &FAMILIES {
        for name in names() {
            for &n in &study.config.pairs {
                let Some(rows) = index.get_mut(&(f.name, name, n as u64)) else {
                    continue;
                };
                rows.sort_by(|&i, &j| coverage[i].total_cmp(&coverage[j]));
                for quarter in 0..4 {
                    let part = &rows[quarter * rows.len() / 4..(quarter + 1) * rows.len() / 4];
                    if part.is_empty() {
                        continue;
                    }
                    let logs = Sample(part.iter().map(|&i| coverage[i].ln()).collect());
                    let sample = Sample(part.iter().map(|&i| subopt[i]).collect());
                    let (mean, low, high) = sample.interval(Support::NonNegative);
                    table.push([
                        f.name.into(),
                        name.into(),
                        n.into(),
                        (quarter + 1).into(),
                        part.len().into(),
                        logs.mean().exp().into(),
                        mean.into(),
                        low.into(),
                        high.into(),
                    ]);
                }
            }
        }
    }
    Ok(table)
}
