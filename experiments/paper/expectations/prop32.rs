//! What the tables of Proposition 3.2 must show.

use super::{Figure, Found, Run, last, rows};
use anyhow::Result;

pub const FIGURES: [Figure; 5] = [
    Figure {
        name: "prop32/figure2",
        expectation: "On the tree of Figure 2 the algorithm as printed names the optimal response after 4 queries, one node deleted by each.",
        check: figure2,
    },
    Figure {
        name: "prop32/queries_vs_horizon",
        expectation: "At the longest horizon the exact minimax is above the claimed bound, best-first search meets it against the adversary, and both are far below sentence feedback.",
        check: horizon,
    },
    Figure {
        name: "prop32/queries_vs_xi",
        expectation: "Best-first search against the adversary asks exactly the minimax at every ξ.",
        check: xi,
    },
    Figure {
        name: "prop32/noisy_preferences",
        expectation: "With noisy pairwise preferences, token feedback needs fewer labels than sentence feedback at the longest horizon that both reach, in both families.",
        check: preferences,
    },
    Figure {
        name: "prop32/real_text",
        expectation: "A model of longer context needs no more queries to certify its best response, at every length above one token that both certify.",
        check: text,
    },
];

fn figure2(run: &Run<'_>) -> Result<Found> {
    let table = run.table("figure2.csv")?;
    let asked: Vec<f64> = table
        .floats("deleted_by_query")?
        .into_iter()
        .filter(|q| q.is_finite())
        .collect();
    let last = asked.iter().copied().fold(0.0, f64::max);
    let optimal = rows(&table, &[("optimal", "yes")])?;
    let by = optimal.floats("deleted_by_query")?;
    Ok(Found::new(
        last == 4.0 && asked.len() == 4 && by == [4.0],
        format!(
            "{} nodes in {last} queries, the optimum by query {}",
            asked.len(),
            by.first().copied().unwrap_or_default()
        ),
    ))
}

const SEARCHED: (&str, &str) = ("method", "best-first, adversary");

fn horizon(run: &Run<'_>) -> Result<Found> {
    let table = rows(&run.table("counts.csv")?, &[("sweep", "horizon")])?;
    let of = |method| last(&table, &[("method", method)], "queries");
    let (claim, minimax) = (of("paper's bound")?, of("exact minimax")?);
    let (searched, sentence) = (
        last(&table, &[SEARCHED], "queries")?,
        of("sentence, A^H - 1")?,
    );
    Ok(Found::new(
        minimax > claim && searched == minimax && sentence > 10.0 * minimax,
        format!("claimed {claim}, minimax {minimax}, best-first {searched}, sentence {sentence}"),
    ))
}

fn xi(run: &Run<'_>) -> Result<Found> {
    let table = rows(&run.table("counts.csv")?, &[("sweep", "xi")])?;
    let minimax = rows(&table, &[("method", "exact minimax")])?.floats("queries")?;
    let searched = rows(&table, &[SEARCHED])?.floats("queries")?;
    let agree = minimax
        .iter()
        .zip(&searched)
        .filter(|(a, b)| a == b)
        .count();
    Ok(Found::new(
        !minimax.is_empty() && minimax.len() == searched.len() && agree == minimax.len(),
        format!("equal at {agree} of {} values of ξ", minimax.len()),
    ))
}

fn preferences(run: &Run<'_>) -> Result<Found> {
    let table = run.table("preferences.csv")?;
    let mut holds = true;
    let mut found = Vec::new();
    for family in table.distinct("family")? {
        let of = |feedback| rows(&table, &[("family", &family), ("feedback", feedback)]);
        let token = of("token")?.points("horizon", "queries")?;
        let sentence = of("sentence")?.points("horizon", "queries")?;
        let shared = token
            .iter()
            .rev()
            .find_map(|&(h, t)| sentence.iter().find(|s| s.0 == h).map(|s| (h, t, s.1)));
        holds &= shared.is_some_and(|(_, token, sentence)| token < sentence);
        if let Some((h, token, sentence)) = shared {
            found.push(format!(
                "{family}, H = {h}: {token:.0} against {sentence:.0}"
            ));
        }
    }
    Ok(Found::new(holds && !found.is_empty(), found.join("; ")))
}

fn text(run: &Run<'_>) -> Result<Found> {
    let table = rows(&run.table("text.csv")?, &[("certified", "yes")])?;
    let orders = table.distinct("order")?;
    let mut compared = 0;
    let mut violated = 0;
    for pair in orders.windows(2) {
        let short = rows(&table, &[("order", &pair[0])])?.points("horizon", "queries")?;
        let long = rows(&table, &[("order", &pair[1])])?.points("horizon", "queries")?;
        // A single token has no context to speak of: the longer model is only the less even one (errata, Proposition 3.2).
        for (h, queries) in short.iter().filter(|p| p.0 > 1.0) {
            if let Some(other) = long.iter().find(|p| p.0 == *h) {
                compared += 1;
                violated += usize::from(other.1 > *queries);
            }
        }
    }
    Ok(Found::new(
        compared > 0 && violated == 0,
        format!("{compared} lengths compared, {violated} against it"),
    ))
}
