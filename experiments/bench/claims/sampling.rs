//! K2, K2b, K3 and what else is said of best-of-N.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StudentT};
use rto::mdp::Beta;
use rto::preference::{Responses, best_of_n, chi_plan, kl, normalise, soft_best_of_n, tilt};

use super::instances::{dirichlet, dot, law, normal, scaled};
use super::{Budget, Row, row};
use crate::overopt::residual;

fn logs(p: &[f64]) -> Vec<f64> {
    p.iter().map(|p| p.ln()).collect()
}

/// K2: sixteen responses with tied scores: KL against log N − (N − 1)/N, win rate against N/(N + 1).
pub fn best_of_n_bounds(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(1000) {
        let mut rng = budget.rng("ties", run);
        let reference = logs(&dirichlet(16, &mut rng));
        let scores: Vec<f64> = (0..16)
            .map(|_| (4.0 * normal(&mut rng)).round() / 2.0)
            .collect();
        for n in [2.0, 3.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0f64] {
            let best = best_of_n(&reference, &scores, n)?;
            let k = kl(&best.log_policy, &reference);
            let violations = u8::from(k > best.kl_bound + 1e-12)
                + u8::from(best.win_rate > n / (n + 1.0) + 1e-12);
            rows.push(row(
                "N = 2 to 1024",
                "violations",
                run,
                f64::from(violations),
            ));
            rows.push(row(
                "N = 2 to 1024",
                "KL over its bound",
                run,
                k / best.kl_bound,
            ));
        }
    }
    Ok(rows)
}

/// K2b: slopes in log N of the gaps between soft best-of-N and the tilt, λ = 1, N = 256 to 1024.
pub fn soft_best_of_n_rate(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(50) {
        let mut rng = budget.rng("soft", run);
        let reference = logs(&dirichlet(16, &mut rng));
        let scores: Vec<f64> = (0..16).map(|_| normal(&mut rng)).collect();
        let star = normalise(reference.iter().zip(&scores).map(|(u, s)| u + s).collect());
        let mut gaps = Vec::new();
        for n in [256.0, 1024.0] {
            let (soft, _) = soft_best_of_n(&reference, &scores, 1.0, n)?;
            let reward = dot(&law(&star), &scores) - dot(&law(&soft), &scores);
            gaps.push([reward.abs(), kl(&soft, &star), kl(&star, &soft)]);
        }
        for (k, name) in [
            "slope, reward",
            "slope, KL to the tilt",
            "slope, KL from the tilt",
        ]
        .into_iter()
        .enumerate()
        {
            let slope = (gaps[1][k] / gaps[0][k]).ln() / 4f64.ln();
            rows.push(row("lambda = 1", name, run, slope));
        }
    }
    Ok(rows)
}

/// A reference on 256 responses, true reward and proxy.
fn proxy(family: &str, rng: &mut ChaCha8Rng) -> Result<(Responses, Vec<f64>)> {
    const N: usize = 256;
    let reference: Vec<f64> = dirichlet(N, rng)
        .iter()
        .map(|p| (p + 1e-9) / (1.0 + 1e-9 * N as f64))
        .collect();
    let mut truth: Vec<f64> = (0..N).map(|_| normal(rng)).collect();
    let error: Vec<f64> = match family {
        "Gaussian" => (0..N).map(|_| normal(rng)).collect(),
        "Student t(2)" => {
            let student = StudentT::new(2.0)?;
            (0..N).map(|_| student.sample(rng)).collect()
        }
        _ => {
            let mut sorted = reference.clone();
            sorted.sort_by(f64::total_cmp);
            let cut = sorted[N / 10];
            let mut error: Vec<f64> = (0..N).map(|_| 0.3 * normal(rng)).collect();
            for y in 0..N {
                if reference[y] < cut {
                    truth[y] -= 2.0;
                    error[y] += 4.0;
                }
            }
            error
        }
    };
    let proxy = truth.iter().zip(&error).map(|(r, e)| r + e).collect();
    Ok((Responses::bandit(&reference, &truth)?, proxy))
}

const FAMILIES: [&str; 3] = ["Gaussian", "Student t(2)", "rare trap"];

