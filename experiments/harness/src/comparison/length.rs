//! The ratio of samples DPPO to RTO against the length of a reply, and the law log ratio = a + b log H, from `length_runs.csv` alone.

pub mod figures;

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{REPORT, WORLD, differences};
use crate::stats::{Sample, Support, sign_flip};
use crate::table::{Cell, Table};

/// (placement, critic, λ as text).
type Of = (String, String, String);

/// Samples to the level of one run.
#[derive(Debug, Clone, Copy)]
struct Run {
    samples: f64,
    reached: bool,
    rate: f64,
}

/// Runs by length and seed.
type Runs = BTreeMap<(u64, u64), Run>;

/// `lengths`: the ratio at every length; `laws`: a and b of each placement, critic and λ from all lengths but `held_out`, and what they say of that one;
/// `length_worlds`: what the worlds are, as shares of the optimum's lead over SFT.
///
/// # Errors
/// A run that is missing, a column or a number that is none.
pub fn conclude(runs: &Table, held_out: usize) -> Result<[Table; 3]> {
    let held_out = held_out as u64;
    let report = runs.filter("stage", REPORT)?;
    let texts = ["placement", "critic", "lambda", "method"].map(|c| report.texts(c));
    let [placements, critics, lambdas, methods] = texts;
    let (placements, critics) = (placements?, critics?);
    let (lambdas, methods) = (lambdas?, methods?);
    let horizons = report.parsed::<u64>("horizon", "a length")?;
    let seeds = report.parsed::<u64>("seed", "a seed")?;
    let floats = ["samples", "reached", "learning_rate"].map(|c| report.floats(c));
    let [samples, reached, rates] = floats;
    let (samples, reached, rates) = (samples?, reached?, rates?);
    // In the order of the runs.
    let mut order: Vec<Of> = Vec::new();
    let mut all: BTreeMap<(Of, String), Runs> = BTreeMap::new();
    for i in 0..report.len() {
        let of = (
            placements[i].clone(),
            critics[i].clone(),
            lambdas[i].clone(),
        );
        if !order.contains(&of) {
            order.push(of.clone());
        }
        let run = Run {
            samples: samples[i],
            reached: reached[i] == 1.0,
            rate: rates[i],
        };
        all.entry((of, methods[i].clone()))
            .or_default()
            .insert((horizons[i], seeds[i]), run);
    }
    let mut lengths = Table::new("lengths", &LENGTHS);
    let mut laws = Table::new("laws", &LAWS);
    for of in order {
        let get = |method: &str| {
            let found = all.get(&(of.clone(), method.to_string()));
            found.with_context(|| format!("length_runs: no runs of {method} with {of:?}"))
        };
        let (rto, dppo) = (get("rto")?, get("dppo")?);
        let ratios = ratios(rto, dppo)?;
        for (h, logs) in &ratios {
            lengths.push(length(&of, *h, logs, rto, dppo));
        }
        laws.push(law(&of, &ratios, (rto, dppo), held_out)?);
    }
    Ok([lengths, laws, worlds(runs)?])
}

const LENGTHS: [&str; 15] = [
    "placement",
    "critic",
    "lambda",
    "horizon",
    "ratio",
    "low",
    "high",
    "p",
    "seeds",
    "missed",
    "missed_against",
    "rto_samples",
    "dppo_samples",
    "rto_learning_rate",
    "dppo_learning_rate",
];

const LAWS: [&str; 16] = [
    "placement",
    "critic",
    "lambda",
    "a",
    "a_low",
    "a_high",
    "b",
    "b_low",
    "b_high",
    "b_p",
    "held_out",
    "predicted",
    "measured",
    "measured_low",
    "measured_high",
    "holds",
];

/// log(samples of DPPO / samples of RTO) of each seed, by length.
fn ratios(rto: &Runs, dppo: &Runs) -> Result<BTreeMap<u64, Sample>> {
    let mut found: BTreeMap<u64, Sample> = BTreeMap::new();
    for (at, run) in rto {
        let other = dppo.get(at);
        let other = other.with_context(|| format!("length_runs: no dppo with H, seed = {at:?}"))?;
        let log = (other.samples / run.samples).ln();
        found.entry(at.0).or_default().0.push(log);
    }
    Ok(found)
}

