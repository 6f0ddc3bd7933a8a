//! The report of a run as one page: a sentence on top, figures, tables.

use anyhow::Result;
use rto_harness::html::{Page, escape, number};
use rto_harness::table::Table;
use std::fs;
use std::path::Path;

use crate::figures;

/// What each figure shows, and the tables behind it.
struct Part {
    id: &'static str,
    title: &'static str,
    text: &'static str,
    figures: &'static [&'static str],
    tables: &'static [&'static str],
}

const PARTS: [Part; 5] = [
    Part {
        id: "offline",
        title: "Offline: methods on random trees",
        text: "Every method at its exact minimiser, from the same pairs. SubOpt = V* − V at the common β; plain regret = max R − E R at the β that \
               is best on other trees. Under the tie rules scores are fitted in |t − t′| ≤ 4 and what the pairs leave open is tied.",
        figures: &["offline", "ties", "offline_coverage"],
        tables: &["offline", "offline_coverage"],
    },
    Part {
        id: "online",
        title: "Online: regret, exact in every round",
        text: "Only the data are random. The trap has two responses, the rare one with π_ref(rare) = e^(−depth/β); its lower bound holds for every \
               learner that draws from policies equal to π_ref until the rare one was met. A doubling ratio of 1 is log T, 1.41 √T, 2 is T.",
        figures: &["online"],
        tables: &["online_doubling", "online"],
    },
    Part {
        id: "overopt",
        title: "Over-optimising a proxy",
        text: "The proxy is the true reward with an error of one of five families. The frontier is the tilt by the true reward.",
        figures: &["overopt"],
        tables: &["overopt_laws", "overopt"],
    },
    Part {
        id: "coverage",
        title: "Coverage on layered graphs",
        text: "C_sa over states and actions, C_τ over responses, C_add of additive rewards, C_lin of the difference of feature means in comparisons.",
        figures: &["coverage"],
        tables: &["coverage"],
    },
    Part {
        id: "claims",
        title: "Claims of papers",
        text: "The numbers by which the program <code>paper</code> judges them.",
        figures: &["claims"],
        tables: &["claims"],
    },
];

/// The page of a run folder, from its files alone.
pub fn page(dir: &Path) -> Result<String> {
    let drawn = figures::figures_of(dir)?;
    let mut page = Page::new("Preference optimisation without optimisation error");
    match too_small(dir, &drawn)? {
        Some(few) => page.banner(&few),
        None => page.lead(&escape(&sentence(dir, &drawn)?)),
    }
    page.say(
        "Every method runs to its exact minimiser on responses that can be enumerated, so that no number here carries optimisation error; \
         intervals are 95% over random instances. Methods, proofs and what has a minimiser: <code>paper-notes/preference_bench.md</code>.",
    );
    for part in &PARTS {
        let own: Vec<_> = drawn
            .iter()
            .filter(|(name, ..)| part.figures.contains(name))
            .collect();
        if own.is_empty() {
            continue;
        }
        page.section(part.id, part.title);
        page.say(part.text);
        for (_, table, draw) in own {
            page.panels(&draw(&figures::read(dir, table)?)?)?;
        }
        for name in part.tables {
            let table = figures::read(dir, name)?;
            page.push(&format!(
                "<details><summary>{name}.csv, {} rows</summary>\n",
                table.len()
            ));
            page.rows_of(&table);
            page.push("</details>\n");
        }
    }
    page.section("run", "This run");
    let config = fs::read_to_string(dir.join("config.toml")).unwrap_or_default();
    page.push(&format!(
        "<pre>bench --config config.toml\n\n{}</pre>\n",
        escape(&config)
    ));
    Ok(page.finish())
}

/// Draws below which a mean says nothing of which method is better.
const FEWEST: f64 = 20.0;

/// Why no method is called better; none where there is enough of each part.
fn too_small(dir: &Path, drawn: &[figures::Drawing]) -> Result<Option<String>> {
    let mut few = Vec::new();
    for (part, counts, what) in [
        ("offline", "trees", "random trees"),
        ("online", "runs", "runs of a learner"),
    ] {
        if !drawn.iter().any(|(figure, ..)| *figure == part) {
            continue;
        }
        let counts = figures::read(dir, part)?.floats(counts)?;
        // A method counts the trees on which it has a minimiser; all were given the same.
        let given = counts.iter().copied().fold(0.0, f64::max);
        if given < FEWEST {
            few.push(format!("{given} {what}"));
        }
    }
    Ok((!few.is_empty()).then(|| {
        format!(
            "<b>Too small to compare methods: {}.</b> What follows shows that every part runs; no method is called better.",
            few.join(" and ")
        )
    }))
}

/// What came out, from the parts that were run.
fn sentence(dir: &Path, drawn: &[figures::Drawing]) -> Result<String> {
    let has = |name: &str| drawn.iter().any(|(figure, ..)| *figure == name);
    let mut parts = Vec::new();
    if has("offline") {
        parts.push(offline(&figures::read(dir, "offline")?)?);
    }
    if has("online") {
        parts.push(online(&figures::read(dir, "online")?)?);
    }
    if has("claims") {
        let claims = figures::read(dir, "claims")?.distinct("claim")?.len();
        parts.push(format!("{claims} experiments judge claims of papers."));
    }
    if parts.is_empty() {
        parts.push("Exact curves of over-optimisation and coverage.".into());
    }
    Ok(parts.join(" "))
}

/// Which method has the least regret at the most pairs, family by family.
fn offline(table: &Table) -> Result<String> {
    let most = table.distinct("pairs")?.pop().unwrap_or_default();
    let mut best = Vec::new();
    for family in &crate::offline::FAMILIES {
        let rows = table
            .filter("family", family.name)?
            .filter("pairs", &most)?;
        let (methods, regret) = (rows.texts("method")?, rows.floats("regret")?);
        let own = (methods.iter().zip(&regret)).filter(|(m, r)| !m.contains(',') && r.is_finite());
        if let Some((method, regret)) = own.min_by(|a, b| a.1.total_cmp(b.1)) {
            let method = figures::label(method);
            let trees = figures::family_title(family);
            best.push(format!("{method} ({trees}: {})", number(*regret)));
        }
    }
    Ok(format!(
        "With {most} pairs mean regret is least for {}.",
        best.join("; ")
    ))
}

/// The trap at its smallest β: passive and optimistic learners.
fn online(table: &Table) -> Result<String> {
    let good = table.filter("instance", "rare good")?;
    let beta = good.distinct("beta")?.pop().unwrap_or_default();
    let last = |learner: &str, column: &str| -> Result<f64> {
        let rows = good.filter("beta", &beta)?.filter("learner", learner)?;
        let rows = rows.filter("sampler", "policy, reference")?;
        Ok(rows.floats(column)?.last().copied().unwrap_or(f64::NAN))
    };
    let mut optimistic = f64::INFINITY;
    for learner in good.distinct("learner")? {
        if learner != "greedy" {
            optimistic = optimistic.min(last(&learner, "regret")?);
        }
    }
    Ok(format!(
        "In the trap at β = {beta} passive online DPO pays {} (at least {} by the exact bound), the best optimistic learner {}.",
        number(last("greedy", "regret")?),
        number(last("greedy", "passive_bound")?),
        number(optimistic)
    ))
}
