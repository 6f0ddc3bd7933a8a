//! The falsifiable statements of `paper-notes/estimators.md`, judged on the trees of this run.

use anyhow::Result;
use rto_harness::table::Table;

const Z: [&str; 2] = ["TRL GRPO", "GRPO (paper), TRL loss_type=grpo"];
const IN_REWARD: [&str; 3] = [
    "REINFORCE, exact KL in reward",
    "REINFORCE, k3 in reward",
    "REINFORCE, k2 in reward",
];
const WHITENED: [&str; 2] = ["OpenRLHF PPO", "OpenRLHF REINFORCE++"];
const IN_LOSS: [&str; 2] = ["mean-centred, exact KL in loss", "mean-centred, k2 in loss"];

/// A row per statement and family: does it hold, and by which numbers?
pub fn judge(
    ends: &Table,
    noise: &Table,
    both_over_k1: &[(String, f64)],
    best: &Table,
) -> Result<Table> {
    let mut out = Table::new(
        "statements",
        &["statement", "family", "claim", "holds", "evidence"],
    );
    let mut say = |id: &str, family: &str, claim: &str, holds: bool, evidence: String| {
        out.push([
            id.into(),
            family.into(),
            claim.into(),
            if holds { "holds" } else { "refuted" }.into(),
            evidence.into(),
        ]);
    };
    for family in ends.distinct("family")? {
        let of_family = ends.filter("family", &family)?;
        for beta in of_family.distinct("beta")? {
            let rows = of_family.filter("beta", &beta)?;
            let (names, median) = (rows.texts("recipe")?, rows.floats("median")?);
            let of = |n: &str| {
                names
                    .iter()
                    .position(|m| m == n)
                    .map_or(f64::NAN, |i| median[i])
            };
            let least = Z.iter().map(|n| of(n)).fold(f64::INFINITY, f64::min);
            let apart = |n: &String| {
                let n = n.as_str();
                Z.contains(&n)
                    || IN_REWARD.contains(&n)
                    || n == "TRL GRPO, bias-corrected k3"
                    || n == "verl GRPO"
            };
            let rest = names.iter().zip(&median).filter(|(n, _)| !apart(n));
            let (next, most) = rest.fold(("", f64::NEG_INFINITY), |best, (n, m)| {
                if *m > best.1 { (n.as_str(), *m) } else { best }
            });
            say(
                "F1a",
                &family,
                &format!(
                    "beta {beta}: z-score GRPO with k3 ends farther off (median) than every recipe with the KL in the loss or k1 in the reward, other z-scores and bias-corrected k3 apart"
                ),
                least > most,
                format!("{least:.4} against {most:.4} ({next})"),
            );
            let interior: Vec<f64> = rows.floats("interior")?;
            let inside: f64 = names
                .iter()
                .zip(&interior)
                .filter(|(n, _)| IN_REWARD.contains(&n.as_str()))
                .map(|(_, i)| i)
                .sum();
            say(
                "F1b",
                &family,
                &format!(
                    "beta {beta}: with exact, k2 or k3 in the reward the flow ends at the boundary in every tree"
                ),
                inside == 0.0,
                format!("{inside} ends inside"),
            );
            if beta == "1" || beta == "1.0" {
                let (worse, trees) = (rows.floats("worse_than_reference")?, rows.floats("trees")?);
                let at = names.iter().position(|n| n == IN_REWARD[0]);
                if let Some(i) = at {
                    say(
                        "F1c",
                        &family,
                        "beta 1: exact in the reward ends worse than pi_ref in at least a third of the trees",
                        worse[i] >= trees[i] / 3.0,
                        format!("{} of {}", worse[i], trees[i]),
                    );
                }
            }
        }
    }
    for family in noise.distinct("family")? {
        let rows = noise.filter("family", &family)?;
        let (names, star) = (rows.texts("recipe")?, rows.floats("median_n_star")?);
        let of = |n: &str| {
            let at = names.iter().position(|m| m == n);
            at.map_or(f64::INFINITY, |i| {
                if star[i].is_nan() {
                    f64::INFINITY
                } else {
                    star[i]
                }
            })
        };
        let most = Z.iter().chain(&WHITENED).map(|n| of(n)).fold(0.0, f64::max);
        let least = IN_LOSS.iter().map(|n| of(n)).fold(f64::INFINITY, f64::min);
        say(
            "F2a",
            &family,
            "median n* below 400 for z-score GRPO, whitened PPO and REINFORCE++, above 800 for k2 and exact KL in the loss with a mean baseline",
            most < 400.0 && least > 800.0,
            format!("at most {most:.0}, at least {least:.0}"),
        );
        let ratio = both_over_k1
            .iter()
            .find(|(f, _)| *f == family)
            .map_or(f64::NAN, |r| r.1);
        say(
            "F2b",
            &family,
            "exact KL in reward and loss has less variance than k1 in the reward (median ratio below 1)",
            ratio < 1.0,
            format!("{ratio:.4}"),
        );
    }
    for family in best.distinct("family")? {
        lambda(&family, &best.filter("family", &family)?, &mut say)?;
    }
    Ok(out)
}

fn lambda(
    family: &str,
    best: &Table,
    say: &mut impl FnMut(&str, &str, &str, bool, String),
) -> Result<()> {
    let find = |critic: &str, reward: &str| -> Result<(Vec<String>, Vec<f64>, Vec<f64>)> {
        let rows = best.filter("critic", critic)?.filter("reward", reward)?;
        Ok((
            rows.texts("responses")?,
            rows.floats("median_best_lambda")?,
            rows.floats("median_mse_095_over_1")?,
        ))
    };
    let (n, dense, dense_cost) = find("zero", "dense")?;
    let (_, sparse, sparse_cost) = find("zero", "sparse")?;
    let small = |i: &usize| n[*i] != "4096";
    let places: Vec<usize> = (0..n.len()).filter(small).collect();
    let smaller = places.iter().all(|&i| dense[i] < sparse[i]);
    let pairs: Vec<String> = places
        .iter()
        .map(|&i| format!("n = {}: {} and {}", n[i], dense[i], sparse[i]))
        .collect();
    say(
        "F3a",
        family,
        "zero critic: the best lambda (median) is smaller for the dense reward at every n below 4096",
        smaller,
        pairs.join("; "),
    );
    if let Some(i) = n.iter().position(|n| n == "4096") {
        say(
            "F3b",
            family,
            "zero critic, n = 4096: lambda = .95 costs the sparse reward more than 2 x the error of lambda = 1, the dense reward less than 1.6 x",
            sparse_cost[i] > 2.0 && dense_cost[i] < 1.6,
            format!("sparse {:.3}, dense {:.3}", sparse_cost[i], dense_cost[i]),
        );
    }
    let ((_, a, x), (_, b, y)) = (find("offset", "dense")?, find("offset", "sparse")?);
    let gap = a
        .iter()
        .chain(&x)
        .zip(b.iter().chain(&y))
        .fold(0.0, |m: f64, (p, q)| m.max((p - q).abs()));
    say(
        "F3c",
        family,
        "exact critic plus a constant: dense and sparse agree for every lambda and n",
        gap < 1e-9,
        format!("largest gap {gap:.1e}"),
    );
    Ok(())
}

pub fn text(table: &Table) -> String {
    format!(
        "Falsifiable statements, judged on the trees of this run:\n{}",
        table.render()
    )
}