fn length(
    (placement, critic, lambda): &Of,
    h: u64,
    logs: &Sample,
    rto: &Runs,
    dppo: &Runs,
) -> Vec<Cell> {
    let here = |runs: &Runs| -> Vec<Run> {
        let of = runs.iter().filter(|(at, _)| at.0 == h);
        of.map(|(_, run)| *run).collect()
    };
    let (rto, dppo) = (here(rto), here(dppo));
    let missed = |runs: &[Run]| runs.iter().filter(|r| !r.reached).count();
    let middle = |runs: &[Run]| {
        Sample(runs.iter().map(|r| r.samples.ln()).collect())
            .mean()
            .exp()
    };
    let (mean, low, high) = logs.interval(Support::Real);
    vec![
        placement.as_str().into(),
        critic.as_str().into(),
        lambda.as_str().into(),
        h.into(),
        mean.exp().into(),
        low.map(f64::exp).into(),
        high.map(f64::exp).into(),
        sign_flip(&logs.0).into(),
        logs.len().into(),
        missed(&rto).into(),
        missed(&dppo).into(),
        middle(&rto).into(),
        middle(&dppo).into(),
        rto[0].rate.into(),
        dppo[0].rate.into(),
    ]
}

/// Least squares of each seed, whose mean is that of the means; the intervals are over seeds.
fn law(
    (placement, critic, lambda): &Of,
    ratios: &BTreeMap<u64, Sample>,
    (rto, dppo): (&Runs, &Runs),
    held_out: u64,
) -> Result<Vec<Cell>> {
    let used: Vec<(f64, &Sample)> = ratios
        .iter()
        .filter(|(h, _)| **h != held_out)
        .map(|(h, logs)| ((*h as f64).ln(), logs))
        .collect();
    let measured = ratios.get(&held_out);
    let measured = measured.with_context(|| format!("length_runs: no run with H = {held_out}"))?;
    let (mut a, mut b) = (Sample::default(), Sample::default());
    for seed in 0..measured.len() {
        let at = |(x, logs): &(f64, &Sample)| {
            let log = logs.0.get(seed).with_context(|| {
                let (found, expected) = (logs.len(), measured.len());
                format!("length_runs: found {found} seeds of {placement}, {critic}, lambda {lambda} at H = {:.0}, expected {expected} as at H = {held_out}", x.exp())
            })?;
            Ok((*x, *log))
        };
        let points: Vec<(f64, f64)> = used.iter().map(at).collect::<Result<_>>()?;
        let (intercept, slope) = line(&points);
        a.0.push(intercept);
        b.0.push(slope);
    }
    let predicted = a.mean() + b.mean() * (held_out as f64).ln();
    let ends = |sample: &Sample| sample.interval(Support::Real);
    let ((a, a_low, a_high), p) = (ends(&a), sign_flip(&b.0));
    let (slope, b_low, b_high) = ends(&b);
    let (mean, low, high) = ends(measured);
    let inside = low.is_some_and(|l| predicted >= l) && high.is_some_and(|h| predicted <= h);
    let missed = |runs: &Runs| runs.values().filter(|r| !r.reached).count();
    // A ratio whose numerator or denominator is cut at the end of the run bends the law.
    let holds = match (missed(rto) + missed(dppo), inside) {
        (0, true) => "yes",
        (0, false) => "no",
        (_, true) => "yes, some runs cut",
        (_, false) => "no, some runs cut",
    };
    Ok(vec![
        placement.as_str().into(),
        critic.as_str().into(),
        lambda.as_str().into(),
        a.into(),
        a_low.into(),
        a_high.into(),
        slope.into(),
        b_low.into(),
        b_high.into(),
        p.into(),
        held_out.into(),
        predicted.exp().into(),
        mean.exp().into(),
        low.map(f64::exp).into(),
        high.map(f64::exp).into(),
        holds.into(),
    ])
}

/// Intercept and slope of the least-squares line through points.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let over: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let under: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let slope = over / under;
    (y - slope * x, slope)
}