/// K3: both published laws of true reward against d = √KL, d < 2.2, for best-of-N and for the exact KL optimum; one prompt, and
/// eight with the same N or β, whose KL and gain are means.
pub fn reward_against_kl(budget: &Budget) -> Result<Vec<Row>> {
    let spaced = |low: f64, high: f64| {
        (0..40).map(move |k| (low.ln() + (high / low).ln() * f64::from(k) / 39.0).exp())
    };
    let mut rows = Vec::new();
    for (label, prompts, full) in [("one prompt", 1usize, 250), ("eight prompts", 8, 50)] {
        for family in FAMILIES {
            let setting = format!("{label}, {family}");
            for run in budget.runs(full) {
                let mut rng = budget.rng(&setting, run);
                let mut bon = vec![[0.0; 2]; 40];
                let mut tilts = bon.clone();
                for _ in 0..prompts {
                    let (bandit, proxy) = proxy(family, &mut rng)?;
                    let reference = bandit.log_reference();
                    let base = dot(&law(reference), bandit.rewards());
                    let add = |all: &mut [f64; 2], u: &[f64]| {
                        all[0] += kl(u, reference).max(0.0) / prompts as f64;
                        all[1] += (dot(&law(u), bandit.rewards()) - base) / prompts as f64;
                    };
                    for (at, n) in bon.iter_mut().zip(spaced(1.05, 2000.0)) {
                        add(at, &best_of_n(reference, &proxy, n)?.log_policy);
                    }
                    for (at, b) in tilts.iter_mut().zip(spaced(20.0, 0.12)) {
                        add(at, &tilt(&bandit, &scaled(&proxy, 1.0 / b))?);
                    }
                }
                let names = [
                    [
                        "linear residual, best-of-N",
                        "log residual, best-of-N",
                        "linear law better, best-of-N",
                        "peak inside, best-of-N",
                    ],
                    [
                        "linear residual, KL optimum",
                        "log residual, KL optimum",
                        "linear law better, KL optimum",
                        "peak inside, KL optimum",
                    ],
                ];
                for (names, curve) in names.iter().zip([&bon, &tilts]) {
                    let points: Vec<[f64; 3]> = curve
                        .iter()
                        .map(|[k, gain]| [k.sqrt(), *gain, 0.0])
                        .filter(|p| p[0] < 2.2)
                        .collect();
                    // A curve that leaves the range at once has no law to be fitted.
                    if points.len() < 5 {
                        continue;
                    }
                    let linear = residual(&points, |d| [d, -d * d]);
                    let log = residual(&points, |d| [d, -d * d.ln()]);
                    let most = points.iter().map(|p| p[1]).fold(f64::MIN, f64::max);
                    let last = points[points.len() - 1][1];
                    let values = [
                        linear,
                        log,
                        f64::from(u8::from(linear < log)),
                        f64::from(u8::from(most - last > 0.05 * most)),
                    ];
                    for (name, value) in names.iter().zip(values) {
                        rows.push(row(&*setting, name, run, value));
                    }
                }
            }
        }
    }
    Ok(rows)
}

/// Best-of-N against the best win rate at its KL, which the tilt by the distribution function of the score has: 256 responses.
pub fn win_rate_against_kl(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for run in budget.runs(200) {
        let mut rng = budget.rng("distinct", run);
        let reference: Vec<f64> = dirichlet(256, &mut rng);
        let scores: Vec<f64> = (0..256).map(|_| normal(&mut rng)).collect();
        let bandit = Responses::bandit(&reference, &scores)?;
        let u = bandit.log_reference();
        // P(y beats a draw of the reference), ties half: no two scores tie.
        let rank: Vec<f64> = (0..256)
            .map(|y| {
                let below = (0..256).filter(|&z| scores[z] < scores[y]);
                below.map(|z| reference[z]).sum::<f64>() + reference[y] / 2.0
            })
            .collect();
        for n in [2.0, 4.0, 16.0, 64.0f64] {
            let best = best_of_n(u, &scores, n)?;
            let k = kl(&best.log_policy, u);
            let (mut low, mut high) = (0.0, 1e5);
            for _ in 0..80 {
                let middle = 0.5 * (low + high);
                if kl(&tilt(&bandit, &scaled(&rank, middle))?, u) < k {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            let frontier = dot(&law(&tilt(&bandit, &scaled(&rank, low))?), &rank);
            let gap = frontier - best.win_rate;
            rows.push(row(
                format!("N = {n}"),
                "win rate below the optimum",
                run,
                gap,
            ));
        }
    }
    Ok(rows)
}

/// True reward as N grows with a proxy that is wrong on rare responses, against the χ²-regularised policy as its weight falls;
/// each at its best, and at its end.
pub fn scaling_n(budget: &Budget) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for family in FAMILIES {
        for run in budget.runs(100) {
            let mut rng = budget.rng(family, run);
            let (bandit, proxy) = proxy(family, &mut rng)?;
            let (u, truth) = (bandit.log_reference(), bandit.rewards());
            let base = dot(&law(u), truth);
            let mut peaks = [f64::MIN; 2];
            let mut end = 0.0;
            for k in 0..=40 {
                let n = 2f64.powf(f64::from(k) / 2.0);
                end = dot(&law(&best_of_n(u, &proxy, n)?.log_policy), truth) - base;
                peaks[0] = peaks[0].max(end);
            }
            for k in 0..=60 {
                let b = Beta::try_new(30.0 * 0.8f64.powi(k))?;
                let gain = dot(&law(&chi_plan(&bandit, &proxy, b)?.0), truth) - base;
                peaks[1] = peaks[1].max(gain);
            }
            rows.push(row(family, "gain at N = 2^20, best-of-N", run, end));
            rows.push(row(family, "gain at the best N", run, peaks[0]));
            rows.push(row(family, "loss from scaling N", run, peaks[0] - end));
            rows.push(row(
                family,
                "chi-squared at its best minus best-of-N at its best",
                run,
                peaks[1] - peaks[0],
            ));
        }
    }
    Ok(rows)
}
