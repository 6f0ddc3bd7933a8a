//! Preference optimisation without optimisation error.

use super::{Figure, Found, Run, last, rows};
use anyhow::Result;

pub const FIGURES: [Figure; 7] = [
    Figure {
        name: "bench/offline",
        expectation: "Without adversarial ties DPO at its best β loses less than IPO at the largest number of pairs, in every family of trees.",
        check: offline,
    },
    Figure {
        name: "bench/ties",
        expectation: "With the fewest pairs the worst tie within the band loses at least what mean 0 for each component does, to DPO and to χPO, in every family of trees.",
        check: ties,
    },
    Figure {
        name: "bench/offline_coverage",
        expectation: "Where the data cover the optimum worst the SubOpt of RPO and IPO is larger than where they cover it best, in every family of trees.",
        check: offline_coverage,
    },
    Figure {
        name: "bench/online",
        expectation: "Where the rare response is good, the regret of the passive learner is at least the exact lower bound, up to sampling, and XPO with α = 0.1 has less.",
        check: online,
    },
    Figure {
        name: "bench/overopt",
        expectation: "No method's true reward lies above the exact frontier at its KL.",
        check: overopt,
    },
    Figure {
        name: "bench/coverage",
        expectation: "For the deterministic target C_sa stays 16, C_add is 12H − 8, C_lin is 6H − 4.5 (half of C_add − 1), and C_τ is 4^H.",
        check: coverage,
    },
    Figure {
        name: "bench/claims",
        expectation: "TDPO-1 and the token-wise mix of policies are exact at one step and not beyond; n·SubOpt of DPO tends to its limit.",
        check: claims,
    },
];

fn offline(run: &Run<'_>) -> Result<Found> {
    let table = run.table("offline.csv")?;
    let (mut holds, mut texts) = (true, Vec::new());
    for family in table.distinct("family")? {
        let of = |m: &str| last(&table, &[("family", &family), ("method", m)], "regret");
        let (dpo, ipo) = (of("dpo")?, of("ipo")?);
        holds &= dpo < ipo;
        texts.push(format!("{family} {dpo:.3} against {ipo:.3}"));
    }
    Ok(Found::new(holds, texts.join(", ")))
}

fn ties(run: &Run<'_>) -> Result<Found> {
    let table = run.table("offline.csv")?;
    let fewest = table
        .distinct("pairs")?
        .into_iter()
        .next()
        .unwrap_or_default();
    let (mut holds, mut texts) = (true, Vec::new());
    for family in table.distinct("family")? {
        for method in ["dpo", "chipo"] {
            let of = |rule: &str| {
                let name = format!("{method}, {rule}");
                let keys = [
                    ("family", &*family),
                    ("method", &*name),
                    ("pairs", &*fewest),
                ];
                last(&table, &keys, "regret")
            };
            let (worst, mild) = (of("worst in the band")?, of("zero mean")?);
            holds &= worst >= mild - 1e-9;
            texts.push(format!("{family} {method} {worst:.3} against {mild:.3}"));
        }
    }
    Ok(Found::new(
        holds,
        format!("with {fewest} pairs: {}", texts.join(", ")),
    ))
}

fn offline_coverage(run: &Run<'_>) -> Result<Found> {
    let table = run.table("offline_coverage.csv")?;
    let sizes = table.distinct("pairs")?;
    let pairs = &sizes[sizes.len() / 2];
    let (mut holds, mut texts) = (true, Vec::new());
    for family in table.distinct("family")? {
        for method in ["rpo", "ipo"] {
            let of = |quarter: &str| {
                let keys = [
                    ("family", &*family),
                    ("method", method),
                    ("pairs", pairs.as_str()),
                    ("quarter", quarter),
                ];
                last(&table, &keys, "subopt")
            };
            let (best, worst) = (of("1")?, of("4")?);
            holds &= worst > best;
            texts.push(format!("{family} {method} {worst:.3} against {best:.3}"));
        }
    }
    Ok(Found::new(
        holds,
        format!("with {pairs} pairs: {}", texts.join(", ")),
    ))
}

