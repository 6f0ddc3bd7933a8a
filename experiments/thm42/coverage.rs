//! (b) Coverage of every radius in its own metric, and (e) n·SubOpt of plain MLE beside its limit.

use anyhow::Result;
use rto::estimate::{RadiusKind, log_likelihood};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;
use crate::setup::{WALD, named_radii};
use crate::summary::{slope_cell, slope_cells};
use rto_harness::stats::{Sample, Support, clopper_pearson, shown, slope, with_interval};

/// The columns after n, replicate and the suboptimality of plain MLE: ‖θ_MLE − θ*‖/ϱ for norms, and
/// √((L(θ_MLE) − L(θ*))/c) for sets of high likelihood. The truth is covered where it is at most 1.
const COLUMNS: &[&str] = &[
    "n",
    "replicate",
    "greedy",
    "printed",
    "theory_upsilon",
    "theory_kappa",
    "likelihood_ratio_finite",
    "self_concordant",
    "likelihood_ratio",
    "wald",
    "likelihood_set_finite",
    "likelihood_set",
];

const FINITE_LR: RadiusKind = RadiusKind::LikelihoodRatio {
    finite_sample: true,
};

/// Data sets of one cell.
const BLOCK: u64 = 50;

/// Ranges of at most `block` replicates.
pub fn blocks(replicates: u64, block: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..replicates.div_ceil(block)).map(move |b| b * block..((b + 1) * block).min(replicates))
}

/// A cell for each size and block of replicates.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for &n in &study.config.sizes {
        for block in blocks(study.config.coverage_replicates, BLOCK) {
            let id = format!("thm42/b/{}", tasks.len());
            tasks.push(Task::new(id, COLUMNS, move || {
                block.clone().map(|r| row(study, n, r)).collect()
            }));
        }
    }
    tasks
}

fn row(study: &Study, n: usize, replicate: u64) -> Result<Vec<Cell>> {
    let seeds = study.seeds.child("coverage").index(n as u64);
    let design = study.setup.sample(n, &seeds.index(replicate))?;
    let fitted = study.setup.fit(&design)?;
    let theta_star = &study.setup.instance.theta_star;
    let radii = named_radii(study.config.printed_constant);
    let kind = |name: &str| match name {
        "wald" => WALD,
        "likelihood_ratio_finite" => FINITE_LR,
        name => radii.iter().find(|r| r.0 == name).expect("a radius").1,
    };
    let mut row: Vec<Cell> = vec![n.into(), replicate.into(), fitted.greedy()?.into()];
    for name in &COLUMNS[3..10] {
        let (_, set) = fitted.estimate.set(kind(name))?;
        row.push((set.distance(theta_star) / set.radius).into());
    }
    let loss = (fitted.estimate.fit.log_likelihood - log_likelihood(&design, theta_star)?).max(0.0);
    for finite in [true, false] {
        let threshold = fitted.estimate.radii.likelihood_threshold(finite);
        row.push((loss / threshold).sqrt().into());
    }
    Ok(row)
}

/// Tables, and what they say.
pub struct Coverage {
    pub coverage: Table,
    pub constant: Table,
    /// A row for `slopes`: plain MLE over all data sets of this part.
    pub slope: Vec<Cell>,
    pooled: Table,
    scaled: Table,
}

pub fn summarise(study: &Study, runs: &Table) -> Result<Coverage> {
    let mut coverage = Table::new(
        "coverage",
        &[
            "radius",
            "n",
            "replicates",
            "covered",
            "coverage",
            "coverage_low",
            "coverage_high",
            "median_ratio",
        ],
    );
    let mut pooled = Table::new(
        "pooled",
        &[
            "radius",
            "proved at",
            "coverage, all n",
            "lowest n",
            "|error|/rho, last n",
        ],
    );
    for radius in &COLUMNS[3..] {
        let (mut all, mut lowest, mut ratio) = ((0, 0), f64::INFINITY, f64::NAN);
        for n in runs.distinct("n")? {
            let ratios = Sample(runs.filter("n", &n)?.floats(radius)?);
            let (hits, trials) = (
                ratios.0.iter().filter(|r| **r <= 1.0).count() as u64,
                ratios.len() as u64,
            );
            let (low, high) = clopper_pearson(hits, trials);
            let share = hits as f64 / trials as f64;
            ratio = ratios.quantile(0.5);
            coverage.push([
                (*radius).into(),
                Cell::integer(&n),
                trials.into(),
                hits.into(),
                share.into(),
                low.into(),
                high.into(),
                ratio.into(),
            ]);
            all = (all.0 + hits, all.1 + trials);
            lowest = lowest.min(share);
        }
        let (low, high) = clopper_pearson(all.0, all.1);
        let proof = match *radius {
            "printed" => "not proved",
            "likelihood_ratio" | "wald" | "likelihood_set" => "large n",
            _ => "every n",
        };
        pooled.push([
            (*radius).into(),
            proof.into(),
            with_interval(all.0 as f64 / all.1 as f64, low, high),
            shown(lowest),
            shown(ratio),
        ]);
    }
    let (constant, scaled) = scaled_suboptimality(study, runs)?;
    Ok(Coverage {
        slope: greedy_slope(study, runs)?,
        coverage,
        constant,
        pooled,
        scaled,
    })
}