/// What every world holds before any training: J of the optimum above SFT's, its KL, and the shares of π_dpo and of the optimum of the DPO reward,
/// to which both methods go.
fn worlds(runs: &Table) -> Result<Table> {
    let columns = [
        "placement",
        "horizon",
        "quantity",
        "mean",
        "low",
        "high",
        "seeds",
    ];
    let mut table = Table::new("length_worlds", &columns);
    let all = runs.filter("stage", WORLD)?;
    for placement in all.distinct("placement")? {
        let here = all.filter("placement", &placement)?;
        let mut horizons: Vec<u64> = here.parsed("horizon", "a length")?;
        horizons.sort_unstable();
        horizons.dedup();
        for h in horizons {
            let here = here.filter("horizon", &h.to_string())?;
            let of = |policy: &str, column: &str| -> Result<Sample> {
                Ok(Sample(here.filter("method", policy)?.floats(column)?))
            };
            let sft = of("sft", "objective")?;
            let lead = differences(&of("optimum", "objective")?, &sft);
            let share = |policy: &str| -> Result<Sample> {
                let gain = differences(&of(policy, "objective")?, &sft);
                Ok(Sample(
                    gain.0.iter().zip(&lead.0).map(|(g, l)| g / l).collect(),
                ))
            };
            for (quantity, sample) in [
                ("dpo_share", share("dpo")?),
                ("target_share", share("target")?),
                ("optimum_kl", of("optimum", "kl")?),
                ("optimum_lead", lead.clone()),
            ] {
                let (mean, low, high) = sample.interval(Support::Real);
                table.push([
                    placement.as_str().into(),
                    h.into(),
                    quantity.into(),
                    mean.into(),
                    low.into(),
                    high.into(),
                    sample.len().into(),
                ]);
            }
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs that follow a law exactly give it back, its prediction at the length that is left out, and the count of runs that were cut.
    #[test]
    fn a_law_is_found_and_checked_on_the_length_that_is_left_out() {
        let columns = [
            "placement",
            "horizon",
            "stage",
            "critic",
            "lambda",
            "method",
            "learning_rate",
            "seed",
            "samples",
            "reached",
            "objective",
            "kl",
        ];
        let table = |bend: f64, cut: u64| {
            let mut runs = Table::new("length_runs", &columns);
            for h in [4u64, 8, 16, 32] {
                for seed in [1u64, 2, 3] {
                    let x = (h as f64).ln();
                    let wobble = [0.9, 1.0, 1.1][seed as usize - 1];
                    let bent = if h == 16 { bend } else { 1.0 };
                    for (method, samples) in [
                        ("rto", 100.0 * wobble),
                        (
                            "dppo",
                            100.0 * (0.2 + 0.5 * wobble * x).exp() * wobble * bent,
                        ),
                    ] {
                        let reached = u64::from(!(method == "dppo" && h == cut));
                        runs.push([
                            "early".into(),
                            h.into(),
                            REPORT.into(),
                            "zero".into(),
                            0.5.into(),
                            method.into(),
                            1.0.into(),
                            seed.into(),
                            samples.into(),
                            reached.into(),
                            0.0.into(),
                            0.0.into(),
                        ]);
                    }
                }
            }
            conclude(&runs, 16).unwrap()
        };
        let [lengths, laws, _] = table(1.0, 0);
        let at = |t: &Table, column: &str| t.floats(column).unwrap()[0];
        assert!((at(&laws, "a") - 0.2).abs() < 1e-12 && (at(&laws, "b") - 0.5).abs() < 1e-12);
        let ratio = (0.2 + 0.5 * 16f64.ln()).exp();
        assert!((at(&laws, "predicted") - ratio).abs() < 1e-9);
        assert_eq!(laws.texts("holds").unwrap(), ["yes"]);
        assert!((lengths.floats("ratio").unwrap()[2] - ratio).abs() < 1e-9);
        assert_eq!(lengths.floats("missed_against").unwrap(), [0.0; 4]);
        // The length that is left out moves no law, and shows where it fails.
        let [_, bent, _] = table(3.0, 32);
        assert!((at(&bent, "b") - 0.5).abs() < 1e-12);
        assert_eq!(bent.texts("holds").unwrap(), ["no, some runs cut"]);
        let [lengths, ..] = table(3.0, 32);
        assert_eq!(
            lengths.floats("missed_against").unwrap(),
            [0.0, 0.0, 0.0, 3.0]
        );
    }
}
