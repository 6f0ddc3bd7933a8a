//! What the gradients of named recipes climb.

use super::{Figure, Found, Run, last, rows};
use anyhow::Result;

pub const FIGURES: [Figure; 6] = [
    Figure {
        name: "audit/ends",
        expectation: "With k1 in the reward and no other bias the flow ends at the optimum; z-score GRPO with k3 ends farther off than an exact local KL in the loss.",
        check: ends,
    },
    Figure {
        name: "audit/noise",
        expectation: "RLOO of TRL is unbiased; the bias of GRPO's z-score outweighs variance at fewer responses than that of an exact local KL in the loss.",
        check: noise,
    },
    Figure {
        name: "audit/beta",
        expectation: "At every β drawn, z-score GRPO with k3 in the loss ends off the optimum.",
        check: beta,
    },
    Figure {
        name: "audit/lambda",
        expectation: "From a zero critic and at the largest number of responses, λ = 0.95 costs a sparse reward more than a dense one.",
        check: lambda,
    },
    Figure {
        name: "audit/simplex",
        expectation: "The flows of GRPO and of exact KL in the reward end elsewhere than that of ∇J.",
        check: simplex,
    },
    Figure {
        name: "audit/length_bias",
        expectation: "With a leave-one-out baseline the sum over tokens has no bias, the token mean's falls with G, and the sequence mean's does not.",
        check: length_bias,
    },
];

const GRPO: &str = "GRPO (paper), TRL loss_type=grpo";
const EXACT: &str = "mean-centred, exact KL in loss";

fn ends(run: &Run<'_>) -> Result<Found> {
    let table = run.table("ends.csv")?;
    let of = |recipe| last(&table, &[("family", "small"), ("recipe", recipe)], "median");
    let (k1, grpo, exact) = (
        of("reference: REINFORCE, k1 in reward")?,
        of(GRPO)?,
        of(EXACT)?,
    );
    Ok(Found::new(
        k1.abs() < 1e-9 && grpo > exact,
        format!(
            "at the largest β, medians {k1:.1e} (k1), {grpo:.3} (GRPO), {exact:.3} (exact in the loss)"
        ),
    ))
}

fn noise(run: &Run<'_>) -> Result<Found> {
    let table = run.table("noise.csv")?;
    let of = |recipe, column| last(&table, &[("family", "small"), ("recipe", recipe)], column);
    let bias = of("TRL RLOO", "median_bias2")?;
    let (grpo, exact) = (of(GRPO, "median_n_star")?, of(EXACT, "median_n_star")?);
    Ok(Found::new(
        bias < 1e-20 && grpo < exact,
        format!(
            "n* is {grpo:.0} for GRPO and {exact:.0} for exact KL in the loss; squared bias of RLOO {bias:.0e}"
        ),
    ))
}

fn beta(run: &Run<'_>) -> Result<Found> {
    let table = rows(&run.table("over_beta.csv")?, &[("recipe", GRPO)])?;
    let (end, start) = (table.floats("subopt")?, table.floats("subopt_reference")?);
    let least = end
        .iter()
        .zip(start)
        .map(|(e, s)| e / s)
        .fold(f64::INFINITY, f64::min);
    Ok(Found::new(
        least > 1e-3,
        format!(
            "SubOpt is at least {least:.3} of π_ref's at {} values of β",
            end.len()
        ),
    ))
}

fn lambda(run: &Run<'_>) -> Result<Found> {
    let table = run.table("lambda.csv")?;
    let of = |reward| {
        let keys = [("critic", "zero"), ("reward", reward), ("lambda", "0.95")];
        last(&table, &keys, "median")
    };
    let (dense, sparse) = (of("dense")?, of("sparse")?);
    Ok(Found::new(
        sparse > dense,
        format!(
            "{sparse:.2} times the error at λ = 1 for a sparse reward, {dense:.2} for a dense one"
        ),
    ))
}

fn simplex(run: &Run<'_>) -> Result<Found> {
    let table = run.table("simplex.csv")?;
    let mut ends = Vec::new();
    for recipe in table.distinct("recipe")? {
        let one = rows(&table, &[("recipe", &recipe)])?;
        let end = |c: &str| one.floats(c).map(|v| v.last().copied().unwrap_or(f64::NAN));
        ends.push([end("p1")?, end("p2")?, end("p3")?]);
    }
    let apart = |p: &[f64; 3]| -> f64 {
        p.iter()
            .zip(ends[0])
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max)
    };
    let gaps: Vec<f64> = ends.iter().skip(1).map(apart).collect();
    Ok(Found::new(
        gaps.len() == 2 && gaps.iter().all(|g| *g > 0.01),
        format!(
            "the largest difference in a probability is {:.3} and {:.3}",
            gaps[0], gaps[1]
        ),
    ))
}

fn length_bias(run: &Run<'_>) -> Result<Found> {
    let table = run.table("length_bias.csv")?;
    let of = |aggregation| -> Result<Vec<f64>> {
        let keys = [("baseline", "leave-one-out"), ("aggregation", aggregation)];
        rows(&table, &keys)?.floats("bias")
    };
    let (sum, token, sequence) = (of("sum")?, of("token mean")?, of("sequence mean")?);
    let ends = |x: &[f64]| (x[0], x[x.len() - 1]);
    let ((t0, t1), (s0, s1)) = (ends(&token), ends(&sequence));
    Ok(Found::new(
        sum.iter().all(|b| *b < 1e-6) && t1 < 0.8 * t0 && (s1 - s0).abs() < 1e-6,
        format!("token mean {t0:.3} to {t1:.3}, sequence mean {s0:.3} to {s1:.3}"),
    ))
}
