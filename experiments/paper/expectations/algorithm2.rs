//! Section 4.2 and Algorithm 2.

use super::{Figure, Found, Run, last, rows};
use anyhow::Result;

pub const FIGURES: [Figure; 6] = [
    Figure {
        name: "algorithm2/credit",
        expectation: "The DPO reward (4.5) of a token follows the true advantage (correlation above 0.5), and more closely than the true reward.",
        check: credit,
    },
    Figure {
        name: "algorithm2/curves",
        expectation: "DPPO with its critic started at the rewards so far runs as RTO does: their mean gaps agree to 1%; over a whole run RTO is not behind DPPO.",
        check: curves,
    },
    Figure {
        name: "algorithm2/map",
        expectation: "Dense reward matters where advantages bootstrap through an untrained critic: RTO's gap is below half of DPPO's at λ = 0, and a larger share of it at the largest λ.",
        check: map,
    },
    Figure {
        name: "algorithm2/frontier",
        expectation: "No policy has more true reward at its KL than the exact optimal frontier.",
        check: frontier,
    },
    Figure {
        name: "algorithm2/figure3",
        expectation: "The two β₂ of the paper's Figure 3 alone give optima of different implicit reward.",
        check: figure3,
    },
    Figure {
        name: "algorithm2/sweeps",
        expectation: "At no batch size N is RTO behind DPPO: the 95% interval of the ratio of their gaps reaches below 1, at the default λ and at a small one.",
        check: sweeps,
    },
];

fn correlation(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mx, my) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let moment = |f: fn(f64, f64) -> f64| points.iter().map(|p| f(p.0 - mx, p.1 - my)).sum::<f64>();
    moment(|x, y| x * y) / (moment(|x, _| x * x) * moment(|_, y| y * y)).sqrt()
}

fn credit(run: &Run<'_>) -> Result<Found> {
    let table = run.table("credit.csv")?;
    let advantage = correlation(&table.points("credit", "advantage")?);
    let reward = correlation(&table.points("credit", "reward")?);
    Ok(Found::new(
        advantage > 0.5 && advantage > reward,
        format!(
            "correlation {advantage:.2} with the advantage, {reward:.2} with the reward, over {} tokens",
            table.len()
        ),
    ))
}

fn curves(run: &Run<'_>) -> Result<Found> {
    let table = run.table("against_dppo.csv")?;
    let mut holds = true;
    let mut found = Vec::new();
    for instance in table.distinct("instance")? {
        let of = |method, column| {
            last(
                &table,
                &[("instance", &instance), ("method", method)],
                column,
            )
        };
        let (rto, offset) = (of("rto", "mean_gap")?, of("dppo_offset", "mean_gap")?);
        let low = of("rto", "mean_ratio_low")?;
        holds &= (rto / offset - 1.0).abs() < 0.01 && low < 1.0;
        found.push(format!(
            "{instance}: RTO {rto:.4}, DPPO with offset {offset:.4}, RTO/DPPO {:.2} [{low:.2}, {:.2}]",
            of("rto", "mean_ratio")?,
            of("rto", "mean_ratio_high")?
        ));
    }
    Ok(Found::new(holds && !found.is_empty(), found.join("; ")))
}

fn map(run: &Run<'_>) -> Result<Found> {
    let points = run.table("map.csv")?.points("lambda", "mean_ratio")?;
    let largest = points.iter().map(|p| p.0).fold(0.0, f64::max);
    let mean = |lambda: f64| {
        let of: Vec<f64> = points
            .iter()
            .filter(|p| p.0 == lambda)
            .map(|p| p.1)
            .collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    let (zero, top) = (mean(0.0), mean(largest));
    Ok(Found::new(
        zero < 0.5 && top > zero,
        format!("mean ratio {zero:.2} at λ = 0, {top:.2} at λ = {largest}"),
    ))
}

/// The most reward at KL `k` of a frontier sorted by KL: reward is concave in KL, so the chord is below the frontier and
/// the steeper of the neighbouring chords, continued, is above it.
fn at_most(frontier: &[(f64, f64)], k: f64) -> f64 {
    let at = frontier.partition_point(|p| p.0 < k);
    let through = |i: usize, j: usize| {
        let ((x0, y0), (x1, y1)) = (frontier[i], frontier[j]);
        y0 + (y1 - y0) * (k - x0) / (x1 - x0)
    };
    let mut bound = f64::INFINITY;
    if at >= 2 {
        bound = bound.min(through(at - 2, at - 1));
    }
    if at + 1 < frontier.len() {
        bound = bound.min(through(at, at + 1));
    }
    bound
}

fn frontier(run: &Run<'_>) -> Result<Found> {
    let (frontier, curves) = (run.table("frontier.csv")?, run.table("curves.csv")?);
    let mut worst = f64::NEG_INFINITY;
    let mut compared = 0;
    for instance in frontier.distinct("instance")? {
        let of = [("instance", instance.as_str())];
        let mut line = rows(&frontier, &of)?.points("kl", "reward")?;
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        line.dedup_by(|a, b| a.0 == b.0);
        for (kl, reward) in rows(&curves, &of)?.points("kl", "reward")? {
            if kl > line[0].0 {
                worst = worst.max(reward - at_most(&line, kl));
                compared += 1;
            }
        }
    }
    Ok(Found::new(
        compared > 0 && worst < 1e-6,
        format!(
            "{compared} policies, the highest {:.1e} above a bound of the frontier",
            worst
        ),
    ))
}

fn figure3(run: &Run<'_>) -> Result<Found> {
    let points = run
        .table("figure3_optima.csv")?
        .points("beta2", "implicit_reward")?;
    let found: Vec<String> = points
        .iter()
        .map(|p| format!("β₂ = {}: {:.3}", p.0, p.1))
        .collect();
    let apart = points.windows(2).all(|w| (w[0].1 - w[1].1).abs() > 0.05);
    Ok(Found::new(points.len() == 2 && apart, found.join(", ")))
}

fn sweeps(run: &Run<'_>) -> Result<Found> {
    let table = run.table("sweep_ratios.csv")?;
    let mut holds = true;
    let mut found = Vec::new();
    for (comparison, lambda) in [("rto", "default λ"), ("rto_leaning", "small λ")] {
        let part = rows(&table, &[("sweep", "N"), ("comparison", comparison)])?;
        let low = part.floats("mean_ratio_low")?;
        holds &= !low.is_empty() && low.iter().all(|l| *l < 1.0);
        let ratios = part.points("value", "mean_ratio")?;
        let ratios: Vec<String> = ratios
            .iter()
            .map(|p| format!("N = {}: {:.2}", p.0, p.1))
            .collect();
        found.push(format!("{lambda} {}", ratios.join(", ")));
    }
    Ok(Found::new(holds, found.join("; ")))
}