fn online(run: &Run<'_>) -> Result<Found> {
    let table = rows(&run.table("online.csv")?, &[("instance", "rare good")])?;
    let (mut holds, mut texts) = (true, Vec::new());
    for beta in table.distinct("beta")? {
        let of = |learner, column| {
            let keys = [
                ("beta", &*beta),
                ("learner", learner),
                ("sampler", "policy, reference"),
            ];
            last(&table, &keys, column)
        };
        let (passive, bound) = (of("greedy", "regret_high")?, of("greedy", "passive_bound")?);
        let (greedy, xpo) = (of("greedy", "regret")?, of("xpo 0.1", "regret")?);
        holds &= passive >= bound && xpo < greedy;
        texts.push(format!(
            "β {beta}: {greedy:.1}, bound {bound:.1}, XPO {xpo:.1}"
        ));
    }
    Ok(Found::new(holds, texts.join("; ")))
}

fn overopt(run: &Run<'_>) -> Result<Found> {
    let table = run.table("overopt.csv")?;
    let (frontier, mut above) = (rows(&table, &[("method", "frontier")])?, f64::NEG_INFINITY);
    let (errors, ds) = (frontier.texts("error")?, frontier.floats("root_kl")?);
    let best = frontier.floats("gain")?;
    let (all, d, gain) = (
        table.texts("error")?,
        table.floats("root_kl")?,
        table.floats("gain")?,
    );
    for i in 0..table.len() {
        for k in (0..ds.len()).filter(|&k| errors[k] == all[i] && ds[k] == d[i]) {
            above = above.max(gain[i] - best[k]);
        }
    }
    // Curves are read between their points by straight lines, the frontier from below.
    Ok(Found::new(
        above < 5e-3,
        format!("the largest excess over the frontier is {above:.1e}"),
    ))
}

fn coverage(run: &Run<'_>) -> Result<Found> {
    let table = rows(&run.table("coverage.csv")?, &[("family", "deterministic")])?;
    let column = |c: &str| table.floats(c);
    let (h, sa, tau, add, lin) = (
        column("horizon")?,
        column("c_sa")?,
        column("c_tau")?,
        column("c_add")?,
        column("c_lin")?,
    );
    let mut worst = 0.0f64;
    for i in 0..h.len() {
        worst = worst.max((tau[i] / 4f64.powf(h[i]) - 1.0).abs());
        worst = worst.max((lin[i] / (6.0 * h[i] - 4.5) - 1.0).abs());
        if h[i] >= 2.0 {
            worst = worst.max((sa[i] / 16.0 - 1.0).abs());
            worst = worst.max((add[i] / (12.0 * h[i] - 8.0) - 1.0).abs());
        }
    }
    Ok(Found::new(
        worst < 1e-9,
        format!(
            "largest relative error {worst:.0e} over {} values of H",
            h.len()
        ),
    ))
}

fn claims(run: &Run<'_>) -> Result<Found> {
    let table = run.table("claims.csv")?;
    let of = |claim, setting, quantity| {
        let keys = [
            ("claim", claim),
            ("setting", setting),
            ("quantity", quantity),
        ];
        last(&table, &keys, "mean")
    };
    let share = "share of the reference's";
    let (one, three) = (
        of("K7", "one prompt, H = 1", share)?,
        of("K7", "one prompt, H = 3", share)?,
    );
    let (flat, mixed) = (
        of("local_mix", "H = 1", share)?,
        of("local_mix", "H = 3", share)?,
    );
    let limit = of("kl_fast_rate", "n = 131072", "n SubOpt over its limit")?;
    Ok(Found::new(
        one.abs() < 1e-9
            && flat.abs() < 1e-9
            && three > 0.01
            && mixed > 0.001
            && (limit - 1.0).abs() < 1.0,
        format!(
            "at H = 3 TDPO-1 keeps {three:.3} of π_ref's SubOpt and the mix {mixed:.3}; n·SubOpt over its limit {limit:.2}"
        ),
    ))
}
