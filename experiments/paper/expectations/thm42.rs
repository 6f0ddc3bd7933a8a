//! Theorems 4.2 and B.1.

use super::{Figure, Found, Run, last, rows};
use anyhow::Result;

pub const FIGURES: [Figure; 6] = [
    Figure {
        name: "thm42/curves",
        expectation: "No replicate whose set holds θ* exceeds its bound; with the radius of the repaired proof (Υ) Algorithm 1 is worse than π_ref at the largest sample, with (A.2) as printed (C = 1) it improves with n and is better than that; the Wald bound falls like n^(-1/2) and faster than that the suboptimality.",
        check: curves,
    },
    Figure {
        name: "thm42/coverage",
        expectation: "Every radius with a proof, and (A.2) as printed, covers θ* in at least a share 1 − δ of the replicates, up to sampling error.",
        check: coverage,
    },
    Figure {
        name: "thm42/regimes",
        expectation: "Pessimism beats the plug-in policy where the data avoid a trap, and loses to it where they avoid the optimum.",
        check: regimes,
    },
    Figure {
        name: "thm42/inconsistency",
        expectation: "With exact data of the telescoping instance the suboptimality of Algorithm 1 does not vanish, while (B.1) and the projected bonus converge; where an arm was never compared the bonus projected on the row space exceeds the right side of Theorem 4.2, whose premise is false.",
        check: inconsistency,
    },
    Figure {
        name: "thm42/constant",
        expectation: "n · SubOpt of the plug-in policy approaches ½β⁻¹ tr(Cov I⁻¹): at the largest sample within 15% of it or within its interval.",
        check: constant,
    },
    Figure {
        name: "thm42/sweeps",
        expectation: "Over β, λ, d and H, no replicate whose set holds θ* exceeds its bound.",
        check: sweeps,
    },
];

fn violations(run: &Run<'_>, file: &str) -> Result<(f64, usize)> {
    let counts = run.table(file)?.floats("violations")?;
    let bounded: Vec<f64> = counts.into_iter().filter(|v| v.is_finite()).collect();
    Ok((bounded.iter().sum(), bounded.len()))
}

fn curves(run: &Run<'_>) -> Result<Found> {
    let (broken, cells) = violations(run, "curves.csv")?;
    let table = run.table("curves.csv")?;
    let of = |radius| {
        let rows = rows(&table, &[("method", "algorithm1"), ("radius", radius)])?;
        rows.floats("suboptimality")
    };
    let ends = |gaps: Vec<f64>| match (gaps.first(), gaps.last()) {
        (Some(first), Some(last)) => (*first, *last),
        _ => (f64::NAN, f64::NAN),
    };
    let (early, late) = ends(of("printed")?);
    let (_, repaired) = ends(of("theory_upsilon")?);
    let reference = last(&table, &[("method", "reference")], "suboptimality")?;
    let slopes = run.table("slopes.csv")?;
    let wald = [("method", "algorithm1"), ("radius", "wald")];
    let bound = last(&slopes, &wald, "bound_slope")?;
    let gap = last(&slopes, &wald, "suboptimality_slope")?;
    Ok(Found::new(
        broken == 0.0
            && cells > 0
            && late < early
            && late < repaired
            && repaired > reference
            && (bound + 0.5).abs() < 0.1
            && gap < bound,
        format!(
            "{broken} violations in {cells} cells; SubOpt {reference:.4} of π_ref, {early:.4} to {late:.4} with (A.2) as printed, \
             {repaired:.4} with the repaired radius; slopes {bound:.2} of the bound, {gap:.2} of SubOpt"
        ),
    ))
}

fn coverage(run: &Run<'_>) -> Result<Found> {
    let delta = run.table("setting.csv")?.floats("fail_prob")?[0];
    let table = run.table("coverage.csv")?;
    let mut worst = (String::new(), f64::INFINITY, f64::INFINITY);
    for radius in [
        "printed",
        "theory_upsilon",
        "theory_kappa",
        "self_concordant",
    ] {
        let part = rows(&table, &[("radius", radius)])?;
        let (high, mean) = (part.floats("coverage_high")?, part.floats("coverage")?);
        for (high, mean) in high.into_iter().zip(mean) {
            if high < worst.1 {
                worst = (radius.to_string(), high, mean);
            }
        }
    }
    Ok(Found::new(
        worst.1.is_finite() && worst.1 >= 1.0 - delta,
        format!(
            "lowest: {} covers {:.3} (upper limit {:.3}), δ = {delta}",
            worst.0, worst.2, worst.1
        ),
    ))
}

fn regimes(run: &Run<'_>) -> Result<Found> {
    let table = run.table("regimes.csv")?;
    let of = |regime, method| {
        last(
            &table,
            &[("regime", regime), ("method", method)],
            "suboptimality",
        )
    };
    let (wins, plain) = (of("wins", "algorithm1")?, of("wins", "greedy")?);
    let (hurts, better) = (of("hurts", "algorithm1")?, of("hurts", "greedy")?);
    Ok(Found::new(
        wins < plain && hurts > better,
        format!("wins: {wins:.4} against {plain:.4}; hurts: {hurts:.4} against {better:.4}"),
    ))
}

fn inconsistency(run: &Run<'_>) -> Result<Found> {
    let table = run.table("inconsistency.csv")?;
    let of = |method| {
        last(
            &table,
            &[("data", "exact"), ("method", method)],
            "suboptimality",
        )
    };
    let (stuck, b1, projected) = (of("algorithm1")?, of("b1")?, of("projected")?);
    let unseen = |column| {
        last(
            &table,
            &[("data", "uncompared"), ("method", "projected")],
            column,
        )
    };
    let (gap, side) = (unseen("suboptimality")?, unseen("bound")?);
    let premise = unseen("covered")? > 0.0;
    Ok(Found::new(
        stuck > 0.5 && b1 < 1e-6 && projected < 1e-6 && gap > side && !premise,
        format!(
            "Algorithm 1 {stuck:.4}, (B.1) {b1:.1e}, projected {projected:.1e}; arm never compared: projected {gap:.4} beside {side:.4}"
        ),
    ))
}

fn constant(run: &Run<'_>) -> Result<Found> {
    let table = run.table("constant.csv")?;
    let of = |column| last(&table, &[], column);
    let (mean, predicted) = (of("n_suboptimality")?, of("predicted")?);
    let inside = (of("n_suboptimality_low")?..=of("n_suboptimality_high")?).contains(&predicted);
    Ok(Found::new(
        inside || (mean / predicted - 1.0).abs() < 0.15,
        format!("{mean:.2} measured, {predicted:.2} predicted"),
    ))
}

fn sweeps(run: &Run<'_>) -> Result<Found> {
    let (broken, cells) = violations(run, "sweeps.csv")?;
    Ok(Found::new(
        broken == 0.0 && cells > 0,
        format!("{broken} violations in {cells} cells"),
    ))
}