fn greedy_slope(study: &Study, runs: &Table) -> Result<Vec<Cell>> {
    let all = runs.distinct("n")?;
    let last = &all[all.len().saturating_sub(study.config.fit_points)..];
    let (mut n, mut samples) = (Vec::new(), Vec::new());
    for text in last {
        n.push(text.parse::<f64>()?);
        samples.push(Sample(runs.filter("n", text)?.floats("greedy")?));
    }
    let mut row: Vec<Cell> = vec![
        "greedy".into(),
        "".into(),
        study.config.coverage_replicates.into(),
        Cell::integer(&last[0]),
        Cell::integer(&last[last.len() - 1]),
    ];
    row.extend(slope_cells(slope(&n, &samples)));
    row.extend(slope_cells(None));
    Ok(row)
}

/// n·SubOpt of plain MLE with its interval, beside the limit.
fn scaled_suboptimality(study: &Study, runs: &Table) -> Result<(Table, Table)> {
    let mut constant = Table::new(
        "constant",
        &[
            "n",
            "replicates",
            "n_suboptimality",
            "n_suboptimality_low",
            "n_suboptimality_high",
            "predicted",
        ],
    );
    let mut scaled = Table::new("scaled", &["n", "n * SubOpt", "predicted"]);
    for text in runs.distinct("n")? {
        let n: f64 = text.parse()?;
        let gaps = runs.filter("n", &text)?.floats("greedy")?;
        let sample = Sample(gaps.iter().map(|gap| n * gap).collect());
        let (mean, low, high) = sample.interval(Support::NonNegative);
        constant.push([
            Cell::integer(&text),
            sample.len().into(),
            mean.into(),
            low.into(),
            high.into(),
            study.constant.into(),
        ]);
        let interval = match (low, high) {
            (Some(low), Some(high)) => with_interval(mean, low, high),
            _ => shown(mean),
        };
        scaled.push([Cell::integer(&text), interval, shown(study.constant)]);
    }
    Ok((constant, scaled))
}

impl Coverage {
    pub fn text(&self, study: &Study) -> String {
        format!(
            "(b) Is the truth in the confidence set? Target {} (delta = {}), {} data sets at each n, exact 95% intervals. The last column\n\
             is the median of ||theta_MLE - theta*||/rho, the share of the radius that is used (root of the likelihood for sets):\n{}\
             => {}\n",
            1.0 - study.config.fail_prob,
            study.config.fail_prob,
            study.config.coverage_replicates,
            self.pooled.render(),
            self.conclusion(study)
        )
    }

    fn conclusion(&self, study: &Study) -> String {
        let target = 1.0 - study.config.fail_prob;
        let last = study
            .config
            .sizes
            .last()
            .map_or(String::new(), usize::to_string);
        let low: Vec<String> = self
            .coverage
            .rows()
            .iter()
            .filter(|row| matches!(row[6], Cell::Float(high) if high < target))
            .map(|row| format!("{} at n = {}", row[0].text(), row[1].text()))
            .collect();
        let short = match low.is_empty() {
            true => "No radius covers significantly less than promised.".to_string(),
            false => format!("Significantly less than promised: {}.", low.join(", ")),
        };
        let used = |radius: &str| {
            let mut rows = self.pooled.rows().iter();
            let row = rows.find(|row| row[0].text() == radius);
            row.map_or(String::new(), |row| row[4].text())
        };
        format!(
            "{short}\n=> At n = {last} the median error is {} of the radius (A.2) as printed with C = {}, and {} of that of the repaired proof with Upsilon.",
            used("printed"),
            study.config.printed_constant,
            used("theory_upsilon"),
        )
    }

    pub fn constant_text(&self, study: &Study) -> String {
        let rows = self.constant.rows();
        let last = rows.last().map(|row| {
            let number = |i: usize| match &row[i] {
                Cell::Float(value) => *value,
                _ => f64::NAN,
            };
            let verdict = inside([number(3), number(4)], number(5));
            format!(
                "=> At n = {}, {verdict}. Slope of SubOpt over the last {} sizes: {}; expected -1.\n",
                row[0].text(),
                study.config.fit_points,
                slope_cell(&self.slope, 5).text()
            )
        });
        format!(
            "(e) n * SubOpt of plain MLE tends to (1/2 beta) tr(Cov I^-1), with 95% intervals:\n{}{}",
            self.scaled.render(),
            last.unwrap_or_default()
        )
    }
}

/// Whether a prediction is where an interval says.
fn inside([low, high]: [f64; 2], predicted: f64) -> &'static str {
    match (low <= predicted, predicted <= high) {
        (true, true) => "the predicted constant lies inside its interval",
        _ if low.is_finite() && high.is_finite() => {
            "the predicted constant lies outside its interval"
        }
        _ => "one run gives no interval for the predicted constant",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_is_inside_or_outside_of_an_interval_that_is_there() {
        for (predicted, says) in [
            (0.9, "outside"),
            (1.0, "inside"),
            (2.0, "inside"),
            (2.1, "outside"),
        ] {
            assert!(inside([1.0, 2.0], predicted).contains(says), "{predicted}");
        }
        assert!(inside([f64::NAN, f64::NAN], 1.0).contains("no interval"));
    }
}
